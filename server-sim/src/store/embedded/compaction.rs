//! Giving space back: segments of which little can still be read are copied into one that holds only that.
//!
//! All shards share segments, so a batch that is kept for ever would keep everything that was written beside it.
//! A compaction takes neighbours in the log and writes what is left of them, in the same order, into one file
//! that takes their place. The log stays ordered, LSNs and append times stay as they are.
//!
//! It can be cut anywhere. The copy is written and synced under another name; the rename is the moment at which it
//! counts. From then on the files it was made from are superfluous, and a start that finds them removes them. The
//! copy begins with the state that the next segment begins with, so it depends on no frame that was left behind.
//!
//! What is copied is compared with its checksums first. If anything does not match nothing is moved: a damaged
//! segment stays as it is, for whoever wants to rescue more, until nothing in it is wanted.

use super::frame::{HEADER_LEN, Header};
use super::log::end_of;
use super::segment_id::SegmentId;
use super::segment_index::{self, ShardEntries};
use super::segments::{Segment, SegmentUse, UNFINISHED, frame_len};
use super::shard::Entry;
use super::snapshot::{ShardSnapshot, decode_snapshot, encode_snapshot};
use super::writer::segment_start;
use super::{Shared, blocking};
use crate::store::disk::DiskFile;
use crate::store::{Result, ShardId, StoreError};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Frames are copied in pieces of about this size; between two of them the store can be closed.
const PIECE_BYTES: u64 = 1 << 20;
/// Written bytes are synced this often, so that the sync of an append never waits for many of them.
const SYNC_BYTES: u64 = 8 << 20;
/// Segments are worth copying if this times fewer bytes are left of them.
const WORTH_IT: u64 = 2;
/// So many neighbours that fit into one segment are made one even if that frees nothing: files cost, too.
const TOO_MANY: usize = 8;
/// At most so many segments at once.
const MOST: usize = 256;

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// Neighbours in log order.
    sources: Vec<SegmentUse>,
    /// The segment behind them.
    next: SegmentUse,
    /// About how long the outcome will be.
    bytes: u64,
}

/// Picks the neighbours whose copy frees most for each byte that is written. `start` is the length of the state
/// that a segment begins with, `full` the length of a segment, `room` how long the outcome may be.
pub fn plan(segments: &[SegmentUse], start: u64, full: u64, room: u64) -> Option<Plan> {
    let mut best: Option<(u64, u64, std::ops::RangeInclusive<usize>)> = None;
    for from in 0..segments.len() {
        let (mut total, mut bytes) = (0, start);
        for (to, segment) in segments.iter().enumerate().skip(from).take(MOST) {
            total += segment.len;
            bytes += segment.live;
            let fits = bytes <= full || to == from;
            if !segment.sealed || segment.damaged || !fits || bytes > room {
                break;
            }
            // The one behind is needed for the state it begins with.
            if segments.get(to + 1).is_none_or(|next| next.damaged) {
                break;
            }
            let merged = to - from + 1;
            if total < WORTH_IT * bytes && (merged < TOO_MANY || total <= bytes) {
                continue;
            }
            let freed = total.saturating_sub(bytes);
            // Compares freed / bytes without rounding.
            let better = best.as_ref().is_none_or(|(best_freed, best_bytes, _)| {
                u128::from(freed) * u128::from(*best_bytes) > u128::from(*best_freed) * u128::from(bytes)
            });
            if better {
                best = Some((freed, bytes, from..=to));
            }
        }
    }
    let (_, bytes, range) = best?;
    let next = *segments.get(range.end() + 1)?;
    Some(Plan { sources: segments.get(range)?.to_vec(), next, bytes })
}

/// Why a compaction ended early. The log is as it was, or the outcome is in place.
#[derive(Debug)]
pub enum Cut {
    /// The store is closing.
    Closed,
    /// There is no room for the copy now.
    Full(String),
    /// Something did not match its checksum; the segment is marked and nothing was moved.
    Damaged,
    /// What is on the disk now is not known: nothing is compacted any more until the next start.
    Broken(String),
}

/// Carries out a plan; returns the bytes that were written.
pub async fn run(shared: &Arc<Shared>, plan: Plan, bytes_per_sec: Option<u64>) -> Result<u64, Cut> {
    let copy = step(shared, move |shared| Copy::begin(shared, plan)).await?;
    let Some(mut copy) = copy else { return Ok(0) };
    let written = loop {
        let at = copy.len;
        let done;
        (copy, done) = step(shared, move |shared| copy.piece(shared)).await?;
        if done {
            let written = copy.len;
            step(shared, move |shared| copy.finish(shared)).await?;
            break written;
        }
        if let Some(rate) = bytes_per_sec {
            tokio::time::sleep(Duration::from_secs_f64((copy.len - at) as f64 / rate.max(1) as f64)).await;
        }
    };
    Ok(written)
}

/// Runs what blocks while the store cannot be closed.
async fn step<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T, Cut> + Send + 'static,
) -> Result<T, Cut> {
    let shared = Arc::clone(shared);
    let result = blocking(move || {
        let Some(_open) = shared.open() else { return Err(Cut::Closed) };
        work(&shared)
    });
    result.await.unwrap_or_else(|error: StoreError| Err(Cut::Broken(error.to_string())))
}

/// A compaction under way. Dropped before its end it removes what it wrote.
#[derive(Debug)]
struct Copy {
    id: SegmentId,
    file: Arc<dyn DiskFile>,
    /// Bytes written.
    len: u64,
    synced: u64,
    /// What is to be copied, in log order, and how much of it was.
    batches: Vec<(ShardId, Entry)>,
    copied: usize,
    /// Each batch's place in the copy, in the same order.
    offsets: Vec<u32>,
    sources: HashMap<u32, Segment>,
    unfinished: Unfinished,
}

/// A file under another name, removed unless it gets its own.
#[derive(Debug)]
struct Unfinished {
    disk: Arc<dyn crate::store::disk::Disk>,
    name: String,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // Left behind, it is removed at the next start.
            let _ = self.disk.remove(&self.name);
        }
    }
}

impl Copy {
    /// Collects what is to be copied and writes the start of the new segment.
    fn begin(shared: &Shared, plan: Plan) -> Result<Option<Copy>, Cut> {
        let (Some(first), Some(last)) = (plan.sources.first(), plan.sources.last()) else { return Ok(None) };
        let numbers = first.id.number..=last.id.number;
        let batches = shared.entries_in(numbers);
        if batches.is_empty() {
            return Ok(None);
        }
        let mut sources = HashMap::new();
        for source in &plan.sources {
            let found = shared.segments.get(&*shared.disk, source.slot).map_err(cannot("open a segment"))?;
            // One that is gone has nothing to copy.
            sources.extend(found.map(|segment| (source.slot, segment)));
        }
        let Some(mut state) = start_of(shared, &plan.next)? else { return Ok(None) };
        // What is not copied was trimmed, perhaps later than the next segment knows.
        for snapshot in &mut state {
            if let Some(trimmed) = shared.find(snapshot.spec.shard).and_then(|shard| shard.trimmed().ok()) {
                snapshot.trimmed = snapshot.trimmed.max(trimmed);
                snapshot.tail = snapshot.tail.max(trimmed);
            }
        }
        let generation = plan.sources.iter().map(|source| source.id.generation).max().unwrap_or_default();
        let id = SegmentId {
            number: last.id.number,
            first: first.id.first,
            generation: generation.saturating_add(1),
            salt: rand::random(),
        };
        let start = segment_start(&id, &encode_snapshot(state.iter())).map_err(cannot("copy a segment"))?;
        let name = id.name() + UNFINISHED;
        let file = shared.disk.create(&name).map_err(cannot("create a segment"))?;
        let unfinished = Unfinished { disk: Arc::clone(&shared.disk), name };
        file.write_at(0, &start).map_err(cannot("write a segment"))?;
        let offsets = Vec::with_capacity(batches.len());
        let len = start.len() as u64;
        Ok(Some(Copy { id, file, len, synced: 0, batches, copied: 0, offsets, sources, unfinished }))
    }

    /// Copies a piece; true once everything is copied.
    fn piece(mut self, shared: &Shared) -> Result<(Copy, bool), Cut> {
        let until = self.len + PIECE_BYTES;
        while self.copied < self.batches.len() && self.len < until {
            self.copy_run(shared)?;
        }
        if self.len - self.synced >= SYNC_BYTES {
            self.sync()?;
        }
        let done = self.copied == self.batches.len();
        Ok((self, done))
    }

    fn sync(&mut self) -> Result<(), Cut> {
        // After a failed sync nobody knows what is on the disk; this file is given up, and so is compaction.
        self.file.sync_data().map_err(|error| Cut::Broken(format!("cannot sync a segment: {error}")))?;
        self.synced = self.len;
        Ok(())
    }

    /// Copies frames that lie side by side.
    fn copy_run(&mut self, shared: &Shared) -> Result<(), Cut> {
        let rest = self.batches.get(self.copied..).unwrap_or_default();
        let Some((_, first)) = rest.first() else { return Ok(()) };
        let follows = |pair: &&[(ShardId, Entry)]| match pair {
            [(_, before), (_, after)] => {
                before.segment == after.segment
                    && end_of(before) == u64::from(after.offset)
                    && end_of(after) - u64::from(first.offset) <= PIECE_BYTES
            }
            _ => false,
        };
        let run = rest.get(..1 + rest.windows(2).take_while(follows).count()).unwrap_or_default();
        let Some(source) = self.sources.get(&first.segment) else {
            // Its file is gone although something in it is wanted: a read will say so.
            shared.segments.mark_damaged(first.segment);
            return Err(Cut::Damaged);
        };
        let len: u64 = run.iter().map(|(_, entry)| frame_len(entry)).sum();
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| Cut::Damaged)?];
        match source.file.read_at(u64::from(first.offset), &mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                shared.segments.mark_damaged(first.segment);
                return Err(Cut::Damaged);
            }
            Err(error) => return Err(cannot("read a segment")(error)),
        }
        let mut at = 0;
        for (shard, entry) in run {
            let end = at + frame_len(entry) as usize;
            let frame = bytes.get_mut(at..end).unwrap_or_default();
            let intact = Header::of_batch(frame, source.place(entry.offset), *shard, entry.lsn);
            let Some(header) = intact else {
                shared.segments.mark_damaged(entry.segment);
                if let Some(shard) = shared.find(*shard) {
                    shared.lose(&shard, entry, "it does not match its checksum");
                }
                return Err(Cut::Damaged);
            };
            let offset = u32::try_from(self.len + at as u64)
                .map_err(|_| Cut::Full("what is left of the segments does not fit into one".into()))?;
            let place = super::frame::Place { segment: self.id.number, salt: self.id.salt, offset };
            // All before it is durable when the copy gets its name.
            let header = Header { group_start: offset, ..header };
            if let Some(space) = frame.get_mut(..HEADER_LEN) {
                space.copy_from_slice(&header.encode(place));
            }
            self.offsets.push(offset);
            at = end;
        }
        let copied = run.len();
        self.file.write_at(self.len, &bytes).map_err(cannot("write a segment"))?;
        self.len += len;
        self.copied += copied;
        Ok(())
    }

    /// Puts the copy in the place of its sources.
    fn finish(mut self, shared: &Shared) -> Result<(), Cut> {
        self.sync()?;
        let name = self.id.name();
        let disk = &*shared.disk;
        let put = disk.rename(&self.unfinished.name, &name).and_then(|()| disk.sync_dir());
        // From here on it may be there after a crash. It may stay: it says what the files it was made from say.
        self.unfinished.name.clear();
        put.map_err(|error| Cut::Broken(format!("cannot put a segment in place: {error}")))?;

        let slot = shared.segments.add(self.id, Some(Arc::clone(&self.file)), self.len);
        let mut moves: HashMap<ShardId, Vec<(Entry, Entry)>> = HashMap::new();
        for ((shard, from), offset) in self.batches.iter().zip(&self.offsets) {
            let to = Entry { segment: slot, offset: *offset, ..*from };
            moves.entry(*shard).or_default().push((*from, to));
        }
        // Counted before it can be seen, so that a trim never counts it down first.
        shared.segments.hold(moves.values().flatten().map(|(_, to)| to));
        shared.segments.seal(slot, self.len);
        shared.segments.mark_verified(slot);
        for (shard, moves) in &moves {
            let free = match shared.find(*shard) {
                Some(shard) => shard.relocate(moves),
                None => moves.iter().map(|(_, to)| *to).collect(),
            };
            shared.segments.release(&free);
        }
        tracing::debug!(
            segment = name,
            from = self.id.first,
            batches = self.batches.len(),
            bytes = self.len,
            "what is left of some segments was copied into one"
        );
        let entries: Vec<ShardEntries> = moves
            .into_iter()
            .map(|(shard, moves)| (shard, moves.into_iter().map(|(_, to)| to).collect()))
            .collect();
        if segment_index::write(disk, &self.id, self.len, &entries).is_ok() {
            shared.segments.mark_indexed(slot);
        }
        shared.remove_dead();
        Ok(())
    }
}

/// The state that a segment begins with; `None` if both copies of it are damaged.
fn start_of(shared: &Shared, next: &SegmentUse) -> Result<Option<Vec<ShardSnapshot>>, Cut> {
    let found = shared.segments.get(&*shared.disk, next.slot).map_err(cannot("open a segment"))?;
    let Some(segment) = found else { return Ok(None) };
    let mut offset = 0;
    for _ in 0..2 {
        let mut bytes = [0; HEADER_LEN];
        if segment.file.read_at(u64::from(offset), &mut bytes).is_err() {
            break;
        }
        let Some(header) = Header::decode(&bytes, segment.place(offset)) else { break };
        let mut body = vec![0; header.body_len as usize];
        let read = segment.file.read_at(u64::from(offset) + HEADER_LEN as u64, &mut body);
        if read.is_ok()
            && header.kind.is_snapshot()
            && header.body_is_intact(&body)
            && let Some(state) = decode_snapshot(header.kind, &body)
        {
            return Ok(Some(state));
        }
        let Some(end) =
            offset.checked_add(HEADER_LEN as u32).and_then(|end| end.checked_add(header.body_len))
        else {
            break;
        };
        offset = end;
    }
    shared.segments.mark_damaged(next.slot);
    Ok(None)
}

fn cannot(what: &'static str) -> impl Fn(io::Error) -> Cut {
    move |error| match error.kind() {
        io::ErrorKind::StorageFull => Cut::Full(format!("cannot {what}: {error}")),
        _ => Cut::Broken(format!("cannot {what}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments by (length, live bytes); the last one is still written.
    fn segments(of: &[(u64, u64)]) -> Vec<SegmentUse> {
        let number = |at: usize| u32::try_from(at).unwrap() + 1;
        let mut segments: Vec<SegmentUse> = of
            .iter()
            .enumerate()
            .map(|(at, &(len, live))| SegmentUse {
                slot: number(at) + 100,
                id: SegmentId { number: number(at), first: number(at), generation: 0, salt: 0 },
                len,
                live,
                sealed: true,
                damaged: false,
            })
            .collect();
        if let Some(last) = segments.last_mut() {
            last.sealed = false;
        }
        segments
    }

    /// Numbers of the segments that are picked, for a start of 10 bytes and segments of 1000.
    fn picked(segments: &[SegmentUse], room: u64) -> Vec<u32> {
        let plan = plan(segments, 10, 1000, room);
        plan.map_or(vec![], |plan| plan.sources.iter().map(|source| source.id.number).collect())
    }

    #[test]
    fn segments_of_which_most_is_wanted_are_left_alone() {
        assert_eq!(picked(&segments(&[(1000, 990), (1000, 600), (1000, 0)]), u64::MAX), [0; 0]);
        assert_eq!(picked(&segments(&[(1000, 0)]), u64::MAX), [0; 0]);
    }

    #[test]
    fn what_frees_most_for_least_is_taken_first() {
        assert_eq!(picked(&segments(&[(1000, 400), (1000, 990), (1000, 100), (500, 0)]), u64::MAX), [3]);
        // Together they share one start.
        assert_eq!(picked(&segments(&[(1000, 5), (1000, 5), (1000, 5), (500, 0)]), u64::MAX), [1, 2, 3]);
    }

    #[test]
    fn the_outcome_is_no_longer_than_a_segment_and_fits_on_the_disk() {
        let half = segments(&[(1000, 400), (1000, 400), (1000, 400), (500, 0)]);
        assert_eq!(picked(&half, u64::MAX).len(), 2);
        assert_eq!(picked(&half, 450).len(), 1);
        assert_eq!(picked(&half, 409), [0; 0]);
    }

    #[test]
    fn many_small_segments_are_made_one_even_if_all_of_them_is_wanted() {
        let mut small = [(60, 50); 9];
        small[8] = (500, 0);
        assert_eq!(picked(&segments(&small), u64::MAX), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(picked(&segments(&small[1..]), u64::MAX), [0; 0]);
    }

    #[test]
    fn damaged_and_unfinished_segments_are_never_touched() {
        let mut damaged = segments(&[(1000, 10), (1000, 10), (1000, 10), (500, 0)]);
        damaged[1].damaged = true;
        // Nor what needs the state that a damaged one begins with.
        assert_eq!(picked(&damaged, u64::MAX), [3]);
        damaged[2].damaged = true;
        assert_eq!(picked(&damaged, u64::MAX), [0; 0]);
    }
}
