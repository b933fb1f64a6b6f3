//! Bodies of control frames.
//!
//! Every segment begins with the state of all shards, so that older segments can go as soon as nothing in them
//! is wanted, whatever control frames they hold.

use crate::store::producer_table::ProducerTable;
use crate::store::{Lsn, ShardId, ShardSpec};

/// The durable state of one shard, its data aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardSnapshot {
    /// Identity and retention.
    pub spec: ShardSpec,
    /// Last LSN removed.
    pub trimmed: Lsn,
    /// Last LSN written.
    pub tail: Lsn,
    /// Append time of the last batch.
    pub time_ms: u64,
    /// Who wrote.
    pub producers: ProducerTable,
}

/// Body of a `Snapshot` frame.
pub fn encode_snapshot<'a>(shards: impl Iterator<Item = &'a ShardSnapshot>) -> Vec<u8> {
    let mut out = Vec::new();
    for shard in shards {
        out.extend(shard.spec.shard.to_le_bytes());
        out.extend(shard.spec.retention_secs.to_le_bytes());
        out.extend(shard.trimmed.to_le_bytes());
        out.extend(shard.tail.to_le_bytes());
        out.extend(shard.time_ms.to_le_bytes());
        shard.producers.encode(&mut out);
    }
    out
}

/// Reads the body of a `Snapshot` frame.
pub fn decode_snapshot(mut input: &[u8]) -> Option<Vec<ShardSnapshot>> {
    let mut shards = Vec::new();
    while !input.is_empty() {
        shards.push(ShardSnapshot {
            spec: ShardSpec {
                shard: u64::from_le_bytes(take(&mut input)?),
                retention_secs: u32::from_le_bytes(take(&mut input)?),
            },
            trimmed: u64::from_le_bytes(take(&mut input)?),
            tail: u64::from_le_bytes(take(&mut input)?),
            time_ms: u64::from_le_bytes(take(&mut input)?),
            producers: ProducerTable::decode(&mut input)?,
        });
    }
    Some(shards)
}

/// Body of a `Create` frame.
pub fn encode_specs(specs: &[ShardSpec]) -> Vec<u8> {
    let mut out = Vec::with_capacity(specs.len() * 12);
    for spec in specs {
        out.extend(spec.shard.to_le_bytes());
        out.extend(spec.retention_secs.to_le_bytes());
    }
    out
}

/// Reads the body of a `Create` frame.
pub fn decode_specs(mut input: &[u8]) -> Option<Vec<ShardSpec>> {
    let mut specs = Vec::new();
    while !input.is_empty() {
        specs.push(ShardSpec {
            shard: u64::from_le_bytes(take(&mut input)?),
            retention_secs: u32::from_le_bytes(take(&mut input)?),
        });
    }
    Some(specs)
}

/// Body of a `Delete` frame.
pub fn encode_ids(ids: &[ShardId]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// Reads the body of a `Delete` frame.
pub fn decode_ids(mut input: &[u8]) -> Option<Vec<ShardId>> {
    let mut ids = Vec::new();
    while !input.is_empty() {
        ids.push(u64::from_le_bytes(take(&mut input)?));
    }
    Some(ids)
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*head)
}
