//! What these tests share.
#![allow(dead_code, reason = "parts of it are for tests to come")]

use hstream_server::test_cluster::TestCluster;
use hstreamdb::{Client, ReceivedBatch};
use hstreamdb_proto::api::h_stream_api_client::HStreamApiClient;
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;

/// No step of a test takes longer, unless something hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Speaks with one node, whoever should be asked.
pub type Wire = HStreamApiClient<Channel>;

pub async fn cluster(nodes: u32) -> TestCluster {
    TestCluster::start(nodes).await.unwrap_or_else(|error| panic!("a cluster starts: {error}"))
}

/// The client as users have it.
pub async fn client(cluster: &TestCluster) -> Client {
    Client::connect(&cluster.url()).await.unwrap_or_else(|error| panic!("a client connects: {error}"))
}

/// A bare connection to each of the nodes, in the order of their numbers.
pub async fn wires(cluster: &TestCluster) -> Vec<Wire> {
    let mut wires = Vec::new();
    for node in cluster.nodes() {
        wires.push(wire(cluster, node).await);
    }
    wires
}

pub async fn wire(cluster: &TestCluster, node: u32) -> Wire {
    let address = cluster.address(node).unwrap();
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap().timeout(DEADLINE);
    HStreamApiClient::new(endpoint.connect().await.unwrap())
}

/// Texts of the records of a batch.
pub fn texts(batch: &ReceivedBatch) -> Vec<String> {
    let records = batch.records().unwrap();
    records.iter().map(|record| String::from_utf8_lossy(&record.payload).into_owned()).collect()
}

/// Asks until it holds.
pub async fn poll(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what} within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
