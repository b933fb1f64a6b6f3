//! What one shard of a subscription has delivered and not yet seen acknowledged.
//!
//! Only batches in flight are kept. Each remembers the LSN delivered just before it, so the complete prefix
//! ends right before the oldest batch in flight: whatever lies between two batches in flight is done and costs
//! nothing, however many millions of records that is. A batch keeps its open indexes as ranges, so the
//! whole window is bounded by the number of unacknowledged records, never by what was acknowledged.

use super::ConsumerId;
use crate::store::Lsn;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use tokio::time::Instant;

/// To whom a batch went, and as which of that consumer's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) consumer: ConsumerId,
    pub(super) message: u64,
}

#[derive(Debug)]
struct InFlight {
    /// LSN delivered or skipped just before this batch.
    before: Lsn,
    records: u32,
    open: u32,
    /// Unacknowledged indexes as start -> end (exclusive); none while all of them are.
    gaps: Option<BTreeMap<u32, u32>>,
    due: Due,
    last: Delivery,
}

/// A deadline, and a number that makes it unique and keeps equal ones in order.
type Due = (Instant, u64);

/// Window of one shard; see the module.
#[derive(Debug)]
pub(super) struct AckWindow {
    in_flight: BTreeMap<Lsn, InFlight>,
    due: BTreeMap<Due, Lsn>,
    /// Batches in flight by the consumer that got them last.
    held: HashMap<ConsumerId, usize>,
    /// Last LSN delivered or skipped.
    position: Lsn,
    unacked: u64,
    next_due: u64,
}

impl AckWindow {
    /// A window in which everything up to and including `done` is acknowledged.
    pub(super) fn new(done: Lsn) -> Self {
        AckWindow {
            in_flight: BTreeMap::new(),
            due: BTreeMap::new(),
            held: HashMap::new(),
            position: done,
            unacked: 0,
            next_due: 0,
        }
    }

    /// Everything up to and including this LSN is acknowledged. Never moves back.
    pub(super) fn committed(&self) -> Lsn {
        self.in_flight.first_key_value().map_or(self.position, |(_, batch)| batch.before)
    }

    /// Records in flight.
    pub(super) fn unacked(&self) -> u64 {
        self.unacked
    }

    /// Batches in flight.
    pub(super) fn batches(&self) -> usize {
        self.in_flight.len()
    }

    /// Notes a batch on its way for the first time. Ignored unless it lies beyond everything delivered.
    pub(super) fn deliver(&mut self, lsn: Lsn, records: u32, to: Delivery, deadline: Instant) {
        if lsn <= self.position {
            return;
        }
        let before = std::mem::replace(&mut self.position, lsn);
        if records == 0 {
            return;
        }
        let due = self.schedule(lsn, deadline);
        let batch = InFlight { before, records, open: records, gaps: None, due, last: to };
        self.in_flight.insert(lsn, batch);
        *self.held.entry(to.consumer).or_default() += 1;
        self.unacked += u64::from(records);
    }

    /// Counts everything not yet delivered up to and including `lsn` as acknowledged.
    pub(super) fn skip(&mut self, lsn: Lsn) {
        self.position = self.position.max(lsn);
    }

    /// Acknowledges one record; true if it was in flight and unacknowledged.
    pub(super) fn ack(&mut self, lsn: Lsn, index: u32) -> bool {
        let Some(batch) = self.in_flight.get_mut(&lsn) else { return false };
        if index >= batch.records {
            return false;
        }
        let whole = batch.records;
        let gaps = batch.gaps.get_or_insert_with(|| BTreeMap::from([(0, whole)]));
        let Some((&start, &end)) = gaps.range(..=index).next_back() else { return false };
        if end <= index {
            return false;
        }
        if start == index {
            gaps.remove(&start);
        } else {
            gaps.insert(start, index);
        }
        if index + 1 < end {
            gaps.insert(index + 1, end);
        }
        batch.open -= 1;
        self.unacked -= 1;
        if batch.open == 0 {
            self.finish(lsn);
        }
        true
    }

    /// Counts a batch as acknowledged; returns how many of its records were not.
    pub(super) fn drop_batch(&mut self, lsn: Lsn) -> u64 {
        let open = self.finish(lsn);
        self.unacked -= open;
        open
    }

    /// Unacknowledged indexes of a batch in flight.
    pub(super) fn open(&self, lsn: Lsn) -> Option<Vec<Range<u32>>> {
        let batch = self.in_flight.get(&lsn)?;
        Some(match &batch.gaps {
            None => std::iter::once(0..batch.records).collect(),
            Some(gaps) => gaps.iter().map(|(&start, &end)| start..end).collect(),
        })
    }

    /// The consumer message a batch in flight last went out as.
    pub(super) fn last_delivery(&self, lsn: Lsn) -> Option<Delivery> {
        self.in_flight.get(&lsn).map(|batch| batch.last)
    }

    /// The batch whose deadline passed first.
    pub(super) fn first_due(&self, now: Instant) -> Option<Lsn> {
        self.due.first_key_value().filter(|((deadline, _), _)| *deadline <= now).map(|(_, lsn)| *lsn)
    }

    /// The first deadline still ahead.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.due.range((now, u64::MAX)..).next().map(|((deadline, _), _)| *deadline)
    }

    /// Gives a batch in flight another deadline.
    pub(super) fn postpone(&mut self, lsn: Lsn, deadline: Instant) {
        let due = self.schedule(lsn, deadline);
        match self.in_flight.get_mut(&lsn) {
            Some(batch) => {
                self.due.remove(&batch.due);
                batch.due = due;
            }
            None => {
                self.due.remove(&due);
            }
        }
    }

    /// Notes that a batch in flight went out again.
    pub(super) fn redeliver(&mut self, lsn: Lsn, to: Delivery, deadline: Instant) {
        self.postpone(lsn, deadline);
        let Some(batch) = self.in_flight.get_mut(&lsn) else { return };
        let from = std::mem::replace(&mut batch.last, to).consumer;
        self.let_go(from);
        *self.held.entry(to.consumer).or_default() += 1;
    }

    /// Makes every batch due that went to `consumer` as message `from` or later, in LSN order.
    pub(super) fn expire(&mut self, consumer: ConsumerId, from: u64, now: Instant) {
        if !self.held.contains_key(&consumer) {
            return;
        }
        let unsent: Vec<Lsn> = self
            .in_flight
            .iter()
            .filter(|(_, batch)| batch.last.consumer == consumer && batch.last.message >= from)
            .map(|(lsn, _)| *lsn)
            .collect();
        for lsn in unsent {
            self.postpone(lsn, now);
        }
    }

    /// Consumers that batches in flight went to last.
    pub(super) fn holders(&self) -> impl Iterator<Item = ConsumerId> {
        self.held.keys().copied()
    }

    fn schedule(&mut self, lsn: Lsn, deadline: Instant) -> Due {
        let due = (deadline, self.next_due);
        self.next_due += 1;
        self.due.insert(due, lsn);
        due
    }

    /// Takes a batch out; returns how many of its records were open.
    fn finish(&mut self, lsn: Lsn) -> u64 {
        let Some(batch) = self.in_flight.remove(&lsn) else { return 0 };
        self.due.remove(&batch.due);
        self.let_go(batch.last.consumer);
        // The next batch in flight keeps its own `before`: everything between the two is done.
        u64::from(batch.open)
    }

    fn let_go(&mut self, consumer: ConsumerId) {
        if let Some(count) = self.held.get_mut(&consumer) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&consumer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::time::Duration;

    const A: Delivery = Delivery { consumer: ConsumerId(1), message: 0 };
    const B: Delivery = Delivery { consumer: ConsumerId(2), message: 0 };

    fn window(batches: &[(Lsn, u32)]) -> (AckWindow, Instant) {
        let now = Instant::now();
        let mut window = AckWindow::new(9);
        for (lsn, records) in batches {
            window.deliver(*lsn, *records, A, now);
        }
        (window, now)
    }

    #[test]
    fn only_the_complete_prefix_is_committed() {
        let (mut window, _) = window(&[(10, 1), (15, 2), (20, 1)]);
        assert_eq!(window.committed(), 9);
        assert!(window.ack(20, 0) && window.ack(15, 0));
        assert_eq!(window.committed(), 9);
        assert!(window.ack(10, 0));
        assert_eq!(window.committed(), 10);
        assert!(window.ack(15, 1));
        assert_eq!(window.committed(), 20);
        assert_eq!((window.unacked(), window.batches()), (0, 0));
    }

    #[test]
    fn repeated_and_unknown_ids_change_nothing() {
        let (mut window, _) = window(&[(10, 2), (15, 2)]);
        assert!(window.ack(10, 1));
        for (lsn, index) in [(10, 1), (10, 2), (10, u32::MAX), (11, 0), (9, 0), (u64::MAX, 0)] {
            assert!(!window.ack(lsn, index), "{lsn} {index}");
        }
        assert_eq!(window.unacked(), 3);
    }

    #[test]
    fn one_stuck_record_costs_one_entry_however_much_is_done_behind_it() {
        let (mut window, now) = window(&[(10, 1)]);
        for lsn in 11..100_000 {
            window.deliver(lsn, 3, A, now);
            for index in 0..3 {
                assert!(window.ack(lsn, index));
            }
        }
        assert_eq!((window.committed(), window.batches(), window.due.len()), (9, 1, 1));
        assert!(window.ack(10, 0));
        assert_eq!(window.committed(), 99_999);
    }

    #[test]
    fn deadlines_expire_in_order_and_move_with_every_redelivery() {
        let (mut window, now) = window(&[(10, 1), (11, 1)]);
        let later = now + Duration::from_secs(5);
        assert_eq!(window.first_due(now), Some(10));
        window.redeliver(10, B, later);
        assert_eq!(window.first_due(now), Some(11));
        assert_eq!(window.next_deadline(now), Some(later));
        window.postpone(11, later);
        assert_eq!(window.first_due(now), None);
        assert_eq!(window.first_due(later), Some(10));
        assert_eq!(window.holders().collect::<HashSet<_>>(), [A.consumer, B.consumer].into());
        window.ack(11, 0);
        assert_eq!(window.holders().collect::<Vec<_>>(), [B.consumer]);
    }

    #[test]
    fn batches_that_never_left_are_due_at_once() {
        let now = Instant::now();
        let later = now + Duration::from_secs(600);
        let mut window = AckWindow::new(0);
        for lsn in 1..=4 {
            window.deliver(lsn, 1, Delivery { consumer: ConsumerId(1), message: lsn }, later);
        }
        window.expire(ConsumerId(1), 3, now);
        assert_eq!(window.first_due(now), Some(3));
        window.drop_batch(3);
        assert_eq!(window.first_due(now), Some(4));
        window.drop_batch(4);
        assert_eq!(window.first_due(now), None);
        assert_eq!(window.unacked(), 2);
    }

    #[test]
    fn gaps_count_as_acknowledged() {
        let (mut window, now) = window(&[(10, 1)]);
        window.skip(30);
        window.deliver(31, 1, A, now);
        assert_eq!(window.committed(), 9);
        assert_eq!(window.drop_batch(10), 1);
        assert_eq!(window.committed(), 30);
        window.ack(31, 0);
        window.skip(40);
        assert_eq!(window.committed(), 40);
    }

    proptest::proptest! {
        /// Against a model that keeps every batch it ever saw.
        #[test]
        fn behaves_like_a_list_of_all_batches(
            steps in proptest::collection::vec((0u8..4, 0u64..40, 0u32..5), 1..200)
        ) {
            let now = Instant::now();
            let mut window = AckWindow::new(0);
            let mut model: Vec<(Lsn, u32, HashSet<u32>)> = Vec::new();
            let mut position = 0;
            let mut committed_before = 0;
            for (step, number, index) in steps {
                match step {
                    0 => {
                        position += 1 + number % 3;
                        let records = index + 1;
                        window.deliver(position, records, A, now);
                        model.push((position, records, HashSet::new()));
                    }
                    1 => {
                        position += 1;
                        window.skip(position);
                        model.push((position, 0, HashSet::new()));
                    }
                    2 => {
                        let known = model.iter_mut().find(|(lsn, records, _)| *lsn == number && index < *records);
                        let fresh = known.is_some_and(|(_, _, acked)| acked.insert(index));
                        proptest::prop_assert_eq!(window.ack(number, index), fresh);
                    }
                    _ => {
                        let open = model.iter_mut().find(|(lsn, ..)| *lsn == number).map_or(0, |batch| {
                            let open = batch.1 as usize - batch.2.len();
                            batch.2.extend(0..batch.1);
                            open as u64
                        });
                        proptest::prop_assert_eq!(window.drop_batch(number), open);
                    }
                }
                let done = |batch: &&(Lsn, u32, HashSet<u32>)| batch.2.len() == batch.1 as usize;
                let committed = model.iter().take_while(done).last().map_or(0, |batch| batch.0);
                proptest::prop_assert_eq!(window.committed(), committed);
                proptest::prop_assert!(committed >= committed_before);
                committed_before = committed;
                let unacked: usize = model.iter().map(|(_, records, acked)| *records as usize - acked.len()).sum();
                proptest::prop_assert_eq!(window.unacked(), unacked as u64);
                let open: Vec<Lsn> = model.iter().filter(|batch| !done(batch)).map(|batch| batch.0).collect();
                proptest::prop_assert_eq!(window.in_flight.keys().copied().collect::<Vec<_>>(), open);
                proptest::prop_assert_eq!(window.due.len(), window.in_flight.len());
                proptest::prop_assert_eq!(window.held.values().sum::<usize>(), window.in_flight.len());
                for (lsn, records, acked) in &model {
                    let ranges = window.open(*lsn);
                    let listed: Vec<u32> = ranges.into_iter().flatten().flatten().collect();
                    let expected: Vec<u32> = (0..*records).filter(|i| !acked.contains(i)).collect();
                    proptest::prop_assert_eq!(listed, expected);
                }
            }
        }
    }
}
