//! Trimming: by stream, by shard, by record ids.

use super::to_the_end;
use crate::error::{Class, Result, ServerError};
use crate::node::context::NodeContext;
use crate::reader::Offset;
use crate::store::{Lsn, ShardId};
use crate::stream::check_name;
use futures::{StreamExt as _, TryStreamExt as _};
use hstreamdb_proto::api as wire;
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::Code;

/// Shards of one call that are trimmed side by side.
const TRIMS_AT_A_TIME: usize = 8;

pub(super) async fn stream(node: &Arc<NodeContext>, request: wire::TrimStreamRequest) -> Result<()> {
    check_name(Class::InvalidStreamName, &request.stream_name)?;
    let point = Offset::of_stream(request.trim_point)?.ok_or_else(no_point)?;
    let stream = node
        .streams
        .find(&request.stream_name)
        .await?
        .ok_or_else(|| ServerError::new(Class::StreamNotFound, request.stream_name))?;
    to_the_end(node, move |node| async move {
        let shards: Vec<ShardId> = stream.shards.iter().map(|shard| shard.id).collect();
        if point == Offset::Latest {
            node.log.catch_up(&shards).await?;
        }
        // Side by side they share their waits for the disk.
        let trims = shards.into_iter().map(|shard| trim(&node, shard, point));
        futures::stream::iter(trims).buffer_unordered(TRIMS_AT_A_TIME).try_collect().await
    })
    .await
}

pub(super) async fn shard(node: &Arc<NodeContext>, request: wire::TrimShardRequest) -> Result<()> {
    let point = Offset::of_shard(request.trim_point)?.ok_or_else(no_point)?;
    node.log.tail(request.shard_id)?;
    to_the_end(node, move |node| async move {
        if point == Offset::Latest {
            node.log.catch_up(&[request.shard_id]).await?;
        }
        trim(&node, request.shard_id, point).await
    })
    .await
}

fn no_point() -> ServerError {
    ServerError::new(Class::InvalidTrimPoint, "the trim point is missing")
}

/// Trims up to and including what the point means.
async fn trim(node: &NodeContext, shard: ShardId, point: Offset) -> Result<()> {
    let up_to = match point {
        Offset::Earliest => return Ok(()),
        Offset::Latest => node.log.tail(shard)?,
        Offset::Record(id) => id.batch_id,
        // Inclusive, so the first batch at or after the time goes, too; as published servers do it.
        Offset::Time(ms) => node.log.find_time(shard, ms).await?,
    };
    Ok(node.log.trim(shard, up_to).await?)
}

pub(super) async fn shards(
    node: &Arc<NodeContext>,
    request: wire::TrimShardsRequest,
) -> Result<wire::TrimShardsResponse> {
    check_name(Class::InvalidStreamName, &request.stream_name)?;
    let mut points: BTreeMap<ShardId, wire::RecordId> = BTreeMap::new();
    for text in &request.record_ids {
        let id: wire::RecordId =
            text.parse().map_err(|_| ServerError::new(Class::InvalidRecordId, text.as_str()))?;
        // Batch 0 stands for "earliest": nothing to trim.
        if id.batch_id == 0 {
            continue;
        }
        let smallest = points.entry(id.shard_id).or_insert(id);
        *smallest = (*smallest).min(id);
    }
    let stream = node.streams.find(&request.stream_name).await?.ok_or_else(|| {
        ServerError::plain(Code::Internal, format!("stream {} is not found", request.stream_name))
    })?;
    // What another node has stored may be named here before this one has heard of it.
    let unheard = points.iter().any(|(shard, id)| node.log.tail(*shard).is_ok_and(|tail| id.batch_id > tail));
    if unheard {
        node.log.catch_up(&points.keys().copied().collect::<Vec<_>>()).await?;
    }
    // Everything is checked before anything is trimmed.
    let mut trims: Vec<(ShardId, Lsn)> = Vec::with_capacity(points.len());
    for (shard, id) in &points {
        if stream.shard(*shard).is_none() {
            let text = format!("shard {shard} is none of stream {}", stream.name);
            return Err(ServerError::new(Class::ShardNotExists, text));
        }
        if id.batch_id > node.log.tail(*shard)?.saturating_add(1) {
            return Err(ServerError::new(Class::InvalidRecordId, format!("{id} lies beyond the tail")));
        }
        trims.push((*shard, id.batch_id - 1));
    }
    to_the_end(node, move |node| async move {
        let trims = trims.into_iter().map(|(shard, up_to)| node.log.trim(shard, up_to));
        futures::stream::iter(trims).buffer_unordered(TRIMS_AT_A_TIME).try_collect::<()>().await?;
        Ok(())
    })
    .await?;
    let trim_points = points.into_iter().map(|(shard, id)| (shard, id.to_string())).collect();
    Ok(wire::TrimShardsResponse { trim_points })
}
