//! Appends through the cluster's connections.

use super::transport::{Answer, Stamp, Transport};
use crate::{
    cluster::{Capabilities, Cluster, NodeAddress, Patience, Target},
    error::{Error, ErrorKind, Result},
    metrics::Metrics,
    record::RecordId,
    retry::Operation,
    routing::ShardMap,
};
use futures::future::BoxFuture;
use hstreamdb_proto::{
    api::{AppendRequest, ListShardsRequest},
    metadata,
};
use std::time::Duration;
use tokio::time::timeout;
use tonic::{Code, Request, Status, metadata::MetadataValue};

const LIST_SHARDS: Operation = Operation::read("list shards");

/// The way to a stream of the cluster.
#[derive(Debug)]
pub(super) struct ClusterTransport {
    pub cluster: Cluster,
    pub stream: String,
    /// Of one append.
    pub request_timeout: Duration,
}

/// The shards of a stream, for callers that have no producer.
///
/// # Errors
/// `NotFound` when the stream does not exist, `Unavailable`, `Closed`.
pub(crate) async fn shard_map(cluster: &Cluster, stream: &str) -> Result<ShardMap> {
    let request_timeout = cluster.settings().request_timeout;
    let transport = ClusterTransport { cluster: cluster.clone(), stream: stream.to_owned(), request_timeout };
    transport.list_shards().await.map(|(_, map)| map)
}

impl ClusterTransport {
    /// The shards the stream has now, and the node that said so.
    pub async fn list_shards(&self) -> Result<(NodeAddress, ShardMap)> {
        let request = ListShardsRequest { stream_name: self.stream.clone() };
        let (node, response) = self
            .cluster
            .call_response(LIST_SHARDS, Some(&self.stream), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.list_shards(request).await.map_err(missing_is_final) }
            })
            .await?;
        let map = ShardMap::from_wire(&self.stream, &response.into_inner().shards)?;
        Ok((node, map))
    }

    async fn append_once(
        &self,
        request: AppendRequest,
        stamp: Option<Stamp>,
        repeatable: bool,
    ) -> Result<Answer> {
        let node = self.cluster.node_for_shard(request.shard_id).await?;
        tracing::Span::current().record("node", tracing::field::display(&node));
        let limit = self.request_timeout;
        let contact = self.cluster.channel_with_deadline(&node, limit).await?;
        let mut client = contact.client.clone();
        let mut request = Request::new(request);
        let patience = if repeatable { Patience::Brief } else { Patience::Stays };
        if let Some(stamp) = stamp {
            put_stamp(&mut request, stamp)?;
        }
        let sent = tokio::select! {
            biased;
            () = self.cluster.closed() => {
                return Err(self.cluster.closed_error("append").with_may_have_been_applied(true));
            }
            sent = timeout(limit, self.cluster.answered(&node, &contact, patience, client.append(request))) => sent,
        };
        let error = match sent {
            Ok(Ok(Ok(response))) => {
                self.cluster.note_capabilities(&node, response.metadata());
                let honours_stamps = Capabilities::from_metadata(response.metadata())
                    .is_some_and(|capabilities| capabilities.producer_sequence);
                if response.metadata().contains_key(metadata::PRODUCER_REPEAT) {
                    self.cluster.metrics().append_repeats.add(1);
                }
                let ids = response.into_inner().record_ids.into_iter().map(RecordId::from).collect();
                return Ok(Answer { ids, honours_stamps });
            }
            Ok(Ok(Err(status))) => Error::from_status("append", &status).with_node(&node),
            Ok(Err(silent)) => silent.with_operation("append"),
            Err(_) => Error::new(ErrorKind::Timeout, "append")
                .with_node(&node)
                .with_message(format!("no answer within {limit:?}"))
                .with_may_have_been_applied(true)
                .with_retryable(true)
                .with_transport(true),
        };
        if error.is_transport() {
            self.cluster.mark_suspect(&node, &error);
        }
        Err(error)
    }
}

impl Transport for ClusterTransport {
    fn append(
        &self,
        request: AppendRequest,
        stamp: Option<Stamp>,
        repeatable: bool,
    ) -> BoxFuture<'_, Result<Answer>> {
        Box::pin(self.append_once(request, stamp, repeatable))
    }

    fn shards(&self) -> BoxFuture<'_, Result<ShardMap>> {
        Box::pin(async { self.list_shards().await.map(|(_, map)| map) })
    }

    fn metrics(&self) -> &Metrics {
        self.cluster.metrics()
    }
}

fn put_stamp(request: &mut Request<AppendRequest>, stamp: Stamp) -> Result<()> {
    let pairs = [
        (metadata::PRODUCER_ID, format!("{:032x}", stamp.producer)),
        (metadata::PRODUCER_EPOCH, stamp.epoch.to_string()),
        (metadata::PRODUCER_SEQUENCE, stamp.sequence.to_string()),
    ];
    for (name, text) in pairs {
        let value = MetadataValue::try_from(text).map_err(|error| {
            Error::new(ErrorKind::Internal, "append").with_message(format!("{name} is no header: {error}"))
        })?;
        request.metadata_mut().insert(name, value);
    }
    Ok(())
}

/// Servers answer `UNAVAILABLE` and plain words for a stream that does not exist; trying again is in vain.
fn missing_is_final(status: Status) -> Status {
    if status.code() == Code::Unavailable && status.message().to_ascii_lowercase().contains("not found") {
        return Status::new(Code::NotFound, status.message());
    }
    status
}
