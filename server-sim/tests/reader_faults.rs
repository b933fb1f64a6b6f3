//! Polled readers on a disk that loses power.

use bytes::Bytes;
use hstream_server::cluster::NodeId;
use hstream_server::cluster::ownership::{Ownership, Session};
use hstream_server::limits::Budget;
use hstream_server::reader::{NewReader, PolledReaders};
use hstream_server::store::disk::FaultDisk;
use hstream_server::store::embedded::{EmbeddedOptions, EmbeddedStore};
use hstream_server::store::{Lsn, NewBatch, ShardId, ShardSpec};
use hstreamdb_proto::api::BatchedRecord;
use prost::Message as _;
use std::sync::Arc;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);
const SHARD: ShardId = 5;

/// A store and its readers without the wire.
struct Stack {
    store: EmbeddedStore,
    readers: PolledReaders,
}

/// Nobody else uses the store.
fn alone() -> Arc<Ownership> {
    Ownership::alone(Arc::new(Session::exclusive(NodeId(1))))
}

impl Stack {
    async fn open(disk: &FaultDisk) -> Stack {
        let store = EmbeddedStore::open(Arc::new(disk.clone()), EmbeddedOptions::default()).await.unwrap();
        let memory = Budget::new(16 << 20, Duration::from_secs(60));
        let readers = PolledReaders::open(store.log(), store.meta(), memory, alone()).await.unwrap();
        Stack { store, readers }
    }

    async fn append(&self) -> Lsn {
        let record = BatchedRecord { batch_size: 1, payload: Bytes::from_static(b"x"), ..Default::default() };
        let batch = NewBatch { bytes: record.encode_to_vec().into(), records: 1, producer: None };
        self.store.log().append(SHARD, batch).await.unwrap().lsn
    }

    async fn poll(&self, max: u32) -> Vec<Lsn> {
        let (received, _) = self.readers.poll("r", max).await.unwrap();
        received.iter().map(|batch| batch.record_ids[0].batch_id).collect()
    }
}

async fn fresh(disk: &FaultDisk) -> (Stack, Vec<Lsn>) {
    let stack = Stack::open(disk).await;
    stack
        .store
        .log()
        .create_shards(&[ShardSpec { shard: SHARD, retention_secs: 0, replicas: 1 }])
        .await
        .unwrap();
    let mut lsns = Vec::new();
    for _ in 0..4 {
        lsns.push(stack.append().await);
    }
    let reader = NewReader { id: "r".into(), stream: "s".into(), shard: SHARD, start: 0, timeout_ms: 0 };
    stack.readers.create(reader).await.unwrap();
    (stack, lsns)
}

#[tokio::test]
async fn before_its_position_is_saved_a_reader_starts_over_after_a_power_loss() {
    let disk = FaultDisk::new();
    let (stack, lsns) = fresh(&disk).await;
    assert_eq!(stack.poll(2).await, lsns[..2]);
    assert_eq!(Stack::open(&disk.crash()).await.poll(9).await, lsns);
}

#[tokio::test]
async fn after_a_power_loss_a_reader_repeats_its_last_answer_and_passes_nothing_over() {
    let disk = FaultDisk::new();
    let (stack, lsns) = fresh(&disk).await;
    assert_eq!(stack.poll(1).await, lsns[..1]);
    // The first answer was received, because there is a second poll; the answer to that may be lost.
    assert_eq!(stack.poll(2).await, lsns[1..3]);
    tokio::time::timeout(DEADLINE, async {
        while stack.store.meta().list("reader-position/").await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the position is saved in a while");
    assert_eq!(Stack::open(&disk.crash()).await.poll(9).await, lsns[1..]);
}

#[tokio::test]
async fn after_an_orderly_stop_a_reader_goes_on_exactly_where_it_was() {
    let disk = FaultDisk::new();
    let (stack, lsns) = fresh(&disk).await;
    assert_eq!(stack.poll(3).await, lsns[..3]);
    stack.readers.close().await;
    assert_eq!(Stack::open(&disk.crash()).await.poll(9).await, lsns[3..]);
}

#[tokio::test]
async fn a_position_belongs_to_one_reader_and_goes_with_it() {
    let disk = FaultDisk::new();
    let (stack, lsns) = fresh(&disk).await;
    assert_eq!(stack.poll(3).await, lsns[..3]);
    stack.readers.close().await;
    assert_eq!(stack.store.meta().list("reader-position/").await.unwrap().len(), 1);
    stack.readers.delete("r").await.unwrap();
    assert!(stack.store.meta().list("reader-position/").await.unwrap().is_empty());
    let reader = NewReader { id: "r".into(), stream: "s".into(), shard: SHARD, start: 0, timeout_ms: 0 };
    stack.readers.create(reader).await.unwrap();
    // As a position written late by a poll of the reader before it.
    let late = Bytes::from(format!("1 {}", lsns[3]));
    let any = hstream_server::store::Expect::Any;
    stack.store.meta().put("reader-position/r", late.clone(), any).await.unwrap();
    stack.store.meta().put("reader-position/gone", late, any).await.unwrap();
    let again = Stack::open(&disk.crash()).await;
    assert_eq!(again.poll(9).await, lsns);
    assert!(again.store.meta().list("reader-position/").await.unwrap().is_empty());
}
