//! The files of the log.

use super::frame::Place;
use super::shard::Entry;
use crate::store::disk::{Disk, DiskFile};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Name of a segment. The salt is part of the name, so that no damaged byte inside can make it unreadable.
pub fn segment_name(number: u32, salt: u64) -> String {
    format!("{number:010}-{salt:016x}.log")
}

/// Number and salt of a segment's name.
pub fn parse_segment_name(name: &str) -> Option<(u32, u64)> {
    let (number, salt) = name.strip_suffix(".log")?.split_once('-')?;
    let parsed = (number.parse().ok()?, u64::from_str_radix(salt, 16).ok()?);
    (segment_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// A segment file.
#[derive(Debug, Clone)]
pub struct Segment {
    pub number: u32,
    pub salt: u64,
    pub file: Arc<dyn DiskFile>,
}

impl Segment {
    /// The place of a frame in this segment.
    pub fn place(&self, offset: u32) -> Place {
        Place { segment: self.number, salt: self.salt, offset }
    }

    /// Its name on disk.
    pub fn name(&self) -> String {
        segment_name(self.number, self.salt)
    }
}

/// Files kept open for reading; the rest is opened again when it is read.
const OPEN_FILES: usize = 128;

/// All segments and how many readable batches each holds.
#[derive(Debug, Default)]
pub struct Segments {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    segments: BTreeMap<u32, HeldSegment>,
    open: usize,
    /// Counts uses, to tell which was used last.
    uses: u64,
}

#[derive(Debug)]
struct HeldSegment {
    salt: u64,
    file: Option<Arc<dyn DiskFile>>,
    batches: u64,
    last_use: u64,
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

    fn keep_open(&mut self, number: u32, file: Arc<dyn DiskFile>) {
        self.uses += 1;
        if let Some(segment) = self.segments.get_mut(&number) {
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

    /// Adds a segment holding nothing yet.
    pub fn add(&self, segment: Segment) {
        let Segment { number, salt, file } = segment;
        let mut held = self.held();
        held.segments.insert(number, HeldSegment { salt, file: None, batches: 0, last_use: 0 });
        held.keep_open(number, file);
    }

    /// A segment, unless it has been removed.
    pub fn get(&self, disk: &dyn Disk, number: u32) -> io::Result<Option<Segment>> {
        let mut held = self.held();
        let Some(found) = held.segments.get(&number) else { return Ok(None) };
        let salt = found.salt;
        let file = match &found.file {
            Some(file) => Arc::clone(file),
            None => match disk.open(&segment_name(number, salt)) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        held.keep_open(number, Arc::clone(&file));
        Ok(Some(Segment { number, salt, file }))
    }

    /// Counts a batch that can be read.
    pub fn hold(&self, number: u32) {
        if let Some(segment) = self.held().segments.get_mut(&number) {
            segment.batches += 1;
        }
    }

    /// Counts batches that are not wanted any more.
    pub fn release<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) {
        let mut held = self.held();
        for entry in entries {
            if let Some(segment) = held.segments.get_mut(&entry.segment) {
                segment.batches = segment.batches.saturating_sub(1);
            }
        }
    }

    /// True if nothing in the segment can be read any more.
    pub fn is_dead(&self, number: u32) -> bool {
        self.held().segments.get(&number).is_none_or(|segment| segment.batches == 0)
    }

    /// Removes the files of all dead segments but `active`. What a crash brings back is removed again at the
    /// next occasion.
    pub fn remove_dead(&self, disk: &dyn Disk, active: u32) -> io::Result<()> {
        let dead: Vec<(u32, u64)> = self
            .held()
            .segments
            .iter()
            .filter(|(number, segment)| segment.batches == 0 && **number != active)
            .map(|(number, segment)| (*number, segment.salt))
            .collect();
        for (number, salt) in dead {
            match disk.remove(&segment_name(number, salt)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut held = self.held();
            if held.segments.remove(&number).is_some_and(|segment| segment.file.is_some()) {
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
        for number in 0..OPEN_FILES as u32 + 10 {
            let file = disk.create(&segment_name(number, 7)).unwrap();
            file.write_at(0, &number.to_le_bytes()).unwrap();
            segments.add(Segment { number, salt: 7, file });
            segments.hold(number);
        }
        assert_eq!(segments.held().open, OPEN_FILES);
        for number in 0..OPEN_FILES as u32 + 10 {
            let segment = segments.get(&disk, number).unwrap().unwrap();
            let mut content = [0; 4];
            segment.file.read_at(0, &mut content).unwrap();
            assert_eq!(u32::from_le_bytes(content), number);
        }
        assert_eq!(segments.held().open, OPEN_FILES);
        let entry = Entry { lsn: 1, time_ms: 0, segment: 3, offset: 0, body_len: 0, records: 1 };
        segments.release([&entry]);
        segments.remove_dead(&disk, 0).unwrap();
        assert!(segments.get(&disk, 3).unwrap().is_none() && segments.get(&disk, 4).unwrap().is_some());
        assert_eq!(disk.list().unwrap().len(), OPEN_FILES + 9);
    }

    #[test]
    fn names_round_trip_and_sort_by_number() {
        assert_eq!(parse_segment_name(&segment_name(7, u64::MAX)), Some((7, u64::MAX)));
        assert!(segment_name(9, 5) < segment_name(10, 1));
        for foreign in ["7.log", "meta.redb", "0000000007-00000000000000zz.log", "7-1.log"] {
            assert_eq!(parse_segment_name(foreign), None);
        }
    }
}
