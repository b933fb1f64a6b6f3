//! A real node inside the test, on its own directory, and the raw wire to fill it.
#![allow(dead_code)]

use hstream_server::node::{Node, NodeConfig};
use hstreamdb::{Client, RecordId};
use hstreamdb_proto::api::{self, h_stream_api_client::HStreamApiClient};
use prost::Message as _;
use std::time::Duration;
use tonic::transport::Channel;

/// Nothing in these tests takes longer than this unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct TestNode {
    node: Option<Node>,
    port: u16,
    directory: tempfile::TempDir,
    /// The raw wire.
    pub wire: HStreamApiClient<Channel>,
}

impl TestNode {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = start(&directory, 0).await;
        let port = node.address().port();
        let channel = Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap().connect_lazy();
        TestNode { node: Some(node), port, directory, wire: HStreamApiClient::new(channel) }
    }

    pub async fn client(&self) -> Client {
        Client::builder()
            .url(format!("hstream://127.0.0.1:{}", self.port))
            .set("retry_max_ms", 300)
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    /// Where it listens.
    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Ends the node; its data stays.
    pub async fn stop(&mut self) {
        self.node.take().unwrap().shutdown(Duration::from_secs(2)).await;
    }

    /// Starts it again on the same data and port.
    pub async fn start_again(&mut self) {
        assert!(self.node.is_none());
        self.node = Some(start(&self.directory, self.port).await);
    }

    /// Starts it again on a log in which a batch that contains these bytes was damaged meanwhile.
    pub async fn start_damaged(&mut self, content: &[u8]) {
        assert!(self.node.is_none());
        let data = self.directory.path().join("data");
        let files = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        let mut damaged = false;
        for log in logs {
            let mut bytes = std::fs::read(&log).unwrap();
            if let Some(at) = bytes.windows(content.len()).position(|window| window == content) {
                bytes[at + content.len() / 2] ^= 1;
                std::fs::write(&log, &bytes).unwrap();
                damaged = true;
            }
        }
        assert!(damaged, "no log holds these bytes");
        let config =
            NodeConfig { port: self.port, data_dir: data, serve_damaged_log: true, ..NodeConfig::default() };
        self.node = Some(Node::start(config).await.unwrap());
    }

    /// Creates a stream and returns its shards.
    pub async fn stream(&mut self, name: &str, shard_count: u32) -> Vec<u64> {
        let stream = api::Stream {
            stream_name: name.into(),
            replication_factor: 1,
            backlog_duration: 86_400,
            shard_count,
            ..Default::default()
        };
        self.wire.create_stream(stream).await.unwrap();
        let request = api::ListShardsRequest { stream_name: name.into() };
        let shards = self.wire.list_shards(request).await.unwrap().into_inner().shards;
        shards.into_iter().map(|shard| shard.shard_id).collect()
    }

    /// Creates a subscription that starts at the oldest record.
    pub async fn subscription(&mut self, id: &str, stream: &str) {
        let subscription = api::Subscription {
            subscription_id: id.into(),
            stream_name: stream.into(),
            ack_timeout_seconds: 60,
            max_unacked_records: 100_000,
            offset: api::SpecialOffset::Earliest as i32,
            ..Default::default()
        };
        self.wire.create_subscription(subscription).await.unwrap();
    }

    /// Appends one batch; `records` are (key, payload).
    pub async fn append(
        &mut self,
        stream: &str,
        shard_id: u64,
        records: &[(&str, Vec<u8>)],
    ) -> Vec<RecordId> {
        let records: Vec<_> = records
            .iter()
            .map(|(key, payload)| api::HStreamRecord {
                header: Some(api::HStreamRecordHeader { flag: 1, key: (*key).into(), ..Default::default() }),
                payload: payload.clone().into(),
            })
            .collect();
        let request = api::AppendRequest {
            stream_name: stream.into(),
            shard_id,
            records: Some(api::BatchedRecord {
                batch_size: records.len() as u32,
                payload: api::BatchHStreamRecords { records }.encode_to_vec().into(),
                ..Default::default()
            }),
        };
        let ids = self.wire.append(request).await.unwrap().into_inner().record_ids;
        ids.into_iter()
            .map(|id| RecordId { shard_id: id.shard_id, batch_id: id.batch_id, batch_index: id.batch_index })
            .collect()
    }

    /// Appends batches of `records` small records each.
    pub async fn append_batches(
        &mut self,
        stream: &str,
        shard: u64,
        batches: u32,
        records: u32,
    ) -> Vec<RecordId> {
        let mut ids = Vec::new();
        for batch in 0..batches {
            let records: Vec<_> = (0..records).map(|r| ("k", format!("{batch}/{r}").into_bytes())).collect();
            ids.extend(self.append(stream, shard, &records).await);
        }
        ids
    }
}

async fn start(directory: &tempfile::TempDir, port: u16) -> Node {
    let config = NodeConfig { port, data_dir: directory.path().join("data"), ..NodeConfig::default() };
    Node::start(config).await.unwrap()
}

/// The future's result; a test that would hang fails instead.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("nothing happened for 20 seconds")
}
