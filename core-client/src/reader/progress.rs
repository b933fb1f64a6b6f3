//! What was read of a shard, and what is new in what comes.

use super::GapKind;
use super::gap::{Gaps, ReadGap, between};
use super::position::Start;
use crate::record::RecordId;
use hstreamdb_proto::api;

/// How far one shard was read. A call that resumes begins at the batch read last, so the heads of what comes may have
/// been delivered before.
#[derive(Debug)]
pub(super) struct Progress {
    shard: u64,
    start: Start,
    /// Highest batch of a gap that was told; a call that resumes meets it again.
    told: u64,
    /// Nothing has come on this call yet.
    at_head: bool,
}

impl Progress {
    pub fn new(shard: u64, start: Start) -> Self {
        Progress { shard, start, told: 0, at_head: true }
    }

    /// Where the next call begins.
    pub fn start(&self) -> Start {
        self.start
    }

    /// Whether something was read, now or by the reader this one continues.
    pub fn has_begun(&self) -> bool {
        matches!(self.start, Start::After(_))
    }

    /// A call begins.
    pub fn begin_call(&mut self) {
        self.at_head = true;
    }

    /// Whether a record is new.
    pub fn is_new(&self, id: &api::RecordId) -> bool {
        match self.start {
            Start::After(last) => (id.batch_id, id.batch_index) > (last.batch_id, last.batch_index),
            _ => true,
        }
    }

    /// Whether more than this record was read.
    pub fn is_behind(&self, id: &api::RecordId) -> bool {
        !self.is_new(id) && !matches!(self.start, Start::After(last) if RecordId::from(*id) == last)
    }

    /// Takes out of a batch what was delivered before; false when nothing is left. The first batch of a call also
    /// shows whether what it had to begin with is still there, unless the server tells by itself.
    pub fn take(&mut self, batch: &mut api::ReceivedRecord, tells_gaps: bool, gaps: &Gaps) -> bool {
        let Some(first) = batch.record_ids.first().map(|id| id.batch_id) else { return false };
        if std::mem::take(&mut self.at_head) && !tells_gaps {
            let expected = match self.start {
                Start::At(id) => Some(id),
                // It need not be missing itself: it was read.
                Start::After(id) if first > id.batch_id => {
                    Some(RecordId { batch_id: id.batch_id.saturating_add(1), ..id })
                }
                _ => None,
            };
            if let Some(gap) = expected.and_then(|expected| between(expected, first)) {
                self.note(gap, gaps);
            }
        }
        batch.record_ids.retain(|id| self.is_new(id));
        !batch.record_ids.is_empty()
    }

    /// A gap the server told of.
    pub fn gap(&mut self, kind: GapKind, first: u64, last: u64, gaps: &Gaps) {
        // Whoever begins with the oldest record, or at a time, has not asked for what is older.
        let unasked = kind == GapKind::Trimmed && matches!(self.start, Start::Earliest | Start::Time(_));
        let first = match self.start {
            Start::After(id) => first.max(id.batch_id.saturating_add(1)),
            _ => first,
        };
        if !unasked && first <= last {
            self.note(ReadGap { shard_id: self.shard, kind, batches: Some((first, last)) }, gaps);
        }
    }

    fn note(&mut self, gap: ReadGap, gaps: &Gaps) {
        let Some((first, last)) = gap.batches else { return };
        let first = first.max(self.told.saturating_add(1));
        if first <= last {
            self.told = last;
            gaps.tell(ReadGap { batches: Some((first, last)), ..gap });
        }
    }

    /// Everything up to this record was delivered.
    pub fn advance(&mut self, last: RecordId) {
        self.start = Start::After(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn batch(batch_id: u64, indexes: std::ops::Range<u32>) -> api::ReceivedRecord {
        let id = |batch_index| api::RecordId { shard_id: 1, batch_id, batch_index };
        api::ReceivedRecord {
            record_ids: indexes.map(id).collect(),
            record: Some(api::BatchedRecord::default()),
        }
    }

    fn record(batch_id: u64, batch_index: u32) -> RecordId {
        RecordId { shard_id: 1, batch_id, batch_index }
    }

    fn gaps() -> Gaps {
        Gaps::new("r".into(), Arc::default())
    }

    #[test]
    fn heads_that_were_delivered_are_dropped_within_a_batch_too() {
        let gaps = gaps();
        let mut progress = Progress::new(1, Start::After(record(10, 2)));
        assert!(!progress.take(&mut batch(9, 0..4), false, &gaps));
        assert!(!progress.take(&mut batch(10, 0..3), false, &gaps));
        let mut half = batch(10, 0..5);
        assert!(progress.take(&mut half, false, &gaps));
        assert_eq!(half.record_ids.iter().map(|id| id.batch_index).collect::<Vec<_>>(), [3, 4]);
        assert!(progress.take(&mut batch(11, 0..1), false, &gaps));
        assert!(!progress.take(&mut batch(12, 0..0), false, &gaps));
        assert_eq!(gaps.count(), 0);
    }

    #[test]
    fn a_place_that_is_gone_is_noticed_once_where_the_server_does_not_tell() {
        let gaps = gaps();
        let mut progress = Progress::new(1, Start::After(record(10, 0)));
        assert!(progress.take(&mut batch(14, 0..1), false, &gaps));
        assert_eq!(gaps.newest()[0].batches, Some((11, 13)));
        progress.begin_call();
        assert!(progress.take(&mut batch(14, 0..1), false, &gaps));
        assert_eq!(gaps.count(), 1, "the same again is not told again");
        // Ids may have holes of their own where reading has begun, and where nobody said that there is a record.
        assert!(progress.take(&mut batch(20, 0..1), false, &gaps));
        let mut next = Progress::new(1, Start::Next(record(30, 0)));
        assert!(next.take(&mut batch(40, 0..1), false, &gaps));
        assert_eq!(gaps.count(), 1);
        let mut named = Progress::new(1, Start::At(record(50, 1)));
        assert!(named.take(&mut batch(51, 0..1), false, &gaps));
        assert_eq!(gaps.newest()[1].batches, Some((50, 50)));
    }

    #[test]
    fn told_gaps_count_from_what_was_asked_for() {
        let gaps = gaps();
        let mut oldest = Progress::new(1, Start::Earliest);
        oldest.gap(GapKind::Trimmed, 1, 9, &gaps);
        assert_eq!(gaps.count(), 0, "nobody asked for what was trimmed before");
        oldest.gap(GapKind::Lost, 12, 13, &gaps);
        oldest.gap(GapKind::Lost, 12, 13, &gaps);
        oldest.gap(GapKind::Lost, 12, 15, &gaps);
        assert_eq!(
            gaps.newest().iter().map(|gap| gap.batches).collect::<Vec<_>>(),
            [Some((12, 13)), Some((14, 15))]
        );
        let mut behind = Progress::new(1, Start::After(record(20, 0)));
        behind.gap(GapKind::Trimmed, 18, 20, &gaps);
        assert_eq!(gaps.count(), 2, "what was read before is not missing");
        behind.gap(GapKind::Trimmed, 18, 22, &gaps);
        assert_eq!(gaps.newest()[2].batches, Some((21, 22)));
    }
}
