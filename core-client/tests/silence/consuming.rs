//! Consumers whose node falls silent.

use super::World;
use crate::node_under_test::{PATIENCE, soon};
use futures::future::join_all;
use hstream_testkit::eventually;
use hstreamdb::{Consumer, ConsumerState, Record, StartFrom, SubscriptionOptions};
use std::time::Duration;
use tokio::time::sleep;

async fn subscribe(world: &World, id: &str) {
    let options = SubscriptionOptions::new().offset(StartFrom::Earliest).redeliver_on_disconnect(true);
    soon(world.client.create_subscription(id, "s", options)).await.unwrap();
}

async fn append(world: &World, payload: &str) {
    soon(world.client.append("s", Record::raw(payload.to_owned()))).await.unwrap();
}

async fn next(consumer: &Consumer) -> String {
    let batch = soon(consumer.next_batch()).await.unwrap().unwrap();
    let records = batch.records().unwrap();
    let text = String::from_utf8(records[0].payload.to_vec()).unwrap();
    consumer.ack_batch(&batch).unwrap();
    text
}

#[tokio::test]
async fn a_consumer_follows_its_subscription_away_from_a_silent_node() {
    let world = World::start().await;
    subscribe(&world, "sub").await;
    let consumer = soon(world.client.consumer("sub").reconnect_max_attempts(1).start()).await.unwrap();
    append(&world, "one").await;
    assert_eq!(next(&consumer).await, "one");
    soon(consumer.flush_acks()).await.unwrap();
    world.kill();
    let failover = async {
        // The cluster takes its time; looking for the new owner meanwhile is not one of the tries.
        sleep(Duration::from_secs(5)).await;
        world.script.owner(&world.members[1]);
    };
    let goes_on = async {
        append(&world, "two").await;
        next(&consumer).await
    };
    let ((), payload) = soon(async { tokio::join!(failover, goes_on) }).await;
    assert!(matches!(payload.as_str(), "one" | "two"), "{payload}");
    assert!(world.members[1].calls("StreamingFetch") >= 1);
}

/// As behind a proxy that lost its other side: the node takes the old call for alive, and has sent into it.
#[tokio::test]
async fn a_consumer_whose_connection_died_comes_back_under_its_name_and_waits_for_nothing() {
    let world = World::start().await;
    let options = SubscriptionOptions::new().offset(StartFrom::Earliest).ack_timeout_secs(600);
    soon(world.client.create_subscription("sub", "s", options)).await.unwrap();
    let consumer = soon(world.client.consumer("sub").start()).await.unwrap();
    append(&world, "one").await;
    assert_eq!(next(&consumer).await, "one");
    soon(consumer.flush_acks()).await.unwrap();
    let name = consumer.name();
    world.members[0].relay.bury();
    append(&world, "lost").await;
    eventually("a new session", PATIENCE, || async {
        let attached = world.members[0].calls("StreamingFetch") >= 2;
        (attached && consumer.state() == ConsumerState::Connected).then_some(())
    })
    .await;
    append(&world, "two").await;
    let came = next(&consumer).await;
    assert!(came == "two" || came == "lost" && next(&consumer).await == "two", "{came}");
    assert_eq!(consumer.name(), name);
}

#[tokio::test]
async fn a_short_pause_of_a_node_costs_no_session() {
    let world = World::start().await;
    subscribe(&world, "sub").await;
    let consumer = soon(world.client.consumer("sub").start()).await.unwrap();
    append(&world, "one").await;
    assert_eq!(next(&consumer).await, "one");
    // Nothing was heard for some time when the pause begins, so the question falls into it.
    let asked = world.count("consumer_probes");
    eventually("a question", PATIENCE, || async { (world.count("consumer_probes") > asked).then_some(()) })
        .await;
    sleep(Duration::from_millis(1500)).await;
    world.silence();
    sleep(Duration::from_millis(1000)).await;
    world.resume();
    append(&world, "two").await;
    assert_eq!(next(&consumer).await, "two");
    assert_eq!((consumer.stats().reconnects, consumer.stats().redelivered_records), (0, 0));
}

#[tokio::test]
async fn many_idle_consumers_ask_their_node_once() {
    let world = World::start().await;
    subscribe(&world, "sub").await;
    let consumers = join_all((0..20).map(|_| world.client.consumer("sub").start()));
    let consumers: Vec<_> = soon(consumers).await.into_iter().map(Result::unwrap).collect();
    let before = world.members[0].calls("Echo");
    eventually("three questions", PATIENCE, || async {
        (world.members[0].calls("Echo") >= before + 3).then_some(())
    })
    .await;
    let asked = world.count("consumer_probes");
    assert!(asked <= 5, "{asked} questions of {} consumers", consumers.len());
}

#[tokio::test]
async fn consumers_on_one_node_learn_of_its_silence_from_each_other() {
    let world = World::start().await;
    let ids: Vec<String> = (0..10).map(|number| format!("sub{number}")).collect();
    let mut consumers = Vec::new();
    for id in &ids {
        subscribe(&world, id).await;
        consumers.push(soon(world.client.consumer(id).start()).await.unwrap());
    }
    world.kill();
    world.script.owner(&world.members[2]);
    append(&world, "x").await;
    for consumer in &consumers {
        assert_eq!(next(consumer).await, "x");
    }
}
