//! Reading one shard.

use super::bound::{Bounds, to_wire};
use super::source::{Connections, Source, Step};
use crate::cluster::NodeAddress;
use crate::consumer::prefetch::Prefetch;
use crate::error::{Error, ErrorKind};
use crate::record::{Offset, ReceivedBatch, RecordId};
use hstreamdb_proto::api::ReadShardStreamRequest;
use std::sync::Arc;

/// A shard, and how far it was read.
pub(super) struct ShardSource {
    pub connections: Arc<Connections>,
    pub queue: Arc<Prefetch>,
    pub lane: usize,
    pub stream: String,
    pub shard: u64,
    pub bounds: Bounds,
    /// Batches still to deliver, if they were limited.
    pub left: Option<u64>,
    /// The batch delivered last.
    pub last: Option<u64>,
}

impl ShardSource {
    fn request(&self) -> ReadShardStreamRequest {
        let (from, extra) = match self.last {
            // The last batch comes once more and is dropped: it is the one position that is known to exist.
            Some(batch_id) => {
                (Offset::Record(RecordId { shard_id: self.shard, batch_id, batch_index: 0 }), 1)
            }
            None => (self.bounds.from, 0),
        };
        ReadShardStreamRequest {
            reader_id: format!("reader-{:016x}", rand::random::<u64>()),
            shard_id: self.shard,
            from: Some(to_wire(from)),
            max_read_batches: self.left.map_or(0, |left| left.saturating_add(extra)),
            until: self.bounds.until.map(to_wire),
            stream_name: self.stream.clone(),
        }
    }
}

impl ShardSource {
    async fn lost(&self, node: &NodeAddress, status: &tonic::Status) -> Step {
        let error = Error::from_status("read", status).with_node(node).with_may_have_been_applied(false);
        self.connections.failed(self.shard, node, &error).await;
        Step::Lost(error)
    }
}

impl Source for ShardSource {
    async fn read(&mut self, progress: &mut bool) -> Step {
        if self.left == Some(0) {
            return Step::Done;
        }
        let (node, mut client) = match self.connections.for_shard(self.shard).await {
            Ok(found) => found,
            Err(error) => return Step::Lost(error),
        };
        let mut responses = match client.read_shard_stream(self.request()).await {
            Ok(response) => response.into_inner(),
            Err(status) => return self.lost(&node, &status).await,
        };
        loop {
            if !self.queue.room(self.lane).await {
                return Step::Done;
            }
            let response = match responses.message().await {
                Ok(Some(response)) => response,
                Ok(None) if self.bounds.until.is_some() => return Step::Done,
                // Without an end it was the server that went away. (A limit was counted below.)
                Ok(None) => {
                    return Step::Lost(
                        Error::new(ErrorKind::Unavailable, "read")
                            .with_node(&node)
                            .with_message("the server ended the read"),
                    );
                }
                Err(status) => return self.lost(&node, &status).await,
            };
            for received in response.received_records {
                let batch = match ReceivedBatch::from_wire(received, self.connections.decoded_limit()) {
                    Ok(batch) => batch,
                    Err(error) => return Step::Lost(error),
                };
                let Some(batch_id) = batch.ids().first().map(|id| id.batch_id) else { continue };
                if self.last.is_some_and(|last| batch_id <= last) {
                    continue;
                }
                *progress = true;
                self.last = Some(batch_id);
                self.connections.count(&batch);
                self.queue.push(self.lane, batch);
                if let Some(left) = &mut self.left {
                    *left -= 1;
                    if *left == 0 {
                        return Step::Done;
                    }
                }
            }
        }
    }

    fn conflict_is_end(&self) -> bool {
        self.bounds.frozen || self.last.is_some()
    }

    fn resource(&self) -> String {
        format!("stream {:?} shard {}", self.stream, self.shard)
    }
}
