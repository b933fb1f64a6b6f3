//! What has to be asked before a read of one shard can begin.

use super::bound::to_wire;
use super::bound::{Bounds, Wanted};
use super::position::{ReadFrom, Start};
use crate::client::Client;
use crate::cluster::Target;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Offset, RecordId};
use crate::retry::Operation;
use hstreamdb_proto::api::{
    ErrorCode, GetStreamRequest, GetTailRecordIdRequest, ListShardsRequest, ReadShardStreamRequest, Shard,
};

/// The shards of a stream.
pub(super) async fn shards(client: &Client, stream: &str) -> Result<Vec<Shard>> {
    // `ListShards` answers UNAVAILABLE for a stream that does not exist, which looks like a matter of time.
    let request = GetStreamRequest { name: stream.to_owned() };
    let known =
        client.cluster.call(Operation::read("get stream"), Some(stream), Target::Any, |mut client| {
            let request = request.clone();
            async move { client.get_stream(request).await }
        });
    known.await?;
    let request = ListShardsRequest { stream_name: stream.to_owned() };
    let answer =
        client.cluster.call(Operation::read("list shards"), Some(stream), Target::Any, |mut client| {
            let request = request.clone();
            async move { client.list_shards(request).await }
        });
    Ok(answer.await?.shards)
}

/// Both ends of a read of one shard, with everything that moves in its place now.
pub(super) async fn bounds(
    client: &Client,
    stream: &str,
    shard: u64,
    from: &ReadFrom,
    until: Option<Offset>,
) -> Result<Bounds> {
    let (offset, kept) = match from {
        ReadFrom::Offset(offset) => (*offset, None),
        ReadFrom::Position(position) => {
            (Offset::Earliest, Some(position.start_of(shard).unwrap_or(Start::Earliest)))
        }
    };
    let wanted = Wanted { from: offset, until };
    let mut bounds = if wanted.needs_tail() {
        let tail = tail(client, stream, shard).await?;
        let end = match wanted.end_time() {
            Some(ms) => last_until(client, stream, shard, ms, tail).await?,
            None => tail,
        };
        wanted.freeze(tail, end)
    } else {
        wanted.as_they_are()
    };
    if let Some(start) = kept {
        bounds.from = start;
    }
    bounds.check_shard(shard)?;
    Ok(bounds)
}

async fn tail(client: &Client, stream: &str, shard: u64) -> Result<RecordId> {
    let operation = Operation::read("get tail record id");
    let request = GetTailRecordIdRequest { stream_name: stream.to_owned(), shard_id: shard };
    let answer = client.cluster.call(operation, Some(stream), Target::Any, |mut client| {
        let request = request.clone();
        async move { client.get_tail_record_id(request).await }
    });
    answer.await?.tail_record_id.map(RecordId::from).ok_or_else(|| {
        Error::new(ErrorKind::Internal, operation.name)
            .with_resource(stream)
            .with_message("the answer holds no id")
    })
}

/// The last place up to `tail` that holds nothing appended after a time: no call answers that, but the first batch
/// appended after it can be read.
async fn last_until(client: &Client, stream: &str, shard: u64, ms: i64, tail: RecordId) -> Result<RecordId> {
    let Some(later) = ms.checked_add(1) else { return Ok(tail) };
    let request = ReadShardStreamRequest {
        reader_id: format!("reader-{:016x}", rand::random::<u64>()),
        shard_id: shard,
        from: Some(to_wire(Offset::Timestamp(later))),
        max_read_batches: 1,
        until: Some(to_wire(Offset::Record(tail))),
        stream_name: stream.to_owned(),
    };
    let answer = client.cluster.call(Operation::read("find end"), Some(stream), Target::Any, |mut client| {
        let request = request.clone();
        async move {
            let mut batches = client.read_shard_stream(request).await?.into_inner();
            Ok(tonic::Response::new(batches.message().await?))
        }
    });
    let first = match answer.await {
        Ok(response) => response
            .and_then(|response| response.received_records.into_iter().next())
            .and_then(|received| received.record_ids.into_iter().next()),
        // Everything is as old as that, or older.
        Err(error) if error.code() == Some(ErrorCode::ShardReaderConflictOffset as i32) => None,
        Err(error) => return Err(error),
    };
    Ok(match first {
        Some(id) if id.batch_id <= tail.batch_id => {
            RecordId { batch_id: id.batch_id.saturating_sub(1), batch_index: 0, ..tail }
        }
        _ => tail,
    })
}
