//! What a node knows of a shard from the messages that have come by. Pure.

use super::front::Front;
use super::place::{self, NOTHING};
use crate::store::Lsn;

/// A shard as its messages tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Sequence of its last message: what the next one has to expect. 0 before any was seen.
    pub last: u64,
    /// LSN of its last batch.
    pub tail: Lsn,
    /// Append time of that batch.
    pub time_ms: u64,
    /// Its last message is a mark: there is no data.
    pub marked: bool,
    /// Sequence of its last frame that holds stamps; 0 if there is none.
    pub stamped: u64,
    /// Everything up to this LSN is gone.
    pub trimmed: Lsn,
    /// Sequence of the message that says so; 0 if there is none.
    pub trim_seq: u64,
}

/// What a message changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing; it was known.
    None,
    /// The next message of the shard; true if stamps between the last one and this one may have been missed.
    Next {
        /// Stamps may be unknown.
        skipped: bool,
    },
    /// Only what can be read.
    Trim,
}

impl Default for Known {
    fn default() -> Self {
        Known { last: 0, tail: NOTHING, time_ms: 0, marked: false, stamped: 0, trimmed: NOTHING, trim_seq: 0 }
    }
}

impl Known {
    /// Takes in a message. Those of a shard come in the order of their sequences, perhaps more than once, perhaps not all.
    pub fn apply(&mut self, seq: u64, front: &Front) -> Change {
        if let Front::Trim(up_to) = front {
            if seq <= self.trim_seq {
                return Change::None;
            }
            self.trim_seq = seq;
            self.trimmed = self.trimmed.max(*up_to);
            return Change::Trim;
        }
        if seq <= self.last {
            return Change::None;
        }
        self.last = seq;
        let before = self.stamped;
        match front {
            Front::Frame(frame) => {
                if frame.first {
                    self.trimmed = self.trimmed.max(frame.prev);
                }
                self.tail = frame.last(seq);
                self.time_ms = self.time_ms.max(frame.time_ms);
                self.marked = false;
                self.stamped = if frame.is_stamped() { seq } else { before.max(frame.stamped) };
                Change::Next { skipped: frame.stamped > before }
            }
            Front::Mark(mark) => {
                self.tail = self.tail.max(mark.tail.unwrap_or_else(|| place::lsn(seq, 0)));
                self.time_ms = self.time_ms.max(mark.time_ms);
                self.marked = true;
                self.trimmed = self.trimmed.max(self.tail);
                self.stamped = before.max(mark.stamped);
                Change::Next { skipped: mark.stamped > before }
            }
            Front::Trim(_) => Change::None,
        }
    }

    /// Takes in that a message is there which cannot be read: it may have been a whole frame, with stamps.
    pub fn apply_unreadable(&mut self, seq: u64) -> Change {
        if seq <= self.last {
            return Change::None;
        }
        (self.last, self.stamped, self.marked) = (seq, seq, false);
        self.tail = self.tail.max(place::lsn(seq, place::PLACES - 1));
        Change::Next { skipped: true }
    }

    /// Whether anything was ever heard of the shard.
    pub fn is_heard(&self) -> bool {
        self.last != 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::front::{Batch, Frame, Mark};
    use super::*;
    use crate::store::ProducerStamp;

    fn frame(stamped: u64, stamps: bool) -> Front {
        let stamp = stamps.then_some(ProducerStamp { id: 1, epoch: 0, sequence: 0 });
        let batch = Batch { len: 1, crc: 0, records: 1, stamp };
        Front::Frame(Frame {
            id: 1,
            first: false,
            prev: NOTHING,
            prev_ms: 0,
            time_ms: 9,
            stamped,
            batches: vec![batch; 3],
        })
    }

    fn mark(tail: Option<Lsn>) -> Front {
        Front::Mark(Mark { id: 1, tail, time_ms: 4, stamped: 0 })
    }

    #[test]
    fn frames_move_the_tail_and_marks_say_that_nothing_is_left() {
        let mut known = Known::default();
        assert!(!known.is_heard());
        assert_eq!(known.apply(3, &mark(Some(NOTHING))), Change::Next { skipped: false });
        assert_eq!((known.tail, known.trimmed, known.marked), (NOTHING, NOTHING, true));
        known.apply(5, &frame(0, false));
        assert_eq!((known.tail, known.marked, known.time_ms), (place::lsn(5, 2), false, 9));
        known.apply(8, &mark(Some(place::lsn(5, 2))));
        assert_eq!((known.tail, known.trimmed, known.time_ms), (place::lsn(5, 2), place::lsn(5, 2), 9));
    }

    #[test]
    fn the_first_frame_behind_a_mark_tells_what_the_mark_said() {
        let mut known = Known::default();
        known.apply(5, &frame(0, false));
        let Front::Frame(next) = frame(0, false) else { unreachable!() };
        let first = Frame { first: true, prev: place::lsn(7, 1), ..next };
        known.apply(9, &Front::Frame(first));
        assert_eq!((known.trimmed, known.tail), (place::lsn(7, 1), place::lsn(9, 2)));
    }

    #[test]
    fn nothing_goes_back() {
        let mut known = Known::default();
        known.apply(5, &frame(0, false));
        known.apply(6, &Front::Trim(place::lsn(5, 1)));
        let now = known;
        assert_eq!(known.apply(5, &frame(0, false)), Change::None);
        assert_eq!(known.apply(6, &Front::Trim(place::lsn(2, 1))), Change::None);
        assert_eq!(known.apply(7, &Front::Trim(place::lsn(2, 1))), Change::Trim);
        assert_eq!(known, Known { trim_seq: 7, ..now });
        // A mark that was written by somebody who knew less.
        known.apply(9, &mark(Some(NOTHING)));
        assert_eq!(known.tail, now.tail);
    }

    #[test]
    fn a_mark_without_a_tail_stands_above_all_that_was_before() {
        let mut known = Known::default();
        known.apply(100, &mark(None));
        assert_eq!((known.tail, known.trimmed), (place::lsn(100, 0), place::lsn(100, 0)));
    }

    #[test]
    fn stamps_that_were_missed_are_noticed_and_others_are_not_missed() {
        let mut known = Known::default();
        assert_eq!(known.apply(5, &frame(0, true)), Change::Next { skipped: false });
        assert_eq!(known.stamped, 5);
        assert_eq!(known.apply(6, &frame(5, false)), Change::Next { skipped: false });
        // Frame 7 was missed and had none; frame 8 was missed and had some.
        assert_eq!(known.apply(9, &frame(8, false)), Change::Next { skipped: true });
        assert_eq!(known.stamped, 8);
    }
}
