//! The window against simple cases and against a model that forgets nothing.

use super::*;
use std::collections::HashSet;
use std::time::Duration;

const A: Delivery = Delivery { consumer: ConsumerId(1), message: 0 };
const B: Delivery = Delivery { consumer: ConsumerId(2), message: 0 };

fn window(batches: &[(Lsn, u32)]) -> (AckWindow, Instant) {
    let now = Instant::now();
    let mut window = AckWindow::new(9, now);
    for (lsn, records) in batches {
        window.deliver(*lsn, *records, A, now);
    }
    (window, now)
}

fn acked(window: &mut AckWindow, lsn: Lsn, index: u32) -> bool {
    window.ack(lsn, index).is_some()
}

#[test]
fn only_the_complete_prefix_is_committed() {
    let (mut window, _) = window(&[(10, 1), (15, 2), (20, 1)]);
    assert_eq!(window.committed(), 9);
    assert!(acked(&mut window, 20, 0) && acked(&mut window, 15, 0));
    assert_eq!(window.committed(), 9);
    assert!(acked(&mut window, 10, 0));
    assert_eq!(window.committed(), 10);
    assert!(acked(&mut window, 15, 1));
    assert_eq!(window.committed(), 20);
    assert_eq!((window.unacked(), window.batches()), (0, 0));
}

#[test]
fn repeated_and_unknown_ids_change_nothing() {
    let (mut window, _) = window(&[(10, 2), (15, 2)]);
    assert!(acked(&mut window, 10, 1));
    for (lsn, index) in [(10, 1), (10, 2), (10, u32::MAX), (11, 0), (9, 0), (u64::MAX, 0)] {
        assert!(!acked(&mut window, lsn, index), "{lsn} {index}");
    }
    assert_eq!(window.unacked(), 3);
}

#[test]
fn one_stuck_record_costs_one_entry_however_much_is_done_behind_it() {
    let (mut window, now) = window(&[(10, 1)]);
    for lsn in 11..100_000 {
        window.deliver(lsn, 3, A, now);
        for index in 0..3 {
            assert!(acked(&mut window, lsn, index));
        }
    }
    assert_eq!((window.committed(), window.batches()), (9, 1));
    assert!(acked(&mut window, 10, 0));
    assert_eq!(window.committed(), 99_999);
}

#[test]
fn deadlines_expire_in_order_and_move_with_every_redelivery() {
    let (mut window, now) = window(&[(10, 1), (11, 1)]);
    let later = now + Duration::from_secs(5);
    assert_eq!(window.first_due(now), Some(10));
    window.redeliver(10, B, later);
    assert_eq!(window.first_due(now), Some(11));
    assert_eq!(window.next_deadline(), Some(now));
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
    let mut window = AckWindow::new(0, now);
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
    assert_eq!(window.drop_batch(10), Some((A.consumer, 1)));
    assert_eq!(window.committed(), 30);
    window.ack(31, 0);
    window.skip(40);
    assert_eq!(window.committed(), 40);
}

#[test]
fn a_slot_stays_small_and_a_drained_window_gives_its_memory_back() {
    assert!(size_of::<Slot>() <= 64);
    let now = Instant::now();
    let mut window = AckWindow::new(0, now);
    for lsn in 1..=100_000 {
        window.deliver(lsn, 1, A, now + Duration::from_nanos(lsn));
    }
    for lsn in (1..=100_000).rev() {
        assert!(acked(&mut window, lsn, 0));
    }
    assert_eq!((window.committed(), window.next_deadline()), (100_000, None));
    assert!(window.slots.capacity() <= 2 * STALE && window.queue.capacity() <= 2 * STALE);
}

/// One batch of the model.
struct Known {
    lsn: Lsn,
    records: u32,
    acked: HashSet<u32>,
    deadline: u64,
    consumer: ConsumerId,
    deliveries: u32,
}

impl Known {
    fn open(&self) -> u32 {
        self.records - self.acked.len() as u32
    }
}

proptest::proptest! {
    /// Against a model that keeps every batch it ever saw.
    #[test]
    fn behaves_like_a_list_of_all_batches(
        steps in proptest::collection::vec((0u8..9, 0u64..60, 0u32..5), 1..400)
    ) {
        let epoch = Instant::now();
        let at = |tick: u64| epoch + Duration::from_nanos(tick);
        let mut window = AckWindow::new(0, epoch);
        let mut model: Vec<Known> = Vec::new();
        let (mut position, mut committed_before, mut now) = (0, 0, 100);
        for (step, number, index) in steps {
            let consumer = ConsumerId(u64::from(index) % 2);
            let to = Delivery { consumer, message: number };
            match step {
                0..=2 => {
                    position += 1 + number % 3;
                    now += number;
                    let (records, deadline) = (index + 1, now + 50);
                    window.deliver(position, records, to, at(deadline));
                    let acked = HashSet::new();
                    model.push(Known { lsn: position, records, acked, deadline, consumer, deliveries: 1 });
                }
                3 => {
                    position += 1;
                    window.skip(position);
                    let acked = HashSet::new();
                    model.push(Known { lsn: position, records: 0, acked, deadline: 0, consumer, deliveries: 0 });
                }
                4 | 5 => {
                    let known = model.iter_mut().find(|known| known.lsn == number && index < known.records);
                    let holder = known.and_then(|known| known.acked.insert(index).then_some(known.consumer));
                    proptest::prop_assert_eq!(window.ack(number, index), holder);
                }
                6 => {
                    let open = model.iter_mut().find(|known| known.lsn == number && known.open() > 0);
                    let expected = open.map(|known| {
                        let open = known.open();
                        known.acked.extend(0..known.records);
                        (known.consumer, open)
                    });
                    proptest::prop_assert_eq!(window.drop_batch(number), expected);
                }
                7 => {
                    let deadline = now + u64::from(index) * 20;
                    let open = model.iter_mut().find(|known| known.lsn == number && known.open() > 0);
                    let expected = open.map(|known| {
                        known.deadline = deadline;
                        known.deliveries += 1;
                        (std::mem::replace(&mut known.consumer, consumer), known.open())
                    });
                    proptest::prop_assert_eq!(window.redeliver(number, to, at(deadline)), expected);
                }
                _ => {
                    window.expire(consumer, 0, at(now));
                    for known in model.iter_mut().filter(|known| known.consumer == consumer) {
                        known.deadline = now;
                    }
                }
            }
            let committed = model.iter().take_while(|known| known.open() == 0).last().map_or(0, |known| known.lsn);
            proptest::prop_assert_eq!(window.committed(), committed);
            proptest::prop_assert!(committed >= committed_before);
            committed_before = committed;
            let open: Vec<&Known> = model.iter().filter(|known| known.open() > 0).collect();
            let unacked: u64 = open.iter().map(|known| u64::from(known.open())).sum();
            proptest::prop_assert_eq!((window.unacked(), window.batches()), (unacked, open.len()));
            for consumer in [ConsumerId(0), ConsumerId(1)] {
                let held: u64 =
                    open.iter().filter(|known| known.consumer == consumer).map(|known| u64::from(known.open())).sum();
                proptest::prop_assert_eq!(window.held_by(consumer), held);
                proptest::prop_assert_eq!(window.holders().any(|holder| holder == consumer), held > 0);
            }
            let first = open.iter().map(|known| known.deadline).min();
            proptest::prop_assert_eq!(window.next_deadline(), first.map(at));
            let due = window.first_due(at(now)).map(|lsn| open.iter().find(|known| known.lsn == lsn).unwrap().deadline);
            proptest::prop_assert_eq!(due, first.filter(|first| *first <= now));
            for known in &model {
                let listed: Vec<u32> = window.open(known.lsn).into_iter().flatten().flatten().collect();
                let expected: Vec<u32> = (0..known.records).filter(|i| !known.acked.contains(i)).collect();
                proptest::prop_assert_eq!(listed, expected);
                if known.open() > 0 {
                    proptest::prop_assert_eq!(window.deliveries(known.lsn), known.deliveries);
                }
            }
        }
    }
}
