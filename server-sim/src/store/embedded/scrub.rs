//! Comparing what lies on the disk with its checksums before somebody wants to read it.
//!
//! Opening the log does not read older segments; this does, once and slowly. What does not match is a gap from
//! then on and is logged as an error, while a backup may still have it.

use super::Shared;
use super::frame::Header;
use super::log::end_of;
use super::segments::{SegmentUse, frame_len};
use super::shard::Entry;
use crate::store::ShardId;
use std::io;

/// Bytes compared at a time, unless one batch alone is larger.
const PIECE_BYTES: u64 = 1 << 20;

/// One segment being compared.
#[derive(Debug)]
pub struct Scrub {
    slot: u32,
    batches: Vec<(ShardId, Entry)>,
    done: usize,
}

impl Scrub {
    /// Begins with a segment.
    pub fn new(shared: &Shared, segment: &SegmentUse) -> Scrub {
        let number = segment.id.number;
        Scrub { slot: segment.slot, batches: shared.entries_in(number..=number), done: 0 }
    }

    /// Compares a piece; returns its bytes, 0 at the end of the segment.
    ///
    /// # Errors
    /// The disk cannot be read at the moment; that says nothing about what is on it.
    pub fn piece(&mut self, shared: &Shared) -> io::Result<u64> {
        let Some(segment) = shared.segments.get(&*shared.disk, self.slot)? else {
            // If something in it was wanted, a read will say that it is gone.
            shared.segments.mark_verified(self.slot);
            return Ok(0);
        };
        let mut bytes = 0;
        let mut buffer = Vec::new();
        while let Some((id, entry)) = self.batches.get(self.done)
            && bytes < PIECE_BYTES
        {
            buffer.resize(frame_len(entry) as usize, 0);
            let intact = match segment.file.read_at(u64::from(entry.offset), &mut buffer) {
                Ok(()) => Header::of_batch(&buffer, segment.place(entry.offset), *id, entry.lsn).is_some(),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
                Err(error) => return Err(error),
            };
            if let (false, Some(shard)) = (intact, shared.find(*id)) {
                shared.lose(&shard, entry, "a check found that it does not match its checksum");
            }
            bytes += end_of(entry) - u64::from(entry.offset);
            self.done += 1;
        }
        if self.done == self.batches.len() {
            shared.segments.mark_verified(self.slot);
        }
        Ok(bytes)
    }
}
