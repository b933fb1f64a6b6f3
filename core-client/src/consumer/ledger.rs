//! What has been acknowledged and is not known to be safe yet.
//!
//! The wire never confirms an acknowledgement, so one counts as safe only when a committed checkpoint covers it
//! or when the server ended a session that we had closed in order. Until then it stays here: it is sent again after
//! a reconnect, and again when the server delivers its record once more. Pure: no clock, no I/O.

use super::ranges::Ranges;
use super::seen::Seen;
use crate::record::RecordId;
use std::collections::{BTreeMap, BTreeSet};

/// Acknowledgements of one batch.
#[derive(Debug, Default)]
struct BatchAcks {
    unsent: Ranges,
    sent: Ranges,
}

impl BatchAcks {
    fn ranges(&self) -> usize {
        self.unsent.count() + self.sent.count()
    }
}

/// No room is left: everything held waits to be sent for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LedgerFull;

/// How much of a delivered batch had been acknowledged before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Nothing: the application has to see it.
    Fresh,
    /// This many records; the application sees the batch again, the rest of it is still open.
    Partly(u64),
    /// Everything: the acknowledgements are sent again and the application need not see it.
    Known(u64),
}

/// Acknowledgements that are unsent or unconfirmed, per shard and batch.
#[derive(Debug)]
pub(super) struct Ledger {
    shards: BTreeMap<u64, BTreeMap<u64, BatchAcks>>,
    /// Batches with something unsent, so that sending does not search.
    dirty: BTreeSet<(u64, u64)>,
    /// Newest committed checkpoint by shard.
    covered: BTreeMap<u64, u64>,
    unsent: u64,
    sent: u64,
    ranges: usize,
    max_ranges: usize,
    forgotten: u64,
    generation: u64,
}

impl Ledger {
    /// `max_ranges` bounds the memory: at most that many ranges of indices are held (about 100 bytes each).
    pub fn new(max_ranges: usize) -> Self {
        Ledger {
            shards: BTreeMap::new(),
            dirty: BTreeSet::new(),
            covered: BTreeMap::new(),
            unsent: 0,
            sent: 0,
            ranges: 0,
            max_ranges: max_ranges.max(1),
            forgotten: 0,
            generation: 0,
        }
    }

    /// Records waiting to be sent (again).
    pub fn unsent(&self) -> u64 {
        self.unsent
    }

    /// Records sent in the current session and not confirmed.
    pub fn unconfirmed(&self) -> u64 {
        self.sent
    }

    /// Acknowledgements dropped for lack of room after they had been sent; the worst that can follow is that
    /// the records come once more after a reconnect.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Share of the room in use, in percent.
    pub fn fill_percent(&self) -> usize {
        self.ranges.saturating_mul(100) / self.max_ranges
    }

    /// Grows with every call of [`Ledger::ack`].
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Notes acknowledgements. Known ones are ignored. All of `ids` are taken or, when there is no room, none.
    pub fn ack(&mut self, ids: &[RecordId]) -> Result<(), LedgerFull> {
        let runs = runs_of(ids);
        let needed = runs.len();
        if self.ranges + needed > self.max_ranges {
            // An eighth at once, so that a ledger that stays full does not search at every call.
            let room = needed.max(self.max_ranges / 8);
            self.forget_sent(self.max_ranges.saturating_sub(room));
            if self.ranges + needed > self.max_ranges {
                return Err(LedgerFull);
            }
        }
        for (shard, batch, start, end) in runs {
            let entry = self.shards.entry(shard).or_default().entry(batch).or_default();
            let before = entry.ranges();
            if entry.sent.is_empty() {
                self.unsent += entry.unsent.insert(start, end);
            } else {
                for index in start..=end {
                    if !entry.sent.contains(index) {
                        self.unsent += entry.unsent.insert(index, index);
                    }
                }
            }
            self.ranges = self.ranges + entry.ranges() - before;
            if !entry.unsent.is_empty() {
                self.dirty.insert((shard, batch));
            }
        }
        self.generation += 1;
        Ok(())
    }

    /// Takes up to `limit` unsent acknowledgements, oldest batches of the lowest shard first, and counts them as sent.
    pub fn take_unsent(&mut self, limit: usize) -> Vec<RecordId> {
        let mut ids = Vec::with_capacity(limit.min(self.unsent as usize));
        while ids.len() < limit {
            let Some(&(shard_id, batch_id)) = self.dirty.first() else { break };
            let entry = self.shards.get_mut(&shard_id).and_then(|batches| batches.get_mut(&batch_id));
            let Some(entry) = entry else {
                self.dirty.pop_first();
                continue;
            };
            let before = entry.ranges();
            let room = u32::try_from(limit - ids.len()).unwrap_or(u32::MAX);
            if let Some((start, end)) = entry.unsent.take_first(room) {
                let moved = u64::from(end - start) + 1;
                entry.sent.insert(start, end);
                self.unsent -= moved;
                self.sent += moved;
                ids.extend((start..=end).map(|batch_index| RecordId { shard_id, batch_id, batch_index }));
            }
            self.ranges = self.ranges + entry.ranges() - before;
            if entry.unsent.is_empty() {
                self.dirty.pop_first();
            }
        }
        ids
    }

    /// The session is gone: everything that was sent in it must be sent again.
    pub fn session_lost(&mut self) {
        for (&shard, batches) in &mut self.shards {
            for (&batch, entry) in batches {
                if !entry.sent.is_empty() {
                    let before = entry.ranges();
                    entry.unsent.absorb(&mut entry.sent);
                    self.ranges = self.ranges + entry.ranges() - before;
                    self.dirty.insert((shard, batch));
                }
            }
        }
        self.unsent += std::mem::take(&mut self.sent);
    }

    /// The server ended the session with OK after we had closed our side: it has seen every acknowledgement sent.
    pub fn confirm_sent(&mut self) {
        for batches in self.shards.values_mut() {
            batches.retain(|_, entry| {
                self.ranges -= entry.sent.count();
                entry.sent.clear();
                !entry.unsent.is_empty()
            });
        }
        self.shards.retain(|_, batches| !batches.is_empty());
        self.sent = 0;
    }

    /// A committed checkpoint: everything up to and including `batch` of `shard` is safe.
    pub fn checkpoint(&mut self, shard: u64, batch: u64) {
        let covered = self.covered.entry(shard).or_default();
        *covered = (*covered).max(batch);
        let Some(batches) = self.shards.get_mut(&shard) else { return };
        let open = match batch.checked_add(1) {
            Some(next) => batches.split_off(&next),
            None => BTreeMap::new(),
        };
        for (id, entry) in std::mem::replace(batches, open) {
            self.ranges -= entry.ranges();
            self.unsent -= entry.unsent.total();
            self.sent -= entry.sent.total();
            self.dirty.remove(&(shard, id));
        }
        if batches.is_empty() {
            self.shards.remove(&shard);
        }
    }

    /// The server delivered these records (of one batch). Acknowledgements it evidently has not seen are sent again.
    pub fn delivered(&mut self, ids: &[RecordId]) -> Delivery {
        if self.ranges == 0 {
            return Delivery::Fresh;
        }
        let mut known = 0;
        for (shard, batch, first, last) in runs_of(ids) {
            let entry = self.shards.get_mut(&shard).and_then(|batches| batches.get_mut(&batch));
            let Some(entry) = entry else { continue };
            let before = entry.ranges();
            for index in first..=last {
                if entry.sent.remove(index) {
                    entry.unsent.insert(index, index);
                    self.sent -= 1;
                    self.unsent += 1;
                    known += 1;
                } else if entry.unsent.contains(index) {
                    known += 1;
                }
            }
            if !entry.unsent.is_empty() {
                self.dirty.insert((shard, batch));
            }
            self.ranges = self.ranges + entry.ranges() - before;
        }
        match known {
            0 => Delivery::Fresh,
            known if known == ids.len() as u64 => Delivery::Known(known),
            known => Delivery::Partly(known),
        }
    }

    /// Whether all of these records are acknowledged, or safe by a checkpoint.
    pub fn has_all(&self, ids: &[RecordId]) -> bool {
        !ids.is_empty()
            && runs_of(ids).into_iter().all(|(shard, batch, first, last)| {
                let is_covered = self.covered.get(&shard).is_some_and(|covered| batch <= *covered);
                is_covered
                    || self.shards.get(&shard).and_then(|batches| batches.get(&batch)).is_some_and(|entry| {
                        (first..=last).all(|index| entry.sent.contains(index) || entry.unsent.contains(index))
                    })
            })
    }

    /// Whether it holds acknowledgements for batches above those of a session. A server that was started again may have
    /// passed over them: it delivers their records first, and then they are sent once more.
    pub fn reaches_beyond(&self, session: &Seen) -> bool {
        self.shards.iter().any(|(&shard, batches)| {
            batches.last_key_value().is_some_and(|(&batch, _)| !session.covers(shard, batch))
        })
    }

    /// Forgets everything: the subscription is another one than the acknowledgements were for.
    pub fn clear(&mut self) {
        self.shards.clear();
        self.dirty.clear();
        self.covered.clear();
        self.unsent = 0;
        self.sent = 0;
        self.ranges = 0;
    }

    /// Drops what was sent, oldest batches first, until at most `target` ranges are held.
    fn forget_sent(&mut self, target: usize) {
        for batches in self.shards.values_mut() {
            if self.ranges <= target {
                break;
            }
            batches.retain(|_, entry| {
                if self.ranges > target && !entry.sent.is_empty() {
                    let dropped = entry.sent.total();
                    self.ranges -= entry.sent.count();
                    entry.sent.clear();
                    self.sent -= dropped;
                    self.forgotten += dropped;
                }
                !entry.unsent.is_empty() || !entry.sent.is_empty()
            });
        }
        self.shards.retain(|_, batches| !batches.is_empty());
    }
}

/// Consecutive ids of one batch as `(shard, batch, first, last)`.
fn runs_of(ids: &[RecordId]) -> Vec<(u64, u64, u32, u32)> {
    let mut runs: Vec<(u64, u64, u32, u32)> = Vec::new();
    for id in ids {
        match runs.last_mut() {
            Some((shard, batch, _, last))
                if (*shard, *batch) == (id.shard_id, id.batch_id)
                    && last.checked_add(1) == Some(id.batch_index) =>
            {
                *last = id.batch_index;
            }
            _ => runs.push((id.shard_id, id.batch_id, id.batch_index, id.batch_index)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(shard_id: u64, batch_id: u64, batch_index: u32) -> RecordId {
        RecordId { shard_id, batch_id, batch_index }
    }

    fn batch(shard: u64, batch: u64, records: u32) -> Vec<RecordId> {
        (0..records).map(|index| id(shard, batch, index)).collect()
    }

    #[test]
    fn a_million_records_of_few_batches_take_few_ranges() {
        let mut ledger = Ledger::new(100);
        for number in 0..100 {
            ledger.ack(&batch(1, number, 10_000)).unwrap();
        }
        assert_eq!(ledger.unsent(), 1_000_000);
        assert_eq!(ledger.ranges, 100);
    }

    #[test]
    fn what_is_acknowledged_or_covered_by_a_checkpoint_is_known() {
        let mut ledger = Ledger::new(100);
        ledger.ack(&batch(1, 5, 4)).unwrap();
        assert_eq!(ledger.take_unsent(2), batch(1, 5, 2));
        assert!(ledger.has_all(&batch(1, 5, 4)), "sent or not");
        assert!(!ledger.has_all(&batch(1, 5, 5)) && !ledger.has_all(&batch(1, 6, 1)));
        ledger.checkpoint(1, 6);
        assert!(ledger.has_all(&batch(1, 6, 1)) && !ledger.has_all(&batch(2, 6, 1)));
        ledger.clear();
        assert!(!ledger.has_all(&batch(1, 6, 1)), "another subscription");
    }

    #[test]
    fn sent_acks_are_sent_again_after_a_lost_session() {
        let mut ledger = Ledger::new(100);
        ledger.ack(&batch(1, 5, 4)).unwrap();
        assert_eq!(ledger.take_unsent(3), batch(1, 5, 3));
        ledger.session_lost();
        assert_eq!(ledger.take_unsent(10), batch(1, 5, 4));
        assert_eq!(ledger.take_unsent(10), []);
    }

    #[test]
    fn a_clean_close_confirms_what_was_sent_and_nothing_else() {
        let mut ledger = Ledger::new(100);
        ledger.ack(&batch(1, 5, 4)).unwrap();
        ledger.take_unsent(3);
        ledger.confirm_sent();
        ledger.session_lost();
        assert_eq!(ledger.take_unsent(10), [id(1, 5, 3)]);
    }

    #[test]
    fn a_checkpoint_covers_its_batch_and_all_before_it_on_its_shard_only() {
        let mut ledger = Ledger::new(100);
        for shard in [1, 2] {
            for number in [5, 6, 7] {
                ledger.ack(&batch(shard, number, 2)).unwrap();
            }
        }
        ledger.take_unsent(3);
        ledger.checkpoint(1, 6);
        ledger.session_lost();
        let left: Vec<_> = ledger.take_unsent(100).iter().map(|id| (id.shard_id, id.batch_id)).collect();
        assert_eq!(left, [(1, 7), (1, 7), (2, 5), (2, 5), (2, 6), (2, 6), (2, 7), (2, 7)]);
        ledger.checkpoint(1, u64::MAX);
        ledger.checkpoint(2, u64::MAX);
        assert_eq!((ledger.unconfirmed(), ledger.ranges), (0, 0));
    }

    #[test]
    fn a_redelivered_batch_is_acked_again_without_the_application() {
        let mut ledger = Ledger::new(100);
        ledger.ack(&batch(1, 5, 4)).unwrap();
        ledger.take_unsent(10);
        assert_eq!(ledger.delivered(&batch(1, 5, 4)), Delivery::Known(4));
        assert_eq!(ledger.take_unsent(10), batch(1, 5, 4));
        assert_eq!(ledger.delivered(&batch(1, 5, 6)), Delivery::Partly(4));
        assert_eq!(ledger.delivered(&batch(1, 6, 6)), Delivery::Fresh);
    }

    #[test]
    fn a_full_ledger_forgets_the_oldest_sent_and_never_an_unsent_one() {
        let mut ledger = Ledger::new(8);
        for number in 0..8 {
            ledger.ack(&[id(1, number, 0)]).unwrap();
        }
        assert_eq!(ledger.ack(&[id(1, 8, 0)]), Err(LedgerFull));
        assert_eq!(ledger.unsent(), 8);
        ledger.take_unsent(2);
        ledger.ack(&[id(1, 8, 0)]).unwrap();
        assert_eq!((ledger.forgotten(), ledger.unsent(), ledger.unconfirmed()), (1, 7, 1));
        assert_eq!(ledger.delivered(&[id(1, 0, 0)]), Delivery::Fresh);
        assert_eq!(ledger.delivered(&[id(1, 1, 0)]), Delivery::Known(1));
    }

    #[test]
    fn what_was_not_delivered_in_a_session_is_beyond_it() {
        let (mut ledger, mut session) = (Ledger::new(100), Seen::default());
        assert!(!ledger.reaches_beyond(&session));
        ledger.ack(&batch(1, 5, 2)).unwrap();
        ledger.ack(&batch(2, 7, 2)).unwrap();
        session.note(&batch(1, 6, 1));
        assert!(ledger.reaches_beyond(&session), "shard 2");
        session.note(&batch(2, 7, 1));
        assert!(!ledger.reaches_beyond(&session));
        session.clear();
        ledger.checkpoint(1, 5);
        ledger.checkpoint(2, 7);
        assert!(!ledger.reaches_beyond(&session), "nothing is held any more");
    }

    proptest::proptest! {
        #[test]
        fn an_ack_is_unsent_or_sent_until_it_is_safe(
            steps in proptest::collection::vec((0u8..8, 0u64..2, 0u64..6, 0u32..6, 0u32..4), 0..120)
        ) {
            let mut ledger = Ledger::new(10_000);
            let (mut unsent, mut sent) = (BTreeSet::new(), BTreeSet::new());
            for (what, shard, number, index, width) in steps {
                let ids: Vec<_> = (index..=index + width).map(|i| id(shard, number, i)).collect();
                match what {
                    0..=2 => {
                        ledger.ack(&ids).unwrap();
                        unsent.extend(ids.iter().copied().filter(|id| !sent.contains(id)));
                    }
                    3 | 4 => {
                        let taken = ledger.take_unsent(index as usize * 3);
                        assert_eq!(taken.len(), unsent.len().min(index as usize * 3));
                        for id in taken {
                            assert!(unsent.remove(&id) && sent.insert(id));
                        }
                    }
                    5 => {
                        let known = ids.iter().filter(|id| unsent.contains(*id) || sent.contains(*id)).count();
                        let expected = match known {
                            0 => Delivery::Fresh,
                            n if n == ids.len() => Delivery::Known(n as u64),
                            n => Delivery::Partly(n as u64),
                        };
                        assert_eq!(ledger.delivered(&ids), expected);
                        unsent.extend(ids.iter().copied().filter(|id| sent.remove(id)));
                    }
                    6 if width == 0 => {
                        ledger.confirm_sent();
                        sent.clear();
                    }
                    6 => {
                        ledger.checkpoint(shard, number);
                        unsent.retain(|id| id.shard_id != shard || id.batch_id > number);
                        sent.retain(|id| id.shard_id != shard || id.batch_id > number);
                    }
                    _ => {
                        ledger.session_lost();
                        unsent.append(&mut sent);
                    }
                }
                assert_eq!(ledger.unsent(), unsent.len() as u64);
                assert_eq!(ledger.unconfirmed(), sent.len() as u64);
                let held = ledger.shards.values().flat_map(|b| b.values()).map(BatchAcks::ranges).sum::<usize>();
                assert_eq!(ledger.ranges, held);
            }
            ledger.session_lost();
            unsent.append(&mut sent);
            let all: BTreeSet<_> = ledger.take_unsent(usize::MAX).into_iter().collect();
            assert_eq!(all, unsent);
        }
    }
}
