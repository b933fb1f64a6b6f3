//! Faults by chance, one upon the other.

use super::{alone, load::Load};
use hstream_server::test_cluster::{NodeStatus, TestCluster};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const READY: Duration = Duration::from_secs(60);

/// Names the first seed, for a run that failed.
const SEED: &str = "HSTREAM_CLUSTER_SEED";
/// How many seconds of faults there are.
const LASTING: &str = "HSTREAM_CLUSTER_SECONDS";

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_the_nodes_nothing_that_was_acknowledged_is_lost() {
    let _alone = alone().await;
    let seed = number(SEED).unwrap_or_else(rand::random);
    println!("{SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = TestCluster::builder().nodes(3).seed(seed).start().await.unwrap();
    let load = Load::start(&cluster).await;
    load.goes_on().await;
    let end = Instant::now() + Duration::from_secs(number(LASTING).unwrap_or(15));
    while Instant::now() < end {
        load.note_fault();
        disturb(&cluster, &mut random).await;
        load.note_fault();
    }
    load.note_fault();
    calm(&cluster).await;
    load.note_fault();
    load.goes_on().await;
    println!("{:?}", load.end().await);
    cluster.shutdown().await;
}

/// Something happens to a node, or what has happened to one ends. At most one node is away at a time, so that there are
/// always two that agree; others may be cut off from each other or from the store meanwhile.
async fn disturb(cluster: &TestCluster, random: &mut StdRng) {
    let mut away = None;
    for node in cluster.nodes() {
        let status = cluster.status(node).await.unwrap();
        if status != NodeStatus::Running {
            away = Some((node, status));
        }
    }
    let node = random.random_range(1..=3);
    match (random.random_range(0..10), away) {
        (0..4, Some((node, NodeStatus::Paused))) => cluster.resume(node).await.unwrap(),
        (0..4, Some((node, _))) => cluster.restart(node).await.unwrap(),
        (0..2, None) => cluster.kill(node).await.unwrap(),
        (2, None) => cluster.pause(node).await.unwrap(),
        (3, None) => cluster.stop(node).await.unwrap(),
        (4, _) => cluster.partition(node).await.unwrap(),
        (5, _) => cluster.heal().await.unwrap(),
        (6, _) => cluster.cut_off_store(node).await.unwrap(),
        _ => {
            for node in cluster.nodes() {
                cluster.heal_store(node).await.unwrap();
            }
        }
    }
    sleep(Duration::from_millis(random.random_range(0..2_500))).await;
}

async fn calm(cluster: &TestCluster) {
    cluster.heal().await.unwrap();
    for node in cluster.nodes() {
        cluster.heal_store(node).await.unwrap();
        match cluster.status(node).await.unwrap() {
            NodeStatus::Running => {}
            NodeStatus::Paused => cluster.resume(node).await.unwrap(),
            _ => cluster.restart(node).await.unwrap(),
        }
    }
    cluster.await_ready(READY).await.unwrap();
}
