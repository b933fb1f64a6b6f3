//! Bodies of control frames.
//!
//! Every segment begins with the state of all shards, so that older segments can go as soon as nothing in them
//! is wanted, whatever control frames they hold.

use super::frame::Kind;
use crate::store::producer_table::ProducerTable;
use crate::store::{FIRST_LSN, Lsn, ShardId, ShardSpec, varint};

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

/// Body of a `Snapshot` frame: of each shard its id, then as varints retention, batches ever appended, how many
/// of them are not trimmed, time of the last, and its table of producers.
pub fn encode_snapshot<'a>(shards: impl Iterator<Item = &'a ShardSnapshot>) -> Vec<u8> {
    let mut out = Vec::new();
    for shard in shards {
        out.extend(shard.spec.shard.to_le_bytes());
        varint::put(&mut out, u64::from(shard.spec.retention_secs));
        varint::put(&mut out, shard.tail.wrapping_sub(FIRST_LSN - 1));
        varint::put(&mut out, shard.tail.wrapping_sub(shard.trimmed));
        varint::put(&mut out, shard.time_ms);
        shard.producers.encode(&mut out);
    }
    out
}

/// Reads the body of a snapshot frame of that kind.
pub fn decode_snapshot(kind: Kind, mut input: &[u8]) -> Option<Vec<ShardSnapshot>> {
    let mut shards = Vec::new();
    while !input.is_empty() {
        shards.push(match kind {
            Kind::SnapshotV1 => decode_shard_v1(&mut input)?,
            _ => decode_shard(&mut input)?,
        });
    }
    Some(shards)
}

fn decode_shard(input: &mut &[u8]) -> Option<ShardSnapshot> {
    let shard = u64::from_le_bytes(take(input)?);
    let retention_secs = varint::take_u32(input)?;
    let tail = varint::take(input)?.wrapping_add(FIRST_LSN - 1);
    Some(ShardSnapshot {
        spec: ShardSpec { shard, retention_secs, replicas: 1 },
        trimmed: tail.wrapping_sub(varint::take(input)?),
        tail,
        time_ms: varint::take(input)?,
        producers: ProducerTable::decode(input)?,
    })
}

fn decode_shard_v1(input: &mut &[u8]) -> Option<ShardSnapshot> {
    Some(ShardSnapshot {
        spec: ShardSpec {
            shard: u64::from_le_bytes(take(input)?),
            retention_secs: u32::from_le_bytes(take(input)?),
            replicas: 1,
        },
        trimmed: u64::from_le_bytes(take(input)?),
        tail: u64::from_le_bytes(take(input)?),
        time_ms: u64::from_le_bytes(take(input)?),
        producers: ProducerTable::decode_v1(input)?,
    })
}

/// Length of a snapshot's body as format 1 wrote it.
pub fn snapshot_len_v1<'a>(shards: impl Iterator<Item = &'a ShardSnapshot>) -> usize {
    shards.map(|shard| 36 + shard.producers.len_v1()).sum()
}

/// Body of a `Trims` frame.
pub fn encode_trims(trims: &[(ShardId, Lsn)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(trims.len() * 16);
    for (shard, up_to) in trims {
        out.extend(shard.to_le_bytes());
        out.extend(up_to.to_le_bytes());
    }
    out
}

/// Reads the body of a `Trims` frame.
pub fn decode_trims(mut input: &[u8]) -> Option<Vec<(ShardId, Lsn)>> {
    let mut trims = Vec::new();
    while !input.is_empty() {
        trims.push((u64::from_le_bytes(take(&mut input)?), u64::from_le_bytes(take(&mut input)?)));
    }
    Some(trims)
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
            replicas: 1,
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
