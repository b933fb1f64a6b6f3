//! Subscriptions on a disk that fails or loses power.

use bytes::Bytes;
use futures::StreamExt as _;
use hstream_server::api::subscription::{create, streaming_fetch};
use hstream_server::cluster::NodeId;
use hstream_server::cluster::ownership::{Ownership, Session};
use hstream_server::store::disk::FaultDisk;
use hstream_server::store::embedded::{EmbeddedOptions, EmbeddedStore};
use hstream_server::store::{Lsn, NewBatch, ShardId};
use hstream_server::stream::{NewStream, Streams};
use hstream_server::subscription::{Caller, Fetch, Position, Subscriptions};
use hstreamdb_proto::api::*;
use prost::Message as _;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

const DEADLINE: Duration = Duration::from_secs(20);

/// A server without its wire.
struct Stack {
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

impl Stack {
    async fn open(disk: &FaultDisk) -> Stack {
        let store = EmbeddedStore::open(Arc::new(disk.clone()), EmbeddedOptions::default()).await.unwrap();
        let streams = Streams::open(store.log(), store.meta()).await.unwrap();
        let subscriptions =
            Subscriptions::open(store.log(), store.meta(), streams.clone(), alone()).await.unwrap();
        Stack { store, streams, subscriptions }
    }

    /// A stream "s" of one shard, read by the subscription "sub".
    async fn fresh(disk: &FaultDisk) -> (Stack, ShardId) {
        let stack = Stack::open(disk).await;
        let new = NewStream { name: "s".into(), replication_factor: 1, backlog_secs: 0, shard_count: 1 };
        let stream = stack.streams.create(new).await.unwrap();
        let subscription = Subscription {
            subscription_id: "sub".into(),
            stream_name: "s".into(),
            ack_timeout_seconds: 600,
            max_unacked_records: 100,
            ..Default::default()
        };
        create(&stack.subscriptions, &MetadataMap::new(), subscription).await.unwrap();
        (stack, stream.shards[0].id)
    }

    async fn append(&self, shard: ShardId) -> Lsn {
        let record = BatchedRecord { batch_size: 1, payload: Bytes::from_static(b"x"), ..Default::default() };
        let batch = NewBatch { bytes: record.encode_to_vec().into(), records: 1, producer: None };
        self.store.log().append(shard, batch).await.unwrap().lsn
    }

    async fn attach(&self, ack_ids: Vec<RecordId>) -> Consumer {
        self.attach_to("sub", "c", ack_ids).await
    }

    async fn attach_to(&self, id: &str, name: &str, ack_ids: Vec<RecordId>) -> Consumer {
        let (requests, receiver) = mpsc::channel(16);
        let first = StreamingFetchRequest { subscription_id: id.into(), consumer_name: name.into(), ack_ids };
        requests.send(Ok(first)).await.unwrap();
        let receiver = ReceiverStream::new(receiver);
        let fetch = streaming_fetch(&self.subscriptions, receiver, Caller::default()).await;
        Consumer { requests, responses: fetch.unwrap() }
    }

    async fn committed(&self) -> Lsn {
        self.subscriptions.checkpoints("sub").await.unwrap()[0].1
    }
}

impl Consumer {
    async fn next(&mut self) -> RecordId {
        let message = tokio::time::timeout(DEADLINE, self.responses.next()).await.expect("a batch arrives");
        message.unwrap().unwrap().received_records.unwrap().record_ids[0]
    }

    async fn ack(&self, id: RecordId) {
        let request = StreamingFetchRequest { ack_ids: vec![id], ..Default::default() };
        self.requests.send(Ok(request)).await.unwrap();
    }

    /// Closes this side and returns the end of the call.
    async fn finish(self) -> Result<(), Status> {
        drop(self.requests);
        let mut responses = self.responses;
        tokio::time::timeout(DEADLINE, async {
            loop {
                match responses.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(status)) => return Err(status),
                    None => return Ok(()),
                }
            }
        })
        .await
        .expect("the call ends")
    }
}

#[tokio::test]
async fn what_was_acknowledged_before_a_clean_end_survives_a_power_loss() {
    let disk = FaultDisk::new();
    let (stack, shard) = Stack::fresh(&disk).await;
    let mut lsns = Vec::new();
    for _ in 0..4 {
        lsns.push(stack.append(shard).await);
    }
    let mut consumer = stack.attach(vec![]).await;
    for _ in 0..2 {
        let id = consumer.next().await;
        consumer.ack(id).await;
    }
    consumer.finish().await.unwrap();
    assert_eq!(stack.committed().await, lsns[1]);

    let stack = Stack::open(&disk.crash()).await;
    let mut consumer = stack.attach(vec![]).await;
    assert_eq!(consumer.next().await.batch_id, lsns[2]);
    assert_eq!(consumer.next().await.batch_id, lsns[3]);
}

#[tokio::test]
async fn the_end_waits_for_the_disk() {
    let disk = FaultDisk::new();
    let (stack, shard) = Stack::fresh(&disk).await;
    let lsn = stack.append(shard).await;
    let mut consumer = stack.attach(vec![]).await;
    let id = consumer.next().await;
    disk.hold_syncs();
    consumer.ack(id).await;
    let end = tokio::spawn(consumer.finish());
    let held = async {
        while disk.waiting_syncs() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, held).await.expect("the checkpoint is on its way");
    assert!(!end.is_finished());
    assert_eq!(stack.committed().await, 0, "what is not durable is not reported");
    disk.release_syncs();
    end.await.unwrap().unwrap();
    assert_eq!(stack.committed().await, lsn);
}

#[tokio::test]
async fn an_end_without_its_checkpoint_is_an_error_and_the_record_comes_again() {
    let disk = FaultDisk::new();
    let (stack, shard) = Stack::fresh(&disk).await;
    let lsn = stack.append(shard).await;
    let mut consumer = stack.attach(vec![]).await;
    let id = consumer.next().await;
    disk.fail_sync(0);
    consumer.ack(id).await;
    let end = consumer.finish().await.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable, "{end}");
    assert_eq!(stack.committed().await, 0);

    let stack = Stack::open(&disk.crash()).await;
    let mut consumer = stack.attach(vec![]).await;
    assert_eq!(consumer.next().await.batch_id, lsn);
}

#[tokio::test]
async fn acknowledgements_that_open_a_call_count() {
    let disk = FaultDisk::new();
    let (stack, shard) = Stack::fresh(&disk).await;
    let lsn = stack.append(shard).await;
    let mut consumer = stack.attach(vec![]).await;
    let id = consumer.next().await;
    // Cut off before it could acknowledge.
    drop(consumer);
    stack.attach(vec![id]).await.finish().await.unwrap();
    assert_eq!(stack.committed().await, lsn);
}

#[tokio::test]
async fn trimmed_records_move_the_checkpoint() {
    let disk = FaultDisk::new();
    let (stack, shard) = Stack::fresh(&disk).await;
    let first = stack.append(shard).await;
    let trimmed = stack.append(shard).await;
    let kept = stack.append(shard).await;
    stack.store.log().trim(shard, trimmed).await.unwrap();
    let mut consumer = stack.attach(vec![]).await;
    let id = consumer.next().await;
    assert_eq!(id.batch_id, kept);
    // Trimmed before it was delivered; late acknowledgements change nothing.
    consumer.ack(RecordId { batch_id: first, ..id }).await;
    consumer.finish().await.unwrap();
    assert_eq!(stack.committed().await, trimmed);
}

/// Consumers come, acknowledge some of what they get, and go in every way, while records are appended. In the
/// end everything was delivered and acknowledged, and the checkpoint says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_consumers_come_and_go() {
    let disk = FaultDisk::new();
    let (stack, shard) = Stack::fresh(&disk).await;
    // Redelivery has to be quick for what the impatient ones leave behind.
    let impatient = Subscription {
        subscription_id: "impatient".into(),
        stream_name: "s".into(),
        ack_timeout_seconds: 0,
        max_unacked_records: 20,
        ..Default::default()
    };
    create(&stack.subscriptions, &MetadataMap::new(), impatient).await.unwrap();
    let stack = Arc::new(stack);
    let appender = tokio::spawn({
        let stack = stack.clone();
        async move {
            let mut appended = Vec::new();
            for _ in 0..300 {
                appended.push(stack.append(shard).await);
            }
            appended
        }
    });
    let comers = (0..4).map(|consumer| {
        let stack = stack.clone();
        tokio::spawn(async move {
            let mut acked = Vec::new();
            for visit in 0..20 {
                let mut consumer = stack.attach_to("impatient", &format!("c{consumer}"), vec![]).await;
                for number in 0..visit {
                    // Others may have it all.
                    let next = tokio::time::timeout(Duration::from_millis(20), consumer.responses.next());
                    let Ok(Some(Ok(message))) = next.await else { break };
                    let id = message.received_records.unwrap().record_ids[0];
                    if number % 3 != 0 {
                        consumer.ack(id).await;
                        acked.push(id.batch_id);
                    }
                }
                if visit % 2 == 0 {
                    consumer.finish().await.unwrap();
                }
            }
            acked
        })
    });
    let acked = futures::future::try_join_all(comers).await.unwrap();
    let mut acked: BTreeSet<Lsn> = acked.into_iter().flatten().collect();
    let appended = appender.await.unwrap();
    let last = *appended.last().unwrap();
    let mut patient = stack.attach_to("impatient", "patient", vec![]).await;
    let committed = async || stack.subscriptions.checkpoints("impatient").await.unwrap()[0].1;
    tokio::time::timeout(DEADLINE, async {
        while committed().await < last {
            let next = tokio::time::timeout(Duration::from_millis(20), patient.responses.next());
            if let Ok(message) = next.await {
                let id = message.unwrap().unwrap().received_records.unwrap().record_ids[0];
                patient.ack(id).await;
                acked.insert(id.batch_id);
            }
        }
    })
    .await
    .expect("everything is acknowledged in the end");
    patient.finish().await.unwrap();
    assert_eq!(committed().await, last);
    assert_eq!(acked.into_iter().collect::<Vec<_>>(), appended);
}

#[tokio::test]
async fn a_moved_subscription_starts_there_also_after_a_power_loss() {
    let disk = FaultDisk::new();
    let (stack, shard) = Stack::fresh(&disk).await;
    let mut lsns = Vec::new();
    for _ in 0..4 {
        lsns.push(stack.append(shard).await);
    }
    let mut consumer = stack.attach(vec![]).await;
    for _ in 0..4 {
        let id = consumer.next().await;
        consumer.ack(id).await;
    }
    consumer.finish().await.unwrap();
    let lag = stack.subscriptions.lag("sub").await.unwrap();
    assert_eq!((lag[0].committed, lag[0].tail, lag[0].batches), (lsns[3], lsns[3], 0));

    let record = Position::Record(RecordId { shard_id: shard, batch_id: lsns[1], batch_index: 0 });
    stack.subscriptions.seek("sub", record, false).await.unwrap();
    let stack = Stack::open(&disk.crash()).await;
    assert_eq!(stack.subscriptions.lag("sub").await.unwrap()[0].batches, 3);
    let mut consumer = stack.attach(vec![]).await;
    assert_eq!(consumer.next().await.batch_id, lsns[1]);
    let lag = stack.subscriptions.lag("sub").await.unwrap();
    assert_eq!((lag[0].batches, lag[0].committed), (3, lsns[0]));

    // Old acknowledgements mean nothing to the moved subscription.
    let other = RecordId { shard_id: shard + 1, batch_id: lsns[1], batch_index: 0 };
    for position in [Position::Earliest, Position::Record(other)] {
        assert!(stack.subscriptions.seek("sub", position, false).await.is_err(), "a consumer is attached");
    }
    stack.subscriptions.seek("sub", Position::Earliest, true).await.unwrap();
    let end = consumer.finish().await.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable, "so that it comes back");
    let mut consumer = stack.attach(vec![]).await;
    assert_eq!(consumer.next().await.batch_id, lsns[0]);
    consumer.finish().await.unwrap();

    stack.subscriptions.seek("sub", Position::Latest, false).await.unwrap();
    let lsn = stack.append(shard).await;
    let mut consumer = stack.attach(vec![]).await;
    assert_eq!(consumer.next().await.batch_id, lsn);
    consumer.finish().await.unwrap();
    stack.subscriptions.seek("sub", Position::Time(0), false).await.unwrap();
    let mut consumer = stack.attach(vec![]).await;
    assert_eq!(consumer.next().await.batch_id, lsns[0]);
}

#[tokio::test]
async fn a_subscription_that_cannot_be_moved_stays_where_it_is() {
    let disk = FaultDisk::new();
    let (stack, shard) = Stack::fresh(&disk).await;
    let lsns = [stack.append(shard).await, stack.append(shard).await];
    let mut consumer = stack.attach(vec![]).await;
    let id = consumer.next().await;
    consumer.ack(id).await;
    consumer.finish().await.unwrap();
    disk.fail_sync(0);
    assert!(stack.subscriptions.seek("sub", Position::Earliest, false).await.is_err());
    let stack = Stack::open(&disk.crash()).await;
    let mut consumer = stack.attach(vec![]).await;
    let first = consumer.next().await.batch_id;
    assert_eq!(first, lsns[1]);
}
