//! How the window of a subscription is shared among its consumers.
//!
//! `maxUnackedRecords` holds for all of them together, so a consumer that takes and never acknowledges could
//! use it up and stall the others. Therefore each consumer can count on a part of it: half of an even share.
//! Whoever has less outstanding than that finds the difference free, unless batches are larger than it.

use super::ConsumerId;
use std::collections::HashMap;

/// The window and what each attached consumer has of it.
#[derive(Debug)]
pub(super) struct Shares {
    max: u64,
    /// Unacknowledged records of all shards, also of consumers that are gone.
    unacked: u64,
    held: HashMap<ConsumerId, Held>,
    /// Half of an even share.
    part: u64,
    /// Sum of what consumers that own shards lack to their part.
    lacking: u64,
}

#[derive(Debug, Default)]
struct Held {
    records: u64,
    owns_shards: bool,
}

impl Held {
    fn lacks(&self, part: u64) -> u64 {
        if self.owns_shards { part.saturating_sub(self.records) } else { 0 }
    }
}

impl Shares {
    pub(super) fn new(max: u64) -> Self {
        Shares { max, unacked: 0, held: HashMap::new(), part: 0, lacking: 0 }
    }

    /// Unacknowledged records.
    #[cfg(test)]
    pub(super) fn unacked(&self) -> u64 {
        self.unacked
    }

    /// True while nothing more may go out to anybody.
    pub(super) fn is_full(&self) -> bool {
        self.unacked >= self.max
    }

    /// Records that may still go out, to all together.
    pub(super) fn free(&self) -> u64 {
        self.max.saturating_sub(self.unacked)
    }

    /// Adds a consumer.
    pub(super) fn attach(&mut self, consumer: ConsumerId) {
        self.held.entry(consumer).or_default();
    }

    /// Removes a consumer; what it has stays unacknowledged.
    pub(super) fn detach(&mut self, consumer: ConsumerId) {
        self.held.remove(&consumer);
    }

    /// Notes who owns shards now. Follows every [`Shares::attach`] and [`Shares::detach`].
    pub(super) fn share_among(&mut self, owns_shards: impl Fn(ConsumerId) -> bool) {
        let mut owners = 0;
        for (id, held) in &mut self.held {
            held.owns_shards = owns_shards(*id);
            owners += u64::from(held.owns_shards);
        }
        self.part = self.max.checked_div(2 * owners).unwrap_or(0);
        self.lacking = self.held.values().map(|held| held.lacks(self.part)).sum();
    }

    /// Counts records on their way to a consumer for the first time.
    pub(super) fn take(&mut self, consumer: ConsumerId, records: u64) {
        self.unacked += records;
        self.change(consumer, |held| held + records);
    }

    /// Counts records that are acknowledged or gone.
    pub(super) fn give_back(&mut self, consumer: ConsumerId, records: u64) {
        self.unacked -= records;
        self.change(consumer, |held| held - records);
    }

    /// Counts unacknowledged records that went from one consumer to another.
    pub(super) fn hand_over(&mut self, from: ConsumerId, to: ConsumerId, records: u64) {
        self.change(from, |held| held - records);
        self.change(to, |held| held + records);
    }

    fn change(&mut self, consumer: ConsumerId, change: impl FnOnce(u64) -> u64) {
        if let Some(held) = self.held.get_mut(&consumer) {
            self.lacking -= held.lacks(self.part);
            held.records = change(held.records);
            self.lacking += held.lacks(self.part);
        }
    }

    /// Whether a batch of that many records may go to a consumer now.
    pub(super) fn fits(&self, consumer: ConsumerId, records: u32) -> Fit {
        // A batch larger than the window would wait for ever.
        if self.max > 0 && self.unacked == 0 {
            return Fit::Fits;
        }
        let after = self.unacked.saturating_add(u64::from(records));
        if after > self.max {
            return Fit::TooLarge;
        }
        let Some(held) = self.held.get(&consumer) else { return Fit::KeptForOthers };
        let of_others = self.lacking - held.lacks(self.part);
        // With nothing outstanding one batch may be larger than the guaranteed part.
        if held.records == 0 || after.saturating_add(of_others) <= self.max {
            Fit::Fits
        } else {
            Fit::KeptForOthers
        }
    }
}

/// Answer of [`Shares::fits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Fits,
    /// The window has no room for it.
    TooLarge,
    /// The room left is what others can count on.
    KeptForOthers,
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConsumerId = ConsumerId(1);
    const B: ConsumerId = ConsumerId(2);

    fn shares(max: u64, consumers: &[ConsumerId]) -> Shares {
        let mut shares = Shares::new(max);
        consumers.iter().for_each(|consumer| shares.attach(*consumer));
        shares.share_among(|_| true);
        shares
    }

    #[test]
    fn alone_a_consumer_may_have_everything() {
        let mut shares = shares(10, &[A]);
        shares.take(A, 9);
        assert_eq!(shares.fits(A, 1), Fit::Fits);
        assert_eq!(shares.fits(A, 2), Fit::TooLarge);
        shares.attach(B);
        shares.share_among(|consumer| consumer == A);
        assert_eq!(shares.fits(A, 1), Fit::Fits, "who owns nothing needs nothing");
    }

    #[test]
    fn a_silent_consumer_leaves_the_others_their_part() {
        let mut shares = shares(100, &[A, B]);
        while shares.fits(A, 5) == Fit::Fits {
            shares.take(A, 5);
        }
        assert_eq!(shares.unacked(), 75);
        assert_eq!(shares.fits(A, 5), Fit::KeptForOthers);
        for _ in 0..5 {
            assert_eq!(shares.fits(B, 5), Fit::Fits);
            shares.take(B, 5);
        }
        assert_eq!(shares.fits(B, 5), Fit::TooLarge);
        shares.give_back(B, 5);
        assert_eq!(shares.fits(B, 5), Fit::Fits);
        assert_eq!(shares.fits(A, 5), Fit::KeptForOthers);
        shares.detach(B);
        shares.share_among(|_| true);
        assert_eq!(shares.fits(A, 5), Fit::Fits);
    }

    #[test]
    fn a_batch_larger_than_the_window_goes_out_when_nothing_else_is() {
        assert_eq!(shares(3, &[A]).fits(A, 10), Fit::Fits);
        assert_eq!(shares(0, &[A]).fits(A, 1), Fit::TooLarge);
    }

    proptest::proptest! {
        #[test]
        fn the_sum_of_what_is_lacking_is_kept(
            max in 0u64..50,
            steps in proptest::collection::vec((0u8..5, 0u64..4, 0u64..4, 0u64..9), 0..80)
        ) {
            let mut shares = Shares::new(max);
            for (step, one, other, records) in steps {
                let (one, other) = (ConsumerId(one), ConsumerId(other));
                let held = shares.held.get(&one).map(|held| held.records);
                match (step, held) {
                    (0, None) => {
                        shares.attach(one);
                        shares.share_among(|consumer| consumer != other);
                    }
                    (1, Some(_)) => {
                        shares.detach(one);
                        shares.share_among(|consumer| consumer != other);
                    }
                    (2, Some(_)) if shares.fits(one, records as u32) == Fit::Fits => shares.take(one, records),
                    (3, Some(held)) => shares.give_back(one, held.min(records)),
                    (4, Some(held)) => shares.hand_over(one, other, held.min(records)),
                    _ => {}
                }
                let lacking: u64 = shares.held.values().map(|held| held.lacks(shares.part)).sum();
                proptest::prop_assert_eq!(shares.lacking, lacking);
            }
        }
    }
}
