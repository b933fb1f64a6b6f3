//! Memory of a subscription whose consumer acknowledges nothing: `cargo bench -p hstream-server --bench subscription_window`.
//!
//! Prints the resident memory of the process before and with a million outstanding records, in the worst case of
//! one record per batch and with partly acknowledged batches of a thousand.

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use hstream_server::api::subscription::{create, streaming_fetch};
use hstream_server::cluster::NodeId;
use hstream_server::cluster::ownership::{Ownership, Session};
use hstream_server::store::disk::LocalDisk;
use hstream_server::store::embedded::{EmbeddedOptions, EmbeddedStore};
use hstream_server::store::{NewBatch, ShardId};
use hstream_server::stream::{NewStream, Streams};
use hstream_server::subscription::{Caller, Fetch, Subscriptions};
use hstreamdb_proto::api::*;
use prost::Message as _;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::metadata::MetadataMap;

const RECORDS: u32 = 1_000_000;

struct Server {
    store: EmbeddedStore,
    streams: Arc<Streams>,
    subscriptions: Arc<Subscriptions>,
}

struct Consumer {
    requests: mpsc::Sender<Result<StreamingFetchRequest, Status>>,
    responses: Fetch,
}

/// Nobody else uses the store.
fn alone() -> Arc<Ownership> {
    Ownership::alone(Arc::new(Session::exclusive(NodeId(1))))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = Arc::new(LocalDisk::open(folder.path()).expect("a store folder"));
    let store = EmbeddedStore::open(disk, EmbeddedOptions::default()).await.expect("a store");
    let streams = Streams::open(store.log(), store.meta()).await.expect("streams");
    let subscriptions = Subscriptions::open(store.log(), store.meta(), streams.clone(), alone())
        .await
        .expect("subscriptions");
    let server = Server { store, streams, subscriptions };
    println!("{:<58} {:>10} {:>16}", "outstanding records", "RSS, MiB", "bytes per record");
    one_record_per_batch(&server).await;
    partly_acknowledged(&server).await;
}

async fn one_record_per_batch(server: &Server) {
    let shard = server.stream("single").await;
    server.append(shard, RECORDS, 1).await;
    let mut consumer = server.subscribe("single").await;
    let mut ids = vec![RecordId { shard_id: 1, batch_id: 1, batch_index: 1 }; RECORDS as usize];
    let base = resident();
    report("none", base, base);
    consumer.receive(&mut ids).await;
    report("a million, one per batch, all open", base, resident());
    consumer.ack(&ids[RECORDS as usize / 2..]).await;
    report("the older half open, the newer half acknowledged", base, resident());
    consumer.ack(&ids[1..RECORDS as usize / 2]).await;
    report("one open, all behind it acknowledged", base, resident());
    consumer.ack(&ids[..1]).await;
}

async fn partly_acknowledged(server: &Server) {
    let shard = server.stream("partly").await;
    server.append(shard, RECORDS / 1000, 1000).await;
    let mut consumer = server.subscribe("partly").await;
    let mut ids = vec![RecordId { shard_id: 1, batch_id: 1, batch_index: 1 }; RECORDS as usize];
    let base = resident();
    consumer.receive(&mut ids).await;
    report("a million, a thousand per batch, all open", base, resident());
    ids.retain(|id| id.batch_index.is_multiple_of(2));
    let every_second = ids;
    consumer.ack(&every_second).await;
    report("every second one of them acknowledged", base, resident());
}

impl Server {
    async fn stream(&self, name: &str) -> ShardId {
        let new = NewStream { name: name.into(), replication_factor: 1, backlog_secs: 0, shard_count: 1 };
        self.streams.create(new).await.expect("a stream").shards[0].id
    }

    async fn append(&self, shard: ShardId, batches: u32, records: u32) {
        let record = HStreamRecord { header: None, payload: Bytes::from_static(b"x") };
        let content = BatchHStreamRecords { records: vec![record; records as usize] }.encode_to_vec();
        let batch = BatchedRecord { batch_size: records, payload: content.into(), ..Default::default() };
        let batch = NewBatch { bytes: batch.encode_to_vec().into(), records, producer: None };
        let log = self.store.log();
        let appends = stream::iter(0..batches).map(|_| {
            let (log, batch) = (log.clone(), batch.clone());
            async move { log.append(shard, batch).await.expect("an append") }
        });
        appends.buffer_unordered(4096).for_each(|_| async {}).await;
    }

    async fn subscribe(&self, name: &str) -> Consumer {
        let subscription = Subscription {
            subscription_id: name.into(),
            stream_name: name.into(),
            ack_timeout_seconds: 3600,
            max_unacked_records: i32::MAX,
            ..Default::default()
        };
        create(&self.subscriptions, &MetadataMap::new(), subscription).await.expect("a subscription");
        let (requests, receiver) = mpsc::channel(16);
        let first = StreamingFetchRequest {
            subscription_id: name.into(),
            consumer_name: "c".into(),
            ..Default::default()
        };
        requests.send(Ok(first)).await.expect("the first message");
        let receiver = ReceiverStream::new(receiver);
        let responses =
            streaming_fetch(&self.subscriptions, receiver, Caller::default()).await.expect("a consumer");
        Consumer { requests, responses }
    }
}

impl Consumer {
    /// Fills `ids`, whose memory is resident before.
    async fn receive(&mut self, ids: &mut [RecordId]) {
        let mut left = ids.iter_mut();
        while left.len() > 0 {
            let message = self.responses.next().await.expect("the call goes on").expect("a batch");
            let received = message.received_records.expect("a batch").record_ids;
            for (id, slot) in received.into_iter().zip(&mut left) {
                *slot = id;
            }
        }
    }

    /// Returns once the server has taken them in.
    async fn ack(&mut self, ids: &[RecordId]) {
        for ids in ids.chunks(10_000) {
            let request = StreamingFetchRequest { ack_ids: ids.to_vec(), ..Default::default() };
            self.requests.send(Ok(request)).await.expect("an acknowledgement");
        }
        while self.requests.capacity() < self.requests.max_capacity() {
            tokio::task::yield_now().await;
        }
    }
}

fn report(what: &str, base: u64, now: u64) {
    let grown = now.saturating_sub(base);
    println!("{what:<58} {:>10.1} {:>16.1}", now as f64 / 1048576.0, grown as f64 / f64::from(RECORDS));
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number");
    kib * 1024
}
