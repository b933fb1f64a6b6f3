//! What was delivered before.
//!
//! A subscription delivers each shard in order the first time. A batch at or below the highest one seen of its shard is
//! therefore delivered again, and remembering that one number per shard is enough to tell.

use crate::record::RecordId;
use std::collections::BTreeMap;

/// Shards remembered; a subscription has at most 1,000.
const MAX_SHARDS: usize = 10_000;

/// The highest batch seen of each shard.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<u64, u64>);

impl Seen {
    /// Takes in a delivered batch; true if it was delivered before.
    pub fn note(&mut self, ids: &[RecordId]) -> bool {
        let Some(first) = ids.first() else { return false };
        match self.0.get_mut(&first.shard_id) {
            Some(highest) if first.batch_id <= *highest => true,
            Some(highest) => {
                *highest = first.batch_id;
                false
            }
            None => {
                if self.0.len() >= MAX_SHARDS {
                    self.0.clear();
                }
                self.0.insert(first.shard_id, first.batch_id);
                false
            }
        }
    }

    /// Whether the batch, or one above it, was delivered.
    pub fn covers(&self, shard: u64, batch: u64) -> bool {
        self.0.get(&shard).is_some_and(|highest| batch <= *highest)
    }

    /// Forgets everything: the subscription is another one, or was moved.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(shard_id: u64, batch_id: u64) -> [RecordId; 1] {
        [RecordId { shard_id, batch_id, batch_index: 0 }]
    }

    #[test]
    fn what_is_not_above_the_highest_of_its_shard_comes_again() {
        let mut seen = Seen::default();
        assert!(!seen.note(&batch(1, 5)) && !seen.note(&batch(1, 9)) && !seen.note(&batch(2, 5)));
        assert!(seen.note(&batch(1, 9)), "part of the last one");
        assert!(seen.note(&batch(1, 5)));
        assert!(!seen.note(&batch(1, 10)));
        assert!(!seen.note(&[]));
        assert!(seen.covers(1, 7) && !seen.covers(1, 11) && !seen.covers(3, 1));
        seen.clear();
        assert!(!seen.note(&batch(1, 5)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = Seen::default();
        for shard in 0..3 * MAX_SHARDS as u64 {
            seen.note(&batch(shard, 1));
        }
        assert!(seen.0.len() <= MAX_SHARDS);
    }
}
