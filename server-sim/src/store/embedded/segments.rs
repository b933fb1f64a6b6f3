//! The files of the log.

use super::frame::{HEADER_LEN, Place};
use super::segment_id::SegmentId;
use super::segment_index;
use super::shard::Entry;
use crate::store::disk::{Disk, DiskFile};
use crate::store::{Lsn, ShardId};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ending of a file that is not whole yet; what a crash leaves of it is removed at the next start.
pub const UNFINISHED: &str = ".tmp";

/// A segment file.
#[derive(Debug, Clone)]
pub struct Segment {
    /// What entries call it. Counts up while the process runs and means nothing on disk.
    pub slot: u32,
    pub id: SegmentId,
    pub file: Arc<dyn DiskFile>,
}

impl Segment {
    /// The place of a frame in this segment.
    pub fn place(&self, offset: u32) -> Place {
        Place { segment: self.id.number, salt: self.id.salt, offset }
    }
}

/// What is known of a segment without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentUse {
    pub slot: u32,
    pub id: SegmentId,
    /// Length of the file.
    pub len: u64,
    /// Bytes of the frames that can still be read.
    pub live: u64,
    /// Nothing is appended any more.
    pub sealed: bool,
    /// What is in it cannot all be read; it is not compacted.
    pub damaged: bool,
}

/// Files kept open for reading; the rest is opened again when it is read.
const OPEN_FILES: usize = 128;

/// All segments and how much of each can still be read.
#[derive(Debug, Default)]
pub struct Segments {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    segments: BTreeMap<u32, HeldSegment>,
    next_slot: u32,
    open: usize,
    /// Counts uses, to tell which was used last.
    uses: u64,
}

#[derive(Debug)]
struct HeldSegment {
    id: SegmentId,
    file: Option<Arc<dyn DiskFile>>,
    len: u64,
    batches: u64,
    live: u64,
    /// Batches that were wanted when it turned out that they cannot be read.
    lost: Vec<(ShardId, Lsn)>,
    sealed: bool,
    damaged: bool,
    indexed: bool,
    verified: bool,
    last_use: u64,
}

impl HeldSegment {
    fn count(&mut self, entry: &Entry) {
        self.batches += 1;
        self.live += frame_len(entry);
    }

    fn discount(&mut self, entry: &Entry) {
        self.batches = self.batches.saturating_sub(1);
        self.live = self.live.saturating_sub(frame_len(entry));
    }
}

/// Bytes a batch takes in its segment.
pub fn frame_len(entry: &Entry) -> u64 {
    HEADER_LEN as u64 + u64::from(entry.body_len)
}

impl Held {
    /// Closes the file that was not used for the longest time.
    fn close_one(&mut self) {
        let open = self.segments.values_mut().filter(|segment| segment.file.is_some());
        if let Some(idlest) = open.min_by_key(|segment| segment.last_use) {
            idlest.file = None;
            self.open -= 1;
        }
    }

    fn keep_open(&mut self, slot: u32, file: Arc<dyn DiskFile>) {
        self.uses += 1;
        if let Some(segment) = self.segments.get_mut(&slot) {
            segment.last_use = self.uses;
            if segment.file.replace(file).is_none() {
                self.open += 1;
            }
        }
        while self.open > OPEN_FILES {
            self.close_one();
        }
    }
}

impl Segments {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, slot: u32, change: impl FnOnce(&mut HeldSegment)) {
        if let Some(segment) = self.held().segments.get_mut(&slot) {
            change(segment);
        }
    }

    /// Adds a segment holding nothing yet. The file is closed until it is read, if it is not given.
    pub fn add(&self, id: SegmentId, file: Option<Arc<dyn DiskFile>>, len: u64) -> u32 {
        let mut held = self.held();
        let slot = held.next_slot;
        held.next_slot += 1;
        let segment = HeldSegment {
            id,
            file: None,
            len,
            batches: 0,
            live: 0,
            lost: Vec::new(),
            sealed: false,
            damaged: false,
            indexed: false,
            verified: false,
            last_use: 0,
        };
        held.segments.insert(slot, segment);
        if let Some(file) = file {
            held.keep_open(slot, file);
        }
        slot
    }

    /// A segment, unless it has been removed.
    pub fn get(&self, disk: &dyn Disk, slot: u32) -> io::Result<Option<Segment>> {
        let mut held = self.held();
        let Some(found) = held.segments.get(&slot) else { return Ok(None) };
        let id = found.id;
        let file = match &found.file {
            Some(file) => Arc::clone(file),
            None => match disk.open(&id.name()) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        held.keep_open(slot, Arc::clone(&file));
        Ok(Some(Segment { slot, id, file }))
    }

    /// Counts batches that can be read.
    pub fn hold<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) {
        let mut held = self.held();
        for entry in entries {
            if let Some(segment) = held.segments.get_mut(&entry.segment) {
                segment.count(entry);
            }
        }
    }

    /// Counts batches that are not wanted any more.
    pub fn release<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) {
        let mut held = self.held();
        for entry in entries {
            if let Some(segment) = held.segments.get_mut(&entry.segment) {
                segment.discount(entry);
            }
        }
    }

    /// Nothing will be appended to the segment; it ends at `len`.
    pub fn seal(&self, slot: u32, len: u64) {
        self.with(slot, |segment| (segment.sealed, segment.len) = (true, len));
    }

    /// A batch cannot be read. The file stays for whoever can, until the batch is not wanted any more.
    pub fn lose(&self, shard: ShardId, entry: &Entry) {
        self.with(entry.segment, |segment| {
            segment.damaged = true;
            segment.lost.push((shard, entry.lsn));
            segment.discount(entry);
        });
    }

    /// Something in the segment cannot be read.
    pub fn mark_damaged(&self, slot: u32) {
        self.with(slot, |segment| segment.damaged = true);
    }

    /// The file beside the segment is there.
    pub fn mark_indexed(&self, slot: u32) {
        self.with(slot, |segment| segment.indexed = true);
    }

    /// Every byte of the segment that matters was compared with its checksum.
    pub fn mark_verified(&self, slot: u32) {
        self.with(slot, |segment| segment.verified = true);
    }

    /// All segments in log order.
    pub fn in_order(&self) -> Vec<SegmentUse> {
        self.ordered(|_| true)
    }

    /// Sealed segments without an index beside them.
    pub fn without_index(&self) -> Vec<SegmentUse> {
        self.ordered(|segment| segment.sealed && !segment.indexed)
    }

    /// Whether the segment is still part of the log.
    pub fn has(&self, segment: &SegmentUse) -> bool {
        self.held().segments.get(&segment.slot).is_some_and(|held| held.id == segment.id)
    }

    /// Sealed segments of which nobody has compared all checksums since the start.
    pub fn unverified(&self) -> Vec<SegmentUse> {
        self.ordered(|segment| segment.sealed && !segment.verified && !segment.damaged)
    }

    fn ordered(&self, wanted: impl Fn(&HeldSegment) -> bool) -> Vec<SegmentUse> {
        let held = self.held();
        let mut found: Vec<SegmentUse> = held
            .segments
            .iter()
            .filter(|(_, segment)| wanted(segment))
            .map(|(&slot, &HeldSegment { id, len, live, sealed, damaged, .. })| SegmentUse {
                slot,
                id,
                len,
                live,
                sealed,
                damaged,
            })
            .collect();
        found.sort_by_key(|segment| segment.id);
        found
    }

    /// Number of each segment by its slot.
    pub fn numbers(&self) -> HashMap<u32, u32> {
        self.held().segments.iter().map(|(&slot, segment)| (slot, segment.id.number)).collect()
    }

    /// True if nothing in the segment can be read any more.
    pub fn is_dead(&self, slot: u32) -> bool {
        self.held().segments.get(&slot).is_none_or(|segment| segment.batches == 0)
    }

    /// Removes the files of sealed segments without batches that are wanted; `wanted` tells that of lost ones.
    /// What a crash brings back is removed again at the next occasion.
    pub fn remove_dead(&self, disk: &dyn Disk, wanted: impl Fn(ShardId, Lsn) -> bool) -> io::Result<()> {
        let mut held = self.held();
        for segment in held.segments.values_mut().filter(|segment| !segment.lost.is_empty()) {
            segment.lost.retain(|(shard, lsn)| wanted(*shard, *lsn));
        }
        let is_dead =
            |segment: &HeldSegment| segment.sealed && segment.batches == 0 && segment.lost.is_empty();
        let dead: Vec<(u32, SegmentId)> = held
            .segments
            .iter()
            .filter(|(_, segment)| is_dead(segment))
            .map(|(slot, segment)| (*slot, segment.id))
            .collect();
        drop(held);
        for (slot, id) in dead {
            segment_index::remove(disk, &id)?;
            match disk.remove(&id.name()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut held = self.held();
            if held.segments.remove(&slot).is_some_and(|segment| segment.file.is_some()) {
                held.open -= 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::FaultDisk;

    #[test]
    fn only_so_many_files_stay_open_and_the_rest_is_opened_again() {
        let disk = FaultDisk::new();
        let segments = Segments::default();
        let entry = |slot| Entry { lsn: 1, time_ms: 0, segment: slot, offset: 0, body_len: 0, records: 1 };
        for number in 0..OPEN_FILES as u32 + 10 {
            let id = SegmentId::appended(number);
            let file = disk.create(&id.name()).unwrap();
            file.write_at(0, &number.to_le_bytes()).unwrap();
            let slot = segments.add(id, Some(file), 4);
            segments.hold([&entry(slot)]);
            segments.seal(slot, 4);
        }
        assert_eq!(segments.held().open, OPEN_FILES);
        for slot in 0..OPEN_FILES as u32 + 10 {
            let segment = segments.get(&disk, slot).unwrap().unwrap();
            let mut content = [0; 4];
            segment.file.read_at(0, &mut content).unwrap();
            assert_eq!(u32::from_le_bytes(content), segment.id.number);
        }
        assert_eq!(segments.held().open, OPEN_FILES);
        segments.release([&entry(3)]);
        segments.remove_dead(&disk, |_, _| true).unwrap();
        assert!(segments.get(&disk, 3).unwrap().is_none() && segments.get(&disk, 4).unwrap().is_some());
        assert_eq!(disk.list().unwrap().len(), OPEN_FILES + 9);
    }
}
