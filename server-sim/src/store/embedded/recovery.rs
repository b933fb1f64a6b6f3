//! Reading the log at start: what is there, what is torn, what is lost.
//!
//! Damage is judged by one question: were these bytes durable once? They were if a later write to the log is
//! intact, because writes do not overlap. Then the damage is a loss: it stays where it is and the LSNs in it
//! read as a gap. Otherwise it is a write that a crash cut short, nobody was told that it succeeded, and the
//! log ends before it.

use super::frame::{HEADER_LEN, Header, Kind, Place, find_header};
use super::segments::{Segment, Segments, parse_segment_name};
use super::shard::{Entry, Shard};
use super::snapshot::{ShardSnapshot, decode_ids, decode_snapshot, decode_specs, encode_snapshot};
use super::writer::{create_segment, empty_snapshot, segment_start_len};
use crate::store::disk::Disk;
use crate::store::producer_table::{ProducerLimits, ProducerTable};
use crate::store::{FIRST_LSN, Lsn, Result, ShardId, ShardSpec, StoreError};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// A log ready to be continued.
#[derive(Debug)]
pub struct Recovered {
    pub shards: HashMap<ShardId, Arc<Shard>>,
    pub segments: Segments,
    /// The segment to continue.
    pub active: Segment,
    /// Where to continue it.
    pub len: u64,
}

/// Reads the whole log and makes what was found durable.
pub fn recover(disk: &dyn Disk, limits: &ProducerLimits, serve_damaged: bool) -> Result<Recovered> {
    let io = |what: &str, error: std::io::Error| StoreError::Io(format!("cannot {what} the log: {error}"));
    let names = disk.list().map_err(|error| io("list", error))?;
    let mut found: Vec<(u32, u64, String)> = names
        .into_iter()
        .filter_map(|name| parse_segment_name(&name).map(|(number, salt)| (number, salt, name)))
        .collect();
    found.sort();
    if let Some(pair) = found.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(StoreError::Corrupt(format!("the log holds {} and {}", pair[0].2, pair[1].2)));
    }
    let mut state = State { limits: *limits, ..State::default() };
    let segments = Segments::default();
    let mut active: Option<(Segment, u64)> = None;
    let last = found.len().saturating_sub(1);
    let oldest = found.first().map(|(number, ..)| *number);
    for (at, (number, salt, name)) in found.into_iter().enumerate() {
        let file = disk.open(&name).map_err(|error| io("open", error))?;
        let segment = Segment { number, salt, file };
        let len = segment.file.len().map_err(|error| io("read", error))?;
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| StoreError::Io("segment too long".into()))?];
        segment.file.read_at(0, &mut bytes).map_err(|error| io("read", error))?;
        let scan = Scan { segment: &segment, bytes: &bytes, last: at == last, name: &name };
        let end = scan.run(&mut state);
        if let (false, Some(damage)) = (serve_damaged, &state.damage) {
            // Before anything is written: only the last segment ever is, and after its scan.
            return Err(StoreError::Corrupt(damage.clone()));
        }
        if end.len == 0 && at == last {
            // A crash while it was made; all it could say is in the segments before it.
            if at == 0 && number > 1 {
                return Err(StoreError::Corrupt(format!(
                    "{name} is all there is of the log and nothing in it can be read; restore it from a backup"
                )));
            }
            disk.remove(&name).and_then(|()| disk.sync_dir()).map_err(|error| io("clean", error))?;
            continue;
        }
        if at == last {
            // What a crashed process wrote may be in memory only, whatever a sync now says: write it again.
            let rewrite = bytes.get(end.rewrite_from..end.len).unwrap_or_default();
            let settle = || {
                if (end.len as u64) < len {
                    segment.file.truncate(end.len as u64)?;
                }
                if !rewrite.is_empty() {
                    segment.file.write_at(end.rewrite_from as u64, rewrite)?;
                }
                segment.file.sync_data()?;
                disk.sync_dir()
            };
            settle().map_err(|error| io("repair", error))?;
        }
        segments.add(segment.clone());
        // A segment with a damaged end is not continued.
        active = Some((segment, if end.damaged_end { u64::from(u32::MAX) + 1 } else { end.len as u64 }));
    }
    if (state.frames == 0 || (oldest > Some(1) && state.snapshots == 0)) && active.is_some() {
        return Err(StoreError::Corrupt(
            "the log is damaged so badly that its shards are not known; restore the directory from a backup"
                .into(),
        ));
    }
    let (active, len) = match active {
        Some(active) => active,
        None => {
            let (segment, len) =
                create_segment(disk, 1, &empty_snapshot()).map_err(|(error, _)| io("create", error))?;
            segments.add(segment.clone());
            (segment, len)
        }
    };
    let shards = state.finish(&segments);
    Ok(Recovered { shards, segments, active, len })
}

/// The state of all shards as far as the log was read.
#[derive(Debug, Default)]
struct State {
    limits: ProducerLimits,
    shards: BTreeMap<ShardId, Found>,
    deleted: HashSet<ShardId>,
    /// How many batches fit into each stretch whose frames cannot be told, in log order.
    holes: Vec<u64>,
    /// Intact frames.
    frames: u64,
    /// Intact snapshots.
    snapshots: u64,
    /// The first damage, as a sentence.
    damage: Option<String>,
}

#[derive(Debug)]
struct Found {
    shard: ShardSnapshot,
    index: VecDeque<Entry>,
    /// Holes before this one hid nothing of this shard that is not known to be missing.
    settled: usize,
}

impl Found {
    fn new(spec: ShardSpec, settled: usize) -> Found {
        let nothing = FIRST_LSN - 1;
        let producers = ProducerTable::default();
        let shard = ShardSnapshot { spec, trimmed: nothing, tail: nothing, time_ms: 0, producers };
        Found { shard, index: VecDeque::new(), settled }
    }
}

impl State {
    /// Takes in an intact frame, or a batch of which only the header is intact.
    fn apply(&mut self, header: &Header, body: Option<&[u8]>, place: Place) {
        let decoded = match (header.kind, body) {
            (Kind::Batch, body) => {
                self.apply_batch(header, body.is_some(), place);
                true
            }
            (Kind::Trim, _) => {
                if let Some(found) = self.shards.get_mut(&header.shard) {
                    found.shard.trimmed = found.shard.trimmed.max(header.lsn);
                    found.shard.tail = found.shard.tail.max(header.lsn);
                }
                true
            }
            (_, None) => false,
            (Kind::Create, Some(body)) => decode_specs(body).map(|specs| self.apply_create(specs)).is_some(),
            (Kind::Delete, Some(body)) => decode_ids(body).map(|ids| self.apply_delete(ids)).is_some(),
            (Kind::Snapshot, Some(body)) => {
                decode_snapshot(body).map(|shards| self.apply_snapshot(shards)).is_some()
            }
        };
        if !decoded {
            tracing::error!(
                segment = place.segment, offset = place.offset, kind = ?header.kind,
                "a change of shards in the log cannot be read; it may have been undone by this"
            );
        }
    }

    fn apply_batch(&mut self, header: &Header, intact: bool, place: Place) {
        if self.deleted.contains(&header.shard) {
            return;
        }
        let settled = self.holes.len();
        let found = self.shards.entry(header.shard).or_insert_with(|| {
            tracing::error!(shard = header.shard, "the creation of a shard is lost; it is kept for ever");
            Found::new(ShardSpec { shard: header.shard, retention_secs: 0 }, settled)
        });
        let shard = &mut found.shard;
        if header.lsn <= shard.tail {
            tracing::error!(
                shard = header.shard,
                lsn = header.lsn,
                "a batch is in the log twice; one is ignored"
            );
            return;
        }
        if header.lsn > shard.tail + 1 {
            tracing::error!(
                shard = header.shard,
                from = shard.tail + 1,
                to = header.lsn - 1,
                "stored batches are lost"
            );
        }
        if intact {
            found.index.push_back(Entry {
                lsn: header.lsn,
                time_ms: header.time_ms,
                segment: place.segment,
                offset: place.offset,
                body_len: header.body_len,
                records: header.records,
            });
        }
        shard.tail = header.lsn;
        shard.time_ms = shard.time_ms.max(header.time_ms);
        if let Some(stamp) = &header.producer {
            shard.producers.record(stamp, header.lsn, header.records, header.time_ms);
            shard.producers.shrink(&self.limits, header.time_ms);
        }
        found.settled = settled;
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
    fn apply_snapshot(&mut self, snapshots: Vec<ShardSnapshot>) {
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

    /// Body of the snapshot that a segment made at this point would begin with.
    fn snapshot(&self) -> Vec<u8> {
        encode_snapshot(self.shards.values().map(|found| &found.shard))
    }

    fn finish(self, segments: &Segments) -> HashMap<ShardId, Arc<Shard>> {
        let mut shards = HashMap::new();
        for (id, mut found) in self.shards {
            // Nobody knows whether what cannot be told was of this shard: say so rather than hand out its LSNs again.
            let hidden: u64 = self.holes.get(found.settled..).unwrap_or_default().iter().sum();
            if hidden > 0 {
                let tail = found.shard.tail;
                tracing::error!(shard = id, after = tail, "up to {hidden} batches at the end may be lost");
                found.shard.tail += hidden;
            }
            let trimmed = found.shard.trimmed;
            let dead = found.index.partition_point(|entry| entry.lsn <= trimmed);
            found.index.drain(..dead);
            found.index.iter().for_each(|entry| segments.hold(entry.segment));
            let lost = lost_batches(&found);
            if lost > 0 {
                tracing::error!(shard = id, lost, "stored batches cannot be read; readers are told");
            }
            shards.insert(id, Arc::new(Shard::new(found.shard, found.index)));
        }
        shards
    }
}

fn lost_batches(found: &Found) -> Lsn {
    (found.shard.tail - found.shard.trimmed).saturating_sub(found.index.len() as u64)
}

/// One pass over a segment.
struct Scan<'a> {
    segment: &'a Segment,
    bytes: &'a [u8],
    /// Only the last segment can hold a write that was cut short.
    last: bool,
    name: &'a str,
}

/// How a scan ended.
struct End {
    /// Bytes to keep.
    len: usize,
    /// Start of the last write, or `len` if that is known to be durable.
    rewrite_from: usize,
    /// Durable bytes at the end cannot be read.
    damaged_end: bool,
}

enum Step {
    /// Frame and where the next one starts.
    Frame(Header, usize),
    /// The header is intact, the body is not.
    BadBody(Header, usize),
    BadHeader,
}

impl Scan<'_> {
    fn run(&self, state: &mut State) -> End {
        // Older segments gone, this one is where shards come from.
        let start_len = segment_start_len(&state.snapshot());
        let mut end = End { len: 0, rewrite_from: 0, damaged_end: false };
        let mut proof = None;
        let mut at = 0;
        while at < self.bytes.len() {
            let step = self.step(at);
            if let Step::Frame(header, next) = step {
                state.frames += 1;
                state.apply(&header, self.bytes.get(at + HEADER_LEN..next), self.segment.place(at as u32));
                let closing = header.kind == Kind::Snapshot && header.group_start > 0;
                end = End {
                    len: next,
                    rewrite_from: if closing { next } else { header.group_start as usize },
                    damaged_end: false,
                };
                at = next;
                continue;
            }
            let next = self.next_header(at, &step);
            let first_write = next.is_some_and(|(_, header)| header.group_start == 0);
            let proven = !self.last
                || first_write
                || *proof.get_or_insert_with(|| self.newest_write(at)) > at
                || (at as u64) < start_len && self.bytes.len() as u64 > start_len;
            if !proven {
                tracing::warn!(
                    segment = self.name,
                    offset = at,
                    bytes = self.bytes.len() - at,
                    "an unfinished write at the end of the log is removed"
                );
                break;
            }
            let until = next.map_or(self.bytes.len(), |(offset, _)| offset as usize);
            tracing::error!(
                segment = self.name,
                offset = at,
                bytes = until - at,
                "the log is damaged here; what was stored there is lost"
            );
            state.damage.get_or_insert_with(|| {
                format!("{} is damaged at byte {at}: {} bytes that were once durable cannot be read; restore the directory from a backup, or start with --serve-damaged-log, which tells readers what is lost", self.name, until - at)
            });
            match step {
                Step::BadBody(header, _) => state.apply(&header, None, self.segment.place(at as u32)),
                // Nothing but shard state stands before the end of the first write.
                _ if first_write => {}
                _ => state.holes.push(((until - at) / HEADER_LEN).max(1) as u64),
            }
            at = until;
            end = End { len: until, rewrite_from: until, damaged_end: next.is_none() };
        }
        end
    }

    fn step(&self, at: usize) -> Step {
        let place = self.segment.place(at as u32);
        let Some(header) = self.bytes.get(at..).and_then(|rest| Header::decode(rest, place)) else {
            return Step::BadHeader;
        };
        let next = at + HEADER_LEN + header.body_len as usize;
        match self.bytes.get(at + HEADER_LEN..next) {
            Some(body) if header.body_is_intact(body) => Step::Frame(header, next),
            _ => Step::BadBody(header, next),
        }
    }

    /// The frame after a damaged one.
    fn next_header(&self, at: usize, damaged: &Step) -> Option<(u32, Header)> {
        if let Step::BadBody(_, next) = damaged
            && let Ok(offset) = u32::try_from(*next)
            && let Some(header) =
                self.bytes.get(*next..).and_then(|rest| Header::decode(rest, self.segment.place(offset)))
        {
            return Some((offset, header));
        }
        find_header(self.bytes, at + 1, self.segment.place(0))
    }

    /// Start of the newest write of which a header behind `at` is intact.
    fn newest_write(&self, at: usize) -> usize {
        let mut newest = 0;
        let mut from = at + 1;
        while let Some((offset, header)) = find_header(self.bytes, from, self.segment.place(0)) {
            newest = newest.max(header.group_start as usize);
            let next = offset as usize + HEADER_LEN + header.body_len as usize;
            from = if next <= self.bytes.len() { next } else { offset as usize + 1 };
        }
        newest
    }
}
