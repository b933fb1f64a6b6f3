//! A stored batch as a consumer receives it: whole the first time, only its open records afterwards.

use crate::reader::{ID_BYTES, MESSAGE_BYTES};
use crate::store::{ShardId, StoredBatch};
use bytes::{BufMut as _, BytesMut};
use hstreamdb_proto::api::{
    BatchedRecord, CompressionType, ReceivedRecord, RecordId, StreamingFetchResponse,
};
use hstreamdb_proto::batch::split_records;
use hstreamdb_proto::compression::{compress, decompress};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use std::ops::Range;

/// Most bytes of content a batch may hold to be taken apart.
pub(super) const MAX_CONTENT: usize = 64 << 20;
/// Most records of a batch that is delivered: as many ids as fit into a message. Appends are held to less, so
/// this only keeps a damaged count from filling the memory.
const MAX_RECORDS: u32 = (MESSAGE_BYTES / ID_BYTES) as u32;

/// A message and about how many bytes it takes.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) message: StreamingFetchResponse,
    pub(super) bytes: usize,
}

impl Outgoing {
    pub(super) fn records(&self) -> usize {
        records(&self.message)
    }
}

/// Records in a message.
pub(super) fn records(message: &StreamingFetchResponse) -> usize {
    message.received_records.as_ref().map_or(0, |received| received.record_ids.len())
}

/// The batch as stored, with its append time.
///
/// # Errors
/// Why it can never be delivered.
pub(super) fn whole(shard: ShardId, batch: &StoredBatch) -> Result<Outgoing, String> {
    let record = read(batch)?;
    Ok(outgoing(shard, batch, record, std::iter::once(0..batch.records)))
}

/// The batch cut down to the records in `open`, compressed as before. A batch that cannot be taken apart comes
/// whole, as stored.
///
/// # Errors
/// Why it can never be delivered.
pub(super) fn part(shard: ShardId, batch: &StoredBatch, open: &[Range<u32>]) -> Result<Outgoing, String> {
    if open.len() == 1 && open.first() == Some(&(0..batch.records)) {
        return whole(shard, batch);
    }
    let record = read(batch)?;
    match pick(&record, open) {
        Ok(picked) => Ok(outgoing(shard, batch, picked, open.iter().cloned())),
        Err(reason) => {
            tracing::warn!(
                shard,
                lsn = batch.lsn,
                reason,
                "batch cannot be taken apart, it goes out whole again"
            );
            whole(shard, batch)
        }
    }
}

/// The batch with its append time.
pub(super) fn read(batch: &StoredBatch) -> Result<BatchedRecord, String> {
    if batch.records > MAX_RECORDS {
        return Err(format!("its {} records are more than the {MAX_RECORDS} a message holds", batch.records));
    }
    let mut record = BatchedRecord::decode(batch.bytes.clone()).map_err(|error| error.to_string())?;
    record.publish_time = Some(prost_types::Timestamp {
        seconds: i64::try_from(batch.time_ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(batch.time_ms % 1000).unwrap_or(0) * 1_000_000,
    });
    Ok(record)
}

fn outgoing(
    shard: ShardId,
    batch: &StoredBatch,
    record: BatchedRecord,
    indexes: impl Iterator<Item = Range<u32>>,
) -> Outgoing {
    let record_ids: Vec<RecordId> = indexes
        .flatten()
        .map(|batch_index| RecordId { shard_id: shard, batch_id: batch.lsn, batch_index })
        .collect();
    let bytes = record.payload.len() + record_ids.len() * ID_BYTES + 64;
    let received = ReceivedRecord { record_ids, record: Some(record) };
    Outgoing { message: StreamingFetchResponse { received_records: Some(received) }, bytes }
}

fn pick(record: &BatchedRecord, open: &[Range<u32>]) -> Result<BatchedRecord, String> {
    let kind = CompressionType::try_from(record.compression_type).map_err(|error| error.to_string())?;
    let content = decompress(kind, &record.payload, MAX_CONTENT).map_err(|error| error.to_string())?;
    let records = split_records(&content).map_err(|error| error.to_string())?;
    if records.len() as u64 != u64::from(record.batch_size) {
        return Err(format!("it says {} records and holds {}", record.batch_size, records.len()));
    }
    let mut picked = BytesMut::new();
    let mut batch_size = 0;
    for range in open {
        let slices =
            records.get(range.start as usize..range.end as usize).ok_or("an index lies beyond it")?;
        for slice in slices {
            // `BatchHStreamRecords.records`, written without decoding the record.
            encode_key(1, WireType::LengthDelimited, &mut picked);
            encode_varint(slice.len() as u64, &mut picked);
            picked.put_slice(slice);
            batch_size += 1;
        }
    }
    let payload = compress(kind, None, picked.freeze()).map_err(|error| error.to_string())?;
    Ok(BatchedRecord { payload, batch_size, ..record.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use hstreamdb_proto::api::{BatchHStreamRecords, HStreamRecord, HStreamRecordHeader};

    fn records(count: u32) -> Vec<HStreamRecord> {
        (0..count)
            .map(|i| HStreamRecord {
                header: Some(HStreamRecordHeader { flag: 1, key: format!("k{i}"), ..Default::default() }),
                payload: Bytes::from(format!("payload {i}")),
            })
            .collect()
    }

    fn stored(kind: CompressionType, count: u32) -> StoredBatch {
        let content = Bytes::from(BatchHStreamRecords { records: records(count) }.encode_to_vec());
        let record = BatchedRecord {
            compression_type: kind as i32,
            publish_time: None,
            batch_size: count,
            payload: compress(kind, None, content).unwrap(),
        };
        StoredBatch { lsn: 77, time_ms: 12_345, records: count, bytes: record.encode_to_vec().into() }
    }

    fn unpack(outgoing: Outgoing) -> (Vec<u32>, BatchedRecord, Vec<HStreamRecord>) {
        let received = outgoing.message.received_records.unwrap();
        let record = received.record.unwrap();
        let kind = CompressionType::try_from(record.compression_type).unwrap();
        let content = decompress(kind, &record.payload, MAX_CONTENT).unwrap();
        let records = BatchHStreamRecords::decode(content).unwrap().records;
        assert!(received.record_ids.iter().all(|id| id.shard_id == 5 && id.batch_id == 77));
        (received.record_ids.iter().map(|id| id.batch_index).collect(), record, records)
    }

    #[test]
    fn the_first_delivery_is_the_batch_as_stored_with_its_append_time() {
        let batch = stored(CompressionType::Zstd, 3);
        let (ids, record, content) = unpack(whole(5, &batch).unwrap());
        assert_eq!(ids, [0, 1, 2]);
        assert_eq!(content, records(3));
        assert_eq!(record.publish_time, Some(prost_types::Timestamp { seconds: 12, nanos: 345_000_000 }));
        assert_eq!(record.payload, BatchedRecord::decode(batch.bytes).unwrap().payload);
    }

    #[test]
    fn a_part_keeps_compression_ids_and_content() {
        for kind in [CompressionType::None, CompressionType::Gzip, CompressionType::Zstd] {
            let (ids, record, content) = unpack(part(5, &stored(kind, 6), &[1..2, 4..6]).unwrap());
            assert_eq!(ids, [1, 4, 5]);
            assert_eq!((record.compression_type, record.batch_size), (kind as i32, 3));
            let all = records(6);
            assert_eq!(content, [all[1].clone(), all[4].clone(), all[5].clone()]);
        }
    }

    #[test]
    fn a_batch_that_cannot_be_taken_apart_comes_whole() {
        let unreadable = [(9, 2, "opaque"), (1, 2, "not gzip"), (0, 2, "\u{ff}"), (0, 2, "")];
        for (compression_type, batch_size, payload) in unreadable {
            let record = BatchedRecord {
                compression_type,
                publish_time: None,
                batch_size,
                payload: Bytes::from(payload.to_owned()),
            };
            let batch = StoredBatch { lsn: 77, time_ms: 1, records: 2, bytes: record.encode_to_vec().into() };
            let received =
                part(5, &batch, std::slice::from_ref(&(1..2))).unwrap().message.received_records.unwrap();
            assert_eq!(received.record_ids.len(), 2, "{payload:?}");
            assert_eq!(received.record.unwrap().payload, record.payload);
        }
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        let batch = StoredBatch { lsn: 1, time_ms: 1, records: 1, bytes: Bytes::from_static(b"\xff") };
        assert!(whole(5, &batch).is_err());
        let mut huge = stored(CompressionType::None, 1);
        huge.records = u32::MAX;
        assert!(whole(5, &huge).is_err());
    }
}
