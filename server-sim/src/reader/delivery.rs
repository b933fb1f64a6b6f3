//! A stored batch as clients receive it.

use crate::store::{Gap, GapKind, ShardId, StoredBatch};
use hstreamdb_proto::api::{BatchedRecord, ReceivedRecord, RecordId};
use hstreamdb_proto::metadata::{GAP_LOST, GAP_TRIMMED};
use prost::Message as _;
use prost_types::Timestamp;

/// Most bytes one response may take: published clients refuse messages of 4 MiB, and framing needs room.
pub const MESSAGE_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;

/// Most bytes one record id takes inside a response.
pub const ID_BYTES: usize = 28;

/// The batch with its record ids and its append time; `None` (and a log line) when the stored bytes are no
/// batch, which an append of this server cannot produce.
pub fn received(shard: ShardId, batch: StoredBatch) -> Option<ReceivedRecord> {
    let mut record = match BatchedRecord::decode(batch.bytes) {
        Ok(record) => record,
        Err(error) => {
            tracing::error!(shard, lsn = batch.lsn, %error, "a stored batch cannot be decoded and is skipped");
            return None;
        }
    };
    record.publish_time = Some(timestamp(batch.time_ms));
    let record_ids = (0..batch.records)
        .map(|batch_index| RecordId { shard_id: shard, batch_id: batch.lsn, batch_index })
        .collect();
    Some(ReceivedRecord { record_ids, record: Some(record) })
}

/// Both ends of a gap, as those are told of it who ask. The first one's index says why.
pub fn gap_ids(shard_id: ShardId, gap: Gap) -> [RecordId; 2] {
    let kind = match gap.kind {
        GapKind::DataLoss => GAP_LOST,
        GapKind::Trimmed => GAP_TRIMMED,
    };
    let id = |batch_id, batch_index| RecordId { shard_id, batch_id, batch_index };
    [id(gap.from, kind), id(gap.to, 0)]
}

/// Upper bound of what a stored batch takes inside a response.
pub fn received_bytes(batch: &StoredBatch) -> usize {
    batch.bytes.len() + batch.records as usize * ID_BYTES + 64
}

/// Milliseconds since 1970 as the wire writes them.
pub(crate) fn timestamp(ms: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(ms % 1000).unwrap_or(0) * 1_000_000,
    }
}
