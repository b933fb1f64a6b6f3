//! What one shard of a subscription has delivered and not yet seen acknowledged.
//!
//! Batches in flight lie in one row in LSN order, 56 bytes each; a batch keeps its open records only while some
//! of them are acknowledged. What is done between two batches in flight leaves the row once it makes up half
//! of it: each batch remembers the LSN delivered just before it, so the complete prefix still ends right before
//! the oldest one, however many millions of records behind it are done. Deadlines are a queue, because almost
//! every one is later than all before it; those that are not stand aside.

use super::ConsumerId;
use super::open_records::OpenRecords;
use crate::store::Lsn;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;

/// Slots and queued deadlines that may be stale without being cleared away, on top of as many as are not.
const STALE: usize = 64;

/// To whom a batch went, and as which of that consumer's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) consumer: ConsumerId,
    pub(super) message: u64,
}

/// Nanoseconds since the window was made; half the size of an `Instant` and good for 584 years.
type Tick = u64;

#[derive(Debug)]
struct Slot {
    lsn: Lsn,
    /// LSN delivered or skipped just before this batch.
    before: Lsn,
    last: Delivery,
    deadline: Tick,
    records: u32,
    /// Records not acknowledged; 0 for a batch that is done.
    open: u32,
    /// Times it went out.
    deliveries: u32,
}

/// What one consumer has.
#[derive(Debug, Default)]
struct Held {
    batches: usize,
    records: u64,
}

/// Window of one shard; see the module.
#[derive(Debug)]
pub(super) struct AckWindow {
    /// The first one is in flight; later ones may be done.
    slots: VecDeque<Slot>,
    /// Slots that are done.
    done: usize,
    /// Open records of the batches of which some are acknowledged.
    partly: HashMap<Lsn, OpenRecords>,
    /// Deadlines in order; one that is not its slot's (any more) is stale.
    queue: VecDeque<(Tick, Lsn)>,
    /// Deadlines earlier than one given before them. Never stale.
    aside: BTreeSet<(Tick, Lsn)>,
    /// By the consumer that got a batch last.
    held: HashMap<ConsumerId, Held>,
    /// Last LSN delivered or skipped.
    position: Lsn,
    unacked: u64,
    epoch: Instant,
}

impl AckWindow {
    /// A window in which everything up to and including `done` is acknowledged.
    pub(super) fn new(done: Lsn, now: Instant) -> Self {
        AckWindow {
            slots: VecDeque::new(),
            done: 0,
            partly: HashMap::new(),
            queue: VecDeque::new(),
            aside: BTreeSet::new(),
            held: HashMap::new(),
            position: done,
            unacked: 0,
            epoch: now,
        }
    }

    /// Everything up to and including this LSN is acknowledged. Never moves back.
    pub(super) fn committed(&self) -> Lsn {
        self.slots.front().map_or(self.position, |slot| slot.before)
    }

    /// Everything up to and including this LSN was delivered or skipped.
    pub(super) fn position(&self) -> Lsn {
        self.position
    }

    /// Records in flight.
    pub(super) fn unacked(&self) -> u64 {
        self.unacked
    }

    /// Batches in flight.
    pub(super) fn batches(&self) -> usize {
        self.slots.len() - self.done
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
        let deadline = self.tick(deadline);
        let slot = Slot { lsn, before, last: to, deadline, records, open: records, deliveries: 1 };
        self.slots.push_back(slot);
        self.queue_deadline(deadline, lsn);
        self.take_hold(to.consumer, records);
        self.unacked += u64::from(records);
    }

    /// Counts everything not yet delivered up to and including `lsn` as acknowledged.
    pub(super) fn skip(&mut self, lsn: Lsn) {
        self.position = self.position.max(lsn);
    }

    /// Acknowledges one record. If it was in flight and unacknowledged, says who had it.
    pub(super) fn ack(&mut self, lsn: Lsn, index: u32) -> Option<ConsumerId> {
        let at = self.find(lsn)?;
        let slot = self.slots.get_mut(at)?;
        if index >= slot.records {
            return None;
        }
        if slot.records > 1 {
            let partly = self.partly.entry(lsn).or_insert_with(|| OpenRecords::all(slot.records));
            if !partly.close(index, slot.records, slot.open) {
                return None;
            }
        }
        slot.open -= 1;
        self.unacked -= 1;
        let (holder, done) = (slot.last.consumer, slot.open == 0);
        self.let_go(holder, done, 1);
        if done {
            self.finish(at);
        }
        Some(holder)
    }

    /// Counts a batch as acknowledged; says who had it and how many of its records were not.
    pub(super) fn drop_batch(&mut self, lsn: Lsn) -> Option<(ConsumerId, u32)> {
        let at = self.find(lsn)?;
        let slot = self.slots.get_mut(at)?;
        let (holder, open) = (slot.last.consumer, std::mem::take(&mut slot.open));
        self.unacked -= u64::from(open);
        self.let_go(holder, true, open);
        self.finish(at);
        Some((holder, open))
    }

    /// Unacknowledged indexes of a batch in flight.
    pub(super) fn open(&self, lsn: Lsn) -> Option<Vec<Range<u32>>> {
        let slot = self.slots.get(self.find(lsn)?)?;
        Some(match self.partly.get(&lsn) {
            None => std::iter::once(0..slot.records).collect(),
            Some(open) => open.ranges(),
        })
    }

    /// The consumer message a batch in flight last went out as.
    pub(super) fn last_delivery(&self, lsn: Lsn) -> Option<Delivery> {
        self.slots.get(self.find(lsn)?).map(|slot| slot.last)
    }

    /// How often a batch in flight went out.
    pub(super) fn deliveries(&self, lsn: Lsn) -> u32 {
        self.find(lsn).and_then(|at| self.slots.get(at)).map_or(0, |slot| slot.deliveries)
    }

    /// The batch whose deadline passed first.
    pub(super) fn first_due(&mut self, now: Instant) -> Option<Lsn> {
        let now = self.tick(now);
        self.first_deadline().filter(|(deadline, _)| *deadline <= now).map(|(_, lsn)| lsn)
    }

    /// The first deadline of all, passed or not.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        let (deadline, _) = self.first_deadline()?;
        self.epoch.checked_add(Duration::from_nanos(deadline))
    }

    /// Gives a batch in flight another deadline.
    pub(super) fn postpone(&mut self, lsn: Lsn, deadline: Instant) {
        let deadline = self.tick(deadline);
        let Some(slot) = self.find(lsn).and_then(|at| self.slots.get_mut(at)) else { return };
        let old = std::mem::replace(&mut slot.deadline, deadline);
        self.aside.remove(&(old, lsn));
        self.queue_deadline(deadline, lsn);
    }

    /// Notes that a batch in flight went out again; says who had it and how many of its records are open.
    pub(super) fn redeliver(
        &mut self,
        lsn: Lsn,
        to: Delivery,
        deadline: Instant,
    ) -> Option<(ConsumerId, u32)> {
        self.postpone(lsn, deadline);
        let slot = self.find(lsn).and_then(|at| self.slots.get_mut(at))?;
        let from = std::mem::replace(&mut slot.last, to).consumer;
        slot.deliveries = slot.deliveries.saturating_add(1);
        let open = slot.open;
        self.let_go(from, true, open);
        self.take_hold(to.consumer, open);
        Some((from, open))
    }

    /// Makes every batch due that went to `consumer` as message `from` or later, in LSN order.
    pub(super) fn expire(&mut self, consumer: ConsumerId, from: u64, now: Instant) {
        if !self.held.contains_key(&consumer) {
            return;
        }
        let now = self.tick(now);
        for slot in &mut self.slots {
            if slot.open > 0 && slot.last.consumer == consumer && slot.last.message >= from {
                let old = std::mem::replace(&mut slot.deadline, now);
                self.aside.remove(&(old, slot.lsn));
                self.aside.insert((now, slot.lsn));
            }
        }
    }

    /// Consumers that batches in flight went to last.
    pub(super) fn holders(&self) -> impl Iterator<Item = ConsumerId> {
        self.held.keys().copied()
    }

    /// Records in flight that went to `consumer` last.
    pub(super) fn held_by(&self, consumer: ConsumerId) -> u64 {
        self.held.get(&consumer).map_or(0, |held| held.records)
    }

    fn tick(&self, at: Instant) -> Tick {
        Tick::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(Tick::MAX)
    }

    /// Position of a batch in flight.
    fn find(&self, lsn: Lsn) -> Option<usize> {
        let at = self.slots.partition_point(|slot| slot.lsn < lsn);
        self.slots.get(at).filter(|slot| slot.lsn == lsn && slot.open > 0).map(|_| at)
    }

    fn queue_deadline(&mut self, deadline: Tick, lsn: Lsn) {
        if self.queue.back().is_some_and(|(last, _)| *last > deadline) {
            self.aside.insert((deadline, lsn));
            return;
        }
        self.queue.push_back((deadline, lsn));
        if self.queue.len() > 2 * self.batches() + STALE {
            let mut queue = std::mem::take(&mut self.queue);
            queue.retain(|entry| self.is_current(entry));
            self.queue = queue;
        }
    }

    fn is_current(&self, (deadline, lsn): &(Tick, Lsn)) -> bool {
        self.find(*lsn).and_then(|at| self.slots.get(at)).is_some_and(|slot| slot.deadline == *deadline)
    }

    fn first_deadline(&mut self) -> Option<(Tick, Lsn)> {
        while let Some(first) = self.queue.front() {
            if self.is_current(first) {
                break;
            }
            self.queue.pop_front();
        }
        let candidates = [self.queue.front(), self.aside.first()];
        candidates.into_iter().flatten().min().copied()
    }

    /// Clears away a batch of which nothing is open any more.
    fn finish(&mut self, at: usize) {
        if let Some(slot) = self.slots.get(at) {
            self.partly.remove(&slot.lsn);
            self.aside.remove(&(slot.deadline, slot.lsn));
        }
        self.done += 1;
        while self.slots.front().is_some_and(|slot| slot.open == 0) {
            self.slots.pop_front();
            self.done -= 1;
        }
        if self.slots.is_empty() {
            // Whatever is queued is stale, and what a burst needed is given back.
            self.queue.clear();
            self.queue.shrink_to(STALE);
            self.slots.shrink_to(STALE);
            self.partly.shrink_to(STALE);
        }
        // The next batch in flight keeps its own `before`: everything between the two is done.
        if self.done > self.batches() + STALE {
            self.slots.retain(|slot| slot.open > 0);
            self.slots.shrink_to(2 * self.slots.len() + STALE);
            self.done = 0;
        }
    }

    fn take_hold(&mut self, consumer: ConsumerId, records: u32) {
        let held = self.held.entry(consumer).or_default();
        held.batches += 1;
        held.records += u64::from(records);
    }

    fn let_go(&mut self, consumer: ConsumerId, batch: bool, records: u32) {
        if let Some(held) = self.held.get_mut(&consumer) {
            held.batches -= usize::from(batch);
            held.records -= u64::from(records);
            if held.batches == 0 {
                self.held.remove(&consumer);
            }
        }
    }
}

#[cfg(test)]
mod tests;
