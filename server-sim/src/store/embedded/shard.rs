//! One shard in memory: where its batches are, who wrote them, what is on its way to the disk.

use super::snapshot::ShardSnapshot;
use crate::store::producer_table::{ProducerLimits, ProducerTable, Verdict};
use crate::store::{
    Appended, FIRST_LSN, Gap, GapKind, Lsn, ProducerStamp, ReadLimits, Result, ShardSpec, StoreError,
};
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{oneshot, watch};

/// Room a shard keeps although it does not need it at the moment, in batches.
const SPARE_ENTRIES: usize = 64;

/// Where a durable batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub lsn: Lsn,
    pub time_ms: u64,
    /// Slot of the segment.
    pub segment: u32,
    /// Offset of the frame in the segment.
    pub offset: u32,
    pub body_len: u32,
    pub records: u32,
}

/// A batch that has an LSN but is not durable yet.
#[derive(Debug)]
struct Pending {
    appended: Appended,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    repeat: bool,
    reply: oneshot::Sender<Result<Appended>>,
}

/// One shard.
#[derive(Debug)]
pub struct Shard {
    pub spec: ShardSpec,
    /// Taken by an append on its first poll and kept until it is in the queue: first polled, first stored.
    pub turn: tokio::sync::Mutex<()>,
    state: Mutex<ShardState>,
}

/// What changes about a shard.
///
/// `accepted_*` runs ahead of what is durable by what is pending; if pending batches fail it falls back.
#[derive(Debug)]
pub struct ShardState {
    accepted_lsn: Lsn,
    accepted_time_ms: u64,
    /// `None` while it says no more than `producers`.
    accepted_producers: Option<ProducerTable>,
    pending: VecDeque<Pending>,
    /// Grows when pending batches fail; those of an older generation must not be written any more.
    generation: u64,
    /// Set while a deletion is on its way: nothing may follow it in the log.
    pub deleting: bool,
    deleted: bool,
    tail: Lsn,
    time_ms: u64,
    trimmed: Lsn,
    producers: ProducerTable,
    /// By LSN, which is log order, too; what is missing between `trimmed` and `tail` is lost.
    index: VecDeque<Entry>,
    watch: Option<watch::Sender<Lsn>>,
}

/// What [`Shard::accept`] decided.
#[derive(Debug)]
pub enum Accepted {
    /// Write it; the reply comes through the receiver.
    Write(oneshot::Receiver<Result<Appended>>),
    /// The first copy is still on its way.
    Wait(oneshot::Receiver<Result<Appended>>),
    /// Stored before.
    Known(Appended),
}

/// What a read will find.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReadPlan {
    pub gap: Option<Gap>,
    pub entries: Vec<Entry>,
    /// Where the next read continues.
    pub next: Lsn,
}

impl Shard {
    /// A shard with what was found on disk.
    pub fn new(snapshot: ShardSnapshot, index: VecDeque<Entry>) -> Shard {
        let ShardSnapshot { spec, trimmed, tail, time_ms, producers } = snapshot;
        Shard {
            spec,
            turn: tokio::sync::Mutex::new(()),
            state: Mutex::new(ShardState {
                accepted_lsn: tail,
                accepted_time_ms: time_ms,
                accepted_producers: None,
                pending: VecDeque::new(),
                generation: 0,
                deleting: false,
                deleted: false,
                tail,
                time_ms,
                trimmed,
                producers,
                index,
                watch: Some(watch::Sender::new(tail)),
            }),
        }
    }

    /// A shard without data.
    pub fn empty(spec: ShardSpec) -> Shard {
        let nothing = FIRST_LSN - 1;
        let producers = ProducerTable::default();
        Shard::new(
            ShardSnapshot { spec, trimmed: nothing, tail: nothing, time_ms: 0, producers },
            VecDeque::new(),
        )
    }

    fn not_found(&self) -> StoreError {
        StoreError::ShardNotFound(self.spec.shard)
    }

    /// The state. Held for memory operations only.
    pub fn state(&self) -> MutexGuard<'_, ShardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a batch its place, or says that it has one. `enqueue` is called under the shard's lock, so that
    /// the order of LSNs is the order in the queue; if it fails nothing happened.
    pub fn accept(
        &self,
        records: u32,
        stamp: Option<&ProducerStamp>,
        limits: &ProducerLimits,
        now_ms: u64,
        enqueue: impl FnOnce(Lsn, u64, u64) -> Result<()>,
    ) -> Result<Accepted> {
        let mut state = self.state();
        if state.deleting || state.deleted {
            return Err(self.not_found());
        }
        let time_ms = state.accepted_time_ms.max(now_ms);
        if let Some(stamp) = stamp {
            let verdict = state.accepted_producers().check(stamp, limits, time_ms);
            if state.pending.is_empty() && verdict != Ok(Verdict::Store) {
                state.settle();
            }
            if let Verdict::Repeat(known) = verdict? {
                let appended =
                    Appended { lsn: known.lsn, records: known.records, time_ms: known.time_ms, repeat: true };
                return Ok(match state.wait_for(known.lsn) {
                    Some(reply) => Accepted::Wait(reply),
                    None => Accepted::Known(appended),
                });
            }
        }
        let (lsn, generation) = (state.accepted_lsn + 1, state.generation);
        enqueue(lsn, time_ms, generation)?;
        state.accepted_lsn = lsn;
        state.accepted_time_ms = time_ms;
        if let Some(stamp) = stamp {
            state.accepted_producers().record(stamp, lsn, records, time_ms);
        }
        let (sender, reply) = oneshot::channel();
        state.pending.push_back(Pending {
            appended: Appended { lsn, records, time_ms, repeat: false },
            waiters: vec![Waiter { repeat: false, reply: sender }],
        });
        Ok(Accepted::Write(reply))
    }

    /// Takes in a batch that is durable now and answers whoever waits for it. False if the shard is gone.
    pub fn complete(&self, entry: Entry, stamp: Option<&ProducerStamp>, limits: &ProducerLimits) -> bool {
        let mut state = self.state();
        if state.deleted {
            return false;
        }
        state.index.push_back(entry);
        state.tail = entry.lsn;
        state.time_ms = entry.time_ms;
        if let Some(stamp) = stamp {
            state.producers.record(stamp, entry.lsn, entry.records, entry.time_ms);
            state.producers.shrink(limits, entry.time_ms);
        }
        if let Some(watch) = &state.watch {
            watch.send_replace(entry.lsn);
        }
        while state.pending.front().is_some_and(|pending| pending.appended.lsn <= entry.lsn) {
            if let Some(pending) = state.pending.pop_front() {
                for waiter in pending.waiters {
                    // Nobody may be waiting any more.
                    let _ = waiter.reply.send(Ok(Appended { repeat: waiter.repeat, ..pending.appended }));
                }
            }
        }
        if state.pending.is_empty() {
            state.settle();
        }
        true
    }

    /// Fails everything pending and goes back to what is durable.
    pub fn fail_pending(&self, error: &StoreError) {
        let mut state = self.state();
        state.fail_pending(error);
    }

    /// Like [`Shard::fail_pending`], unless a batch accepted in `generation` has failed already: what is
    /// pending by now came after that.
    pub fn fail_generation(&self, generation: u64, error: &StoreError) {
        let mut state = self.state();
        if state.generation == generation {
            state.fail_pending(error);
        }
    }

    /// True if a batch accepted in `generation` may still be written.
    pub fn is_current(&self, generation: u64) -> bool {
        let state = self.state();
        !state.deleted && state.generation == generation
    }

    /// Ends the shard; returns where its batches were.
    pub fn delete(&self) -> VecDeque<Entry> {
        let mut state = self.state();
        state.deleted = true;
        state.watch = None;
        let error = self.not_found();
        state.fail_pending(&error);
        std::mem::take(&mut state.index)
    }

    /// Removes batches up to and including `up_to`; returns where they were.
    pub fn trim(&self, up_to: Lsn) -> Vec<Entry> {
        let mut state = self.state();
        let up_to = up_to.min(state.tail);
        state.trimmed = state.trimmed.max(up_to);
        let dead = state.index.partition_point(|entry| entry.lsn <= up_to);
        let gone = state.index.drain(..dead).collect();
        // A shard that was busy once does not keep the memory of that for ever.
        if state.index.capacity() > 2 * state.index.len() + SPARE_ENTRIES {
            let len = state.index.len();
            state.index.shrink_to(len + SPARE_ENTRIES / 2);
        }
        gone
    }

    /// Takes a batch out of the index because it cannot be read; from now on it is a gap. False if it was
    /// gone already, or is somewhere else by now.
    pub fn lose(&self, lost: &Entry) -> bool {
        let mut state = self.state();
        match state.find(lost.lsn) {
            Some((at, entry)) if entry == *lost => state.index.remove(at).is_some(),
            _ => false,
        }
    }

    /// Batches in segments whose number, as `number` tells it by slot, is in the range.
    pub fn entries_in(&self, segments: RangeInclusive<u32>, number: impl Fn(u32) -> u32) -> Vec<Entry> {
        let state = self.state();
        let from = state.index.partition_point(|entry| number(entry.segment) < *segments.start());
        let within = |entry: &&Entry| number(entry.segment) <= *segments.end();
        state.index.range(from..).take_while(within).copied().collect()
    }

    /// Batches that were copied are read from their new place from now on. `moves` pairs what was copied with
    /// its copy, by LSN. Returns the places nobody refers to any more: the old one of each batch, or the copy of
    /// one that went away meanwhile.
    pub fn relocate(&self, moves: &[(Entry, Entry)]) -> Vec<Entry> {
        let mut state = self.state();
        let mut free = Vec::with_capacity(moves.len());
        let first = moves.first().map_or(0, |(from, _)| from.lsn);
        let mut at = state.index.partition_point(|entry| entry.lsn < first);
        for (from, to) in moves {
            while state.index.get(at).is_some_and(|entry| entry.lsn < from.lsn) {
                at += 1;
            }
            match state.index.get_mut(at) {
                Some(entry) if entry == from => {
                    *entry = *to;
                    free.push(*from);
                }
                _ => free.push(*to),
            }
        }
        free
    }

    /// Last durable LSN.
    pub fn tail(&self) -> Result<Lsn> {
        let state = self.state();
        if state.deleted { Err(self.not_found()) } else { Ok(state.tail) }
    }

    /// Last removed LSN.
    pub fn trimmed(&self) -> Result<Lsn> {
        let state = self.state();
        if state.deleted { Err(self.not_found()) } else { Ok(state.trimmed) }
    }

    /// The tail as it moves.
    pub fn watch(&self) -> Result<watch::Receiver<Lsn>> {
        let state = self.state();
        state.watch.as_ref().map(watch::Sender::subscribe).ok_or_else(|| self.not_found())
    }

    /// First batch with an append time of at least `time_ms`.
    pub fn find_time(&self, time_ms: u64) -> Result<Lsn> {
        let state = self.state();
        if state.deleted {
            return Err(self.not_found());
        }
        let at = state.index.partition_point(|entry| entry.time_ms < time_ms);
        Ok(state.index.get(at).map_or(state.tail + 1, |entry| entry.lsn))
    }

    /// What a read from `from` finds.
    pub fn plan(&self, from: Lsn, limits: ReadLimits) -> Result<ReadPlan> {
        let state = self.state();
        if state.deleted {
            return Err(self.not_found());
        }
        Ok(state.plan(from, limits))
    }

    /// The durable state, its data aside.
    pub fn snapshot(&self) -> ShardSnapshot {
        let state = self.state();
        ShardSnapshot {
            spec: self.spec.clone(),
            trimmed: state.trimmed,
            tail: state.tail,
            time_ms: state.time_ms,
            producers: state.producers.clone(),
        }
    }
}

impl ShardState {
    fn accepted_producers(&mut self) -> &mut ProducerTable {
        self.accepted_producers.get_or_insert_with(|| self.producers.clone())
    }

    /// Nothing is pending: what was accepted is what is durable.
    fn settle(&mut self) {
        self.accepted_producers = None;
        if self.pending.capacity() > SPARE_ENTRIES {
            self.pending = VecDeque::new();
        }
    }

    fn find(&self, lsn: Lsn) -> Option<(usize, Entry)> {
        let at = self.index.binary_search_by_key(&lsn, |entry| entry.lsn).ok()?;
        self.index.get(at).map(|entry| (at, *entry))
    }

    fn wait_for(&mut self, lsn: Lsn) -> Option<oneshot::Receiver<Result<Appended>>> {
        let at = self.pending.binary_search_by_key(&lsn, |pending| pending.appended.lsn).ok()?;
        let pending = self.pending.get_mut(at)?;
        let (sender, reply) = oneshot::channel();
        pending.waiters.retain(|waiter| !waiter.reply.is_closed());
        pending.waiters.push(Waiter { repeat: true, reply: sender });
        Some(reply)
    }

    fn fail_pending(&mut self, error: &StoreError) {
        if self.pending.is_empty() {
            return;
        }
        self.generation += 1;
        self.accepted_lsn = self.tail;
        self.accepted_time_ms = self.time_ms;
        self.accepted_producers = None;
        for waiter in self.pending.drain(..).flat_map(|pending| pending.waiters) {
            let _ = waiter.reply.send(Err(error.clone()));
        }
    }

    fn plan(&self, from: Lsn, limits: ReadLimits) -> ReadPlan {
        let mut plan = ReadPlan { next: from, ..ReadPlan::default() };
        let mut at = from.max(FIRST_LSN);
        if at > self.tail {
            return plan;
        }
        if at <= self.trimmed {
            plan.gap = Some(Gap { kind: GapKind::Trimmed, from: at, to: self.trimmed });
            at = self.trimmed + 1;
            plan.next = at;
        }
        let first = self.index.partition_point(|entry| entry.lsn < at);
        let next_data = self.index.get(first).map_or(self.tail + 1, |entry| entry.lsn);
        if next_data > at {
            if plan.gap.is_some() {
                return plan;
            }
            plan.gap = Some(Gap { kind: GapKind::DataLoss, from: at, to: next_data - 1 });
            at = next_data;
            plan.next = at;
        }
        let mut bytes = 0;
        for entry in self.index.range(first..).take(limits.max_batches) {
            bytes += entry.body_len as usize;
            if entry.lsn != at || (!plan.entries.is_empty() && bytes > limits.max_bytes) {
                break;
            }
            plan.entries.push(*entry);
            at += 1;
            plan.next = at;
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: ReadLimits = ReadLimits { max_batches: 100, max_bytes: 1 << 20 };

    fn entry(n: u64) -> Entry {
        Entry { lsn: FIRST_LSN + n, time_ms: n, segment: 1, offset: 0, body_len: 10, records: 1 }
    }

    /// Tail at 9, trimmed through 2, batches as given.
    fn shard(held: &[u64]) -> Shard {
        let spec = ShardSpec { shard: 1, retention_secs: 0, replicas: 1 };
        let producers = ProducerTable::default();
        let snapshot =
            ShardSnapshot { spec, trimmed: FIRST_LSN + 2, tail: FIRST_LSN + 9, time_ms: 9, producers };
        Shard::new(snapshot, held.iter().copied().map(entry).collect())
    }

    /// (gap kind and ends, batches, next), all counted from `FIRST_LSN`.
    fn read(shard: &Shard, from: u64, limits: ReadLimits) -> (Option<(GapKind, u64, u64)>, Vec<u64>, u64) {
        let plan = shard.plan(FIRST_LSN + from, limits).unwrap();
        (
            plan.gap.map(|gap| (gap.kind, gap.from - FIRST_LSN, gap.to - FIRST_LSN)),
            plan.entries.iter().map(|entry| entry.lsn - FIRST_LSN).collect(),
            plan.next - FIRST_LSN,
        )
    }

    #[test]
    fn gaps_are_reported_one_at_a_time_and_before_the_data_behind_them() {
        use GapKind::{DataLoss, Trimmed};
        let shard = shard(&[5, 6, 8]);
        assert_eq!(read(&shard, 0, ALL), (Some((Trimmed, 0, 2)), vec![], 3));
        assert_eq!(read(&shard, 3, ALL), (Some((DataLoss, 3, 4)), vec![5, 6], 7));
        assert_eq!(read(&shard, 6, ALL), (None, vec![6], 7));
        assert_eq!(read(&shard, 7, ALL), (Some((DataLoss, 7, 7)), vec![8], 9));
        assert_eq!(read(&shard, 9, ALL), (Some((DataLoss, 9, 9)), vec![], 10));
        assert_eq!(read(&shard, 10, ALL), (None, vec![], 10));
        assert_eq!(read(&shard, 99, ALL), (None, vec![], 99));
    }

    #[test]
    fn the_first_batch_comes_whatever_its_size() {
        let shard = shard(&[3, 4, 5, 6, 7, 8, 9]);
        let bytes = |max_bytes| ReadLimits { max_bytes, ..ALL };
        assert_eq!(read(&shard, 3, bytes(1)), (None, vec![3], 4));
        assert_eq!(read(&shard, 3, bytes(29)), (None, vec![3, 4], 5));
        assert_eq!(read(&shard, 3, ReadLimits { max_batches: 3, ..ALL }), (None, vec![3, 4, 5], 6));
    }

    #[test]
    fn lsns_below_the_first_one_start_at_the_first_one() {
        let spec = ShardSpec { shard: 1, retention_secs: 0, replicas: 1 };
        let shard = Shard::empty(spec);
        assert_eq!(shard.plan(0, ALL).unwrap(), ReadPlan::default());
        assert!(shard.complete(entry(0), None, &ProducerLimits::default()));
        let plan = shard.plan(0, ALL).unwrap();
        assert_eq!((plan.gap, plan.next), (None, FIRST_LSN + 1));
    }

    #[test]
    fn time_lookup_lands_on_the_first_batch_not_older() {
        let shard = shard(&[3, 5, 7]);
        assert_eq!(shard.find_time(4).unwrap(), FIRST_LSN + 5);
        assert_eq!(shard.find_time(5).unwrap(), FIRST_LSN + 5);
        assert_eq!(shard.find_time(8).unwrap(), FIRST_LSN + 10);
    }
}
