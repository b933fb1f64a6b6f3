//! Which consumer owns which shard.
//!
//! A shard has one owner at a time. Shards without one go first to newcomers, one each in the order of their
//! arrival, then to whoever owns fewest. A newcomer takes shards, highest id first, from whoever owns most
//! until that makes no difference any more; with fewer shards than consumers the latest ones wait.

use super::ConsumerId;
use crate::store::ShardId;
use std::collections::{BTreeMap, BTreeSet};

/// Owners of the shards of one subscription.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    owners: BTreeMap<ShardId, ConsumerId>,
    free: BTreeSet<ShardId>,
    owned: BTreeMap<ConsumerId, BTreeSet<ShardId>>,
}

impl Assignment {
    pub(super) fn new(shards: impl IntoIterator<Item = ShardId>) -> Self {
        Assignment { free: shards.into_iter().collect(), ..Default::default() }
    }

    pub(super) fn owner(&self, shard: ShardId) -> Option<ConsumerId> {
        self.owners.get(&shard).copied()
    }

    /// True if a consumer owns any shard.
    pub(super) fn owns(&self, consumer: ConsumerId) -> bool {
        self.owned.get(&consumer).is_some_and(|shards| !shards.is_empty())
    }

    /// Adds a consumer; ids grow with arrival.
    pub(super) fn attach(&mut self, consumer: ConsumerId) {
        self.owned.entry(consumer).or_default();
        self.hand_out();
        while let Some((most, shards)) = self.most() {
            let own = self.owned.get(&consumer).map_or(0, BTreeSet::len);
            if most == consumer || shards < own + 2 {
                break;
            }
            let Some(shard) = self.owned.get_mut(&most).and_then(BTreeSet::pop_last) else { break };
            self.give(shard, consumer);
        }
    }

    /// Removes a consumer; its shards go to the others.
    pub(super) fn detach(&mut self, consumer: ConsumerId) {
        for shard in self.owned.remove(&consumer).unwrap_or_default() {
            self.owners.remove(&shard);
            self.free.insert(shard);
        }
        self.hand_out();
    }

    /// Forgets a shard.
    pub(super) fn remove(&mut self, shard: ShardId) {
        self.free.remove(&shard);
        if let Some(owner) = self.owners.remove(&shard)
            && let Some(shards) = self.owned.get_mut(&owner)
        {
            shards.remove(&shard);
        }
    }

    fn hand_out(&mut self) {
        // Fewest first, ties by arrival: those who wait own nothing, so they come first.
        while let Some(fewest) = self.owned.iter().min_by_key(|(id, shards)| (shards.len(), **id))
            && let fewest = *fewest.0
            && let Some(shard) = self.free.pop_first()
        {
            self.give(shard, fewest);
        }
    }

    fn give(&mut self, shard: ShardId, to: ConsumerId) {
        self.owners.insert(shard, to);
        self.owned.entry(to).or_default().insert(shard);
    }

    fn most(&self) -> Option<(ConsumerId, usize)> {
        self.owned.iter().map(|(id, shards)| (*id, shards.len())).max_by_key(|(id, shards)| (*shards, *id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(assignment: &Assignment, consumer: u64) -> Vec<ShardId> {
        assignment.owned.get(&ConsumerId(consumer)).into_iter().flatten().copied().collect()
    }

    #[test]
    fn the_first_consumer_gets_every_shard() {
        let mut assignment = Assignment::new(1..=4);
        assignment.attach(ConsumerId(1));
        assert_eq!(owned(&assignment, 1), [1, 2, 3, 4]);
    }

    #[test]
    fn newcomers_take_a_fair_share_from_the_highest_ids() {
        let mut assignment = Assignment::new(1..=5);
        assignment.attach(ConsumerId(1));
        assignment.attach(ConsumerId(2));
        assert_eq!((owned(&assignment, 1), owned(&assignment, 2)), (vec![1, 2, 3], vec![4, 5]));
        assignment.attach(ConsumerId(3));
        assert_eq!(owned(&assignment, 3), [3]);
    }

    #[test]
    fn consumers_beyond_the_shards_wait_and_step_in() {
        let mut assignment = Assignment::new([7]);
        for id in 1..=3 {
            assignment.attach(ConsumerId(id));
        }
        assert_eq!(assignment.owner(7), Some(ConsumerId(1)));
        assignment.detach(ConsumerId(1));
        assert_eq!(assignment.owner(7), Some(ConsumerId(2)));
        assignment.detach(ConsumerId(3));
        assignment.detach(ConsumerId(2));
        assert_eq!(assignment.owner(7), None);
        assignment.attach(ConsumerId(4));
        assert_eq!(assignment.owner(7), Some(ConsumerId(4)));
    }

    proptest::proptest! {
        #[test]
        fn shards_are_owned_once_and_shared_while_there_is_a_consumer(
            shards in 0u64..20,
            steps in proptest::collection::vec((0u8..3, 0u64..30), 0..60)
        ) {
            let mut assignment = Assignment::new(0..shards);
            let mut attached = BTreeSet::new();
            let mut next = 0;
            for (step, number) in steps {
                if step < 2 {
                    assignment.attach(ConsumerId(next));
                    attached.insert(next);
                    next += 1;
                } else {
                    assignment.detach(ConsumerId(number));
                    attached.remove(&number);
                }
                for shard in 0..shards {
                    let owner = assignment.owner(shard);
                    proptest::prop_assert_eq!(owner.is_some(), !attached.is_empty());
                    proptest::prop_assert!(owner.is_none_or(|owner| attached.contains(&owner.0)));
                }
                let total: usize = assignment.owned.values().map(BTreeSet::len).sum();
                proptest::prop_assert_eq!(total + assignment.free.len(), shards as usize);
                let busy = assignment.owned.values().filter(|shards| !shards.is_empty()).count();
                proptest::prop_assert_eq!(busy, attached.len().min(shards as usize));
            }
        }
    }
}
