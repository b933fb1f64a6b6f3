//! Reading the records of one key: a finite range of one shard, record by record, as fast as the client asks.

use super::cursor::{Cursor, Responses, Step, finish, stopping};
use super::delivery::{ID_BYTES, MESSAGE_BYTES};
use super::range::{Offset, ShardRange};
use crate::error::{Class, Result, ServerError};
use crate::limits::Budget;
use crate::store::{LogStore, ShardId, StoredBatch};
use crate::stream::Streams;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use hstreamdb_proto::api::{
    BatchedRecord, CompressionType, HStreamRecord, ReadStreamByKeyRequest, ReadStreamByKeyResponse, RecordId,
};
use hstreamdb_proto::{batch::split_readable, compression::decompress, partition::key_hash};
use prost::Message as _;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Largest content of one batch that is unpacked here.
const MAX_CONTENT_BYTES: usize = 64 * 1024 * 1024;

/// Batches read at a time.
const READ_BATCHES: usize = 32;

/// Serves one call until its range is exhausted, the client closes, an error or `stop`.
pub async fn run(
    log: Arc<dyn LogStore>,
    streams: Arc<Streams>,
    memory: Arc<Budget>,
    tell_gaps: bool,
    requests: impl Stream<Item = Result<ReadStreamByKeyRequest, Status>> + Send + Unpin,
    stop: CancellationToken,
    responses: Responses<ReadStreamByKeyResponse>,
) {
    let outcome = tokio::select! {
        outcome = serve(&*log, &streams, &memory, tell_gaps, requests, &responses) => outcome,
        () = responses.closed() => return,
        () = stop.cancelled() => Err(stopping()),
    };
    finish(&responses, outcome).await;
}

async fn serve(
    log: &dyn LogStore,
    streams: &Streams,
    memory: &Arc<Budget>,
    tell_gaps: bool,
    mut requests: impl Stream<Item = Result<ReadStreamByKeyRequest, Status>> + Send + Unpin,
    responses: &Responses<ReadStreamByKeyResponse>,
) -> Result<()> {
    let Some(first) = next(&mut requests).await? else {
        return Err(ServerError::new(Class::StreamReadClose, "the call was closed before its first message"));
    };
    let stream = streams
        .find(&first.stream_name)
        .await?
        .ok_or_else(|| ServerError::new(Class::StreamNotFound, first.stream_name.clone()))?;
    let shard = stream
        .shard_of(key_hash(&first.key))
        .ok_or_else(|| ServerError::new(Class::ShardNotFound, first.key.clone()))?
        .id;
    let from = Offset::of_shard(first.from)?;
    // Without an end the read is finite all the same: it ends at the present tail.
    let until = Offset::of_shard(first.until)?.unwrap_or(Offset::Latest);
    let range = ShardRange::resolve(log, shard, from, Some(until)).await?;
    let mut cursor = Cursor::open(log, shard, range)?;
    let mut credit = first.read_record_count;
    // Read, but not unpacked yet: what is unpacked at a time is one batch, whose content may be large.
    let mut ahead: VecDeque<StoredBatch> = VecDeque::new();
    let mut found: VecDeque<(RecordId, HStreamRecord)> = VecDeque::new();
    loop {
        if found.is_empty() {
            // Without credit the search goes on all the same, because the end of the range ends the call, but
            // the client can end it, too.
            let step = tokio::select! {
                biased;
                message = next(&mut requests), if credit == 0 => match message? {
                    Some(more) => {
                        credit = more.read_record_count;
                        continue;
                    }
                    None => return Ok(()),
                },
                step = search(log, &mut cursor, &mut ahead) => step?,
            };
            match step {
                Step::Done => return Ok(()),
                Step::Batches(batches) => {
                    // Steps that only unpack are none of the cursor's.
                    if tell_gaps
                        && ahead.is_empty()
                        && let Some(ids) = cursor.told_gap()
                    {
                        let message =
                            ReadStreamByKeyResponse { record_ids: ids.to_vec(), ..Default::default() };
                        let charge = memory.reserve(ids.len() * ID_BYTES).await;
                        if responses.send(Ok(Some((message, charge)))).await.is_err() {
                            return Ok(());
                        }
                    }
                    ahead.extend(batches);
                    if let Some(batch) = ahead.pop_front() {
                        matching(shard, batch, &first.key, &mut found);
                    }
                }
                Step::AtTail => tokio::select! {
                    moved = cursor.wait() => moved?,
                    message = next(&mut requests) => match message? {
                        Some(more) => credit = credit.saturating_add(more.read_record_count),
                        None => return Ok(()),
                    },
                },
            }
        } else if credit == 0 {
            match next(&mut requests).await? {
                Some(more) => credit = credit.saturating_add(more.read_record_count),
                None => return Ok(()),
            }
        } else {
            let response = cut(&mut found, credit);
            credit = credit.saturating_sub(response.record_ids.len() as u64);
            let charge = memory.reserve(response.encoded_len()).await;
            if responses.send(Ok(Some((response, charge)))).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Reads on unless there is something to unpack.
async fn search(log: &dyn LogStore, cursor: &mut Cursor, ahead: &mut VecDeque<StoredBatch>) -> Result<Step> {
    if ahead.is_empty() {
        return cursor.step(log, READ_BATCHES, MESSAGE_BYTES).await;
    }
    // Unpacking takes its time; others get a turn in between.
    tokio::task::yield_now().await;
    Ok(Step::Batches(Vec::new()))
}

async fn next(
    requests: &mut (impl Stream<Item = Result<ReadStreamByKeyRequest, Status>> + Unpin),
) -> Result<Option<ReadStreamByKeyRequest>> {
    requests
        .next()
        .await
        .transpose()
        .map_err(|status| ServerError::new(Class::StreamReadError, status.message()))
}

/// Takes as many records as credit and message size allow, at least one.
fn cut(found: &mut VecDeque<(RecordId, HStreamRecord)>, credit: u64) -> ReadStreamByKeyResponse {
    let mut response = ReadStreamByKeyResponse::default();
    let mut size = 0;
    while (response.record_ids.len() as u64) < credit {
        let Some((id, record)) = found.pop_front() else { break };
        let bytes = record.encoded_len() + ID_BYTES + 16;
        if !response.record_ids.is_empty() && size + bytes > MESSAGE_BYTES {
            found.push_front((id, record));
            break;
        }
        size += bytes;
        response.record_ids.push(id);
        response.received_records.push(record);
    }
    response
}

/// Finds the records of a batch that carry the key. What cannot be decoded belongs to no key that anybody could
/// name, so it is passed over and logged: one batch that its writer spoilt must not end the reads of every key
/// of its shard for ever.
fn matching(shard: ShardId, batch: StoredBatch, key: &str, found: &mut VecDeque<(RecordId, HStreamRecord)>) {
    let lsn = batch.lsn;
    let unreadable = match content(batch.bytes) {
        Ok(content) => {
            let (records, malformed) = split_readable(&content);
            let mut unreadable = malformed.map(|error| error.to_string());
            for (batch_index, bytes) in (0..batch.records).zip(records) {
                match HStreamRecord::decode(bytes) {
                    Ok(record) => {
                        if record.header.as_ref().map_or("", |header| header.key.as_str()) == key {
                            found.push_back((
                                RecordId { shard_id: shard, batch_id: lsn, batch_index },
                                record,
                            ));
                        }
                    }
                    Err(error) => unreadable = Some(format!("record {batch_index}: {error}")),
                }
            }
            unreadable
        }
        Err(reason) => Some(reason),
    };
    if let Some(reason) = unreadable {
        tracing::warn!(shard, lsn, reason, "a read by key passes over what it cannot decode of a batch");
    }
}

fn content(bytes: Bytes) -> Result<Bytes, String> {
    let record = BatchedRecord::decode(bytes).map_err(|error| error.to_string())?;
    let kind = CompressionType::try_from(record.compression_type)
        .map_err(|_| format!("unknown compression {}", record.compression_type))?;
    decompress(kind, &record.payload, MAX_CONTENT_BYTES).map_err(|error| error.to_string())
}
