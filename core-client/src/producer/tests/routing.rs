//! Keys and shards: what a producer does when its list of shards is old.

use super::model::{Faults, Model, producer, producer_with_map, shard_map, small_batches};
use crate::{
    error::ErrorKind,
    producer::{WhenFull, settings::ProducerSettings},
    record::{Record, RecordBatch},
    routing::ShardMap,
};
use std::{sync::atomic::Ordering::SeqCst, time::Duration};

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_made_again_fails_what_was_meant_for_the_old_one_and_takes_what_comes() {
    let model = Model::new(1, 2, Faults::default(), true);
    let producer = producer_with_map(&model, small_batches(), shard_map(2, 50));
    let lost = producer.append(Record::raw("1").with_key("a")).await.unwrap().await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Routing);
    assert!(!lost.may_have_been_applied(), "{lost}");
    let id = producer.append(Record::raw("2").with_key("a")).await.unwrap().await.unwrap();
    assert_eq!(id.shard_id, 1);
    assert_eq!(model.appends.load(SeqCst), 2, "the stream was asked at once instead of trying again");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_gone_is_not_found() {
    let model = Model::new(1, 0, Faults::default(), true);
    let producer = producer_with_map(&model, small_batches(), shard_map(1, 50));
    let lost = producer.append(Record::raw("1")).await.unwrap().await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::NotFound, "{lost}");
    assert!(!lost.may_have_been_applied());
    assert_eq!(model.appends.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_know_the_shard_yet_is_asked_again() {
    let model = Model::new(1, 1, Faults::default(), true);
    model.ignorant.store(3, SeqCst);
    let producer = producer(&model, small_batches());
    producer.append(Record::raw("1")).await.unwrap().await.unwrap();
    assert_eq!(model.appends.load(SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_listed_and_stays_unknown_ends_the_tries() {
    let model = Model::new(1, 1, Faults::default(), true);
    model.ignorant.store(u32::MAX, SeqCst);
    let producer = producer(&model, small_batches());
    let error = producer.append(Record::raw("1")).await.unwrap().await.unwrap_err();
    assert_eq!((error.kind(), error.tries()), (ErrorKind::Unavailable, 5), "{error}");
    assert!(!error.may_have_been_applied());
}

#[tokio::test(start_paused = true)]
async fn many_shards_that_are_gone_cost_few_questions() {
    let model = Model::new(1, 2, Faults::default(), true);
    let producer = producer_with_map(&model, small_batches(), shard_map(64, 50));
    let records: Vec<_> = (0..500).map(|n| Record::raw("x").with_key(format!("key{n}"))).collect();
    let outcome = producer.append_many(records.iter().collect()).await.unwrap().await;
    assert!(outcome.errors.iter().all(|(_, error)| error.kind() == ErrorKind::Routing));
    assert_eq!(outcome.errors.iter().map(|(range, _)| range.len()).sum::<usize>(), 500);
    assert!(model.lookups.load(SeqCst) <= 2, "{} questions", model.lookups.load(SeqCst));
    assert_eq!(producer.pending().records, 0);
}

/// No shard takes the upper half of the hashes, where the empty key is.
fn half() -> ShardMap {
    ShardMap::new([(1, 0..=u128::MAX / 2)]).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_key_without_a_shard_makes_the_shards_be_asked_for() {
    let model = Model::new(1, 2, Faults::default(), true);
    let single = producer_with_map(&model, small_batches(), half());
    assert_eq!(single.append(Record::raw("1")).await.unwrap().await.unwrap().shard_id, 2);
    let many = producer_with_map(&model, small_batches(), half());
    let batch: RecordBatch = [Record::raw("2"), Record::raw("3").with_key("a")].iter().collect();
    let ids = many.append_many(batch).await.unwrap().await.into_result().unwrap();
    assert_eq!(ids.iter().map(|id| id.shard_id).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(model.lookups.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn callers_that_cannot_wait_find_the_shards_the_next_time() {
    let model = Model::new(1, 2, Faults::default(), true);
    let failing = ProducerSettings { when_full: WhenFull::Fail, ..small_batches() };
    let producer = producer_with_map(&model, failing, half());
    let error = producer.try_append(Record::raw("1")).unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Routing, true), "{error}");
    tokio::time::sleep(Duration::from_millis(5)).await;
    producer.try_append(Record::raw("2")).unwrap().await.unwrap();
    assert_eq!(producer.pending().records, 0, "the room of what was refused came back");

    let producer = producer_with_map(&model, small_batches(), half());
    let (sender, told) = tokio::sync::oneshot::channel();
    let batch: RecordBatch = [Record::raw("3"), Record::raw("4").with_key("a")].iter().collect();
    producer.try_append_many(batch, Box::new(move |outcome| sender.send(outcome).unwrap())).ok().unwrap();
    let outcome = told.await.unwrap();
    assert_eq!(outcome.errors[0].0, 0..1);
    assert_eq!(outcome.errors[0].1.kind(), ErrorKind::Routing);
    assert!(outcome.ids[1].is_some());
    producer.try_append(Record::raw("5")).unwrap().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_that_never_gets_a_shard_is_refused_and_keeps_no_room() {
    let model = Model::new(1, 0, Faults::default(), true);
    let producer = producer_with_map(&model, small_batches(), half());
    assert_eq!(producer.append(Record::raw("1")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(producer.flush_key("").await.unwrap_err().kind(), ErrorKind::Routing);
    assert_eq!(producer.pending().records, 0);
}
