//! What an application is told: batches, flushes, reports.

use super::model::{Faults, Model, producer, small_batches};
use crate::{
    error::{ErrorKind, Result},
    producer::settings::{OnBatch, ProducerSettings},
    record::{Record, RecordBatch, RecordId},
};
use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    shard_id: u64,
    records: usize,
    bytes: usize,
    result: Result<Vec<RecordId>, ErrorKind>,
    parts: Vec<(u64, Range<usize>)>,
}

/// Settings that write down every report.
fn watched(settings: ProducerSettings) -> (ProducerSettings, Arc<Mutex<Vec<Seen>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let to = seen.clone();
    let on_batch = OnBatch(Arc::new(move |report| {
        assert_eq!(report.stream, "s");
        to.lock().unwrap().push(Seen {
            shard_id: report.shard_id,
            records: report.records,
            bytes: report.bytes,
            result: report.result.map(<[_]>::to_vec).map_err(|error| error.kind()),
            parts: report.parts.iter().map(|part| (part.tag, part.positions.clone())).collect(),
        });
    }));
    (ProducerSettings { on_batch: Some(on_batch), ..settings }, seen)
}

fn numbered(count: usize) -> RecordBatch {
    let mut batch = RecordBatch::default();
    (0..count).for_each(|number| batch.push("", number.to_string().as_bytes()));
    batch
}

#[tokio::test(start_paused = true)]
async fn every_batch_is_reported_once_with_its_shard_size_and_ids() {
    let model = Model::new(1, 1, Faults { answer_lost: 30, ..Faults::default() }, true);
    let (settings, seen) = watched(small_batches());
    let producer = producer(&model, settings);
    let ids = producer.append_many(numbered(10).with_tag(3)).await.unwrap().await.into_result().unwrap();
    let refused = producer.append(Record::raw("poison")).await.unwrap();
    assert_eq!(producer.flush().await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(refused.await.is_err());
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(seen.iter().map(|batch| batch.records).collect::<Vec<_>>(), [4, 4, 2, 1]);
    assert!(seen.iter().all(|batch| batch.shard_id == 1));
    // A header of 2 + 2 bytes and a payload of 2 + 1 in an envelope of 2.
    assert_eq!(seen[0].bytes, 4 * 9);
    let told: Vec<RecordId> = seen.iter().filter_map(|batch| batch.result.clone().ok()).flatten().collect();
    assert_eq!(told, ids);
    assert_eq!(seen[3].result, Err(ErrorKind::InvalidArgument));
    // Which records they were, also of the one that failed.
    let parts: Vec<_> = seen.iter().flat_map(|batch| batch.parts.clone()).collect();
    assert_eq!(parts, [(3, 0..4), (3, 4..8), (3, 8..10), (0, 0..1)]);
}

#[tokio::test(start_paused = true)]
async fn a_record_of_a_tagged_call_that_gets_into_no_batch_is_told_alone() {
    let model = Model::new(1, 1, Faults::default(), true);
    let (settings, seen) = watched(small_batches());
    let producer = producer(&model, settings);
    for tag in [0, 5] {
        let mut batch = numbered(1);
        batch.push("", &vec![0; 2 << 20]);
        let outcome = producer.append_many(batch.with_tag(tag)).await.unwrap().await;
        assert_eq!(outcome.errors[0].0, 1..2);
    }
    producer.flush().await.unwrap_or_default();
    let seen = seen.lock().unwrap();
    let mut told: Vec<_> = seen.iter().map(|batch| (batch.parts.clone(), batch.result.is_ok())).collect();
    told.sort_by_key(|(parts, ok)| (parts[0].0, !ok));
    // Without a tag nobody could say which record it is.
    assert_eq!(told, [(vec![(0, 0..1)], true), (vec![(5, 0..1)], true), (vec![(5, 1..2)], false)]);
}

#[tokio::test(start_paused = true)]
async fn batches_that_a_close_gives_up_are_reported_too() {
    let model = Model::new(1, 1, Faults { hangs: 100, ..Faults::default() }, true);
    let (settings, seen) = watched(ProducerSettings { max_inflight_per_shard: 2, ..small_batches() });
    let producer = producer(&model, settings);
    let _receipt = producer.append_many(numbered(16)).await.unwrap();
    producer.close(Duration::from_millis(100)).await.unwrap();
    let results: Vec<_> = seen.lock().unwrap().iter().map(|batch| batch.result.clone()).collect();
    let (unknown, closed) = (Err(ErrorKind::OutcomeUnknown), Err(ErrorKind::Closed));
    assert_eq!(results, [unknown.clone(), unknown, closed.clone(), closed]);
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_panics_or_uses_the_producer_harms_nobody() {
    let model = Model::new(1, 1, Faults::default(), true);
    let calls = Arc::new(AtomicU32::new(0));
    let (counted, slot) = (calls.clone(), Arc::new(Mutex::new(None::<crate::Producer>)));
    let own = slot.clone();
    let on_batch = OnBatch(Arc::new(move |_| {
        let producer = own.lock().unwrap().clone();
        // Would not return if a lock were held.
        assert!(producer.is_some_and(|producer| producer.pending().records < 100));
        if counted.fetch_add(1, SeqCst) == 0 {
            panic!("in user code");
        }
    }));
    let producer = producer(&model, ProducerSettings { on_batch: Some(on_batch), ..small_batches() });
    *slot.lock().unwrap() = Some(producer.clone());
    producer.append_many(numbered(8)).await.unwrap().await.into_result().unwrap();
    producer.flush().await.unwrap();
    assert_eq!(calls.load(SeqCst), 2);
    slot.lock().unwrap().take();
}

#[tokio::test(start_paused = true)]
async fn flushing_a_key_or_a_shard_sends_that_shard_only() {
    let model = Model::new(1, 3, Faults { slow: 100, ..Faults::default() }, true);
    let settings =
        ProducerSettings { batch_max_age: Duration::from_secs(3600), ..ProducerSettings::default() };
    let producer = producer(&model, settings);
    // Shards 1, 2, 3 of three.
    let [low, middle, high] = ["a", "hello", ""];
    let mut receipts = Vec::new();
    for key in [low, middle, high, middle] {
        receipts.push(producer.append(Record::raw("1").with_key(key)).await.unwrap());
    }
    let started = Instant::now();
    producer.flush_key(low).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "it does not wait for the others");
    receipts.remove(0).await.unwrap();
    assert_eq!(producer.pending().records, 3);
    // The same by its id.
    producer.flush_shard(3).await.unwrap();
    receipts.remove(1).await.unwrap();
    assert_eq!(producer.pending().records, 2);
    assert_eq!(producer.flush_shard(4).await.unwrap_err().kind(), ErrorKind::Routing);
    producer.flush().await.unwrap();
    for receipt in receipts {
        receipt.await.unwrap();
    }
    producer.flush_key(high).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_flush_of_a_key_reports_the_errors_of_its_shard_and_leaves_those_of_others() {
    let model = Model::new(1, 3, Faults::default(), true);
    let settings =
        ProducerSettings { batch_max_age: Duration::from_secs(3600), ..ProducerSettings::default() };
    let producer = producer(&model, settings);
    let _lost = producer.append(Record::raw("poison").with_key("a")).await.unwrap();
    let _kept = producer.append(Record::raw("1")).await.unwrap();
    producer.flush_key("").await.unwrap();
    assert_eq!(producer.flush_key("a").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    producer.flush().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn tries_are_as_many_as_the_producer_is_told() {
    for (attempts, appends) in [(1, 1), (3, 3)] {
        let model = Model::new(1, 1, Faults::default(), true);
        model.down.store(true, SeqCst);
        let settings = ProducerSettings { retry_max_attempts: Some(attempts), ..small_batches() };
        let producer = producer(&model, settings);
        let error = producer.append(Record::raw("1")).await.unwrap().await.unwrap_err();
        assert_eq!((error.kind(), error.tries()), (ErrorKind::Unavailable, attempts), "{error}");
        assert!(!error.may_have_been_applied());
        assert_eq!(model.appends.load(SeqCst), appends);
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_says_why_a_shard_took_nothing() {
    let model = Model::new(1, 1, Faults::default(), true);
    model.down.store(true, SeqCst);
    let producer = producer(&model, small_batches());
    let receipt = producer.append(Record::raw("1")).await.unwrap();
    sleep(Duration::from_millis(500)).await;
    let report = producer.close(Duration::from_millis(100)).await.unwrap();
    let [shard] = report.shards.as_slice() else { panic!("{report:?}") };
    assert_eq!((shard.shard_id, shard.may_be_stored, shard.not_stored), (1, 0, 1));
    assert_eq!(shard.cause.as_ref().unwrap().kind(), ErrorKind::Unavailable);
    let error = timeout(Duration::from_secs(1), receipt).await.unwrap().unwrap_err();
    assert!(error.message().contains("the last failure was"), "{error}");
}
