//! Streaming reads.

use super::{announce, responses};
use crate::error::{Class, Result, ServerError};
use crate::node::context::NodeContext;
use crate::reader::{Offset, ReadPlan, ShardRange, by_key as key_reader, run};
use crate::stream::Stream;
use futures::stream::BoxStream;
use hstreamdb_proto::{api as wire, metadata};
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status, Streaming};

type Responses<T> = Response<BoxStream<'static, Result<T, Status>>>;

/// Responses that wait for a slow client; each may take 4 MiB.
const BUFFERED_RESPONSES: usize = 1;

pub(super) async fn shard(
    node: &Arc<NodeContext>,
    request: Request<wire::ReadShardStreamRequest>,
) -> Result<Responses<wire::ReadShardStreamResponse>> {
    let tell_gaps = asks_for_gaps(&request);
    let request = request.into_inner();
    let (from, until) = (Offset::of_shard(request.from)?, Offset::of_shard(request.until)?);
    let range = ShardRange::resolve(&*node.log, request.shard_id, from, until).await?;
    let plan = ReadPlan {
        shards: vec![(request.shard_id, range)],
        max_batches: request.max_read_batches,
        tell_gaps,
    };
    Ok(start(node, plan, |received_records| wire::ReadShardStreamResponse { received_records }))
}

pub(super) async fn single_shard(
    node: &Arc<NodeContext>,
    request: Request<wire::ReadSingleShardStreamRequest>,
) -> Result<Responses<wire::ReadSingleShardStreamResponse>> {
    let tell_gaps = asks_for_gaps(&request);
    let request = request.into_inner();
    let stream = named(node, &request.stream_name).await?;
    let [shard] = &stream.shards[..] else {
        let text = format!("stream {} has {} shards", stream.name, stream.shards.len());
        return Err(ServerError::new(Class::TooManyShardCount, text));
    };
    let (from, until) = (Offset::of_shard(request.from)?, Offset::of_shard(request.until)?);
    let range = ShardRange::resolve(&*node.log, shard.id, from, until).await?;
    let plan = ReadPlan { shards: vec![(shard.id, range)], max_batches: request.max_read_batches, tell_gaps };
    Ok(start(node, plan, |received_records| wire::ReadSingleShardStreamResponse { received_records }))
}

pub(super) async fn stream(
    node: &Arc<NodeContext>,
    request: Request<wire::ReadStreamRequest>,
) -> Result<Responses<wire::ReadStreamResponse>> {
    let tell_gaps = asks_for_gaps(&request);
    let request = request.into_inner();
    let stream = named(node, &request.stream_name).await?;
    let (from, until) = (Offset::of_stream(request.from)?, Offset::of_stream(request.until)?);
    let mut shards = Vec::with_capacity(stream.shards.len());
    for shard in &stream.shards {
        match ShardRange::resolve(&*node.log, shard.id, from, until).await {
            Ok(range) => shards.push((shard.id, range)),
            // Nothing to read there, but perhaps elsewhere.
            Err(error) if error.class() == Some(Class::ConflictShardReaderOffset) => {}
            Err(error) => return Err(error),
        }
    }
    let plan = ReadPlan { shards, max_batches: request.max_read_batches, tell_gaps };
    Ok(start(node, plan, |received_records| wire::ReadStreamResponse { received_records }))
}

pub(super) async fn by_key(
    node: &Arc<NodeContext>,
    request: Request<Streaming<wire::ReadStreamByKeyRequest>>,
) -> Result<Responses<wire::ReadStreamByKeyResponse>> {
    let (sender, receiver) = mpsc::channel(BUFFERED_RESPONSES);
    let tell_gaps = asks_for_gaps(&request);
    let requests = request.into_inner();
    tokio::spawn(key_reader::run(
        node.log.clone(),
        node.streams.clone(),
        node.responses.clone(),
        tell_gaps,
        requests,
        node.stop.clone(),
        sender,
    ));
    Ok(begin(tell_gaps, responses(receiver)))
}

fn start<R: Send + 'static>(
    node: &NodeContext,
    plan: ReadPlan,
    respond: impl Fn(Vec<wire::ReceivedRecord>) -> R + Send + Sync + 'static,
) -> Responses<R> {
    let (sender, receiver) = mpsc::channel(BUFFERED_RESPONSES);
    let tell_gaps = plan.tell_gaps;
    tokio::spawn(run(node.log.clone(), plan, node.responses.clone(), node.stop.clone(), sender, respond));
    begin(tell_gaps, responses(receiver))
}

fn asks_for_gaps<T>(request: &Request<T>) -> bool {
    request.metadata().get(metadata::READ_GAPS).is_some_and(|value| value == "1")
}

/// The response's head; whoever asked is told that gaps will be told.
fn begin<T>(tell_gaps: bool, messages: BoxStream<'static, Result<T, Status>>) -> Responses<T> {
    let mut response = Response::new(messages);
    if tell_gaps {
        response.metadata_mut().insert(metadata::READ_GAPS, MetadataValue::from_static("1"));
    }
    announce(response)
}

/// Plain text and INTERNAL for an unknown stream, as published servers answer these calls.
async fn named(node: &NodeContext, name: &str) -> Result<Arc<Stream>> {
    let missing = || ServerError::plain(Code::Internal, format!("stream {name} is not found"));
    node.streams.find(name).await?.ok_or_else(missing)
}
