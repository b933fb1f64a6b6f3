//! Where reading starts and ends.

use crate::error::{Error, ErrorKind, Result};
use crate::record::{Offset, RecordId};
use hstreamdb_proto::api::{ShardOffset, SpecialOffset, TimestampOffset, shard_offset};

/// Both ends of a read of one shard, with nothing left in them that moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub from: Offset,
    pub until: Option<Offset>,
    /// An end was put in place of "now": that it lies before the start means that there is nothing to read.
    pub frozen: bool,
}

impl Bounds {
    /// Whether "now" occurs, so that the tail is needed.
    pub fn needs_tail(from: Offset, until: Option<Offset>) -> bool {
        from == Offset::Latest || until == Some(Offset::Latest)
    }

    /// Puts the tail in the place of "now". Without that, a read resumed before its first batch would start
    /// at a later "now" and leave a hole.
    pub fn freeze(from: Offset, until: Option<Offset>, tail: RecordId) -> Self {
        let from_now = from == Offset::Latest;
        let until_now = until == Some(Offset::Latest);
        let next = RecordId { batch_id: tail.batch_id.saturating_add(1), batch_index: 0, ..tail };
        Bounds {
            from: if from_now { Offset::Record(next) } else { from },
            until: if until_now { Some(Offset::Record(tail)) } else { until },
            frozen: until_now,
        }
    }

    /// Checks that record ids are of this shard; the server would call it a conflict of offsets, which has
    /// other meanings too.
    pub fn check_shard(&self, shard: u64) -> Result<()> {
        for offset in [Some(self.from), self.until].into_iter().flatten() {
            if let Offset::Record(id) = offset
                && id.shard_id != shard
            {
                return Err(Error::new(ErrorKind::InvalidArgument, "open reader")
                    .with_resource(format!("shard {shard}"))
                    .with_message(format!("record id {id} is of another shard")));
            }
        }
        Ok(())
    }
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

    #[test]
    fn now_is_fixed_when_the_reader_is_opened() {
        let tail = RecordId { shard_id: 1, batch_id: 10, batch_index: 4 };
        let bounds = Bounds::freeze(Offset::Latest, Some(Offset::Latest), tail);
        let next = RecordId { shard_id: 1, batch_id: 11, batch_index: 0 };
        assert_eq!((bounds.from, bounds.until), (Offset::Record(next), Some(Offset::Record(tail))));
        assert!(bounds.frozen);
        let open = Bounds::freeze(Offset::Earliest, None, tail);
        assert_eq!((open.from, open.until, open.frozen), (Offset::Earliest, None, false));
    }

    #[test]
    fn ids_of_another_shard_are_refused_here() {
        let id = RecordId { shard_id: 2, ..RecordId::default() };
        let bounds = Bounds { from: Offset::Record(id), until: None, frozen: false };
        assert!(bounds.check_shard(2).is_ok());
        assert_eq!(bounds.check_shard(1).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
