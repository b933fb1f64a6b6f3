//! Streams and shards.

use super::to_the_end;
use crate::error::{Class, Result, ServerError};
use crate::node::context::NodeContext;
use crate::reader::timestamp;
use crate::stream::{NewStream, Stream, check_name};
use futures::FutureExt as _;
use hstreamdb_proto::api as wire;
use std::sync::Arc;
use tonic::Code;

/// Most shards one stream may have; keeps one small message from asking for 2^32 of them.
const MAX_SHARDS: u32 = 10_000;

pub(super) async fn create(node: &Arc<NodeContext>, request: wire::Stream) -> Result<wire::Stream> {
    check_name(Class::InvalidStreamName, &request.stream_name)?;
    if request.replication_factor == 0 {
        return Err(ServerError::new(
            Class::InvalidReplicaFactor,
            "Stream replicationFactor should greater than zero",
        ));
    }
    if request.shard_count == 0 {
        return Err(ServerError::new(Class::InvalidShardCount, "shardCount should be a positive number"));
    }
    if request.shard_count > MAX_SHARDS {
        return Err(ServerError::new(
            Class::InvalidShardCount,
            format!("shardCount is {}, at most {MAX_SHARDS} are possible", request.shard_count),
        ));
    }
    to_the_end(node, move |node| async move {
        let new = NewStream {
            name: request.stream_name,
            replication_factor: request.replication_factor,
            backlog_secs: request.backlog_duration,
            shard_count: request.shard_count,
        };
        node.streams.create(new).await.map(|stream| describe(&stream))
    })
    .await
}

pub(super) async fn delete(node: &Arc<NodeContext>, request: wire::DeleteStreamRequest) -> Result<()> {
    check_name(Class::InvalidStreamName, &request.stream_name)?;
    to_the_end(node, move |node| async move {
        let is_read = |stream| node.subscriptions.is_read(stream).boxed();
        match node.streams.delete(&request.stream_name, request.force, is_read).await {
            Err(error) if error.class() == Some(Class::StreamNotFound) && request.ignore_non_exist => Ok(()),
            outcome => outcome.map(|_| ()),
        }
    })
    .await
}

pub(super) async fn get(
    node: &Arc<NodeContext>,
    request: wire::GetStreamRequest,
) -> Result<wire::GetStreamResponse> {
    check_name(Class::InvalidStreamName, &request.name)?;
    match node.streams.find(&request.name).await? {
        Some(stream) => Ok(wire::GetStreamResponse { stream: Some(describe(&stream)) }),
        None => Err(ServerError::new(Class::StreamNotFound, request.name)),
    }
}

pub(super) async fn list(
    node: &Arc<NodeContext>,
    _: wire::ListStreamsRequest,
) -> Result<wire::ListStreamsResponse> {
    let streams = node.streams.with_prefix("").iter().map(|stream| describe(stream)).collect();
    Ok(wire::ListStreamsResponse { streams })
}

pub(super) async fn list_with_prefix(
    node: &Arc<NodeContext>,
    request: wire::ListStreamsWithPrefixRequest,
) -> Result<wire::ListStreamsResponse> {
    check_name(Class::InvalidStreamName, &request.prefix)?;
    let streams = node.streams.with_prefix(&request.prefix).iter().map(|stream| describe(stream)).collect();
    Ok(wire::ListStreamsResponse { streams })
}

pub(super) async fn list_shards(
    node: &Arc<NodeContext>,
    request: wire::ListShardsRequest,
) -> Result<wire::ListShardsResponse> {
    check_name(Class::InvalidStreamName, &request.stream_name)?;
    let Some(stream) = node.streams.find(&request.stream_name).await? else {
        // Plain text and UNAVAILABLE: published clients depend on both.
        let text = format!("stream {} is not found", request.stream_name);
        return Err(ServerError::plain(Code::Unavailable, text));
    };
    let mut shards: Vec<wire::Shard> = stream
        .shards
        .iter()
        .map(|shard| wire::Shard {
            stream_name: request.stream_name.clone(),
            shard_id: shard.id,
            start_hash_range_key: shard.start.to_string(),
            end_hash_range_key: shard.end.to_string(),
            epoch: stream.shards.len() as u64,
            is_active: true,
        })
        .collect();
    // By the decimal text of the range, as published servers list them.
    shards.sort_by_cached_key(|shard| format!("{}-{}", shard.start_hash_range_key, shard.end_hash_range_key));
    Ok(wire::ListShardsResponse { shards })
}

pub(super) async fn tail_record_id(
    node: &Arc<NodeContext>,
    request: wire::GetTailRecordIdRequest,
) -> Result<wire::GetTailRecordIdResponse> {
    let shard_id = request.shard_id;
    node.log.catch_up(&[shard_id]).await?;
    let batch_id = node.log.tail(shard_id)?;
    let tail_record_id = Some(wire::RecordId { shard_id, batch_id, batch_index: 0 });
    Ok(wire::GetTailRecordIdResponse { tail_record_id })
}

fn describe(stream: &Stream) -> wire::Stream {
    wire::Stream {
        stream_name: stream.name.clone(),
        replication_factor: stream.replication_factor,
        backlog_duration: stream.backlog_secs,
        shard_count: u32::try_from(stream.shards.len()).unwrap_or(u32::MAX),
        creation_time: Some(timestamp(stream.created_ms)),
    }
}
