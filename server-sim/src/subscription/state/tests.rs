//! Delivery decisions, driven through a log kept in memory and a clock that only moves when told to.

use super::*;
use crate::store::Gap;
use bytes::Bytes;
use hstreamdb_proto::api::{BatchHStreamRecords, BatchedRecord, HStreamRecord};
use prost::Message as _;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::task::{Context, Poll, Waker};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A subscription without its tasks.
struct Sim {
    state: State,
    log: BTreeMap<ShardId, Vec<StoredBatch>>,
    now: Instant,
    outboxes: HashMap<ConsumerId, Arc<Outbox>>,
    /// Shard, LSN, indexes and deliveries of what went to the dead-letter stream.
    buried: Vec<(ShardId, Lsn, Vec<u32>, u32)>,
}

/// What a consumer saw: shard, LSN, indexes.
type Seen = (ShardId, Lsn, Vec<u32>);

fn batch(lsn: Lsn, records: u32, payload: usize) -> StoredBatch {
    let record = HStreamRecord { header: None, payload: Bytes::from(vec![b'x'; payload]) };
    let content = BatchHStreamRecords { records: vec![record; records as usize] }.encode_to_vec();
    let batch = BatchedRecord { batch_size: records, payload: content.into(), ..Default::default() };
    StoredBatch { lsn, time_ms: 1, records, bytes: batch.encode_to_vec().into() }
}

fn introduction(name: &str) -> Introduction {
    Introduction { name: name.into(), ..Introduction::default() }
}

impl Sim {
    fn new(max_unacked: u64, shards: u64) -> Self {
        let starts = (1..=shards).map(|shard| Start { shard, done: 0, checkpoint: None });
        let rules = Rules {
            subscription: "s".into(),
            ack_timeout: TIMEOUT,
            max_unacked,
            redeliver_on_disconnect: false,
            max_deliveries: 0,
        };
        let now = Instant::now();
        Sim {
            state: State::new(rules, starts, now),
            log: (1..=shards).map(|shard| (shard, Vec::new())).collect(),
            now,
            outboxes: HashMap::new(),
            buried: Vec::new(),
        }
    }

    fn append(&mut self, shard: ShardId, records: u32) -> Lsn {
        self.append_bytes(shard, records, 1)
    }

    fn append_bytes(&mut self, shard: ShardId, records: u32, payload: usize) -> Lsn {
        let log = self.log.get_mut(&shard).unwrap();
        let lsn = log.last().map_or(0, |batch| batch.lsn) + 1;
        log.push(batch(lsn, records, payload));
        self.state.tail(shard, lsn);
        lsn
    }

    fn attach(&mut self, name: &str) -> ConsumerId {
        let (id, outbox) = self.state.attach(introduction(name), self.now).unwrap();
        self.outboxes.insert(id, outbox);
        id
    }

    /// What the dispatcher does until it would wait; returns until when.
    fn run(&mut self) -> Option<Instant> {
        for _ in 0..100_000 {
            match self.state.next_job(self.now) {
                Job::Wait(until) => {
                    assert!(until.is_none_or(|at| at > self.now), "would spin");
                    return until;
                }
                Job::Read { shard, from, limits } => {
                    assert!(limits.max_batches > 0 && limits.max_bytes > 0);
                    let mut chunk = ReadChunk { next: from, ..Default::default() };
                    let mut bytes = 0;
                    for batch in self.log[&shard].iter().filter(|batch| batch.lsn >= from) {
                        bytes += batch.bytes.len();
                        let full = chunk.batches.len() >= limits.max_batches || bytes > limits.max_bytes;
                        if full && !chunk.batches.is_empty() {
                            break;
                        }
                        chunk.next = batch.lsn + 1;
                        chunk.batches.push(batch.clone());
                    }
                    self.state.arrived(shard, chunk, self.now);
                }
                Job::Bury { shard, lsn, open, deliveries } => {
                    self.buried.push((shard, lsn, open.into_iter().flatten().collect(), deliveries));
                    self.state.gone(shard, lsn);
                }
                Job::Redeliver { shard, lsn, open } => {
                    match self.log[&shard].iter().find(|batch| batch.lsn == lsn) {
                        Some(batch) => {
                            let part = delivery::part(shard, batch, &open).unwrap();
                            self.state.again(shard, lsn, part, self.now);
                        }
                        None => self.state.gone(shard, lsn),
                    }
                }
            }
        }
        panic!("the dispatcher never rests");
    }

    /// Takes one message of a consumer.
    fn take(&mut self, consumer: ConsumerId) -> Option<Seen> {
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok((message, _))) = self.outboxes[&consumer].poll(&mut context) else { return None };
        let ids = message.received_records.unwrap().record_ids;
        let indexes = ids.iter().map(|id| id.batch_index).collect();
        Some((ids[0].shard_id, ids[0].batch_id, indexes))
    }

    /// Everything that reaches a consumer that takes whatever comes.
    fn drain(&mut self, consumer: ConsumerId) -> Vec<Seen> {
        let mut all = Vec::new();
        loop {
            self.run();
            let before = all.len();
            while let Some(seen) = self.take(consumer) {
                all.push(seen);
            }
            if all.len() == before {
                return all;
            }
        }
    }

    fn ack(&mut self, shard_id: ShardId, batch_id: Lsn, indexes: impl IntoIterator<Item = u32>) {
        let id = |batch_index| RecordId { shard_id, batch_id, batch_index };
        self.state.ack(&indexes.into_iter().map(id).collect::<Vec<_>>(), true);
    }

    fn detach(&mut self, consumer: ConsumerId) {
        self.state.detach(consumer, self.now);
    }
}

#[test]
fn batches_arrive_in_order_as_soon_as_somebody_is_there() {
    let mut sim = Sim::new(1000, 2);
    for _ in 0..150 {
        sim.append(1, 1);
        sim.append(2, 2);
    }
    assert_eq!(sim.run(), None, "nothing to wait for without a consumer");
    let consumer = sim.attach("a");
    let seen = sim.drain(consumer);
    for shard in [1, 2] {
        let lsns: Vec<Lsn> = seen.iter().filter(|seen| seen.0 == shard).map(|seen| seen.1).collect();
        assert_eq!(lsns, (1..=150).collect::<Vec<_>>());
    }
    assert_eq!(sim.state.shares.unacked(), 450);
}

#[test]
fn the_window_is_kept_except_by_one_batch_when_nothing_is_outstanding() {
    let mut sim = Sim::new(5, 1);
    for records in [3, 3, 8, 1] {
        sim.append(1, records);
    }
    let consumer = sim.attach("a");
    assert_eq!(sim.drain(consumer), [(1, 1, vec![0, 1, 2])]);
    sim.ack(1, 1, [0]);
    assert_eq!(sim.drain(consumer), [(1, 2, vec![0, 1, 2])]);
    sim.ack(1, 2, 0..3);
    assert_eq!(sim.drain(consumer), [], "two are outstanding");
    sim.ack(1, 1, 0..3);
    assert_eq!(sim.drain(consumer), [(1, 3, (0..8).collect())]);
    sim.ack(1, 3, 0..7);
    assert_eq!(sim.drain(consumer), [(1, 4, vec![0])]);
}

#[test]
fn a_window_of_zero_delivers_nothing() {
    let mut sim = Sim::new(0, 1);
    sim.append(1, 1);
    let consumer = sim.attach("a");
    assert_eq!(sim.drain(consumer), []);
}

#[test]
fn a_large_batch_is_not_starved_by_small_ones_of_other_shards() {
    let mut sim = Sim::new(10, 2);
    let consumer = sim.attach("a");
    for _ in 0..5 {
        sim.append(2, 1);
    }
    let first = sim.drain(consumer);
    sim.append(1, 8);
    for _ in 0..100 {
        sim.append(2, 1);
    }
    let mut open: VecDeque<Seen> = first.into();
    let mut large_came = false;
    for _ in 0..20 {
        open.extend(sim.drain(consumer));
        large_came |= open.iter().any(|seen| seen.0 == 1);
        let Some((shard, lsn, indexes)) = open.pop_front() else { break };
        sim.ack(shard, lsn, indexes);
    }
    assert!(large_came);
}

#[test]
fn what_waited_behind_a_large_batch_follows_it_without_another_wake_up() {
    let mut sim = Sim::new(10, 2);
    let consumer = sim.attach("a");
    sim.append(2, 5);
    assert_eq!(sim.drain(consumer).len(), 1);
    sim.append(2, 8);
    assert_eq!(sim.drain(consumer), []);
    sim.append(1, 1);
    assert_eq!(sim.drain(consumer), [], "the large one comes first");
    sim.ack(2, 1, 0..5);
    sim.run();
    assert_eq!(sim.take(consumer).unwrap().1, 2);
    assert_eq!(sim.take(consumer), Some((1, 1, vec![0])));
}

#[test]
fn only_open_records_come_again_and_only_after_the_timeout() {
    let mut sim = Sim::new(100, 1);
    sim.append(1, 4);
    let consumer = sim.attach("a");
    sim.drain(consumer);
    sim.ack(1, 1, [1, 2]);
    assert_eq!(sim.run(), Some(sim.now + TIMEOUT));
    sim.now += TIMEOUT - Duration::from_millis(1);
    assert_eq!(sim.drain(consumer), []);
    sim.now += Duration::from_millis(1);
    assert_eq!(sim.drain(consumer), [(1, 1, vec![0, 3])]);
    assert_eq!(sim.state.shares.unacked(), 2);
    sim.ack(1, 1, [0, 3, 3]);
    sim.now += TIMEOUT;
    assert_eq!(sim.drain(consumer), []);
    assert_eq!(sim.state.unsaved(), [(1, 1)]);
}

#[test]
fn what_still_waits_to_leave_is_not_sent_twice() {
    let mut sim = Sim::new(100, 1);
    sim.append(1, 1);
    let consumer = sim.attach("a");
    sim.run();
    sim.now += TIMEOUT * 3;
    sim.run();
    assert_eq!(sim.drain(consumer), [(1, 1, vec![0])]);
}

#[test]
fn a_departed_consumers_batches_go_to_the_next_one() {
    let mut sim = Sim::new(100, 1);
    let a = sim.attach("a");
    for _ in 0..4 {
        sim.append(1, 1);
    }
    sim.run();
    assert_eq!((sim.take(a).unwrap().1, sim.take(a).unwrap().1), (1, 2));
    sim.detach(a);
    assert_eq!(sim.run(), None, "with nobody there no deadline matters");
    let b = sim.attach("b");
    let lsns = |seen: Vec<Seen>| seen.into_iter().map(|seen| seen.1).collect::<Vec<_>>();
    assert_eq!(lsns(sim.drain(b)), [3, 4], "what never left comes at once");
    sim.append(1, 1);
    assert_eq!(lsns(sim.drain(b)), [5]);
    sim.now += TIMEOUT;
    assert_eq!(lsns(sim.drain(b))[..2], [1, 2], "the rest when its time is up");
}

#[test]
fn a_moved_shard_waits_for_what_its_old_owner_has() {
    let moved = |sim: &mut Sim| {
        let a = sim.attach("a");
        sim.append(2, 2);
        assert_eq!(sim.drain(a), [(2, 1, vec![0, 1])]);
        let b = sim.attach("b");
        assert_eq!(sim.state.assignment.owner(2), Some(b));
        sim.append(2, 1);
        assert_eq!((sim.drain(a), sim.drain(b)), (vec![], vec![]));
        (a, b)
    };
    let mut acked = Sim::new(100, 2);
    let (_, b) = moved(&mut acked);
    acked.ack(2, 1, [0, 1]);
    assert_eq!(acked.drain(b), [(2, 2, vec![0])]);

    let mut timed_out = Sim::new(100, 2);
    let (a, b) = moved(&mut timed_out);
    timed_out.ack(2, 1, [0]);
    timed_out.now += TIMEOUT;
    assert_eq!(timed_out.drain(b), [(2, 1, vec![1]), (2, 2, vec![0])]);
    assert_eq!(timed_out.drain(a), []);

    let mut gone = Sim::new(100, 2);
    let (a, b) = moved(&mut gone);
    gone.detach(a);
    assert_eq!(gone.drain(b), [(2, 2, vec![0])]);
}

#[test]
fn a_consumer_that_takes_nothing_stalls_nobody_else() {
    let mut sim = Sim::new(1_000_000, 2);
    let slow = sim.attach("slow");
    let fast = sim.attach("fast");
    for _ in 0..1000 {
        sim.append_bytes(1, 1, 10_000);
        sim.append_bytes(2, 1, 10_000);
    }
    assert_eq!(sim.drain(fast).len(), 1000);
    sim.now += TIMEOUT;
    let again = sim.drain(fast).len();
    assert_eq!(again, 1000, "unacknowledged ones come again");
    assert!(sim.state.shares.unacked() < 1100, "the slow one holds one outbox, not the shard");
    assert!(!sim.drain(slow).is_empty());
}

#[test]
fn gaps_count_as_acknowledged_and_reading_goes_on_behind_them() {
    for kind in [GapKind::Trimmed, GapKind::DataLoss] {
        let mut sim = Sim::new(100, 1);
        let consumer = sim.attach("a");
        sim.state.tail(1, 20);
        assert!(matches!(sim.state.next_job(sim.now), Job::Read { shard: 1, from: 1, .. }));
        let gap = Some(Gap { kind, from: 1, to: 9 });
        sim.state.arrived(1, ReadChunk { gap, batches: vec![batch(10, 1, 1)], next: 11 }, sim.now);
        assert_eq!(sim.state.unsaved(), [(1, 9)]);
        assert_eq!(sim.take(consumer), Some((1, 10, vec![0])));
        assert!(matches!(sim.state.next_job(sim.now), Job::Read { shard: 1, from: 11, .. }));
    }
}

#[test]
fn a_read_that_finds_nothing_below_the_tail_is_repeated_later_not_at_once() {
    let mut sim = Sim::new(100, 1);
    sim.attach("a");
    sim.state.tail(1, 5);
    sim.state.arrived(1, ReadChunk { next: 1, ..Default::default() }, sim.now);
    assert_eq!(sim.state.next_job(sim.now), Job::Wait(Some(sim.now + RETRY)));
    sim.now += RETRY;
    assert!(matches!(sim.state.next_job(sim.now), Job::Read { .. }));
}

#[test]
fn what_was_trimmed_while_in_flight_is_done() {
    let mut sim = Sim::new(100, 1);
    let consumer = sim.attach("a");
    sim.append(1, 2);
    sim.append(1, 1);
    sim.drain(consumer);
    sim.ack(1, 2, [0]);
    sim.log.get_mut(&1).unwrap().remove(0);
    sim.now += TIMEOUT;
    assert_eq!(sim.drain(consumer), []);
    assert_eq!((sim.state.shares.unacked(), sim.state.unsaved()), (0, vec![(1, 2)]));
}

#[test]
fn names_are_unique_among_attached_consumers() {
    let mut sim = Sim::new(1, 1);
    let a = sim.attach("a");
    assert!(sim.state.attach(introduction("a"), sim.now).is_none());
    sim.detach(a);
    sim.attach("a");
}

#[test]
fn a_consumer_that_calls_again_takes_the_place_of_its_first_call() {
    let mut sim = Sim::new(100, 1);
    let called = |instance: &str| Introduction { instance: Some(instance.into()), ..introduction("a") };
    let (first, dead) = sim.state.attach(called("one"), sim.now).unwrap();
    sim.append(1, 1);
    sim.outboxes.insert(first, dead.clone());
    sim.run();
    assert_eq!(sim.take(first).map(|seen| seen.1), Some(1), "it left, and nobody got it");
    for other in [introduction("a"), called("two")] {
        assert!(sim.state.attach(other, sim.now).is_none(), "a name is one consumer's");
    }
    let (again, outbox) = sim.state.attach(called("one"), sim.now).unwrap();
    sim.outboxes.insert(again, outbox);
    assert!(dead.room().is_none(), "the first call is over");
    assert_eq!(sim.state.consumers().len(), 1);
    sim.append(1, 1);
    assert_eq!(sim.drain(again), [(1, 2, vec![0])], "what is new does not wait for what is lost");
    sim.now += TIMEOUT;
    assert_eq!(sim.drain(again).first().map(|seen| seen.1), Some(1));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Whatever consumers do, nothing is lost: each record is delivered until it is acknowledged, checkpoints
    /// cover only acknowledged records and never go back, the window is kept.
    #[test]
    fn every_record_is_acknowledged_in_the_end(
        max_unacked in 1u64..20,
        steps in proptest::collection::vec((0u8..8, 0u64..6, 1u32..6), 1..150)
    ) {
        let mut sim = Sim::new(max_unacked, 3);
        let mut attached: Vec<ConsumerId> = Vec::new();
        let mut acked: BTreeSet<(ShardId, Lsn, u32)> = BTreeSet::new();
        let mut received: Vec<Seen> = Vec::new();
        let mut saved: BTreeMap<ShardId, Lsn> = BTreeMap::new();
        let mut names = 0;
        for (step, number, count) in steps {
            match step {
                0 | 1 => {
                    sim.append(number % 3 + 1, count);
                }
                2 if attached.len() < 5 => {
                    names += 1;
                    attached.push(sim.attach(&names.to_string()));
                }
                3 if !attached.is_empty() => {
                    let gone = attached.remove(number as usize % attached.len());
                    sim.detach(gone);
                }
                4 => sim.now += TIMEOUT / count,
                5 | 6 if !received.is_empty() => {
                    let (shard, lsn, indexes) = received[number as usize * 7 % received.len()].clone();
                    let some: Vec<u32> = indexes.into_iter().take(count as usize).collect();
                    acked.extend(some.iter().map(|index| (shard, lsn, *index)));
                    sim.ack(shard, lsn, some);
                }
                _ => {
                    for consumer in &attached {
                        received.extend(sim.take(*consumer));
                    }
                }
            }
            sim.run();
            let in_flight: u64 = sim.state.shards.values().map(|shard| shard.window.unacked()).sum();
            proptest::prop_assert_eq!(sim.state.shares.unacked(), in_flight);
            let batches: usize = sim.state.shards.values().map(|shard| shard.window.batches()).sum();
            proptest::prop_assert_eq!(sim.state.in_flight, batches);
            proptest::prop_assert!(in_flight <= max_unacked || batches == 1, "{} in {}", in_flight, batches);
            for (shard, lsn) in sim.state.unsaved() {
                proptest::prop_assert!(saved.insert(shard, lsn).is_none_or(|before| before <= lsn));
                for batch in sim.log[&shard].iter().filter(|batch| batch.lsn <= lsn) {
                    for index in 0..batch.records {
                        proptest::prop_assert!(acked.contains(&(shard, batch.lsn, index)));
                    }
                }
            }
        }
        // One diligent consumer finishes the rest.
        for consumer in attached {
            sim.detach(consumer);
        }
        let last = sim.attach("last");
        for _ in 0..1000 {
            let seen = sim.drain(last);
            if seen.is_empty() && sim.state.shares.unacked() == 0 {
                break;
            }
            for (shard, lsn, indexes) in seen {
                acked.extend(indexes.iter().map(|index| (shard, lsn, *index)));
                sim.ack(shard, lsn, indexes);
            }
            sim.now += TIMEOUT;
        }
        let all: usize = sim.log.values().flatten().map(|batch| batch.records as usize).sum();
        proptest::prop_assert_eq!(acked.len(), all);
        for (shard, log) in &sim.log {
            let committed = sim.state.shards[shard].window.committed();
            proptest::prop_assert_eq!(committed, log.last().map_or(0, |batch| batch.lsn));
        }
    }
}

#[test]
fn a_silent_consumer_leaves_room_for_the_others() {
    let mut sim = Sim::new(100, 2);
    let (silent, busy) = (sim.attach("silent"), sim.attach("busy"));
    for _ in 0..200 {
        sim.append(1, 1);
        sim.append(2, 1);
    }
    let held = sim.drain(silent).len();
    let mut got = 0;
    while let seen = sim.drain(busy)
        && !seen.is_empty()
    {
        got += seen.len();
        for (shard, lsn, indexes) in seen {
            sim.ack(shard, lsn, indexes);
        }
    }
    assert_eq!(got, 200, "the silent one holds {held}");
    assert!(sim.state.shares.unacked() <= 100);
}

#[test]
fn what_is_too_large_for_the_window_holds_others_up_for_a_moment_only() {
    let mut sim = Sim::new(10, 3);
    for name in ["a", "b", "c"] {
        sim.attach(name);
    }
    let owner = |shard| sim.state.assignment.owner(shard).unwrap();
    let (silent, large, busy) = (owner(1), owner(2), owner(3));
    for _ in 0..3 {
        sim.append(1, 1);
    }
    assert_eq!(sim.drain(silent).len(), 3, "and never acknowledges them");
    // Needs more than will ever be free.
    sim.append(2, 8);
    for _ in 0..20 {
        sim.append(3, 1);
    }
    let mut got = 0;
    for _ in 0..40 {
        let Some(until) = sim.run() else { break };
        while let Some((shard, lsn, indexes)) = sim.take(busy) {
            got += 1;
            sim.ack(shard, lsn, indexes);
        }
        sim.now = sim.now.max(until.min(sim.now + PATIENCE));
    }
    assert_eq!(got, 20);
    sim.ack(1, 1, [0]);
    for _ in 0..2 {
        sim.now += PATIENCE;
        sim.run();
    }
    assert_eq!(sim.take(large), Some((2, 1, (0..8).collect())), "it is not forgotten either");
}

#[test]
fn what_a_departed_consumer_has_goes_to_others_at_once_if_asked_for() {
    for at_once in [false, true] {
        let mut sim = Sim::new(100, 1);
        sim.state.set_policy(at_once, 0);
        let (gone, next) = (sim.attach("gone"), sim.attach("next"));
        sim.append(1, 2);
        assert_eq!(sim.drain(gone), [(1, 1, vec![0, 1])]);
        sim.ack(1, 1, [1]);
        sim.detach(gone);
        let expected: &[Seen] = if at_once { &[(1, 1, vec![0])] } else { &[] };
        assert_eq!(sim.drain(next), expected);
        sim.now += TIMEOUT;
        assert_eq!(sim.drain(next), [(1, 1, vec![0])]);
    }
}

#[test]
fn what_was_delivered_often_enough_is_buried_instead() {
    let mut sim = Sim::new(100, 1);
    sim.state.set_policy(false, 3);
    let consumer = sim.attach("a");
    sim.append(1, 3);
    sim.append(1, 1);
    for delivery in 1..=3 {
        let seen = sim.drain(consumer);
        assert_eq!(seen[0].0, 1, "delivery {delivery}");
        sim.ack(1, 2, [0]);
        if delivery == 2 {
            sim.ack(1, 1, [1]);
        }
        assert!(sim.buried.is_empty());
        sim.now += TIMEOUT;
    }
    assert_eq!(sim.drain(consumer), []);
    assert_eq!(sim.buried, [(1, 1, vec![0, 2], 3)]);
    assert_eq!((sim.state.shares.unacked(), sim.state.unsaved()), (0, vec![(1, 2)]));
}

#[test]
fn consumers_that_ask_hear_of_durable_checkpoints() {
    let mut sim = Sim::new(100, 2);
    sim.state.saved(2, 7);
    let asks = Introduction { confirm: true, ..introduction("asks") };
    let (_, outbox) = sim.state.attach(asks, sim.now).unwrap();
    let silent = sim.attach("silent");
    sim.state.saved(1, 3);
    sim.state.saved(1, 4);
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok((message, _))) = outbox.poll(&mut context) else { panic!("nothing came") };
    let received = message.received_records.unwrap();
    assert_eq!(received.record, None);
    let checkpoints: Vec<_> = received.record_ids.iter().map(|id| (id.shard_id, id.batch_id)).collect();
    assert_eq!(checkpoints, [(1, 4), (2, 7)]);
    assert!(outbox.poll(&mut context).is_pending());
    assert_eq!(sim.take(silent), None);
}

#[test]
fn acknowledgements_of_a_consumer_that_comes_back_spare_it_what_they_are_for() {
    let mut sim = Sim::new(1000, 1);
    for records in [2, 3, 1, 4] {
        sim.append(1, records);
    }
    sim.ack(1, 1, 0..2);
    sim.ack(1, 2, [1]);
    sim.ack(1, 4, 0..4);
    sim.ack(1, 9, [0]);
    let consumer = sim.attach("a");
    assert_eq!(sim.drain(consumer), [(1, 3, vec![0]), (1, 2, vec![0, 2])]);
    assert!(sim.state.passed_over() && !sim.state.passed_over());
    assert_eq!(sim.state.shards[&1].window.committed(), 1);
    assert_eq!(sim.state.shards[&1].window.unacked(), 3);
    sim.ack(1, 3, [0]);
    sim.ack(1, 2, [0, 2]);
    assert_eq!(sim.state.shards[&1].window.committed(), 4);
    assert_eq!(sim.append(1, 2), 5);
    assert_eq!(sim.drain(consumer), [(1, 5, vec![0, 1])]);
}

#[test]
fn early_acknowledgements_need_a_consumer_that_knows_the_incarnation() {
    let mut sim = Sim::new(1000, 1);
    sim.append(1, 1);
    let early = RecordId { shard_id: 1, batch_id: 1, batch_index: 0 };
    sim.state.ack(&[early], false);
    let consumer = sim.attach("a");
    assert_eq!(sim.drain(consumer), [(1, 1, vec![0])]);
}

#[test]
fn a_part_of_a_batch_goes_out_whole_where_deliveries_are_limited() {
    let mut sim = Sim::new(1000, 1);
    sim.state.set_policy(false, 1);
    sim.append(1, 3);
    sim.ack(1, 1, [1]);
    let consumer = sim.attach("a");
    assert_eq!(sim.drain(consumer), [(1, 1, vec![0, 1, 2])]);
    assert!(sim.buried.is_empty());
    assert_eq!(sim.state.shards[&1].window.unacked(), 2);
}
