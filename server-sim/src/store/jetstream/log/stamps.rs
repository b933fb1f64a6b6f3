//! Producers' stamps of a shard, where they are needed: on the nodes that append to it.
//!
//! They stand in the frames. So that a node need not read a whole shard back, whoever appends writes them down now and then,
//! to a stream of their own, and always before frames are removed. A frame names the last one before it that holds stamps:
//! that tells whether a snapshot and the frames behind it are everything.

use super::Engine;
use super::chunk::Part;
use super::place::{self, NOTHING};
use super::shard::Shard;
use super::wire::{FIRST_PAUSE, PublishError, rest, unreachable};
use crate::store::producer_table::ProducerTable;
use crate::store::{Lsn, Result, ShardId, StoreError};
use async_nats::HeaderMap;
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Frames with stamps, and bytes, after which they are written down.
const FRAMES: u64 = 256;
const BYTES: usize = 32 << 20;
/// How long a shard must have been quiet before what is left is written down.
pub const QUIET: Duration = Duration::from_secs(10);
/// Bytes of one message of a snapshot.
const PART: usize = 256 << 10;
/// Messages of one shard that are looked at.
const MOST_PARTS: usize = 1000;
/// Times that stamps are read back before what is missing is taken for gone.
const TRIES: usize = 4;
const VERSION: u8 = 1;

/// The stream of snapshots.
#[derive(Debug)]
pub struct Snapshots {
    stream: String,
    prefix: String,
    replicas: u32,
}

impl Snapshots {
    pub fn new(namespace: &str, replicas: u32) -> Self {
        let (stream, prefix) = (format!("{namespace}_producers"), format!("{namespace}.producers."));
        Snapshots { stream, prefix, replicas }
    }

    pub fn config(&self) -> Value {
        json!({
            "name": self.stream,
            "subjects": [format!("{}>", self.prefix)],
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "num_replicas": self.replicas,
            "max_msgs_per_subject": 1,
            "allow_direct": true,
        })
    }

    fn all(&self, shard: ShardId) -> String {
        format!("{}{shard}.>", self.prefix)
    }

    fn of(&self, shard: ShardId, covers: Lsn) -> String {
        format!("{}{shard}.{covers}.*", self.prefix)
    }

    fn part(&self, shard: ShardId, covers: Lsn, part: usize) -> String {
        format!("{}{shard}.{covers}.{part}", self.prefix)
    }
}

impl Engine {
    /// Makes sure that the stamps of a shard can be judged.
    pub async fn load_stamps(&self, shard: &Shard) -> Result<()> {
        if shard.live()?.writer().is_loaded() {
            return Ok(());
        }
        let _turn = shard.loading.lock().await;
        for attempt in 1..=TRIES {
            self.hear(shard).await?;
            let known = {
                let mut state = shard.live()?;
                if state.writer().is_loaded() {
                    return Ok(());
                }
                state.writer().gather();
                state.known
            };
            let (mut table, mut whole) = (ProducerTable::default(), true);
            if known.stamped > 0 {
                let found = self.snapshots_of(shard.spec.shard).await?;
                shard.live()?.writer().snapshots = found.keys().copied().collect();
                let covers;
                (covers, table) = found.into_iter().next_back().unwrap_or((NOTHING, table));
                // Sequence of the last frame with stamps that is in the table.
                let mut last = place::seq(covers);
                if last < known.stamped {
                    let from = covers.saturating_add(1);
                    self.frames(shard, from, |part| record(part, covers, &mut table, &mut last, &mut whole))
                        .await?;
                    whole &= last >= known.stamped;
                }
            }
            if !whole && attempt < TRIES {
                // It may have been written down, or removed, a moment ago.
                shard.lane.catch_up().await?;
                continue;
            }
            if !whole {
                let shard = shard.spec.shard;
                tracing::warn!(shard, "stamps of producers are gone: their batches went by age, or are lost");
            }
            let now_ms = (self.settings.clock)();
            table.shrink(&self.settings.producers, now_ms);
            if shard.live()?.writer().load(table) {
                return Ok(());
            }
        }
        Err(unreachable("reading the stamps of producers", "others write faster than they can be read"))
    }

    /// Writes the stamps of a shard down, in the background, if many came since.
    pub fn snapshot_if_due(self: &Arc<Self>, shard: &Arc<Shard>) {
        {
            let mut state = shard.state();
            let uncovered = &mut state.writer().uncovered;
            let due = uncovered.frames > 0 && (uncovered.frames >= FRAMES || uncovered.bytes >= BYTES);
            if !due || std::mem::replace(&mut uncovered.writing, true) {
                return;
            }
        }
        let (engine, shard) = (Arc::clone(self), Arc::clone(shard));
        tokio::spawn(async move {
            if let Err(error) = engine.snapshot(&shard).await {
                tracing::debug!(shard = shard.spec.shard, %error, "stamps of producers were not written down");
            }
        });
    }

    /// Makes sure that the stamps of everything that is stored now are written down.
    pub async fn cover_stamps(&self, shard: &Shard) -> Result<()> {
        if shard.known()?.stamped == 0 {
            return Ok(());
        }
        self.load_stamps(shard).await?;
        let covered = {
            let mut state = shard.live()?;
            let stamped = state.known.stamped;
            let writer = state.writer();
            let covered = writer.snapshots.iter().any(|covers| place::seq(*covers) >= stamped);
            if covered {
                writer.uncovered.frames = 0;
            }
            covered
        };
        if covered { Ok(()) } else { self.snapshot(shard).await }
    }

    /// Writes the stamps of a shard down.
    pub async fn snapshot(&self, shard: &Shard) -> Result<()> {
        let outcome = self.write_snapshot(shard).await;
        if let Ok(mut state) = shard.live() {
            state.writer().uncovered.writing = false;
        }
        outcome
    }

    async fn write_snapshot(&self, shard: &Shard) -> Result<()> {
        let (table, covers, before) = {
            let mut state = shard.live()?;
            let covers = state.known.tail;
            let writer = state.writer();
            let Some(table) = writer.table() else { return Ok(()) };
            (table, covers, writer.uncovered)
        };
        let id = shard.spec.shard;
        let mut bytes = Vec::new();
        table.encode(&mut bytes);
        let count = bytes.len().div_ceil(PART).max(1);
        for part in 0..count {
            let chunk = bytes.chunks(PART).nth(part).unwrap_or_default();
            let payload = encode_part(id, covers, part, count, chunk);
            self.store_part(&self.snapshots.part(id, covers, part), payload).await?;
        }
        let old = {
            let mut state = shard.live()?;
            let writer = state.writer();
            let uncovered = &mut writer.uncovered;
            uncovered.frames = uncovered.frames.saturating_sub(before.frames);
            uncovered.bytes = uncovered.bytes.saturating_sub(before.bytes);
            let snapshots = &mut writer.snapshots;
            let old: Vec<Lsn> = snapshots.iter().copied().filter(|old| *old < covers).collect();
            snapshots.retain(|old| *old > covers);
            snapshots.push(covers);
            old
        };
        for old in old {
            // What stays is removed by the next one who reads it.
            self.wire.purge(&self.snapshots.stream, &self.snapshots.of(id, old), None).await?;
        }
        Ok(())
    }

    async fn store_part(&self, subject: &str, payload: Bytes) -> Result<()> {
        let deadline = Instant::now() + self.settings.timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let reason = match self.wire.publish(subject, HeaderMap::new(), payload.clone()).await {
                Ok(_) => return Ok(()),
                Err(PublishError::Full(reason)) => return Err(StoreError::DiskFull(reason)),
                Err(PublishError::Refused(reason)) => return Err(StoreError::Io(reason)),
                Err(PublishError::Unclear(reason) | PublishError::NotSent(reason)) => reason,
                Err(PublishError::Wrong(_)) => "an answer that was not asked for".to_owned(),
            };
            let failed = || unreachable("writing the stamps of producers down", &reason);
            rest(&mut pause, deadline).await.map_err(|()| failed())?;
        }
    }

    /// The snapshots of a shard that are whole, by what they cover.
    async fn snapshots_of(&self, shard: ShardId) -> Result<BTreeMap<Lsn, ProducerTable>> {
        let stored =
            self.wire.last_of_each(&self.snapshots.stream, &self.snapshots.all(shard), MOST_PARTS).await?;
        let mut parts: BTreeMap<Lsn, BTreeMap<usize, (usize, Bytes)>> = BTreeMap::new();
        for stored in stored {
            if let Some((covers, part, count, chunk)) = decode_part(shard, &stored.payload) {
                parts.entry(covers).or_default().insert(part, (count, chunk));
            }
        }
        let whole = parts.into_iter().filter_map(|(covers, parts)| {
            let count = parts.values().next()?.0;
            let bytes: Vec<u8> = parts.values().flat_map(|(_, chunk)| chunk.iter().copied()).collect();
            let whole = parts.len() == count && parts.keys().copied().eq(0..count);
            let mut input = bytes.as_slice();
            let table = whole.then(|| ProducerTable::decode(&mut input)).flatten()?;
            input.is_empty().then_some((covers, table))
        });
        Ok(whole.collect())
    }

    /// Removes everything of a shard that is gone.
    pub async fn purge_snapshots(&self, shard: ShardId) -> Result<()> {
        self.wire.purge(&self.snapshots.stream, &self.snapshots.all(shard), None).await
    }
}

/// Takes the stamps of a frame into a table that covers everything up to `covers`. `last` is the last frame with stamps that
/// is in it; a frame that names a later one shows that some are missing.
fn record(part: &Part, covers: Lsn, table: &mut ProducerTable, last: &mut u64, whole: &mut bool) {
    let frame = &part.frame;
    if part.seq <= place::seq(covers) {
        return;
    }
    *whole &= frame.stamped <= *last;
    for (at, batch) in frame.batches.iter().enumerate() {
        if let Some(stamp) = &batch.stamp {
            table.record(stamp, place::lsn(part.seq, at), batch.records, frame.time_ms);
            *last = part.seq;
        }
    }
}

fn encode_part(shard: ShardId, covers: Lsn, part: usize, count: usize, chunk: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(chunk.len() + 32);
    out.push(VERSION);
    out.extend(covers.to_le_bytes());
    out.extend((part as u32).to_le_bytes());
    out.extend((count as u32).to_le_bytes());
    out.extend(chunk);
    let crc = crc(shard, &out);
    out.extend(crc.to_le_bytes());
    Bytes::from(out)
}

/// What it covers, its number, how many there are, its part of the table; `None` if it is damaged.
fn decode_part(shard: ShardId, payload: &Bytes) -> Option<(Lsn, usize, usize, Bytes)> {
    let (rest, stored) = payload.split_last_chunk::<4>()?;
    if u32::from_le_bytes(*stored) != crc(shard, rest) {
        return None;
    }
    let (head, chunk) = rest.split_first_chunk::<17>()?;
    let covers = u64::from_le_bytes(*head.get(1..9)?.first_chunk()?);
    let part = u32::from_le_bytes(*head.get(9..13)?.first_chunk()?);
    let count = u32::from_le_bytes(*head.get(13..17)?.first_chunk()?);
    let known = head.first() == Some(&VERSION);
    known.then(|| (covers, part as usize, count as usize, payload.slice_ref(chunk)))
}

fn crc(shard: ShardId, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&shard.to_le_bytes()), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_survive_and_no_flipped_bit_does() {
        let payload = encode_part(7, place::lsn(9, 3), 1, 3, b"abc");
        let found = decode_part(7, &payload).unwrap();
        assert_eq!(found, (place::lsn(9, 3), 1, 3, Bytes::from_static(b"abc")));
        assert_eq!(decode_part(8, &payload), None);
        for bit in 0..payload.len() * 8 {
            let mut flipped = payload.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_part(7, &Bytes::from(flipped)), None, "bit {bit}");
        }
        assert_eq!(decode_part(7, &Bytes::from_static(b"abc")), None);
    }
}
