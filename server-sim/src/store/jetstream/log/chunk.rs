//! Frames put together to what a reader gets: batches in order, and what is missing between them. Pure.
//!
//! Every frame names the batch before it. So nothing can be missing in the middle without being noticed, and if nothing is,
//! the unused LSNs between two frames are no gap.

use super::front::Frame;
use super::place;
use crate::store::{FIRST_LSN, Gap, GapKind, Lsn, ReadChunk, ReadLimits, StoredBatch};
use bytes::Bytes;
use std::sync::Arc;

/// A frame with its bytes, compared with its checksums.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its sequence.
    pub seq: u64,
    pub frame: Arc<Frame>,
    /// Bytes of each batch; `None` where they do not match their checksum.
    pub bodies: Arc<[Option<Bytes>]>,
}

impl Part {
    /// Cuts a frame into its batches; `None` if it has not the length it should have.
    pub fn cut(seq: u64, frame: Frame, payload: &Bytes) -> Option<Part> {
        if frame.body_len() != payload.len() {
            return None;
        }
        let mut at = 0;
        let mut bodies = Vec::with_capacity(frame.batches.len());
        for batch in &frame.batches {
            let end = at + batch.len as usize;
            let body = payload.get(at..end).map(|_| payload.slice(at..end))?;
            at = end;
            bodies.push(Some(body).filter(|body| crc32c::crc32c(body) == batch.crc));
        }
        Some(Part { seq, frame: Arc::new(frame), bodies: bodies.into() })
    }

    /// One of batches that were just stored.
    pub fn of(seq: u64, frame: Frame, bodies: Vec<Bytes>) -> Part {
        Part { seq, frame: Arc::new(frame), bodies: bodies.into_iter().map(Some).collect() }
    }

    pub fn body_len(&self) -> usize {
        self.frame.body_len()
    }

    /// Whether all of it can be read.
    pub fn is_whole(&self) -> bool {
        self.bodies.iter().all(Option::is_some)
    }

    /// Whether it is the frame in which a read from `at` begins: the one that holds `at`, or the next one with nothing between.
    pub fn follows(&self, at: Lsn) -> bool {
        self.seq == place::seq(at) || (self.seq > place::seq(at) && self.frame.prev < at)
    }
}

/// A chunk in the making.
#[derive(Debug)]
pub struct Chunk {
    chunk: ReadChunk,
    limits: ReadLimits,
    bytes: usize,
    full: bool,
}

/// What a frame did to a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// There may be room for more.
    More,
    /// Nothing more goes in.
    Full,
    /// Batches up to this LSN should lie before it; find out where they are.
    Missing(Lsn),
}

impl Chunk {
    /// One that begins at `from`.
    pub fn new(from: Lsn, limits: ReadLimits) -> Self {
        let chunk = ReadChunk { gap: None, batches: Vec::new(), next: from };
        Chunk { chunk, limits, bytes: 0, full: limits.max_batches == 0 }
    }

    /// First LSN that is not in it.
    pub fn next(&self) -> Lsn {
        self.chunk.next.max(FIRST_LSN)
    }

    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Whether it says nothing yet.
    pub fn is_empty(&self) -> bool {
        self.chunk.gap.is_none() && self.chunk.batches.is_empty()
    }

    /// Everything from [`Chunk::next`] to `to` is missing. False if that has to be said by another chunk.
    pub fn miss(&mut self, kind: GapKind, to: Lsn) -> bool {
        let from = self.next();
        if to < from {
            return true;
        }
        if !self.chunk.batches.is_empty() {
            self.full = true;
            return false;
        }
        match &mut self.chunk.gap {
            None => self.chunk.gap = Some(Gap { kind, from, to }),
            Some(gap) if gap.kind == kind => gap.to = to,
            Some(_) => {
                self.full = true;
                return false;
            }
        }
        self.chunk.next = to + 1;
        true
    }

    /// Adds the batches of the next frame, those beyond `tail` aside.
    pub fn add(&mut self, part: &Part, tail: Lsn) -> Added {
        if self.full {
            return Added::Full;
        }
        let at = self.next();
        if part.seq < place::seq(at) {
            return Added::More;
        }
        if !part.follows(at) {
            return Added::Missing(part.frame.prev);
        }
        let skip = if part.seq == place::seq(at) { place::index(at) } else { 0 };
        let batches = part.frame.batches.iter().zip(part.bodies.iter()).enumerate();
        for (index, (batch, body)) in batches.skip(skip) {
            let lsn = place::lsn(part.seq, index);
            if lsn > tail {
                self.full = true;
                return Added::Full;
            }
            let Some(body) = body else {
                // Unused LSNs before it are no part of what is lost.
                if self.chunk.gap.is_none() && self.chunk.batches.is_empty() {
                    self.chunk.next = lsn;
                }
                if self.miss(GapKind::DataLoss, lsn) {
                    continue;
                }
                return Added::Full;
            };
            let bytes = self.bytes + body.len();
            let enough = self.chunk.batches.len() >= self.limits.max_batches
                || (!self.chunk.batches.is_empty() && bytes > self.limits.max_bytes);
            if enough {
                self.full = true;
                return Added::Full;
            }
            self.bytes = bytes;
            let (time_ms, records) = (part.frame.time_ms, batch.records);
            self.chunk.batches.push(StoredBatch { lsn, time_ms, records, bytes: body.clone() });
            self.chunk.next = lsn + 1;
        }
        // Behind all places of the frame, so that the next read does not ask for it again.
        self.chunk.next = self.chunk.next.max(place::lsn(part.seq + 1, 0));
        Added::More
    }

    /// The chunk as it is.
    pub fn finish(self) -> ReadChunk {
        self.chunk
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::front::Batch;
    use super::super::place::NOTHING;
    use super::*;

    const ALL: ReadLimits = ReadLimits { max_batches: 100, max_bytes: 1 << 20 };

    /// A frame of `count` batches of `len` bytes behind the last batch of a frame that had one, or behind nothing.
    pub fn part(seq: u64, prev_seq: u64, count: usize, len: usize) -> Part {
        let prev = if prev_seq == 0 { NOTHING } else { place::lsn(prev_seq, 0) };
        let body = Bytes::from(vec![7; len]);
        let batch = Batch { len: len as u32, crc: crc32c::crc32c(&body), records: 1, stamp: None };
        let frame = Frame {
            id: 1,
            first: false,
            prev,
            prev_ms: 0,
            time_ms: seq,
            stamped: 0,
            batches: vec![batch; count],
        };
        Part::of(seq, frame, vec![body; count])
    }

    fn lsns(chunk: &ReadChunk) -> Vec<(u64, usize)> {
        chunk.batches.iter().map(|batch| (place::seq(batch.lsn), place::index(batch.lsn))).collect()
    }

    #[test]
    fn unused_numbers_between_frames_are_no_gap() {
        let mut chunk = Chunk::new(FIRST_LSN, ALL);
        assert_eq!(chunk.add(&part(3, 0, 2, 10), u64::MAX), Added::More);
        assert_eq!(
            chunk.add(
                &Part {
                    frame: Arc::new(Frame { prev: place::lsn(3, 1), ..(*part(9, 3, 1, 10).frame).clone() }),
                    ..part(9, 3, 1, 10)
                },
                u64::MAX
            ),
            Added::More
        );
        let chunk = chunk.finish();
        assert_eq!(lsns(&chunk), [(3, 0), (3, 1), (9, 0)]);
        assert_eq!((chunk.gap, chunk.next), (None, place::lsn(10, 0)));
    }

    #[test]
    fn a_read_begins_inside_a_frame_and_ends_there() {
        let mut chunk = Chunk::new(place::lsn(3, 1), ReadLimits { max_batches: 2, ..ALL });
        assert_eq!(chunk.add(&part(3, 0, 5, 10), u64::MAX), Added::Full);
        let chunk = chunk.finish();
        assert_eq!((lsns(&chunk), chunk.next), (vec![(3, 1), (3, 2)], place::lsn(3, 3)));
    }

    #[test]
    fn the_first_batch_comes_whatever_its_size() {
        let limits = ReadLimits { max_batches: 9, max_bytes: 0 };
        let mut chunk = Chunk::new(FIRST_LSN, limits);
        assert_eq!(chunk.add(&part(3, 0, 2, 10), u64::MAX), Added::Full);
        assert_eq!(lsns(&chunk.finish()), [(3, 0)]);
    }

    #[test]
    fn a_frame_that_names_one_we_have_not_is_not_taken() {
        let mut chunk = Chunk::new(place::lsn(3, 1), ALL);
        assert_eq!(chunk.add(&part(9, 5, 1, 10), u64::MAX), Added::Missing(place::lsn(5, 0)));
        assert!(chunk.miss(GapKind::DataLoss, place::lsn(5, 0)));
        assert_eq!(chunk.add(&part(9, 5, 1, 10), u64::MAX), Added::More);
        let chunk = chunk.finish();
        let gap = Gap { kind: GapKind::DataLoss, from: place::lsn(3, 1), to: place::lsn(5, 0) };
        assert_eq!((chunk.gap, lsns(&chunk)), (Some(gap), vec![(9, 0)]));
    }

    #[test]
    fn damaged_batches_are_a_gap_before_data_and_the_end_behind_it() {
        let mut damaged = part(3, 0, 4, 10);
        let body = |index: usize| damaged.bodies[index].clone();
        damaged.bodies = vec![None, None, body(2), None].into();
        let mut chunk = Chunk::new(FIRST_LSN, ALL);
        assert_eq!(chunk.add(&damaged, u64::MAX), Added::Full);
        let first = chunk.finish();
        let gap = Gap { kind: GapKind::DataLoss, from: place::lsn(3, 0), to: place::lsn(3, 1) };
        assert_eq!((first.gap, lsns(&first), first.next), (Some(gap), vec![(3, 2)], place::lsn(3, 3)));
        let mut chunk = Chunk::new(first.next, ALL);
        assert_eq!(chunk.add(&damaged, u64::MAX), Added::More);
        let second = chunk.finish();
        let gap = Gap { kind: GapKind::DataLoss, from: place::lsn(3, 3), to: place::lsn(3, 3) };
        assert_eq!((second.gap, second.batches.len()), (Some(gap), 0));
    }

    #[test]
    fn what_lies_beyond_the_tail_is_not_shown() {
        let mut chunk = Chunk::new(FIRST_LSN, ALL);
        assert_eq!(chunk.add(&part(3, 0, 4, 10), place::lsn(3, 1)), Added::Full);
        let chunk = chunk.finish();
        assert_eq!((lsns(&chunk), chunk.next), (vec![(3, 0), (3, 1)], place::lsn(3, 2)));
    }

    #[test]
    fn gaps_of_different_kinds_are_told_one_at_a_time() {
        let mut chunk = Chunk::new(FIRST_LSN, ALL);
        assert!(chunk.miss(GapKind::Trimmed, place::lsn(4, 0)));
        assert!(chunk.miss(GapKind::Trimmed, place::lsn(5, 0)));
        assert!(!chunk.miss(GapKind::DataLoss, place::lsn(6, 0)));
        let chunk = chunk.finish();
        let gap = Gap { kind: GapKind::Trimmed, from: FIRST_LSN, to: place::lsn(5, 0) };
        assert_eq!((chunk.gap, chunk.next), (Some(gap), place::lsn(5, 0) + 1));
    }

    #[test]
    fn a_flipped_bit_costs_one_batch_and_a_wrong_length_the_frame() {
        let whole = part(3, 0, 3, 10);
        let mut payload = vec![7; 30];
        payload[15] ^= 1;
        let frame = (*whole.frame).clone();
        let cut = Part::cut(3, frame.clone(), &Bytes::from(payload)).unwrap();
        assert_eq!(cut.bodies.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
        assert!(Part::cut(3, frame, &Bytes::from(vec![7; 29])).is_none());
    }
}
