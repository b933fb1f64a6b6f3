//! The pipelines against a model of a server.

mod model;
mod observing;
mod routing;

use super::{Producer, outcome::AppendOutcome, settings::ProducerSettings};
use crate::{
    error::ErrorKind,
    record::{Record, RecordBatch, RecordId},
};
use model::{Faults, Model, producer, small_batches};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::{collections::HashMap, sync::atomic::Ordering::SeqCst, time::Duration};
use tokio::time::sleep;

/// What was appended in one call and what became of it.
struct Told {
    first: usize,
    outcome: AppendOutcome,
}

/// Appends `count` numbered records in calls of several sizes and waits for all of them.
async fn append_numbered(producer: &Producer, count: usize, seed: u64, poison: bool) -> Vec<Told> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut receipts = Vec::new();
    let mut next = 0;
    while next < count {
        let size = random.random_range(1..8).min(count - next);
        let mut batch = RecordBatch::default();
        for number in next..next + size {
            let bad = if poison && random.random_range(0..40) == 0 { " poison" } else { "" };
            batch.push(&format!("key{}", number % 5), format!("{number}{bad}").as_bytes());
        }
        receipts.push((next, producer.append_many(batch).await.unwrap()));
        next += size;
        if random.random_range(0..4) == 0 {
            sleep(Duration::from_millis(random.random_range(0..40))).await;
        }
    }
    let mut told = Vec::new();
    for (first, receipt) in receipts {
        told.push(Told { first, outcome: receipt.await });
    }
    told
}

/// Checks receipts against what the server holds.
fn check(model: &Model, told: &[Told], ordered: bool, context: &str) {
    let shards = model.shards.lock().unwrap();
    let mut stored: HashMap<usize, Vec<RecordId>> = HashMap::new();
    for log in shards.values() {
        let numbers: Vec<usize> = log
            .records
            .iter()
            .map(|(payload, _)| payload.split(' ').next().unwrap().parse().unwrap())
            .collect();
        if ordered {
            assert!(numbers.is_sorted_by(|a, b| a < b), "{context}: order of a shard: {numbers:?}");
        }
        for (number, (_, id)) in numbers.iter().zip(&log.records) {
            stored.entry(*number).or_default().push(*id);
        }
    }
    for (number, ids) in &stored {
        assert_eq!(ids.len(), 1, "{context}: record {number} is stored several times");
    }
    for Told { first, outcome } in told {
        let mut failed = vec![None; outcome.ids.len()];
        for (range, error) in &outcome.errors {
            for position in range.clone() {
                assert!(failed[position].replace(error).is_none(), "{context}: two errors for one record");
            }
        }
        for (position, id) in outcome.ids.iter().enumerate() {
            let number = first + position;
            match (id, failed[position]) {
                (Some(id), None) => {
                    assert_eq!(
                        stored.get(&number),
                        Some(&vec![*id]),
                        "{context}: record {number} is acknowledged"
                    )
                }
                (None, Some(error)) if !error.may_have_been_applied() => {
                    assert!(!stored.contains_key(&number), "{context}: record {number} failed: {error}");
                }
                (None, Some(error)) => assert_eq!(error.kind(), ErrorKind::OutcomeUnknown),
                (id, error) => panic!("{context}: record {number} has {id:?} and {error:?}"),
            }
        }
    }
}

fn acknowledged(told: &[Told]) -> usize {
    told.iter().map(|told| told.outcome.ids.iter().flatten().count()).sum()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_doubled_or_reordered_whatever_the_network_does() {
    for seed in 0..40 {
        let faults = Faults {
            connect_fails: 8,
            request_lost: 8,
            answer_lost: 8,
            late: if seed % 2 == 0 { 6 } else { 0 },
            hangs: 2,
            slow: 40,
        };
        let model = Model::new(seed, 3, faults, true);
        let producer = producer(&model, small_batches());
        let told = append_numbered(&producer, 300, seed, false).await;
        check(&model, &told, true, &format!("seed {seed}"));
        assert_eq!(
            acknowledged(&told),
            300,
            "seed {seed}: {:?}",
            told.iter().find_map(|t| t.outcome.errors.first())
        );
        assert_eq!(producer.pending().records, 0);
        assert_eq!(producer.pending().bytes, 0);
        let gauges = model.metrics.snapshot().gauges;
        assert!(gauges.iter().all(|(_, value)| *value == 0), "seed {seed}: {gauges:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_fails_alone_and_the_order_of_the_others_is_kept() {
    for seed in 0..40 {
        let faults =
            Faults { connect_fails: 5, request_lost: 5, answer_lost: 5, late: 5, hangs: 1, slow: 40 };
        let model = Model::new(seed, 2, faults, true);
        let producer = producer(&model, small_batches());
        let told = append_numbered(&producer, 300, seed, true).await;
        check(&model, &told, true, &format!("seed {seed}"));
        assert!(acknowledged(&told) > 100, "seed {seed}: {} of 300", acknowledged(&told));
        assert!(acknowledged(&told) < 300, "seed {seed}: nothing was refused");
        assert_eq!(producer.pending().records, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn batches_that_run_out_of_time_are_told_apart_from_those_that_are_certainly_not_stored() {
    for seed in 0..30 {
        // Heavy losses and little time: many batches give up.
        let faults =
            Faults { connect_fails: 20, request_lost: 30, answer_lost: 20, late: 10, hangs: 5, slow: 10 };
        let model = Model::new(seed, 2, faults, true);
        let settings = ProducerSettings { delivery_timeout: Duration::from_millis(400), ..small_batches() };
        let producer = producer(&model, settings);
        let told = append_numbered(&producer, 300, seed, false).await;
        // What is late comes in before the books are checked.
        sleep(Duration::from_secs(10)).await;
        check(&model, &told, true, &format!("seed {seed}"));
        assert_eq!(producer.pending().records, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn without_stamps_nothing_is_doubled_and_lost_answers_are_unknown_outcomes() {
    let mut unknown = 0;
    for seed in 0..30 {
        let faults =
            Faults { connect_fails: 10, request_lost: 5, answer_lost: 5, late: 3, hangs: 1, slow: 20 };
        let model = Model::new(seed, 2, faults, false);
        let producer = producer(&model, small_batches());
        let told = append_numbered(&producer, 200, seed, true).await;
        sleep(Duration::from_secs(10)).await;
        check(&model, &told, false, &format!("seed {seed}"));
        unknown += told
            .iter()
            .flat_map(|told| &told.outcome.errors)
            .filter(|(_, error)| error.kind() == ErrorKind::OutcomeUnknown)
            .count();
    }
    assert!(unknown > 0);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_producer_goes_on_under_a_new_epoch() {
    let model = Model::new(1, 1, Faults::default(), true);
    let producer = producer(&model, small_batches());
    append_numbered(&producer, 40, 1, false).await;
    model.shards.lock().unwrap().values_mut().for_each(|log| log.producers.clear());
    let later = append_numbered(&producer, 40, 2, false).await;
    assert_eq!(acknowledged(&later), 40);
    assert_eq!(model.shards.lock().unwrap()[&1].records.len(), 80);
}

#[tokio::test(start_paused = true)]
async fn close_sends_what_was_accepted_and_refuses_what_comes_after() {
    let model = Model::new(1, 3, Faults { slow: 100, ..Faults::default() }, true);
    let settings =
        ProducerSettings { batch_max_age: Duration::from_secs(3600), ..ProducerSettings::default() };
    let producer = producer(&model, settings);
    let mut receipts = Vec::new();
    for number in 0..250 {
        let record = Record::raw(number.to_string()).with_key(format!("key{}", number % 5));
        receipts.push(producer.append(record).await.unwrap());
    }
    let report = producer.close(Duration::from_secs(10)).await.unwrap();
    assert_eq!((report.acknowledged, report.failed, report.unresolved), (250, 0, 0));
    assert!(report.shards.is_empty());
    for receipt in receipts {
        receipt.await.unwrap();
    }
    assert_eq!(producer.append(Record::raw("late")).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(producer.try_append(Record::raw("late")).unwrap_err().kind(), ErrorKind::Closed);
    let (error, batch, _) =
        producer.try_append_many([Record::raw("late")].iter().collect(), Box::new(|_| {})).unwrap_err();
    assert_eq!((error.kind(), batch.len()), (ErrorKind::Closed, 1));
    let again = producer.close(Duration::ZERO).await.unwrap();
    assert_eq!(again.acknowledged, report.acknowledged, "closing again is harmless");
}

#[tokio::test(start_paused = true)]
async fn close_gives_up_in_time_and_says_what_may_be_stored() {
    let model = Model::new(1, 1, Faults { hangs: 100, ..Faults::default() }, true);
    let settings = ProducerSettings { max_inflight_per_shard: 2, batch_max_records: 1, ..small_batches() };
    let producer = producer(&model, settings);
    let mut receipts = Vec::new();
    for number in 0..5 {
        receipts.push(producer.append(Record::raw(number.to_string())).await.unwrap());
    }
    let started = tokio::time::Instant::now();
    let report = producer.close(Duration::from_millis(500)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!((report.acknowledged, report.failed, report.unresolved), (0, 0, 5));
    let shards: Vec<_> =
        report.shards.iter().map(|shard| (shard.shard_id, shard.may_be_stored, shard.not_stored)).collect();
    assert_eq!(shards, [(1, 2, 3)]);
    // They were reported once; closing the client afterwards has nothing to complain of.
    crate::cluster::Closable::close(&**producer.shared(), Duration::from_secs(1)).await.unwrap();
    let mut kinds = Vec::new();
    for receipt in receipts {
        kinds.push(receipt.await.unwrap_err().kind());
    }
    let (unknown, closed) = (ErrorKind::OutcomeUnknown, ErrorKind::Closed);
    assert_eq!(kinds, [unknown, unknown, closed, closed, closed]);
    assert_eq!(producer.pending().records, 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_producer_still_sends_what_was_accepted() {
    let model = Model::new(1, 1, Faults { slow: 100, ..Faults::default() }, true);
    let settings =
        ProducerSettings { batch_max_age: Duration::from_secs(3600), ..ProducerSettings::default() };
    let producer = producer(&model, settings);
    let receipt = producer.append(Record::raw("1")).await.unwrap();
    drop(producer);
    receipt.await.unwrap();
}

#[test]
fn a_runtime_that_goes_away_resolves_every_receipt_and_completion() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (sender, outcomes) = std::sync::mpsc::channel();
    let (producer, receipt) = runtime.block_on(async {
        let model = Model::new(1, 2, Faults { hangs: 100, ..Faults::default() }, true);
        let producer = producer(&model, ProducerSettings { batch_max_records: 1, ..small_batches() });
        let receipt = producer.append(Record::raw("1")).await.unwrap();
        for key in ["key1", "key2", "a", "hello"] {
            let sender = sender.clone();
            let mut batch = RecordBatch::default();
            batch.push(key, b"2");
            producer
                .try_append_many(batch, Box::new(move |outcome| sender.send(outcome).unwrap()))
                .ok()
                .unwrap();
        }
        (producer, receipt)
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    for _ in 0..4 {
        let outcome = outcomes.recv_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!(outcome.errors.len(), 1, "{outcome:?}");
    }
    assert!(futures::executor::block_on(receipt).is_err());
    let (error, _, _) =
        producer.try_append_many([Record::raw("x")].iter().collect(), Box::new(|_| {})).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(producer.pending().records, 0);
}

#[tokio::test(start_paused = true)]
async fn flow_control_waits_fails_or_times_out() {
    let build = |when_full| {
        let model = Model::new(1, 1, Faults::default(), true);
        model.down.store(true, SeqCst);
        let settings = ProducerSettings { flow_control_records: 2, when_full, ..small_batches() };
        (producer(&model, settings), model)
    };
    let (failing, _model) = build(super::WhenFull::Fail);
    let _receipts =
        (failing.append(Record::raw("1")).await.unwrap(), failing.append(Record::raw("2")).await.unwrap());
    assert_eq!(failing.append(Record::raw("3")).await.unwrap_err().kind(), ErrorKind::Overloaded);

    let (timed, _model) = build(super::WhenFull::WaitTimeout(Duration::from_millis(50)));
    let _receipts = timed.append_many([Record::raw("1"), Record::raw("2")].iter().collect()).await.unwrap();
    assert_eq!(timed.append(Record::raw("3")).await.unwrap_err().kind(), ErrorKind::Overloaded);
    let (error, ..) =
        timed.try_append_many([Record::raw("3")].iter().collect(), Box::new(|_| {})).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    let three: RecordBatch = [Record::raw("1"), Record::raw("2"), Record::raw("3")].iter().collect();
    assert_eq!(timed.append_many(three).await.unwrap_err().kind(), ErrorKind::InvalidArgument);

    let (waiting, model) = build(super::WhenFull::Wait);
    let _receipts = waiting.append_many([Record::raw("1"), Record::raw("2")].iter().collect()).await.unwrap();
    let room = waiting.room(1, 1);
    let third = waiting.append(Record::raw("3"));
    model.down.store(false, SeqCst);
    third.await.unwrap().await.unwrap();
    room.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn flush_resolves_when_everything_before_it_is_resolved() {
    let model = Model::new(1, 3, Faults { slow: 100, ..Faults::default() }, true);
    let settings =
        ProducerSettings { batch_max_age: Duration::from_secs(3600), ..ProducerSettings::default() };
    let producer = producer(&model, settings);
    let batch: RecordBatch = (0..50).map(|n| Record::raw(n.to_string())).collect::<Vec<_>>().iter().collect();
    let receipt = producer.append_many(batch).await.unwrap();
    producer.flush().await.unwrap();
    assert_eq!(producer.pending().records, 0);
    receipt.await.into_result().unwrap();
    let _poisoned = producer.append(Record::raw("0 poison")).await.unwrap();
    assert_eq!(producer.flush().await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    producer.flush().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_can_never_be_sent_fails_alone_through_the_completion() {
    let model = Model::new(1, 1, Faults::default(), true);
    let producer = producer(&model, small_batches());
    let error = producer.append(Record::raw(vec![0; 1 << 20])).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::InvalidArgument, Some(207)));
    let records = [Record::raw("1"), Record::raw(vec![0; 1 << 20]), Record::raw("2")];
    let outcome = producer.append_many(records.iter().collect()).await.unwrap().await;
    assert!(outcome.ids[0].is_some() && outcome.ids[1].is_none() && outcome.ids[2].is_some());
    assert_eq!(outcome.errors[0].0, 1..2);
    let nothing = producer.append_many(RecordBatch::default()).await.unwrap().await;
    assert!(nothing.ids.is_empty() && nothing.errors.is_empty());
}
