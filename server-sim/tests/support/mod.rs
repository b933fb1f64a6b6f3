//! A node in this process and a bare gRPC client, for tests that speak the wire.
#![allow(dead_code, reason = "every test file uses its own part")]

pub mod consumer;
pub mod fetch;

use bytes::Bytes;
use hstream_server::node::{Node, NodeConfig, StartError};
use hstream_server::store::jetstream::JetStreamOptions;
use hstream_testkit::Store;
use hstreamdb_proto::api::h_stream_api_client::HStreamApiClient;
use hstreamdb_proto::api::*;
use hstreamdb_proto::error_body::ErrorBody;
use hstreamdb_proto::metadata;
use prost::Message as _;
use std::path::Path;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

pub type Client = HStreamApiClient<Channel>;

/// No call of a test takes longer, unless the server hangs.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub struct TestNode {
    pub node: Node,
    pub client: Client,
}

impl TestNode {
    pub async fn start(data_dir: &Path) -> TestNode {
        let config = NodeConfig { port: 0, data_dir: data_dir.to_owned(), ..NodeConfig::default() };
        Self::start_with(config).await
    }

    pub async fn start_with(config: NodeConfig) -> TestNode {
        let node = start_node(config).await.expect("node starts");
        let client = connect(node.address().port()).await;
        TestNode { node, client }
    }

    pub async fn stop(self) {
        drop(self.client);
        tokio::time::timeout(DEADLINE, self.node.shutdown(Duration::from_secs(5)))
            .await
            .expect("shutdown is bounded");
    }
}

/// Starts a node on the store that the tests run on (`HSTREAM_TEST_STORE`); every node of a test begins here, unless the
/// test is about the embedded store itself. Such tests are in modules called `embedded` and are left out where the others run
/// on another store.
pub async fn start_node(config: NodeConfig) -> Result<Node, StartError> {
    Node::start(on_chosen_store(config)).await
}

/// The same node on the store that the tests run on.
pub fn on_chosen_store(mut config: NodeConfig) -> NodeConfig {
    // A test that names a store means that one.
    if config.store.is_none() {
        let url = Store::Chosen.url(&config.data_dir).unwrap_or_else(|error| panic!("{error:#}"));
        config.store = url.map(|url| JetStreamOptions::new(url.parse().expect("an address")));
    }
    config
}

pub async fn connect(port: u16) -> Client {
    let channel = Channel::from_shared(format!("http://127.0.0.1:{port}"))
        .unwrap()
        .timeout(DEADLINE)
        .connect()
        .await
        .expect("server accepts");
    HStreamApiClient::new(channel)
}

pub fn stream(name: &str, shard_count: u32) -> Stream {
    Stream {
        stream_name: name.into(),
        replication_factor: 1,
        backlog_duration: 0,
        shard_count,
        creation_time: None,
    }
}

/// Creates a stream and returns its shard ids in key order.
pub async fn create(client: &mut Client, name: &str, shard_count: u32) -> Vec<u64> {
    client.create_stream(stream(name, shard_count)).await.expect("stream is created");
    shards(client, name).await
}

pub async fn shards(client: &mut Client, name: &str) -> Vec<u64> {
    let answer = client.list_shards(ListShardsRequest { stream_name: name.into() }).await.unwrap();
    let mut shards = answer.into_inner().shards;
    shards.sort_by_key(|shard| shard.start_hash_range_key.parse::<u128>().unwrap());
    shards.into_iter().map(|shard| shard.shard_id).collect()
}

pub fn record(key: &str, payload: &str) -> HStreamRecord {
    let header = HStreamRecordHeader { flag: 1, key: key.into(), ..Default::default() };
    HStreamRecord { header: Some(header), payload: Bytes::copy_from_slice(payload.as_bytes()) }
}

pub fn batch(records: Vec<HStreamRecord>) -> BatchedRecord {
    BatchedRecord {
        compression_type: CompressionType::None as i32,
        publish_time: None,
        batch_size: u32::try_from(records.len()).unwrap(),
        payload: BatchHStreamRecords { records }.encode_to_vec().into(),
    }
}

pub fn append_request(shard_id: u64, records: BatchedRecord) -> AppendRequest {
    AppendRequest { stream_name: "any".into(), shard_id, records: Some(records) }
}

/// One record with a producer's stamp.
pub fn stamped(shard: u64, epoch: u32, sequence: u64, payload: &str) -> Request<AppendRequest> {
    let mut request = Request::new(append_request(shard, batch(vec![record("", payload)])));
    let keys = request.metadata_mut();
    keys.insert(metadata::PRODUCER_ID, "00000000000000000000000000000abc".parse().unwrap());
    keys.insert(metadata::PRODUCER_EPOCH, epoch.to_string().parse().unwrap());
    keys.insert(metadata::PRODUCER_SEQUENCE, sequence.to_string().parse().unwrap());
    request
}

/// Appends one record and returns its id.
pub async fn append(client: &mut Client, shard: u64, payload: &str) -> RecordId {
    let request = append_request(shard, batch(vec![record("", payload)]));
    client.append(request).await.expect("append is acknowledged").into_inner().record_ids[0]
}

pub fn special(offset: SpecialOffset) -> Option<ShardOffset> {
    Some(ShardOffset { offset: Some(shard_offset::Offset::SpecialOffset(offset as i32)) })
}

pub fn at_record(id: RecordId) -> Option<ShardOffset> {
    Some(ShardOffset { offset: Some(shard_offset::Offset::RecordOffset(id)) })
}

pub fn payloads(received: &[ReceivedRecord]) -> Vec<String> {
    let batches = received.iter().map(|received| received.record.as_ref().unwrap());
    batches
        .flat_map(|batch| BatchHStreamRecords::decode(batch.payload.clone()).unwrap().records)
        .map(|record| String::from_utf8(record.payload.to_vec()).unwrap())
        .collect()
}

/// Everything a shard holds now.
pub async fn read_all(client: &mut Client, shard: u64) -> Vec<ReceivedRecord> {
    let request = ReadShardStreamRequest {
        reader_id: "r".into(),
        shard_id: shard,
        from: special(SpecialOffset::Earliest),
        until: special(SpecialOffset::Latest),
        ..Default::default()
    };
    let mut answer = client.read_shard_stream(request).await.unwrap().into_inner();
    let mut received = Vec::new();
    while let Some(message) = answer.message().await.unwrap() {
        assert!(message.received_records.len() <= 10);
        assert!(message.encoded_len() < 4 * 1024 * 1024);
        received.extend(message.received_records);
    }
    received
}

/// Asks until it holds.
pub async fn poll(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what} within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a refused call says: status, and code, class and detail if there is a JSON body.
pub fn refusal<T: std::fmt::Debug>(
    outcome: Result<T, Status>,
) -> (Code, Option<(i32, String, serde_json::Value)>) {
    let status = outcome.expect_err("the call is refused");
    let body = ErrorBody::parse(status.message()).map(|body| (body.error, body.message, body.extra));
    (status.code(), body)
}
