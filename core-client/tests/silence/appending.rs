//! Appends while a node falls silent.

use super::{LONG, World};
use crate::{members::Script, node_under_test::soon};
use hstreamdb::{ErrorKind, Producer, Receipt, Record};
use std::time::Duration;
use tokio::time::sleep;

async fn producer(world: &World) -> Producer {
    let builder = world.client.producer("s").batch_max_age(Duration::ZERO).batch_max_records(1);
    soon(builder.build()).await.unwrap()
}

async fn begin(producer: &Producer, numbers: std::ops::Range<usize>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for number in numbers {
        receipts.push(soon(producer.append(Record::raw(number.to_string()))).await.unwrap());
    }
    receipts
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn appends_go_to_another_node_when_theirs_says_nothing() {
    let world = World::start().await;
    let producer = producer(&world).await;
    for receipt in begin(&producer, 0..3).await {
        soon(receipt).await.unwrap();
    }
    world.silence();
    // Several batches are under way at the silent node, and more wait for them.
    for receipt in begin(&producer, 3..20).await {
        soon(receipt).await.unwrap();
    }
    assert_eq!(world.count("node_suspects"), 1, "one node fell silent, and was given up once");
    // What was on its way to it arrives late, after its repeat.
    world.resume();
    for receipt in begin(&producer, 20..25).await {
        soon(receipt).await.unwrap();
    }
    sleep(Duration::from_millis(300)).await;
    assert_eq!(world.stored().await, numbers(0..25));
}

#[tokio::test]
async fn a_node_that_is_slow_and_says_so_is_waited_for() {
    let world = World::start().await;
    let producer = producer(&world).await;
    world.script.slow("Append", Duration::from_secs(2));
    for receipt in begin(&producer, 0..5).await {
        soon(receipt).await.unwrap();
    }
    assert!(world.count("line_checks") >= 1, "it was asked for a sign of life");
    assert_eq!((world.count("node_suspects"), world.count("append_retries")), (0, 0));
    assert_eq!(world.stored().await, numbers(0..5));
}

#[tokio::test]
async fn what_must_not_be_sent_twice_waits_for_its_answer() {
    let script = Script::default();
    script.published();
    let world = World::over(script, |client| client).await;
    let producer = producer(&world).await;
    soon(begin(&producer, 0..1).await.remove(0)).await.unwrap();
    world.silence();
    let receipt = begin(&producer, 1..2).await.remove(0);
    // The silence is noticed, and others are spared; this batch may be stored, and nobody could tell its repeat.
    hstream_testkit::eventually("a suspicion", Duration::from_secs(20), || async {
        (world.count("node_suspects") == 1).then_some(())
    })
    .await;
    sleep(Duration::from_millis(700)).await;
    world.resume();
    soon(receipt).await.unwrap();
    assert_eq!(world.count("append_retries"), 0);
    assert_eq!(world.stored().await, numbers(0..2));
}

#[tokio::test]
async fn a_batch_with_one_try_waits_for_its_answer() {
    let world = World::start().await;
    let builder = world.client.producer("s").batch_max_age(Duration::ZERO).retry_max_attempts(1);
    let producer = soon(builder.build()).await.unwrap();
    world.silence();
    let receipt = begin(&producer, 0..1).await.remove(0);
    sleep(Duration::from_millis(1200)).await;
    world.resume();
    soon(receipt).await.unwrap();
}

#[tokio::test]
async fn without_another_node_a_pause_is_sat_out() {
    let world = World::start().await;
    world.script.running(&[&world.members[0]]);
    soon(world.client.refresh_nodes()).await.unwrap();
    let producer = producer(&world).await;
    world.silence();
    let receipts = begin(&producer, 0..5).await;
    sleep(Duration::from_millis(1200)).await;
    world.resume();
    for receipt in receipts {
        soon(receipt).await.unwrap();
    }
    assert_eq!(world.count("append_retries"), 0, "a new connection would lead into the same silence");
    assert_eq!(world.stored().await, numbers(0..5));
}

#[tokio::test]
async fn a_dead_connection_is_left_when_its_node_answers_on_another() {
    let world = World::start().await;
    world.script.running(&[&world.members[0]]);
    soon(world.client.refresh_nodes()).await.unwrap();
    let producer = producer(&world).await;
    // As a proxy that lost its other side: what is open stays open and is dead, new connections work.
    world.members[0].relay.bury();
    for receipt in begin(&producer, 0..5).await {
        soon(receipt).await.unwrap();
    }
    assert_eq!(world.stored().await, numbers(0..5));
}

#[tokio::test]
async fn without_the_rule_the_deadline_decides() {
    let world = World::with(|client| {
        let client = client.set("silence_timeout_ms", 0).unwrap();
        client.request_timeout(Duration::from_secs(3)).unwrap()
    })
    .await;
    let producer = producer(&world).await;
    world.silence();
    let before = tokio::time::Instant::now();
    soon(begin(&producer, 0..1).await.remove(0)).await.unwrap();
    assert!(before.elapsed() >= Duration::from_secs(3), "{:?}", before.elapsed());
    assert!(before.elapsed() < LONG);
}

#[tokio::test]
async fn every_node_silent_is_an_error_in_time() {
    let world = World::start().await;
    let builder = world.client.producer("s").batch_max_age(Duration::ZERO);
    let producer = soon(builder.delivery_timeout(Duration::from_secs(3)).build()).await.unwrap();
    for member in &world.members {
        member.relay.set(crate::relay::Network::Silent);
    }
    let error = soon(begin(&producer, 0..1).await.remove(0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
}
