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

/// All segments and how many readable batches each holds.
#[derive(Debug, Default)]
pub struct Segments {
    held: Mutex<BTreeMap<u32, (Segment, u64)>>,
}

impl Segments {
    fn held(&self) -> MutexGuard<'_, BTreeMap<u32, (Segment, u64)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a segment holding nothing yet.
    pub fn add(&self, segment: Segment) {
        self.held().insert(segment.number, (segment, 0));
    }

    /// A segment, unless it has been removed.
    pub fn get(&self, number: u32) -> Option<Segment> {
        self.held().get(&number).map(|(segment, _)| segment.clone())
    }

    /// Counts a batch that can be read.
    pub fn hold(&self, number: u32) {
        if let Some((_, batches)) = self.held().get_mut(&number) {
            *batches += 1;
        }
    }

    /// Counts batches that are not wanted any more.
    pub fn release<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) {
        let mut held = self.held();
        for entry in entries {
            if let Some((_, batches)) = held.get_mut(&entry.segment) {
                *batches = batches.saturating_sub(1);
            }
        }
    }

    /// True if nothing in the segment can be read any more.
    pub fn is_dead(&self, number: u32) -> bool {
        self.held().get(&number).is_none_or(|(_, batches)| *batches == 0)
    }

    /// Removes the files of all dead segments but `active`. What a crash brings back is removed again at the
    /// next occasion.
    pub fn remove_dead(&self, disk: &dyn Disk, active: u32) -> io::Result<()> {
        let dead: Vec<Segment> = self
            .held()
            .values()
            .filter(|(segment, batches)| *batches == 0 && segment.number != active)
            .map(|(segment, _)| segment.clone())
            .collect();
        for segment in dead {
            disk.remove(&segment.name())?;
            self.held().remove(&segment.number);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_sort_by_number() {
        assert_eq!(parse_segment_name(&segment_name(7, u64::MAX)), Some((7, u64::MAX)));
        assert!(segment_name(9, 5) < segment_name(10, 1));
        for foreign in ["7.log", "meta.redb", "0000000007-00000000000000zz.log", "7-1.log"] {
            assert_eq!(parse_segment_name(foreign), None);
        }
    }
}
