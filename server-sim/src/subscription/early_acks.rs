//! Acknowledgements of records that this process has not delivered.
//!
//! After a restart everything behind the checkpoint is delivered again. A consumer that comes back sends what it had
//! acknowledged before, usually ahead of those deliveries; kept here, it spares it most of them.

use crate::store::{Lsn, ShardId};
use std::collections::BTreeMap;
use std::ops::Range;

/// Most ranges kept, about 2 MB; what comes beyond is ignored and its records are delivered again.
const MAX_RANGES: usize = 50_000;

/// Bounded; forgets as delivery comes by.
#[derive(Debug, Default)]
pub(super) struct EarlyAcks {
    /// Shard, batch and first index of each range, and its end. Ranges neither overlap nor touch.
    ranges: BTreeMap<(ShardId, Lsn, u32), u32>,
}

impl EarlyAcks {
    /// Notes one acknowledgement.
    pub(super) fn note(&mut self, shard: ShardId, lsn: Lsn, index: u32) {
        let Some(end) = index.checked_add(1) else { return };
        let before = self.ranges.range(..=(shard, lsn, index)).next_back();
        let touching = before
            .filter(|((in_shard, in_batch, _), last)| {
                (*in_shard, *in_batch) == (shard, lsn) && **last >= index
            })
            .map(|(key, last)| (*key, *last));
        if touching.is_some_and(|(_, last)| last > index) {
            return;
        }
        let end = self.ranges.remove(&(shard, lsn, end)).unwrap_or(end);
        match touching {
            Some((key, _)) => {
                self.ranges.insert(key, end);
            }
            None if self.ranges.len() < MAX_RANGES => {
                self.ranges.insert((shard, lsn, index), end);
            }
            None => {}
        }
    }

    /// Takes what is known of a batch of so many records, and forgets all before it.
    pub(super) fn take(&mut self, shard: ShardId, lsn: Lsn, records: u32) -> Vec<Range<u32>> {
        let mut taken = Vec::new();
        while let Some((key, end)) = self.first(shard).filter(|((_, batch, _), _)| *batch <= lsn) {
            self.ranges.remove(&key);
            let (_, batch, start) = key;
            if batch == lsn && start < records {
                taken.push(start..end.min(records));
            }
        }
        taken
    }

    /// Forgets a shard that is gone.
    pub(super) fn remove_shard(&mut self, shard: ShardId) {
        while let Some((key, _)) = self.first(shard) {
            self.ranges.remove(&key);
        }
    }

    fn first(&self, shard: ShardId) -> Option<((ShardId, Lsn, u32), u32)> {
        let first = self.ranges.range((shard, 0, 0)..).next();
        first.filter(|((found, _, _), _)| *found == shard).map(|(key, end)| (*key, *end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::slice;

    #[test]
    fn a_batch_acknowledged_in_order_is_one_range_and_taken_once() {
        let mut early = EarlyAcks::default();
        for index in 0..1000 {
            early.note(1, 10, index);
        }
        assert_eq!(early.ranges.len(), 1);
        assert_eq!(
            early.take(1, 10, 600),
            slice::from_ref(&(0..600)),
            "a batch has no more than its records"
        );
        assert!(early.ranges.is_empty());
        assert_eq!(early.take(1, 10, 600), []);
    }

    #[test]
    fn delivery_that_comes_by_forgets_what_lies_before_in_its_shard() {
        let mut early = EarlyAcks::default();
        for (shard, lsn) in [(1, 10), (1, 11), (1, 12), (2, 10)] {
            early.note(shard, lsn, 0);
        }
        assert_eq!(early.take(1, 11, 5), slice::from_ref(&(0..1)));
        assert_eq!(early.take(1, 10, 5), []);
        early.remove_shard(1);
        assert_eq!(early.take(1, 12, 5), []);
        assert_eq!(early.take(2, 10, 5), slice::from_ref(&(0..1)));
    }

    #[test]
    fn what_does_not_fit_is_ignored() {
        let mut early = EarlyAcks::default();
        for lsn in 0..2 * MAX_RANGES as Lsn {
            early.note(1, lsn, 0);
        }
        assert_eq!(early.ranges.len(), MAX_RANGES);
        early.note(1, 0, u32::MAX);
        early.note(1, 0, 1);
        assert_eq!(early.take(1, 0, 5), slice::from_ref(&(0..2)), "a range may grow");
    }

    proptest::proptest! {
        #[test]
        fn behaves_like_a_set(acks in proptest::collection::vec((0u64..2, 0u64..3, 0u32..12), 0..80)) {
            let mut early = EarlyAcks::default();
            let mut model = BTreeSet::new();
            for (shard, lsn, index) in acks {
                early.note(shard, lsn, index);
                model.insert((shard, lsn, index));
            }
            for shard in 0..2 {
                for lsn in 0..3 {
                    let taken = early.take(shard, lsn, 10);
                    proptest::prop_assert!(taken.windows(2).all(|pair| pair[0].end < pair[1].start));
                    let expected = (0..10).filter(|index| model.contains(&(shard, lsn, *index)));
                    proptest::prop_assert!(taken.into_iter().flatten().eq(expected));
                }
            }
            proptest::prop_assert!(early.ranges.is_empty());
        }
    }
}
