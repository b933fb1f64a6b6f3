//! Who has written what: the memory that makes a repeated batch answer with its first ids.
//!
//! Pure state of one shard. The rules are those of the metadata keys in `hstreamdb_proto::metadata` and of
//! [`StampError`]. Nobody is forgotten silently: a producer that made room for another one leaves its identity
//! behind and gets [`StampError::Expired`] if it comes back.

use super::{Lsn, ProducerStamp, StampError, varint};
use hstreamdb_proto::metadata::PRODUCER_WINDOW;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Bounds of a [`ProducerTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerLimits {
    /// Producers remembered with their window. Default 1,024.
    pub producers: usize,
    /// Identities remembered of those that made room; the oldest goes first. Default 65,536.
    pub forgotten: usize,
    /// A producer that wrote less than this many milliseconds ago is never forgotten. Default one day.
    pub retention_ms: u64,
}

impl Default for ProducerLimits {
    fn default() -> Self {
        ProducerLimits { producers: 1024, forgotten: 65_536, retention_ms: 24 * 60 * 60 * 1000 }
    }
}

/// A stored batch of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownBatch {
    /// Its sequence.
    pub sequence: u64,
    /// Where it is.
    pub lsn: Lsn,
    /// Records in it.
    pub records: u32,
    /// Its append time in milliseconds.
    pub time_ms: u64,
}

/// What to do with a batch whose stamp is in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Store it, then [`ProducerTable::record`] it.
    Store,
    /// It was stored before; answer with this.
    Repeat(KnownBatch),
}

/// All producers of one shard. A clone shares what neither changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProducerTable {
    producers: HashMap<u128, Arc<Producer>>,
    forgotten: HashMap<u128, u32>,
    /// Order in which they were forgotten.
    forgotten_order: VecDeque<u128>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: u32,
    next: u64,
    last_ms: u64,
    /// The newest batches, at most `PRODUCER_WINDOW` + 1, by sequence.
    window: VecDeque<KnownBatch>,
}

impl ProducerTable {
    /// Judges a stamp. Makes room for a new producer if that is needed and possible.
    ///
    /// # Errors
    /// The [`StampError`] to answer with; the table is as it was.
    pub fn check(
        &mut self,
        stamp: &ProducerStamp,
        limits: &ProducerLimits,
        now_ms: u64,
    ) -> Result<Verdict, StampError> {
        let (epoch, sequence) = (stamp.epoch, stamp.sequence);
        let Some(producer) = self.producers.get(&stamp.id) else {
            return self.check_unknown(stamp, limits, now_ms);
        };
        if epoch < producer.epoch {
            return Err(StampError::Fenced { current: producer.epoch, got: epoch });
        }
        let expected = if epoch > producer.epoch { 0 } else { producer.next };
        if sequence > expected {
            return Err(StampError::Gap { expected, got: sequence });
        }
        if sequence == expected {
            return Ok(Verdict::Store);
        }
        match producer.window.binary_search_by_key(&sequence, |known| known.sequence) {
            Ok(at) => producer.window.get(at).copied().map(Verdict::Repeat).ok_or(StampError::Expired),
            Err(_) => {
                let oldest = producer.window.front().map_or(producer.next, |known| known.sequence);
                Err(StampError::TooOld { oldest, got: sequence })
            }
        }
    }

    fn check_unknown(
        &mut self,
        stamp: &ProducerStamp,
        limits: &ProducerLimits,
        now_ms: u64,
    ) -> Result<Verdict, StampError> {
        if stamp.sequence > 0 || self.forgotten.get(&stamp.id).is_some_and(|&epoch| stamp.epoch <= epoch) {
            return Err(StampError::Expired);
        }
        if self.producers.len() >= limits.producers && !self.forget_idle(limits, now_ms) {
            return Err(StampError::TableFull);
        }
        Ok(Verdict::Store)
    }

    /// Forgets producers above the limit that have been silent long enough; for tables rebuilt by
    /// [`ProducerTable::record`] alone.
    pub fn shrink(&mut self, limits: &ProducerLimits, now_ms: u64) {
        while self.producers.len() > limits.producers && self.forget_idle(limits, now_ms) {}
    }

    /// Forgets the producer that has been silent longest, if that was long enough.
    fn forget_idle(&mut self, limits: &ProducerLimits, now_ms: u64) -> bool {
        let Some((&id, idlest)) = self.producers.iter().min_by_key(|(id, producer)| (producer.last_ms, **id))
        else {
            return false;
        };
        if now_ms.saturating_sub(idlest.last_ms) < limits.retention_ms {
            return false;
        }
        let epoch = idlest.epoch;
        self.producers.remove(&id);
        self.remember_forgotten(id, epoch);
        while self.forgotten_order.len() > limits.forgotten {
            if let Some(oldest) = self.forgotten_order.pop_front() {
                self.forgotten.remove(&oldest);
            }
        }
        true
    }

    fn remember_forgotten(&mut self, id: u128, epoch: u32) {
        if self.forgotten.insert(id, epoch).is_none() {
            self.forgotten_order.push_back(id);
        }
    }

    /// Remembers a stored batch. Never refuses: what was stored is a fact, also when the log is read again.
    pub fn record(&mut self, stamp: &ProducerStamp, lsn: Lsn, records: u32, time_ms: u64) {
        if self.forgotten.remove(&stamp.id).is_some() {
            self.forgotten_order.retain(|id| *id != stamp.id);
        }
        let fresh = || Producer { epoch: stamp.epoch, next: 0, last_ms: time_ms, window: VecDeque::new() };
        let producer = self.producers.entry(stamp.id).or_insert_with(|| Arc::new(fresh()));
        let producer = Arc::make_mut(producer);
        if stamp.epoch > producer.epoch {
            *producer = fresh();
        }
        if stamp.epoch < producer.epoch || stamp.sequence < producer.next {
            return;
        }
        producer.next = stamp.sequence.saturating_add(1);
        producer.last_ms = producer.last_ms.max(time_ms);
        // After a loss sequences may be missing, so the window is cut by distance, not by count.
        let window = &mut producer.window;
        while window
            .front()
            .is_some_and(|oldest| stamp.sequence.saturating_sub(oldest.sequence) > PRODUCER_WINDOW)
        {
            window.pop_front();
        }
        if window.len() == window.capacity() {
            // Twice as much would be room that is never used.
            let most = PRODUCER_WINDOW as usize + 1;
            window.reserve_exact(window.len().clamp(2, most.saturating_sub(window.len()).max(2)));
        }
        window.push_back(KnownBatch { sequence: stamp.sequence, lsn, records, time_ms });
    }

    /// Producers remembered with their window.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// True if nobody ever wrote.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty() && self.forgotten.is_empty()
    }

    /// Appends the table to `out`, in an order that depends on its content only. A batch in a window takes about
    /// five bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut ids: Vec<_> = self.producers.iter().collect();
        ids.sort_by_key(|(id, _)| **id);
        varint::put(out, ids.len() as u64);
        for (id, producer) in ids {
            out.extend(id.to_le_bytes());
            varint::put(out, u64::from(producer.epoch));
            varint::put(out, producer.next);
            varint::put(out, producer.last_ms);
            varint::put(out, producer.window.len() as u64);
            let (mut sequence, mut lsn, mut time_ms) = (producer.next, 0, producer.last_ms);
            for known in producer.window.iter().rev() {
                varint::put(out, sequence.wrapping_sub(known.sequence));
                varint::put(out, lsn_step(lsn, known.lsn));
                varint::put(out, u64::from(known.records));
                varint::put(out, time_ms.wrapping_sub(known.time_ms));
                (sequence, lsn, time_ms) = (known.sequence, known.lsn, known.time_ms);
            }
        }
        varint::put(out, self.forgotten_order.len() as u64);
        for id in &self.forgotten_order {
            out.extend(id.to_le_bytes());
            varint::put(out, u64::from(self.forgotten.get(id).copied().unwrap_or_default()));
        }
    }

    /// Reads what [`ProducerTable::encode`] wrote and moves `input` behind it; `None` if it is not that.
    pub fn decode(input: &mut &[u8]) -> Option<ProducerTable> {
        let mut table = ProducerTable::default();
        for _ in 0..varint::take(input)? {
            let id = u128::from_le_bytes(take(input)?);
            let (epoch, next, last_ms) =
                (varint::take_u32(input)?, varint::take(input)?, varint::take(input)?);
            let mut window = VecDeque::new();
            let (mut sequence, mut lsn, mut time_ms) = (next, 0, last_ms);
            for _ in 0..varint::take(input)? {
                sequence = sequence.wrapping_sub(varint::take(input)?);
                lsn = lsn_step(lsn, varint::take(input)?);
                let records = varint::take_u32(input)?;
                time_ms = time_ms.wrapping_sub(varint::take(input)?);
                window.push_front(KnownBatch { sequence, lsn, records, time_ms });
            }
            table.producers.insert(id, Arc::new(Producer { epoch, next, last_ms, window }));
        }
        for _ in 0..varint::take(input)? {
            let id = u128::from_le_bytes(take(input)?);
            table.remember_forgotten(id, varint::take_u32(input)?);
        }
        Some(table)
    }

    /// Reads a table as format 1 of the store wrote it.
    pub fn decode_v1(input: &mut &[u8]) -> Option<ProducerTable> {
        let mut table = ProducerTable::default();
        for _ in 0..u32::from_le_bytes(take(input)?) {
            let id = u128::from_le_bytes(take(input)?);
            let mut producer = Producer {
                epoch: u32::from_le_bytes(take(input)?),
                next: u64::from_le_bytes(take(input)?),
                last_ms: u64::from_le_bytes(take(input)?),
                window: VecDeque::new(),
            };
            for _ in 0..u8::from_le_bytes(take(input)?) {
                producer.window.push_back(KnownBatch {
                    sequence: u64::from_le_bytes(take(input)?),
                    lsn: u64::from_le_bytes(take(input)?),
                    records: u32::from_le_bytes(take(input)?),
                    time_ms: u64::from_le_bytes(take(input)?),
                });
            }
            table.producers.insert(id, Arc::new(producer));
        }
        for _ in 0..u32::from_le_bytes(take(input)?) {
            let id = u128::from_le_bytes(take(input)?);
            table.remember_forgotten(id, u32::from_le_bytes(take(input)?));
        }
        Some(table)
    }

    /// Length of the table as format 1 of the store wrote it.
    pub fn len_v1(&self) -> usize {
        let producers = self.producers.values().map(|producer| 37 + 28 * producer.window.len());
        8 + producers.sum::<usize>() + 20 * self.forgotten_order.len()
    }
}

/// From an LSN of a window to the one before it and back: the newest stands for itself, the others as steps.
fn lsn_step(newer: Lsn, value: Lsn) -> Lsn {
    if newer == 0 { value } else { newer.wrapping_sub(value) }
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ProducerLimits = ProducerLimits { producers: 2, forgotten: 8, retention_ms: 100 };

    fn stamp(id: u128, epoch: u32, sequence: u64) -> ProducerStamp {
        ProducerStamp { id, epoch, sequence }
    }

    /// Checks and, if told to store, records with lsn = 1000 + sequence.
    fn offer(table: &mut ProducerTable, stamp: ProducerStamp, now: u64) -> Result<Verdict, StampError> {
        let verdict = table.check(&stamp, &LIMITS, now)?;
        if verdict == Verdict::Store {
            table.record(&stamp, 1000 + stamp.sequence, 3, now);
        }
        Ok(verdict)
    }

    #[test]
    fn a_repeat_answers_with_the_first_ids() {
        let mut table = ProducerTable::default();
        assert_eq!(offer(&mut table, stamp(1, 0, 0), 5), Ok(Verdict::Store));
        let known = KnownBatch { sequence: 0, lsn: 1000, records: 3, time_ms: 5 };
        assert_eq!(offer(&mut table, stamp(1, 0, 0), 9), Ok(Verdict::Repeat(known)));
    }

    #[test]
    fn a_batch_before_its_predecessors_is_a_gap() {
        let mut table = ProducerTable::default();
        offer(&mut table, stamp(1, 0, 0), 0).unwrap();
        assert_eq!(offer(&mut table, stamp(1, 0, 2), 0), Err(StampError::Gap { expected: 1, got: 2 }));
        assert_eq!(offer(&mut table, stamp(1, 0, 1), 0), Ok(Verdict::Store));
    }

    #[test]
    fn a_higher_epoch_fences_lower_ones_and_starts_at_zero() {
        let mut table = ProducerTable::default();
        offer(&mut table, stamp(1, 1, 0), 0).unwrap();
        assert_eq!(offer(&mut table, stamp(1, 2, 1), 0), Err(StampError::Gap { expected: 0, got: 1 }));
        // The refused batch fenced nobody.
        assert_eq!(offer(&mut table, stamp(1, 1, 1), 0), Ok(Verdict::Store));
        assert_eq!(offer(&mut table, stamp(1, 2, 0), 0), Ok(Verdict::Store));
        assert_eq!(offer(&mut table, stamp(1, 1, 2), 0), Err(StampError::Fenced { current: 2, got: 1 }));
        assert_eq!(offer(&mut table, stamp(1, 1, 0), 0), Err(StampError::Fenced { current: 2, got: 1 }));
    }

    #[test]
    fn ids_are_known_as_far_back_as_the_window_and_no_farther() {
        let mut table = ProducerTable::default();
        for sequence in 0..=PRODUCER_WINDOW + 1 {
            offer(&mut table, stamp(1, 0, sequence), 0).unwrap();
        }
        assert!(matches!(offer(&mut table, stamp(1, 0, 1), 0), Ok(Verdict::Repeat(k)) if k.lsn == 1001));
        assert_eq!(offer(&mut table, stamp(1, 0, 0), 0), Err(StampError::TooOld { oldest: 1, got: 0 }));
    }

    #[test]
    fn an_unknown_producer_must_start_at_its_first_batch() {
        let mut table = ProducerTable::default();
        assert_eq!(offer(&mut table, stamp(1, 0, 4), 0), Err(StampError::Expired));
    }

    #[test]
    fn a_live_producer_is_never_forgotten() {
        let mut table = ProducerTable::default();
        offer(&mut table, stamp(1, 0, 0), 0).unwrap();
        offer(&mut table, stamp(2, 0, 0), 50).unwrap();
        assert_eq!(offer(&mut table, stamp(3, 0, 0), 99), Err(StampError::TableFull));
        assert!(matches!(offer(&mut table, stamp(1, 0, 0), 99), Ok(Verdict::Repeat(_))));
    }

    #[test]
    fn a_forgotten_producer_is_told_so_and_its_first_batch_is_not_stored_twice() {
        let mut table = ProducerTable::default();
        offer(&mut table, stamp(1, 7, 0), 0).unwrap();
        offer(&mut table, stamp(2, 0, 0), 50).unwrap();
        assert_eq!(offer(&mut table, stamp(3, 0, 0), 100), Ok(Verdict::Store));
        assert_eq!(offer(&mut table, stamp(1, 7, 1), 200), Err(StampError::Expired));
        assert_eq!(offer(&mut table, stamp(1, 7, 0), 200), Err(StampError::Expired));
        assert_eq!(offer(&mut table, stamp(1, 8, 0), 200), Ok(Verdict::Store));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_batch_lost_inside_the_window_is_not_taken_for_a_new_one() {
        let mut table = ProducerTable::default();
        for sequence in [0, 1, 3] {
            table.record(&stamp(1, 0, sequence), 1000 + sequence, 3, 0);
        }
        assert_eq!(offer(&mut table, stamp(1, 0, 2), 0), Err(StampError::TooOld { oldest: 0, got: 2 }));
    }

    #[test]
    fn a_table_survives_encoding() {
        let mut table = ProducerTable::default();
        for sequence in 0..100 {
            offer(&mut table, stamp(1, 7, sequence), sequence).unwrap();
        }
        offer(&mut table, stamp(2, 0, 0), 50).unwrap();
        offer(&mut table, stamp(3, 0, 0), 160).unwrap();
        let mut bytes = Vec::new();
        table.encode(&mut bytes);
        bytes.push(42);
        let mut input = bytes.as_slice();
        assert_eq!(ProducerTable::decode(&mut input), Some(table));
        assert_eq!(input, [42]);
        for len in 0..bytes.len() - 1 {
            assert_eq!(ProducerTable::decode(&mut &bytes[..len]), None);
        }
    }
}
