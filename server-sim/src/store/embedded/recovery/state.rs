//! The state of all shards as far as the log was read.

use super::super::frame::{Header, Kind, Place};
use super::super::segment_index::ShardEntries;
use super::super::segments::Segments;
use super::super::shard::{Entry, Shard};
use super::super::snapshot::{
    ShardSnapshot, decode_ids, decode_snapshot, decode_specs, decode_trims, encode_snapshot, snapshot_len_v1,
};
use super::super::writer::segment_start_len;
use crate::store::producer_table::{ProducerLimits, ProducerTable};
use crate::store::{FIRST_LSN, Lsn, ShardId, ShardSpec};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// What frames add up to.
#[derive(Debug, Default)]
pub struct State {
    limits: ProducerLimits,
    shards: BTreeMap<ShardId, Found>,
    deleted: HashSet<ShardId>,
    /// How many batches fit into each stretch whose frames cannot be told, in log order.
    holes: Vec<u64>,
    /// Intact frames.
    pub frames: u64,
    /// Intact snapshots.
    pub snapshots: u64,
    /// The newest snapshot was written by format 1.
    old_snapshots: bool,
    /// The first damage, as a sentence.
    pub damage: Option<String>,
    /// Damaged segments.
    pub damaged: HashSet<u32>,
}

#[derive(Debug)]
struct Found {
    shard: ShardSnapshot,
    index: VecDeque<Entry>,
    /// LSN of the last batch in the log, whether it can be read or not.
    seen: Lsn,
    /// Holes before this one hid nothing of this shard that is not known to be missing.
    settled: usize,
}

impl Found {
    fn new(spec: ShardSpec, settled: usize) -> Found {
        let nothing = FIRST_LSN - 1;
        let producers = ProducerTable::default();
        let shard = ShardSnapshot { spec, trimmed: nothing, tail: nothing, time_ms: 0, producers };
        Found { shard, index: VecDeque::new(), seen: nothing, settled }
    }

    fn trim(&mut self, up_to: Lsn) {
        self.shard.trimmed = self.shard.trimmed.max(up_to);
        self.shard.tail = self.shard.tail.max(up_to);
    }

    /// Batches that were stored, were not trimmed and cannot be read: how many, and the first.
    fn lost(&self) -> (u64, Lsn) {
        let first = self.shard.trimmed + 1;
        let kept = self.index.partition_point(|entry| entry.lsn < first);
        let readable = (self.index.len() - kept) as u64;
        let lost = (self.shard.tail - self.shard.trimmed).saturating_sub(readable);
        let mut next = first;
        for entry in self.index.range(kept..).take_while(|_| lost > 0) {
            if entry.lsn != next {
                break;
            }
            next += 1;
        }
        (lost, next)
    }
}

impl State {
    /// Nothing read yet.
    pub fn new(limits: &ProducerLimits) -> State {
        State { limits: *limits, ..State::default() }
    }

    /// Takes in an intact frame, or a batch of which only the header is intact.
    pub fn apply(&mut self, header: &Header, body: Option<&[u8]>, place: Place, slot: u32) {
        let decoded = match (header.kind, body) {
            (Kind::Batch, body) => {
                self.apply_batch(header, body.is_some(), place, slot);
                true
            }
            (Kind::Trim, _) => {
                self.apply_trims(&[(header.shard, header.lsn)]);
                true
            }
            (_, None) => false,
            (Kind::Trims, Some(body)) => decode_trims(body).map(|trims| self.apply_trims(&trims)).is_some(),
            (Kind::Create, Some(body)) => decode_specs(body).map(|specs| self.apply_create(specs)).is_some(),
            (Kind::Delete, Some(body)) => decode_ids(body).map(|ids| self.apply_delete(ids)).is_some(),
            (kind @ (Kind::Snapshot | Kind::SnapshotV1), Some(body)) => {
                self.old_snapshots = kind == Kind::SnapshotV1;
                decode_snapshot(kind, body).map(|shards| self.apply_snapshot(shards)).is_some()
            }
        };
        if !decoded {
            tracing::error!(
                segment = place.segment, offset = place.offset, kind = ?header.kind,
                "a change of shards in the log cannot be read; it may have been undone by this"
            );
        }
    }

    fn apply_batch(&mut self, header: &Header, intact: bool, place: Place, slot: u32) {
        if self.deleted.contains(&header.shard) {
            return;
        }
        let settled = self.holes.len();
        let found = self.shards.entry(header.shard).or_insert_with(|| {
            tracing::error!(shard = header.shard, "the creation of a shard is lost; it is kept for ever");
            Found::new(ShardSpec { shard: header.shard, retention_secs: 0, replicas: 1 }, settled)
        });
        let shard = &mut found.shard;
        // The tail may be ahead: a compacted segment begins with the state at its end.
        if header.lsn <= found.seen {
            tracing::error!(
                shard = header.shard,
                lsn = header.lsn,
                "a batch is in the log twice; one is ignored"
            );
            return;
        }
        if intact {
            found.index.push_back(Entry {
                lsn: header.lsn,
                time_ms: header.time_ms,
                segment: slot,
                offset: place.offset,
                body_len: header.body_len,
                records: header.records,
            });
        }
        found.seen = header.lsn;
        shard.tail = shard.tail.max(header.lsn);
        shard.time_ms = shard.time_ms.max(header.time_ms);
        if let Some(stamp) = &header.producer {
            shard.producers.record(stamp, header.lsn, header.records, header.time_ms);
            shard.producers.shrink(&self.limits, header.time_ms);
        }
        found.settled = settled;
    }

    fn apply_trims(&mut self, trims: &[(ShardId, Lsn)]) {
        for (shard, up_to) in trims {
            if let Some(found) = self.shards.get_mut(shard) {
                found.trim(*up_to);
            }
        }
    }

    fn apply_create(&mut self, specs: Vec<ShardSpec>) {
        let settled = self.holes.len();
        for spec in specs {
            self.deleted.remove(&spec.shard);
            self.shards.entry(spec.shard).or_insert_with(|| Found::new(spec, settled));
        }
    }

    fn apply_delete(&mut self, ids: Vec<ShardId>) {
        for id in ids {
            self.shards.remove(&id);
            self.deleted.insert(id);
        }
    }

    /// Shards as they were at this point: what is missing was deleted, what is behind has lost batches.
    pub fn apply_snapshot(&mut self, snapshots: Vec<ShardSnapshot>) {
        self.snapshots += 1;
        let settled = self.holes.len();
        let listed: HashSet<ShardId> = snapshots.iter().map(|shard| shard.spec.shard).collect();
        let gone: Vec<ShardId> = self.shards.keys().copied().filter(|id| !listed.contains(id)).collect();
        self.apply_delete(gone);
        for snapshot in snapshots {
            let id = snapshot.spec.shard;
            let found = self.shards.entry(id).or_insert_with(|| Found::new(snapshot.spec.clone(), settled));
            found.settled = settled;
            found.shard = ShardSnapshot {
                trimmed: found.shard.trimmed.max(snapshot.trimmed),
                tail: found.shard.tail.max(snapshot.tail),
                time_ms: found.shard.time_ms.max(snapshot.time_ms),
                ..snapshot
            };
            self.deleted.remove(&id);
        }
    }

    /// Takes in the batches of a segment that lies before the snapshot this state began with. False if they
    /// contradict what was taken in before.
    pub fn load(&mut self, segment: Vec<ShardEntries>) -> bool {
        for (shard, entries) in segment {
            // What the snapshot does not list was deleted.
            let Some(found) = self.shards.get_mut(&shard) else { continue };
            let live = entries.partition_point(|entry| entry.lsn <= found.shard.trimmed);
            for entry in entries.get(live..).unwrap_or_default() {
                if entry.lsn <= found.seen || entry.lsn > found.shard.tail {
                    return false;
                }
                found.seen = entry.lsn;
                found.index.push_back(*entry);
            }
        }
        true
    }

    /// A stretch of a segment in which up to `batches` batches stood, nobody knows of which shards.
    pub fn add_hole(&mut self, batches: u64) {
        self.holes.push(batches);
    }

    /// Notes damage; the first sentence stays.
    pub fn add_damage(&mut self, slot: u32, what: impl FnOnce() -> String) {
        self.damaged.insert(slot);
        self.damage.get_or_insert_with(what);
    }

    /// Length of what a segment made at this point would begin with.
    pub fn start_len(&self) -> u64 {
        let shards = || self.shards.values().map(|found| &found.shard);
        if self.old_snapshots {
            return 2 * (snapshot_len_v1(shards()) + super::super::frame::HEADER_LEN) as u64;
        }
        segment_start_len(&encode_snapshot(shards()))
    }

    /// Nobody knows whether what cannot be told was of a shard: that is said rather than its LSNs handed out
    /// again.
    pub fn settle_holes(&mut self) {
        for (id, found) in &mut self.shards {
            let hidden: u64 = self.holes.get(found.settled..).unwrap_or_default().iter().sum();
            if hidden > 0 {
                let after = found.shard.tail;
                tracing::error!(shard = id, after, "up to {hidden} batches at the end may be lost");
                found.shard.tail += hidden;
            }
            found.settled = self.holes.len();
        }
    }

    /// The first shard of which stored batches are missing, as a sentence.
    pub fn missing(&self) -> Option<String> {
        self.shards.iter().find_map(|(id, found)| {
            let (lost, first) = found.lost();
            (lost > 0)
                .then(|| format!("{lost} batches of shard {id} are missing, the first with LSN {first}"))
        })
    }

    /// The shards, ready for use; `segments` learns what is held.
    pub fn finish(self, segments: &Segments) -> HashMap<ShardId, Arc<Shard>> {
        let mut shards = HashMap::with_capacity(self.shards.len());
        for (id, mut found) in self.shards {
            let (lost, first) = found.lost();
            if lost > 0 {
                tracing::error!(shard = id, lost, first, "stored batches cannot be read; readers are told");
            }
            let trimmed = found.shard.trimmed;
            let dead = found.index.partition_point(|entry| entry.lsn <= trimmed);
            found.index.drain(..dead);
            found.index.shrink_to_fit();
            segments.hold(&found.index);
            shards.insert(id, Arc::new(Shard::new(found.shard, found.index)));
        }
        shards
    }
}
