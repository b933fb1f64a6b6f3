//! One kind of fault at a time.

use super::{alone, load::Load};
use futures::future::join_all;
use hstream_server::test_cluster::{TestCluster, TestClusterError};
use hstream_testkit::eventually;
use hstreamdb::{Client, Consumer, Record, StartFrom, StreamOptions, SubscriptionOptions};
use hstreamdb_proto::api::{
    GetSubscriptionRequest, LookupSubscriptionRequest, h_stream_api_client::HStreamApiClient,
};
use std::time::Duration;
use tokio::time::sleep;

const READY: Duration = Duration::from_secs(60);

/// Everything goes on before, during and after what happens to every node in turn.
async fn goes_on_through(
    mut begin: impl AsyncFnMut(&TestCluster, u32) -> Result<(), TestClusterError>,
    mut end: impl AsyncFnMut(&TestCluster, u32) -> Result<(), TestClusterError>,
) {
    let _alone = alone().await;
    let cluster = TestCluster::start(3).await.unwrap();
    let load = Load::start(&cluster).await;
    load.goes_on().await;
    for node in cluster.nodes().collect::<Vec<_>>() {
        load.note_fault();
        begin(&cluster, node).await.unwrap();
        load.goes_on().await;
        end(&cluster, node).await.unwrap();
        cluster.await_ready(READY).await.unwrap();
        load.note_fault();
        load.goes_on().await;
    }
    let summary = load.end().await;
    assert!(summary.stored > 0 && summary.failed + summary.unknown == 0, "{summary:?}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_when_a_node_is_killed() {
    goes_on_through(
        async |cluster, node| cluster.kill(node).await,
        async |cluster, node| cluster.restart(node).await,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_while_a_node_stands_still() {
    goes_on_through(
        async |cluster, node| cluster.pause(node).await,
        async |cluster, node| cluster.resume(node).await,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_pause_is_no_reason_for_anything() {
    goes_on_through(
        async |cluster, node| {
            cluster.pause(node).await?;
            sleep(Duration::from_secs(1)).await;
            cluster.resume(node).await
        },
        async |_, _| Ok(()),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_when_a_node_loses_the_others() {
    goes_on_through(
        async |cluster, node| cluster.partition(node).await,
        async |cluster, _| cluster.heal().await,
    )
    .await;
}

/// A node without a store still answers, so a reader there waits for what it cannot see until the store is back.
#[tokio::test(flavor = "multi_thread")]
async fn writing_goes_on_when_a_node_loses_the_store_and_reading_goes_on_after_it() {
    let _alone = alone().await;
    let cluster = TestCluster::start(3).await.unwrap();
    let load = Load::start(&cluster).await;
    load.goes_on().await;
    for node in cluster.nodes().collect::<Vec<_>>() {
        load.note_fault();
        cluster.cut_off_store(node).await.unwrap();
        load.writing_goes_on().await;
        cluster.heal_store(node).await.unwrap();
        cluster.await_ready(READY).await.unwrap();
        load.note_fault();
        load.goes_on().await;
    }
    let summary = load.end().await;
    assert!(summary.stored > 0 && summary.failed + summary.unknown == 0, "{summary:?}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_through_a_rolling_restart() {
    goes_on_through(
        async |cluster, node| cluster.stop(node).await,
        async |cluster, node| cluster.restart(node).await,
    )
    .await;
}

/// Appends records, consumes them, and waits until a checkpoint above `before` is told; which.
async fn move_on(client: &Client, consumer: &Consumer, before: u64) -> u64 {
    for number in 0..5 {
        client.append("t", Record::raw(format!("{number}"))).await.unwrap();
        let batch = consumer.next_batch().await.unwrap().unwrap();
        consumer.ack_batch(&batch).unwrap();
    }
    eventually("a checkpoint", READY, || async {
        let (_, checkpoints) = client.get_subscription("t").await.ok()?;
        checkpoints.first().map(|(_, batch)| *batch).filter(|batch| *batch > before)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stood_still_tells_no_old_checkpoint() {
    let _alone = alone().await;
    let cluster = TestCluster::start(3).await.unwrap();
    let client = Client::connect(&cluster.url()).await.unwrap();
    client.create_stream("t", StreamOptions::new()).await.unwrap();
    let options = SubscriptionOptions::new().offset(StartFrom::Earliest);
    client.create_subscription("t", "t", options).await.unwrap();
    let consumer = client.consumer("t").start().await.unwrap();
    let before = move_on(&client, &consumer, 0).await;
    let wire = |address| HStreamApiClient::connect(format!("http://{address}"));
    let request = LookupSubscriptionRequest { subscription_id: "t".into() };
    let mut any = wire(cluster.addresses()[0]).await.unwrap();
    let owner = any.lookup_subscription(request).await.unwrap().into_inner().server_node.unwrap().id;
    let old = wire(cluster.address(owner).unwrap()).await.unwrap();
    cluster.pause(owner).await.unwrap();
    // Asked while it stands still, so that it answers the moment it goes on.
    let asked = tokio::spawn(join_all((0..20).map(move |_| {
        let mut old = old.clone();
        async move { old.get_subscription(GetSubscriptionRequest { id: "t".into() }).await }
    })));
    let after = move_on(&client, &consumer, before).await;
    cluster.resume(owner).await.unwrap();
    for answer in asked.await.unwrap() {
        // It may as well refuse.
        let Ok(answer) = answer else { continue };
        let told: Vec<u64> = answer.into_inner().offsets.iter().map(|offset| offset.batch_id).collect();
        assert!(told.iter().all(|batch| *batch >= after), "{told:?} after {after} had been told");
    }
    client.close(READY).await.unwrap();
    cluster.shutdown().await;
}
