//! One kind of fault at a time.

use super::{alone, load::Load};
use hstream_server::test_cluster::{TestCluster, TestClusterError};
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

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_when_a_node_loses_the_store() {
    goes_on_through(
        async |cluster, node| cluster.cut_off_store(node).await,
        async |cluster, node| cluster.heal_store(node).await,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_through_a_rolling_restart() {
    goes_on_through(
        async |cluster, node| cluster.stop(node).await,
        async |cluster, node| cluster.restart(node).await,
    )
    .await;
}
