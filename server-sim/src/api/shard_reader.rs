//! Polled readers.

use super::{placement, to_the_end};
use crate::cluster::ownership::Kind;
use crate::error::{Class, Result, ServerError};
use crate::limits::charge_answer;
use crate::node::context::NodeContext;
use crate::reader::{NewReader, Offset};
use crate::stream::check_name;
use hstreamdb_proto::api as wire;
use std::sync::Arc;
use tonic::{Request, Response};

pub(super) async fn create(
    node: &Arc<NodeContext>,
    request: wire::CreateShardReaderRequest,
) -> Result<wire::CreateShardReaderResponse> {
    check_name(Class::InvalidReaderId, &request.reader_id)?;
    check_name(Class::InvalidStreamName, &request.stream_name)?;
    let offset = Offset::of_shard(request.shard_offset)?
        .ok_or_else(|| ServerError::new(Class::InvalidShardOffset, "the offset is missing"))?;
    // The id is looked at before the shard, as published servers do; creating looks again.
    node.readers.check_free(&request.reader_id).await?;
    let start = Offset::start(Some(offset), &*node.log, request.shard_id).await?;
    let reader = NewReader {
        id: request.reader_id.clone(),
        stream: request.stream_name.clone(),
        shard: request.shard_id,
        start,
        timeout_ms: request.timeout,
    };
    to_the_end(node, move |node| async move { node.readers.create(reader).await }).await?;
    Ok(wire::CreateShardReaderResponse {
        stream_name: request.stream_name,
        shard_id: request.shard_id,
        shard_offset: request.shard_offset,
        reader_id: request.reader_id,
        timeout: request.timeout,
    })
}

pub(super) async fn read(
    node: &Arc<NodeContext>,
    request: Request<wire::ReadShardRequest>,
) -> Result<Response<wire::ReadShardResponse>> {
    let request = request.into_inner();
    let (received_records, charge) = tokio::select! {
        outcome = node.readers.poll(&request.reader_id, request.max_records) => outcome.map_err(elsewhere)?,
        // A poll may wait long; nothing is lost by answering "nothing yet".
        () = node.stop.cancelled() => (Vec::new(), None),
    };
    let mut response = Response::new(wire::ReadShardResponse { received_records });
    if let Some(charge) = charge {
        charge_answer(&mut response, charge);
    }
    Ok(response)
}

pub(super) async fn list(
    node: &Arc<NodeContext>,
    _: wire::ListShardReadersRequest,
) -> Result<wire::ListShardReadersResponse> {
    Ok(wire::ListShardReadersResponse { reader_id: node.readers.list().await? })
}

pub(super) async fn delete(node: &Arc<NodeContext>, request: wire::DeleteShardReaderRequest) -> Result<()> {
    check_name(Class::InvalidReaderId, &request.reader_id)?;
    to_the_end(node, move |node| async move { node.readers.delete(&request.reader_id).await })
        .await
        .map_err(elsewhere)
}

/// Says it as published servers do.
fn elsewhere(error: ServerError) -> ServerError {
    match error.class() {
        Some(Class::WrongServer) => placement::elsewhere(Kind::ShardReader),
        _ => error,
    }
}
