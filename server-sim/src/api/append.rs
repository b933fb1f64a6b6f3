//! Append: the hot path.

use super::announce;
use crate::error::{Class, Result, ServerError};
use crate::limits::{FREE_ANSWER, charge_answer};
use crate::node::context::NodeContext;
use crate::reader::{ID_BYTES, MESSAGE_BYTES};
use crate::store::{Appended, NewBatch, ProducerStamp, ShardId, StampError, StoreError};
use bytes::Bytes;
use hstreamdb_proto::{api as wire, metadata};
use prost::Message as _;
use serde_json::Value;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response};

/// How long a batch that overtook its predecessors waits for them.
const MAX_PARKED: Duration = Duration::from_secs(2);

pub(super) async fn append(
    node: &Arc<NodeContext>,
    request: Request<wire::AppendRequest>,
) -> Result<Response<wire::AppendResponse>> {
    let arrived = Instant::now();
    node.stats.append_calls().add([1]);
    let outcome = append_now(node, request).await;
    node.stats.append_request_latency().record(arrived.elapsed());
    outcome
}

async fn append_now(
    node: &Arc<NodeContext>,
    request: Request<wire::AppendRequest>,
) -> Result<Response<wire::AppendResponse>> {
    let producer = stamp(request.metadata())?;
    let request = request.into_inner();
    let shard = request.shard_id;
    let checked = check(node, request.records);
    // Only streams that exist are counted, and an archived one takes no more records. What is wrong with the
    // batch itself is said first, as published servers do: it is final, a missing shard is tried again.
    let stream = node.streams.by_shard(shard).filter(|stream| !stream.archived);
    let Some(stream) = stream else { return Err(checked.err().unwrap_or_else(|| no_shard(shard))) };
    let counters = node.stats.stream(stream.id);
    let outcome: Result<(Appended, usize)> = async {
        let (bytes, records) = checked?;
        let size = bytes.len();
        let batch = NewBatch { bytes, records, producer };
        let asked = Instant::now();
        let appended = store(node, shard, batch).await?;
        node.stats.append_latency().record(asked.elapsed());
        Ok((appended, size))
    }
    .await;
    counters.append(outcome.as_ref().ok().map(|(appended, size)| (*size, appended.records)));
    let (appended, _) = outcome?;
    // A small request may claim many records, and the answer names each.
    let ids = appended.records as usize * ID_BYTES;
    let charge = if ids > FREE_ANSWER { Some(node.responses.reserve(ids).await) } else { None };
    let record_ids = (0..appended.records)
        .map(|batch_index| wire::RecordId { shard_id: shard, batch_id: appended.lsn, batch_index })
        .collect();
    let mut response = announce(Response::new(wire::AppendResponse {
        stream_name: request.stream_name,
        shard_id: shard,
        record_ids,
    }));
    if let Some(charge) = charge {
        charge_answer(&mut response, charge);
    }
    if appended.repeat {
        response.metadata_mut().insert(metadata::PRODUCER_REPEAT, MetadataValue::from_static("1"));
    }
    Ok(response)
}

/// The batch as it will be stored, and how many records it claims.
fn check(node: &NodeContext, batch: Option<wire::BatchedRecord>) -> Result<(Bytes, u32)> {
    let empty = || ServerError::new(Class::EmptyBatchedRecord, Value::Null);
    let batch = batch.ok_or_else(empty)?;
    if batch.batch_size == 0 || batch.payload.is_empty() {
        return Err(empty());
    }
    let bytes = Bytes::from(batch.encode_to_vec());
    if bytes.len() > node.config.max_record_size as usize {
        return Err(ServerError::new(Class::InvalidRecordSize, bytes.len()));
    }
    // The number is the client's claim, and every answer that names the batch grows with it.
    let most = MESSAGE_BYTES.saturating_sub(bytes.len()) / ID_BYTES;
    if batch.batch_size as usize > most.max(1) {
        return Err(ServerError::new(
            Class::InvalidRequest,
            format!(
                "batchSize is {}, but a batch of {} bytes may hold at most {most} records, because their ids must fit into one message",
                batch.batch_size,
                bytes.len()
            ),
        ));
    }
    Ok((bytes, batch.batch_size))
}

async fn store(node: &NodeContext, shard: ShardId, batch: NewBatch) -> Result<Appended> {
    let deadline = Instant::now() + MAX_PARKED;
    let mut parked = None;
    let mut tail = node.log.watch_tail(shard).map_err(|error| refusal(shard, error))?;
    loop {
        // What is appended from here on wakes the wait below.
        tail.latest();
        let error = match node.log.append(shard, batch.clone()).await {
            Ok(appended) => return Ok(appended),
            Err(error) => error,
        };
        if !matches!(error, StoreError::Stamp(StampError::Gap { .. })) {
            return Err(refusal(shard, error));
        }
        if parked.is_none() {
            parked = node.parked_appends.try_acquire().ok();
        }
        // Without room to park, or after waiting long enough, the client has to send the missing ones first.
        if parked.is_none() || !matches!(timeout_at(deadline, tail.moved()).await, Ok(Ok(()))) {
            return Err(refusal(shard, error));
        }
    }
}

fn refusal(shard: ShardId, error: StoreError) -> ServerError {
    match error {
        StoreError::ShardNotFound(_) => no_shard(shard),
        other => other.into(),
    }
}

/// Plain text and UNAVAILABLE, as published servers answer and published clients retry.
fn no_shard(shard: ShardId) -> ServerError {
    ServerError::plain(Code::Unavailable, format!("shard {shard} is not found; nothing was stored"))
}

/// The producer's stamp: all three keys or none.
fn stamp(keys: &MetadataMap) -> Result<Option<ProducerStamp>> {
    let text = |key: &'static str| keys.get(key).map(|value| value.to_str().unwrap_or_default());
    let (id, epoch, sequence) = match (
        text(metadata::PRODUCER_ID),
        text(metadata::PRODUCER_EPOCH),
        text(metadata::PRODUCER_SEQUENCE),
    ) {
        (None, None, None) => return Ok(None),
        (Some(id), Some(epoch), Some(sequence)) => (id, epoch, sequence),
        _ => return Err(malformed("id, epoch and sequence must come together")),
    };
    let hexadecimal = id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let id = u128::from_str_radix(id, 16).ok().filter(|id| hexadecimal && *id != 0);
    let id = id.ok_or_else(|| malformed("the id must be 32 lower-case hexadecimal digits, not all zero"))?;
    let epoch = decimal(epoch).ok_or_else(|| malformed("the epoch must be a decimal number below 2^32"))?;
    let sequence =
        decimal(sequence).ok_or_else(|| malformed("the sequence must be a decimal number below 2^64"))?;
    Ok(Some(ProducerStamp { id, epoch, sequence }))
}

fn decimal<T: FromStr>(text: &str) -> Option<T> {
    // `from_str` would accept a leading `+`.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn malformed(reason: &str) -> ServerError {
    ServerError::new(Class::InvalidRequest, format!("the producer's metadata cannot be used: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(id: Option<&str>, epoch: Option<&str>, sequence: Option<&str>) -> Result<Option<ProducerStamp>> {
        let mut keys = MetadataMap::new();
        for (key, value) in [
            (metadata::PRODUCER_ID, id),
            (metadata::PRODUCER_EPOCH, epoch),
            (metadata::PRODUCER_SEQUENCE, sequence),
        ] {
            if let Some(value) = value {
                keys.insert(key, value.parse().unwrap());
            }
        }
        stamp(&keys)
    }

    const ID: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_stamp_is_read_or_absent() {
        assert_eq!(parse(None, None, None), Ok(None));
        let expected = ProducerStamp { id: 0x0123456789abcdef0123456789abcdef, epoch: 2, sequence: 3 };
        assert_eq!(parse(Some(ID), Some("2"), Some("3")), Ok(Some(expected)));
    }

    #[test]
    fn half_or_malformed_stamps_are_refused() {
        let upper = ID.to_uppercase();
        let zero = "0".repeat(32);
        for (id, epoch, sequence) in [
            (Some(ID), None, None),
            (Some(ID), Some("1"), None),
            (None, Some("1"), Some("1")),
            (Some(&upper[..]), Some("1"), Some("1")),
            (Some(&zero[..]), Some("1"), Some("1")),
            (Some(&ID[1..]), Some("1"), Some("1")),
            (Some(ID), Some("+1"), Some("1")),
            (Some(ID), Some("4294967296"), Some("1")),
            (Some(ID), Some("1"), Some("18446744073709551616")),
            (Some(ID), Some("1"), Some("")),
        ] {
            let error = parse(id, epoch, sequence).unwrap_err();
            assert_eq!(error.class(), Some(Class::InvalidRequest), "{id:?} {epoch:?} {sequence:?}");
        }
    }
}
