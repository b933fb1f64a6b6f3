//! Where reading starts and ends.

use super::position::Start;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Offset, RecordId};
use hstreamdb_proto::api::{ShardOffset, SpecialOffset, TimestampOffset, shard_offset};

/// Both ends of a read of one shard, with nothing left in them that moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub from: Start,
    pub until: Option<Offset>,
    /// An end was put in place of "now" or of a time: that it lies before the start means that there is nothing to read.
    pub frozen: bool,
}

/// What has to be known before both ends stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub from: Offset,
    pub until: Option<Offset>,
}

impl Wanted {
    /// Whether "now" occurs, so that the tail is needed. A time as the end may lie in the future.
    pub fn needs_tail(&self) -> bool {
        self.from == Offset::Latest || matches!(self.until, Some(Offset::Latest | Offset::Timestamp(_)))
    }

    /// The time that ends the read.
    pub fn end_time(&self) -> Option<i64> {
        match self.until {
            Some(Offset::Timestamp(ms)) => Some(ms),
            _ => None,
        }
    }

    /// Both ends, where nothing moves.
    pub fn as_they_are(self) -> Bounds {
        Bounds { from: start_of(self.from), until: self.until, frozen: false }
    }

    /// Puts the tail in the place of "now", and `end` in the place of a time. Without that, a read resumed before its
    /// first batch would start at a later "now" and leave a hole, and one resumed inside the millisecond that ends it
    /// would seem to start behind its end.
    pub fn freeze(self, tail: RecordId, end: RecordId) -> Bounds {
        let next = RecordId { batch_id: tail.batch_id.saturating_add(1), batch_index: 0, ..tail };
        let from = if self.from == Offset::Latest { Start::Next(next) } else { start_of(self.from) };
        match self.until {
            Some(Offset::Latest) => Bounds { from, until: Some(Offset::Record(tail)), frozen: true },
            Some(Offset::Timestamp(_)) => Bounds { from, until: Some(Offset::Record(end)), frozen: true },
            until => Bounds { from, until, frozen: false },
        }
    }
}

fn start_of(offset: Offset) -> Start {
    match offset {
        // Frozen before; what comes is all there is to it.
        Offset::Earliest | Offset::Latest => Start::Earliest,
        Offset::Record(id) => Start::At(id),
        Offset::Timestamp(ms) => Start::Time(ms),
    }
}

impl Bounds {
    /// Checks that record ids are of this shard; the server would call it a conflict of offsets, which has
    /// other meanings too.
    pub fn check_shard(&self, shard: u64) -> Result<()> {
        let from = match self.from {
            Start::At(id) | Start::Next(id) | Start::After(id) => Some(id),
            Start::Earliest | Start::Time(_) => None,
        };
        let until = match self.until {
            Some(Offset::Record(id)) => Some(id),
            _ => None,
        };
        for id in [from, until].into_iter().flatten() {
            if id.shard_id != shard {
                return Err(Error::new(ErrorKind::InvalidArgument, "open reader")
                    .with_resource(format!("shard {shard}"))
                    .with_message(format!("record id {id} is of another shard")));
            }
        }
        Ok(())
    }
}

/// Where a read begins, on the wire.
pub(super) fn start_to_wire(start: Start) -> ShardOffset {
    to_wire(match start {
        Start::Earliest => Offset::Earliest,
        Start::Time(ms) => Offset::Timestamp(ms),
        // The batch read last comes once more and is dropped: it is the one place that is known to exist.
        Start::At(id) | Start::Next(id) | Start::After(id) => {
            Offset::Record(RecordId { batch_index: 0, ..id })
        }
    })
}

/// The wire form.
pub(super) fn to_wire(offset: Offset) -> ShardOffset {
    let offset = match offset {
        Offset::Earliest => shard_offset::Offset::SpecialOffset(SpecialOffset::Earliest as i32),
        Offset::Latest => shard_offset::Offset::SpecialOffset(SpecialOffset::Latest as i32),
        Offset::Record(id) => shard_offset::Offset::RecordOffset(id.to_wire()),
        Offset::Timestamp(timestamp_in_ms) => {
            shard_offset::Offset::TimestampOffset(TimestampOffset { timestamp_in_ms, strict_accuracy: true })
        }
    };
    ShardOffset { offset: Some(offset) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: RecordId = RecordId { shard_id: 1, batch_id: 10, batch_index: 4 };
    const END: RecordId = RecordId { shard_id: 1, batch_id: 8, batch_index: 0 };

    #[test]
    fn now_and_the_end_in_time_are_fixed_when_the_reader_is_opened() {
        let wanted = Wanted { from: Offset::Latest, until: Some(Offset::Latest) };
        assert!(wanted.needs_tail());
        let bounds = wanted.freeze(TAIL, END);
        let next = RecordId { shard_id: 1, batch_id: 11, batch_index: 0 };
        assert_eq!((bounds.from, bounds.until), (Start::Next(next), Some(Offset::Record(TAIL))));
        assert!(bounds.frozen);

        let wanted = Wanted { from: Offset::Timestamp(3), until: Some(Offset::Timestamp(5)) };
        assert!(wanted.needs_tail());
        let bounds = wanted.freeze(TAIL, END);
        assert_eq!((bounds.from, bounds.until), (Start::Time(3), Some(Offset::Record(END))));
        assert!(bounds.frozen);

        let open = Wanted { from: Offset::Earliest, until: None };
        assert!(!open.needs_tail());
        assert_eq!(open.as_they_are(), Bounds { from: Start::Earliest, until: None, frozen: false });
    }

    #[test]
    fn ids_of_another_shard_are_refused_here() {
        let id = RecordId { shard_id: 2, ..RecordId::default() };
        let bounds = Bounds { from: Start::After(id), until: None, frozen: false };
        assert!(bounds.check_shard(2).is_ok());
        assert_eq!(bounds.check_shard(1).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
