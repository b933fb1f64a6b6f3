//! What becomes of subscriptions when nodes fail: somebody serves them again, and what was acknowledged stays so.

use crate::support::{DEADLINE, cluster, wire};
use hstream_server::test_cluster::TestCluster;
use hstreamdb::{Client, Consumer, ReceivedBatch, Record, StartFrom, StreamOptions, SubscriptionOptions};
use hstreamdb_proto::api::*;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// A cluster with a stream of one shard and a subscription, and a client.
struct Scene {
    cluster: TestCluster,
    client: Client,
    appended: u32,
}

impl Scene {
    async fn new() -> Scene {
        let cluster = cluster(3).await;
        let client = Client::connect(&cluster.url()).await.unwrap();
        client.create_stream("s", StreamOptions::new().shard_count(1)).await.unwrap();
        let options = SubscriptionOptions::new().offset(StartFrom::Earliest);
        client.create_subscription("sub", "s", options).await.unwrap();
        Scene { cluster, client, appended: 0 }
    }

    /// Appends so many records with the next numbers, one batch each.
    async fn append(&mut self, records: u32) {
        let producer = self.client.producer("s").build().await.unwrap();
        for _ in 0..records {
            let receipt = producer.append(Record::raw(self.appended.to_string())).await.unwrap();
            receipt.await.unwrap();
            self.appended += 1;
        }
    }

    async fn owner(&self) -> u32 {
        self.client.lookup_subscription("sub").await.unwrap().id
    }

    /// The node that serves it according to this one; `None` while there is no answer.
    async fn owner_seen_by(&self, node: u32) -> Option<u32> {
        let request = LookupSubscriptionRequest { subscription_id: "sub".into() };
        let asked = wire(&self.cluster, node).await.lookup_subscription(request).await;
        Some(asked.ok()?.into_inner().server_node?.id)
    }

    /// Waits until `node` finds that another one than `old` serves it.
    async fn moved_from(&self, old: u32, node: u32) -> u32 {
        poll("the subscription moves", async || {
            self.owner_seen_by(node).await.is_some_and(|owner| owner != old)
        })
        .await;
        self.owner_seen_by(node).await.unwrap()
    }

    async fn consumer(&self) -> Consumer {
        self.client.consumer("sub").start().await.unwrap()
    }

    /// Last committed batch of the only shard.
    async fn checkpoint(&self) -> u64 {
        let offsets = self.client.subscription_offsets("sub").await.unwrap_or_default();
        offsets.first().map_or(0, |(_, batch)| *batch)
    }
}

/// Takes and acknowledges until these records were there.
async fn take(consumer: &Consumer, wanted: std::ops::Range<u32>) -> Vec<u32> {
    let mut missing: BTreeSet<u32> = wanted.clone().collect();
    let mut taken = Vec::new();
    while !missing.is_empty() {
        let batch = tokio::time::timeout(DEADLINE, consumer.next_batch()).await;
        let batch = batch.unwrap_or_else(|_| panic!("{missing:?} of {wanted:?} never came")).unwrap();
        let batch = batch.expect("the subscription goes on");
        for text in texts(&batch) {
            let number = text.parse().unwrap();
            missing.remove(&number);
            taken.push(number);
        }
        consumer.ack_batch(&batch).unwrap();
    }
    taken
}

#[tokio::test]
async fn a_subscription_moves_when_its_owner_is_killed_and_what_was_committed_does_not_come_again() {
    let mut scene = Scene::new().await;
    let consumer = scene.consumer().await;
    scene.append(20).await;
    take(&consumer, 0..20).await;
    consumer.flush_acks().await.unwrap();
    poll("the checkpoint is written", async || scene.checkpoint().await > 0).await;
    let (owner, before) = (scene.owner().await, scene.checkpoint().await);
    scene.cluster.kill(owner).await.unwrap();
    scene.append(20).await;
    let again = take(&consumer, 20..40).await;
    assert_ne!(scene.owner().await, owner);
    assert!(scene.checkpoint().await >= before, "checkpoints never go back");
    // Acknowledged and seen to be committed is never delivered again, whoever serves it.
    assert!(again.iter().all(|number| *number >= 20), "{again:?}");
    scene.client.close(Duration::from_secs(10)).await.unwrap();
}

/// What it has in memory is old, and its store does not answer; its consumers and those who ask it hear of that all the same.
#[tokio::test]
async fn a_node_cut_off_from_the_store_sends_everybody_elsewhere_once_its_lease_is_over() {
    let mut scene = Scene::new().await;
    let consumer = scene.consumer().await;
    scene.append(5).await;
    take(&consumer, 0..5).await;
    let owner = scene.owner().await;
    // Somebody who only notices what the node says.
    let (requests, outgoing) = tokio::sync::mpsc::channel(8);
    let hello = StreamingFetchRequest {
        subscription_id: "sub".into(),
        consumer_name: "loyal".into(),
        ..Default::default()
    };
    requests.send(hello).await.unwrap();
    let mut node = wire(&scene.cluster, owner).await;
    let mut loyal = node.streaming_fetch(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let others = scene.cluster.nodes().filter(|node| *node != owner).collect::<Vec<_>>();
    scene.append(1).await;
    let batch = consumer.next_batch().await.unwrap();
    scene.cluster.cut_off_store(owner).await.unwrap();
    let cut = Instant::now();
    if let Some(batch) = batch {
        // Its checkpoint waits for the store.
        consumer.ack_batch(&batch).unwrap();
        consumer.flush_acks().await.unwrap();
    }
    let end = tokio::time::timeout(DEADLINE, async {
        loop {
            match loyal.message().await {
                Ok(Some(_)) => {}
                other => return other,
            }
        }
    });
    let end = end.await.unwrap().unwrap_err();
    assert_eq!(end.code(), tonic::Code::Unavailable, "{end:?}");
    assert!(cut.elapsed() < Duration::from_secs(5), "a lease is 3 s: {:?}", cut.elapsed());
    let request = LookupSubscriptionRequest { subscription_id: "sub".into() };
    let asked = node.lookup_subscription(request).await.unwrap_err();
    assert_eq!(asked.code(), tonic::Code::Unavailable, "{asked:?}");
    // The consumer of the client goes on elsewhere while the node is still cut off.
    let other = others[0];
    scene.moved_from(owner, other).await;
    scene.append(5).await;
    take(&consumer, 6..11).await;
    assert_ne!(scene.owner_seen_by(other).await, Some(owner));
}

#[tokio::test]
async fn an_owner_that_was_paused_wakes_up_and_serves_nothing_any_more() {
    let mut scene = Scene::new().await;
    let consumer = scene.consumer().await;
    scene.append(5).await;
    take(&consumer, 0..5).await;
    let owner = scene.owner().await;
    let witness = scene.cluster.nodes().find(|node| *node != owner).unwrap();
    // Somebody who holds on to the old owner, without a client that would leave it.
    let (requests, outgoing) = tokio::sync::mpsc::channel(8);
    let hello = StreamingFetchRequest {
        subscription_id: "sub".into(),
        consumer_name: "loyal".into(),
        ..Default::default()
    };
    requests.send(hello).await.unwrap();
    let mut loyal = wire(&scene.cluster, owner).await;
    let mut deliveries = loyal.streaming_fetch(ReceiverStream::new(outgoing)).await.unwrap().into_inner();

    scene.cluster.pause(owner).await.unwrap();
    let heir = scene.moved_from(owner, witness).await;
    scene.append(10).await;
    take(&consumer, 5..15).await;
    consumer.flush_acks().await.unwrap();
    let committed = scene.checkpoint().await;
    scene.cluster.resume(owner).await.unwrap();

    // What it was sent before the pause it may still read; then the stream ends, and not as if all were read.
    let ended = tokio::time::timeout(DEADLINE, async {
        loop {
            match deliveries.message().await {
                Ok(Some(_)) => {}
                other => return other,
            }
        }
    })
    .await;
    let error = ended.expect("it notices that it was away").expect_err("a fenced owner says so");
    assert_ne!(error.code(), tonic::Code::Ok, "{error}");
    assert_eq!(scene.owner_seen_by(owner).await, Some(heir), "it has learned who serves it now");
    scene.append(5).await;
    take(&consumer, 15..20).await;
    assert!(scene.checkpoint().await >= committed, "checkpoints never go back");
    scene.client.close(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn a_node_cut_off_from_the_store_stops_serving_within_its_lease_and_comes_back() {
    let mut scene = Scene::new().await;
    let consumer = scene.consumer().await;
    scene.append(5).await;
    take(&consumer, 0..5).await;
    let owner = scene.owner().await;
    scene.cluster.cut_off_store(owner).await.unwrap();
    let (requests, outgoing) = tokio::sync::mpsc::channel(8);
    let hello = StreamingFetchRequest {
        subscription_id: "sub".into(),
        consumer_name: "late".into(),
        ..Default::default()
    };
    requests.send(hello).await.unwrap();
    let mut late = wire(&scene.cluster, owner).await;
    let cut = Instant::now();
    let outcome = tokio::time::timeout(DEADLINE, async {
        let mut deliveries = late.streaming_fetch(ReceiverStream::new(outgoing)).await?.into_inner();
        while deliveries.message().await?.is_some() {}
        Ok::<_, tonic::Status>(())
    })
    .await
    .expect("what it serves ends");
    outcome.expect_err("with an error");
    // The lease of three seconds, and a machine that is busy with other tests.
    assert!(cut.elapsed() < Duration::from_secs(20), "{:?}", cut.elapsed());

    scene.cluster.heal_store(owner).await.unwrap();
    scene.append(10).await;
    take(&consumer, 5..15).await;
    poll("it serves again", async || scene.owner_seen_by(owner).await.is_some()).await;
    scene.cluster.await_ready(DEADLINE).await.unwrap();
    scene.client.close(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn nothing_is_lost_and_little_comes_twice_while_every_node_in_turn_is_restarted() {
    let mut scene = Scene::new().await;
    let consumer = scene.consumer().await;
    let mut taken = Vec::new();
    for node in [1, 2, 3] {
        let from = scene.appended;
        scene.append(10).await;
        taken.extend(take(&consumer, from..scene.appended).await);
        consumer.flush_acks().await.unwrap();
        scene.cluster.restart(node).await.unwrap();
        scene.cluster.await_ready(DEADLINE).await.unwrap();
        let from = scene.appended;
        scene.append(10).await;
        taken.extend(take(&consumer, from..scene.appended).await);
    }
    assert_eq!(taken.iter().copied().collect::<BTreeSet<u32>>(), (0..60).collect());
    scene.client.close(Duration::from_secs(10)).await.unwrap();
}

/// Texts of the records of a batch.
fn texts(batch: &ReceivedBatch) -> Vec<String> {
    let records = batch.records().unwrap();
    records.iter().map(|record| String::from_utf8_lossy(&record.payload).into_owned()).collect()
}

/// Asks until it holds.
async fn poll(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what} within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
