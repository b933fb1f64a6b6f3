//! The pipelines against a model of a server that keeps the protocol of `hstreamdb_proto::metadata`, behind a
//! network that loses requests and answers, and delivers some of them late.

use super::{
    Producer,
    outcome::AppendOutcome,
    settings::ProducerSettings,
    shared::{Identity, Shared},
    transport::{Answer, Stamp, Transport},
};
use crate::{
    error::{Error, ErrorKind, Result},
    metrics::Metrics,
    record::{Record, RecordBatch, RecordId},
    retry::RetryPolicy,
    routing::ShardMap,
};
use futures::future::BoxFuture;
use hstreamdb_proto::{
    api::{AppendRequest, BatchHStreamRecords, Shard},
    metadata::producer_error,
    partition::even_range,
};
use prost::Message as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::sleep;
use tonic::{Code, Status};

/// How often the network does what, in percent.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    connect_fails: u32,
    request_lost: u32,
    answer_lost: u32,
    late: u32,
    hangs: u32,
    slow: u32,
}

#[derive(Debug, Default)]
struct ShardLog {
    /// Payloads in the order they were stored, with their ids.
    records: Vec<(String, RecordId)>,
    batches: u64,
    producers: HashMap<u128, (u32, BTreeMap<u64, Vec<RecordId>>)>,
}

#[derive(Debug)]
struct Model {
    shards: Mutex<BTreeMap<u64, ShardLog>>,
    random: Mutex<StdRng>,
    faults: Faults,
    honours_stamps: bool,
    metrics: Metrics,
    /// Fails every call as if no connection could be made.
    down: std::sync::atomic::AtomicBool,
}

impl Model {
    fn new(seed: u64, shards: u32, faults: Faults, honours_stamps: bool) -> Arc<Self> {
        Arc::new(Model {
            shards: Mutex::new((1..=u64::from(shards)).map(|id| (id, ShardLog::default())).collect()),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            faults,
            honours_stamps,
            metrics: Metrics::default(),
            down: false.into(),
        })
    }

    fn percent(&self) -> u32 {
        self.random.lock().unwrap().random_range(0..100)
    }

    /// What the server does with a request that reaches it.
    fn store(&self, request: &AppendRequest, stamp: Option<Stamp>) -> Result<Answer> {
        let refuse = |code, class: &str| {
            let body = format!(r#"{{"error":0,"message":"{class}","extra":null}}"#);
            Err(Error::from_status("append", &Status::new(code, body)))
        };
        let batch = request.records.as_ref().unwrap();
        let records = BatchHStreamRecords::decode(batch.payload.clone()).unwrap().records;
        let payloads: Vec<String> =
            records.iter().map(|record| String::from_utf8(record.payload.to_vec()).unwrap()).collect();
        if payloads.iter().any(|payload| payload.contains("poison")) {
            return refuse(Code::InvalidArgument, "Poison");
        }
        let mut shards = self.shards.lock().unwrap();
        let Some(log) = shards.get_mut(&request.shard_id) else {
            return Err(Error::from_status("append", &Status::unavailable("log not found")));
        };
        if let Some(stamp) = stamp.filter(|_| self.honours_stamps) {
            if !log.producers.contains_key(&stamp.producer) && stamp.sequence > 0 {
                // Nothing of this producer was ever stored here, or it is forgotten.
                return refuse(Code::FailedPrecondition, producer_error::EXPIRED);
            }
            let (epoch, stored) = log.producers.entry(stamp.producer).or_default();
            if stamp.epoch < *epoch {
                return refuse(Code::FailedPrecondition, producer_error::FENCED);
            }
            if stamp.epoch > *epoch {
                if stamp.sequence > 0 {
                    return refuse(Code::Aborted, producer_error::SEQUENCE_GAP);
                }
                (*epoch, *stored) = (stamp.epoch, BTreeMap::new());
            }
            if let Some(ids) = stored.get(&stamp.sequence) {
                return Ok(Answer { ids: ids.clone(), honours_stamps: true });
            }
            if stamp.sequence > stored.len() as u64 {
                return refuse(Code::Aborted, producer_error::SEQUENCE_GAP);
            }
        }
        log.batches += 1;
        let ids: Vec<RecordId> = (0..payloads.len() as u32)
            .map(|batch_index| RecordId {
                shard_id: request.shard_id,
                batch_id: 1000 + log.batches,
                batch_index,
            })
            .collect();
        log.records.extend(payloads.into_iter().zip(ids.iter().copied()));
        if let Some(stamp) = stamp.filter(|_| self.honours_stamps)
            && let Some((_, stored)) = log.producers.get_mut(&stamp.producer)
        {
            stored.insert(stamp.sequence, ids.clone());
        }
        Ok(Answer { ids, honours_stamps: self.honours_stamps })
    }
}

struct Network(Arc<Model>);

fn lost(kind: ErrorKind) -> Error {
    Error::new(kind, "append").with_may_have_been_applied(true).with_retryable(true)
}

impl Transport for Network {
    fn append(&self, request: AppendRequest, stamp: Option<Stamp>) -> BoxFuture<'_, Result<Answer>> {
        let model = self.0.clone();
        Box::pin(async move {
            if model.down.load(std::sync::atomic::Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Unavailable, "connect"));
            }
            let faults = model.faults;
            let mut dice = model.percent();
            let mut happens = |percent: u32| {
                let yes = dice < percent;
                dice = if yes { u32::MAX } else { dice.saturating_sub(percent) };
                yes
            };
            if happens(faults.connect_fails) {
                return Err(Error::new(ErrorKind::Unavailable, "connect"));
            }
            if happens(faults.request_lost) {
                return Err(lost(ErrorKind::Unavailable));
            }
            if happens(faults.late) {
                let delay = Duration::from_millis(u64::from(model.percent()) * 20);
                let server = model.clone();
                tokio::spawn(async move {
                    sleep(delay).await;
                    let _ = server.store(&request, stamp);
                });
                return Err(lost(ErrorKind::Timeout));
            }
            let (loses, hangs) = (happens(faults.answer_lost), happens(faults.hangs));
            if happens(faults.slow) {
                sleep(Duration::from_millis(u64::from(model.percent()))).await;
            }
            let answer = model.store(&request, stamp);
            if hangs {
                sleep(Duration::from_secs(5)).await;
                return Err(lost(ErrorKind::Timeout));
            }
            if loses {
                return Err(lost(ErrorKind::Unavailable));
            }
            answer
        })
    }

    fn shards(&self) -> BoxFuture<'_, Result<ShardMap>> {
        let count = self.0.shards.lock().unwrap().len();
        Box::pin(async move {
            match count {
                0 => Err(Error::new(ErrorKind::NotFound, "list shards")),
                count => Ok(shard_map(count as u32, 1)),
            }
        })
    }

    fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}

fn shard_map(count: u32, first: u64) -> ShardMap {
    let shards: Vec<_> = (0..count)
        .map(|index| {
            let (start, end) = even_range(index, count);
            Shard {
                shard_id: first + u64::from(index),
                start_hash_range_key: start.to_string(),
                end_hash_range_key: end.to_string(),
                ..Default::default()
            }
        })
        .collect();
    ShardMap::from_wire("s", &shards).unwrap()
}

fn producer(model: &Arc<Model>, settings: ProducerSettings) -> Producer {
    let map = shard_map(model.shards.lock().unwrap().len() as u32, 1);
    producer_with_map(model, settings, map)
}

fn producer_with_map(model: &Arc<Model>, settings: ProducerSettings, map: ShardMap) -> Producer {
    settings.validate().unwrap();
    let identity = Identity { producer_id: 77, stamps: model.honours_stamps };
    let transport = Arc::new(Network(model.clone()));
    let runtime = tokio::runtime::Handle::current();
    Producer::new(Shared::new(
        "s".into(),
        identity,
        settings,
        RetryPolicy::default(),
        transport,
        map,
        runtime,
    ))
}

fn small_batches() -> ProducerSettings {
    ProducerSettings {
        batch_max_records: 4,
        batch_max_age: Duration::from_millis(5),
        delivery_timeout: Duration::from_secs(120),
        ..ProducerSettings::default()
    }
}

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
    for receipt in receipts {
        receipt.await.unwrap();
    }
    assert_eq!(producer.append(Record::raw("late")).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(producer.try_append(Record::raw("late")).unwrap_err().kind(), ErrorKind::Closed);
    let (error, batch, _) =
        producer.try_append_many([Record::raw("late")].iter().collect(), Box::new(|_| {})).unwrap_err();
    assert_eq!((error.kind(), batch.len()), (ErrorKind::Closed, 1));
    assert_eq!(producer.close(Duration::ZERO).await.unwrap(), report, "closing again is harmless");
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
        model.down.store(true, std::sync::atomic::Ordering::SeqCst);
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
    model.down.store(false, std::sync::atomic::Ordering::SeqCst);
    third.await.unwrap().await.unwrap();
    room.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_made_again_fails_what_was_meant_for_the_old_one_and_takes_what_comes() {
    let model = Model::new(1, 2, Faults::default(), true);
    let producer = producer_with_map(&model, small_batches(), shard_map(2, 50));
    let lost = producer.append(Record::raw("1").with_key("a")).await.unwrap().await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Routing);
    assert!(!lost.may_have_been_applied(), "{lost}");
    let id = producer.append(Record::raw("2").with_key("a")).await.unwrap().await.unwrap();
    assert_eq!(id.shard_id, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_gone_is_not_found() {
    let model = Model::new(1, 0, Faults::default(), true);
    let producer = producer_with_map(&model, small_batches(), shard_map(1, 50));
    let lost = producer.append(Record::raw("1")).await.unwrap().await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::NotFound, "{lost}");
    assert!(!lost.may_have_been_applied());
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
