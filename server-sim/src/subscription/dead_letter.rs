//! Records that were delivered too often, on their way to the dead-letter stream.
//!
//! Each gets three attributes that say where it comes from, keeps its key and goes to the shard that key has in
//! the dead-letter stream. A batch that cannot be taken apart goes there whole, as stored.

use super::delivery::{MAX_CONTENT, read};
use crate::store::{NewBatch, ShardId, StoredBatch};
use crate::stream::Stream;
use bytes::Bytes;
use hstreamdb_proto::api::{
    BatchHStreamRecords, BatchedRecord, CompressionType, HStreamRecord, HStreamRecordHeader, RecordId,
};
use hstreamdb_proto::batch::split_records;
use hstreamdb_proto::compression::{compress, decompress};
use hstreamdb_proto::partition::key_hash;
use prost::Message as _;
use std::collections::BTreeMap;
use std::ops::Range;

/// Attribute with the subscription's name.
pub(super) const SUBSCRIPTION: &str = "dead-letter-subscription";
/// Attribute with the record's id as text.
pub(super) const RECORD_ID: &str = "dead-letter-record-id";
/// Attribute with how often it was delivered.
pub(super) const DELIVERIES: &str = "dead-letter-deliveries";
/// Content of one batch, about; the records of one stored batch may become several.
const BATCH_BYTES: usize = 512 << 10;

/// What is put aside and why.
#[derive(Debug, Clone)]
pub(super) struct Burial<'a> {
    pub(super) subscription: &'a str,
    pub(super) shard: ShardId,
    pub(super) open: &'a [Range<u32>],
    pub(super) deliveries: u32,
}

/// The open records of `batch` as batches for the shards of `target`.
///
/// # Errors
/// Why they cannot be put aside at all.
pub(super) fn batches(
    batch: &StoredBatch,
    burial: &Burial<'_>,
    target: &Stream,
) -> Result<Vec<(ShardId, NewBatch)>, String> {
    match apart(batch, burial, target) {
        Ok(batches) => Ok(batches),
        Err(reason) => {
            tracing::warn!(
                subscription = burial.subscription,
                shard = burial.shard,
                lsn = batch.lsn,
                reason,
                "batch cannot be taken apart, it goes to the dead-letter stream whole"
            );
            let shard = target.shard_of(key_hash("")).ok_or("the dead-letter stream has no shards")?.id;
            let whole = NewBatch { bytes: batch.bytes.clone(), records: batch.records, producer: None };
            Ok(vec![(shard, whole)])
        }
    }
}

fn apart(
    batch: &StoredBatch,
    burial: &Burial<'_>,
    target: &Stream,
) -> Result<Vec<(ShardId, NewBatch)>, String> {
    let record = read(batch)?;
    let kind = CompressionType::try_from(record.compression_type).map_err(|error| error.to_string())?;
    let content = decompress(kind, &record.payload, MAX_CONTENT).map_err(|error| error.to_string())?;
    let records = split_records(&content).map_err(|error| error.to_string())?;
    let mut full = Vec::new();
    let mut filling: BTreeMap<ShardId, (Vec<HStreamRecord>, usize)> = BTreeMap::new();
    for batch_index in burial.open.iter().cloned().flatten() {
        let bytes = records.get(batch_index as usize).ok_or("an index lies beyond it")?;
        let mut record = HStreamRecord::decode(bytes.clone()).map_err(|error| error.to_string())?;
        let id = RecordId { shard_id: burial.shard, batch_id: batch.lsn, batch_index };
        let header = record.header.get_or_insert_with(HStreamRecordHeader::default);
        header.attributes.insert(SUBSCRIPTION.to_owned(), burial.subscription.to_owned());
        header.attributes.insert(RECORD_ID.to_owned(), id.to_string());
        header.attributes.insert(DELIVERIES.to_owned(), burial.deliveries.to_string());
        let shard = target.shard_of(key_hash(&header.key)).ok_or("the dead-letter stream has no shards")?.id;
        let (records, size) = filling.entry(shard).or_default();
        let more = record.encoded_len();
        if !records.is_empty() && *size + more > BATCH_BYTES {
            full.push((shard, pack(kind, std::mem::take(records))?));
            *size = 0;
        }
        *size += more;
        records.push(record);
    }
    for (shard, (records, _)) in filling {
        full.push((shard, pack(kind, records)?));
    }
    Ok(full)
}

fn pack(kind: CompressionType, records: Vec<HStreamRecord>) -> Result<NewBatch, String> {
    let batch_size = u32::try_from(records.len()).map_err(|error| error.to_string())?;
    let content = Bytes::from(BatchHStreamRecords { records }.encode_to_vec());
    let payload = compress(kind, None, content).map_err(|error| error.to_string())?;
    let record = BatchedRecord { compression_type: kind as i32, publish_time: None, batch_size, payload };
    Ok(NewBatch { bytes: record.encode_to_vec().into(), records: batch_size, producer: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Shard, StreamId};
    use hstreamdb_proto::partition::even_range;

    fn target(shards: u32) -> Stream {
        let shards = (0..shards).map(|position| {
            let (start, end) = even_range(position, shards);
            Shard { id: 100 + u64::from(position), start, end }
        });
        Stream {
            id: StreamId(1),
            name: "dead".into(),
            replication_factor: 1,
            backlog_secs: 0,
            created_ms: 0,
            shards: shards.collect(),
            archived: false,
        }
    }

    fn stored(kind: CompressionType, records: Vec<HStreamRecord>) -> StoredBatch {
        let records_count = records.len() as u32;
        let NewBatch { bytes, .. } = pack(kind, records).unwrap();
        StoredBatch { lsn: 7, time_ms: 1, records: records_count, bytes }
    }

    fn record(key: &str, payload: usize) -> HStreamRecord {
        let header = HStreamRecordHeader { flag: 1, key: key.into(), ..Default::default() };
        HStreamRecord { header: Some(header), payload: vec![b'x'; payload].into() }
    }

    fn unpack(batch: &NewBatch) -> Vec<HStreamRecord> {
        let record = BatchedRecord::decode(batch.bytes.clone()).unwrap();
        let kind = CompressionType::try_from(record.compression_type).unwrap();
        let content = decompress(kind, &record.payload, MAX_CONTENT).unwrap();
        let records = BatchHStreamRecords::decode(content).unwrap().records;
        assert_eq!((record.batch_size, batch.records), (records.len() as u32, records.len() as u32));
        records
    }

    fn burial(open: &[Range<u32>]) -> Burial<'_> {
        Burial { subscription: "s", shard: 5, open, deliveries: 3 }
    }

    #[test]
    fn open_records_go_to_the_shard_of_their_key_and_say_where_they_come_from() {
        let keys = ["a", "b", "c", "d", "e", "f"];
        let batch = stored(CompressionType::Zstd, keys.iter().map(|key| record(key, 3)).collect());
        let target = target(4);
        let put_aside = batches(&batch, &burial(&[1..3, 5..6]), &target).unwrap();
        let mut seen = Vec::new();
        for (shard, batch) in &put_aside {
            for record in unpack(batch) {
                let header = record.header.unwrap();
                assert_eq!(target.shard_of(key_hash(&header.key)).unwrap().id, *shard);
                assert_eq!(header.attributes[SUBSCRIPTION], "s");
                assert_eq!(header.attributes[DELIVERIES], "3");
                seen.push((header.key.clone(), header.attributes[RECORD_ID].clone()));
            }
        }
        seen.sort();
        let expected = [("b", "5-7-1"), ("c", "5-7-2"), ("f", "5-7-5")];
        assert_eq!(seen, expected.map(|(key, id)| (key.to_owned(), id.to_owned())));
    }

    #[test]
    fn many_large_records_become_several_batches_in_order() {
        let batch = stored(CompressionType::None, (0..8).map(|_| record("", 200 << 10)).collect());
        let put_aside = batches(&batch, &burial(std::slice::from_ref(&(0..8))), &target(1)).unwrap();
        assert!(put_aside.len() > 2 && put_aside.iter().all(|(_, batch)| batch.bytes.len() < 1 << 20));
        let ids = put_aside.iter().flat_map(|(_, batch)| unpack(batch));
        let ids: Vec<String> =
            ids.map(|record| record.header.unwrap().attributes[RECORD_ID].clone()).collect();
        assert_eq!(ids, (0..8).map(|index| format!("5-7-{index}")).collect::<Vec<_>>());
    }

    #[test]
    fn a_batch_that_cannot_be_taken_apart_is_put_aside_as_stored() {
        let garbage = BatchedRecord { batch_size: 3, payload: "garbage".into(), ..Default::default() };
        let batch = StoredBatch { lsn: 7, time_ms: 1, records: 3, bytes: garbage.encode_to_vec().into() };
        let put_aside = batches(&batch, &burial(std::slice::from_ref(&(1..2))), &target(1)).unwrap();
        let [(_, whole)] = &put_aside[..] else { panic!("{put_aside:?}") };
        assert_eq!((whole.bytes.clone(), whole.records), (batch.bytes, 3));
    }
}
