//! What these tests share.

use crate::wire::on_chosen_store;
use hstream_server::node::NodeConfig;
use hstream_server::test_cluster::{TestCluster, TestClusterBuilder};
use hstreamdb_proto::api::h_stream_api_client::HStreamApiClient;
use hstreamdb_proto::api::*;
use prost::Message as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tonic::transport::Channel;

/// No step of a test takes longer, unless something hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Speaks with one node, whoever should be asked.
pub type Wire = HStreamApiClient<Channel>;

/// A cluster on the store that the tests run on.
pub fn builder() -> TestClusterBuilder {
    static CLUSTERS: AtomicU32 = AtomicU32::new(0);
    // Nothing is written there; another cluster, another store.
    let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    let data_dir = std::env::temp_dir().join(format!("{}-{number}", std::process::id()));
    let store = on_chosen_store(NodeConfig { data_dir, ..NodeConfig::default() }).store;
    match store {
        Some(store) => TestCluster::builder().store(store),
        None => TestCluster::builder(),
    }
}

pub async fn cluster(nodes: u32) -> TestCluster {
    builder().nodes(nodes).start().await.unwrap_or_else(|error| panic!("a cluster starts: {error}"))
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

/// Appends one record through this node.
pub async fn append(wire: &mut Wire, shard: u64, payload: &str) -> RecordId {
    let header = HStreamRecordHeader { flag: 1, ..Default::default() };
    let record = HStreamRecord { header: Some(header), payload: payload.to_owned().into() };
    let records = BatchedRecord {
        compression_type: CompressionType::None as i32,
        publish_time: None,
        batch_size: 1,
        payload: BatchHStreamRecords { records: vec![record] }.encode_to_vec().into(),
    };
    let request = AppendRequest { stream_name: "s".into(), shard_id: shard, records: Some(records) };
    wire.append(request).await.expect("acknowledged").into_inner().record_ids[0]
}
