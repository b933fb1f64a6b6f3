//! Subscriptions and polled readers of two nodes over one store, of which each can be cut off. No network.

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use hstream_server::cluster::ownership::{Kind, Ownership, Session, SessionStart};
use hstream_server::cluster::{Member, MemberState, Members, NodeId, Phase};
use hstream_server::error::{Class, ServerError};
use hstream_server::limits::Budget;
use hstream_server::listener::{Address, Advertised};
use hstream_server::reader::{NewReader, PolledReaders};
use hstream_server::store::disk::FaultDisk;
use hstream_server::store::embedded::{EmbeddedOptions, EmbeddedStore};
use hstream_server::store::{FIRST_LSN, Lsn, NewBatch, ShardId, StoreLink};
use hstream_server::stream::{NewStream, Streams};
use hstream_server::subscription::{
    Caller, Claiming, Fetch, NewSubscription, NotServed, PolicyChange, Position, Subscriptions,
};
use hstreamdb_proto::api::*;
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

const DEADLINE: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_millis(600);

struct Node {
    link: StoreLink,
    members: watch::Sender<Members>,
    ownership: Arc<Ownership>,
    subscriptions: Arc<Subscriptions>,
    readers: PolledReaders,
}

struct Stack {
    store: EmbeddedStore,
    shard: ShardId,
    one: Node,
    two: Node,
}

struct Consumer {
    requests: mpsc::Sender<Result<StreamingFetchRequest, Status>>,
    responses: Fetch,
}

fn members(me: u32, other: MemberState) -> Members {
    let member = |id: u32| Member {
        id: NodeId(id),
        generation: 1,
        internal: ([127, 0, 0, 1], 6571).into(),
        state: if id == me { MemberState::Alive } else { other },
        phase: Phase::Running,
        advertised: Advertised { main: Address { host: "h".into(), port: 1 }, extra: Vec::new() },
        version: String::new(),
        commit: String::new(),
    };
    let nodes: BTreeMap<NodeId, Member> = [1, 2].map(|id| (NodeId(id), member(id))).into();
    Members { me: NodeId(me), nodes: Arc::new(nodes) }
}

impl Node {
    async fn open(store: &EmbeddedStore, id: u32) -> Node {
        let link = StoreLink::new(store.log(), store.meta(), Some(Duration::from_millis(500)));
        let members = watch::Sender::new(members(id, MemberState::Alive));
        let start = SessionStart {
            meta: link.meta(),
            node: NodeId(id),
            address: format!("127.0.0.1:{id}"),
            lease: LEASE,
        };
        let session = Arc::new(Session::begin(start).await.unwrap());
        let ownership = Ownership::start(session, link.meta(), members.subscribe()).await.unwrap();
        let streams = Streams::open(link.log(), link.meta()).await.unwrap();
        let subscriptions = Subscriptions::open(link.log(), link.meta(), streams, ownership.clone());
        let memory = Budget::new(16 << 20, Duration::from_secs(60));
        let readers = PolledReaders::open(link.log(), link.meta(), memory, ownership.clone());
        let (subscriptions, readers) = (subscriptions.await.unwrap(), readers.await.unwrap());
        Node { link, members, ownership, subscriptions, readers }
    }

    async fn attach(&self, how: Claiming) -> Result<Consumer, NotServed> {
        let (requests, receiver) = mpsc::channel(16);
        let first = StreamingFetchRequest {
            subscription_id: "sub".into(),
            consumer_name: "c".into(),
            ..Default::default()
        };
        let serving = self.subscriptions.serve("sub", how).await?;
        let responses = serving.attach(&first, ReceiverStream::new(receiver), Caller::default())?;
        Ok(Consumer { requests, responses })
    }

    /// Attaches a consumer here, wherever the subscription would be placed.
    async fn consumer(&self) -> Consumer {
        self.attach(Claiming::Anyhow).await.unwrap()
    }

    async fn owner(&self) -> u32 {
        self.ownership.owner_of(Kind::Subscription, "sub").await.unwrap().0
    }

    async fn committed(&self, shard: ShardId) -> Lsn {
        self.subscriptions.lag("sub").await.unwrap().iter().find(|lag| lag.shard == shard).unwrap().committed
    }
}

impl Stack {
    /// A stream "s" of one shard, read by the subscription "sub", which nobody has claimed.
    async fn fresh() -> Stack {
        let store =
            EmbeddedStore::open(Arc::new(FaultDisk::new()), EmbeddedOptions::default()).await.unwrap();
        let streams = Streams::open(store.log(), store.meta()).await.unwrap();
        let new = NewStream { name: "s".into(), replication_factor: 1, backlog_secs: 0, shard_count: 1 };
        let stream = streams.create(new).await.unwrap();
        let alone = Ownership::alone(Arc::new(Session::exclusive(NodeId(1))));
        let subscriptions = Subscriptions::open(store.log(), store.meta(), streams, alone).await.unwrap();
        let new = NewSubscription {
            id: "sub".into(),
            stream_name: "s".into(),
            ack_timeout_secs: 600,
            max_unacked: 100,
            offset: 0,
            policy: PolicyChange::default(),
        };
        subscriptions.create(new).await.unwrap();
        drop(subscriptions);
        let (one, two) = (Node::open(&store, 1).await, Node::open(&store, 2).await);
        Stack { store, shard: stream.shards[0].id, one, two }
    }

    async fn append(&self) -> Lsn {
        let record = BatchedRecord { batch_size: 1, payload: Bytes::from_static(b"x"), ..Default::default() };
        let batch = NewBatch { bytes: record.encode_to_vec().into(), records: 1, producer: None };
        self.store.log().append(self.shard, batch).await.unwrap().lsn
    }

    /// Keys in the metadata with this prefix.
    async fn keys(&self, prefix: &str) -> Vec<String> {
        self.store.meta().list(prefix).await.unwrap().into_iter().map(|(key, _)| key).collect()
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

    /// How the call ends, without closing this side.
    async fn end(&mut self) -> Result<(), Status> {
        tokio::time::timeout(DEADLINE, async {
            loop {
                match self.responses.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(status)) => return Err(status),
                    None => return Ok(()),
                }
            }
        })
        .await
        .expect("the call ends")
    }

    /// Closes this side and returns the end of the call.
    async fn finish(mut self) -> Result<(), Status> {
        let (closed, _) = mpsc::channel(1);
        self.requests = closed;
        self.end().await
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_consumer_at_the_wrong_node_is_told_which_one_it_is() {
    let stack = Stack::fresh().await;
    let _consumer = stack.two.consumer().await;
    assert_eq!((stack.one.owner().await, stack.two.owner().await), (2, 2));
    for how in [Claiming::IfPlacedHere, Claiming::Anyhow] {
        let refused = stack.one.attach(how).await.err();
        assert_eq!(refused, Some(NotServed::Elsewhere(NodeId(2))));
    }
    let wrong = |error: ServerError| assert_eq!(error.class(), Some(Class::WrongServer), "{error}");
    wrong(stack.one.subscriptions.delete("sub", true).await.unwrap_err());
    wrong(stack.one.subscriptions.seek("sub", Position::Earliest, true).await.unwrap_err());
    wrong(stack.one.subscriptions.set_policy("sub", PolicyChange::default()).await.unwrap_err());
}

#[tokio::test]
async fn an_owner_that_loses_the_store_ends_its_consumers_within_a_lease_and_the_other_one_goes_on() {
    let stack = Stack::fresh().await;
    for _ in 0..3 {
        stack.append().await;
    }
    let mut old = stack.one.consumer().await;
    let first = old.next().await;
    old.ack(first).await;
    until("the checkpoint is written", async || stack.one.committed(stack.shard).await == first.batch_id)
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stack.one.link.set_meta(false);
    let cut = Instant::now();
    let status = old.end().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(cut.elapsed() < LEASE + Duration::from_secs(2), "{:?}", cut.elapsed());
    stack.two.members.send_replace(members(2, MemberState::Down));
    let mut new = stack.two.consumer().await;
    assert_eq!(new.next().await.batch_id, first.batch_id + 1, "from the checkpoint");
    stack.one.link.set_meta(true);
    let refused = async || stack.one.attach(Claiming::Anyhow).await.err();
    until("the old owner learns who is", async || refused().await == Some(NotServed::Elsewhere(NodeId(2))))
        .await;
}

#[tokio::test]
async fn what_waits_to_leave_stays_here_after_a_pause_that_was_longer_than_the_lease() {
    let stack = Stack::fresh().await;
    for _ in 0..3 {
        stack.append().await;
    }
    let mut consumer = stack.one.consumer().await;
    consumer.next().await;
    // The other two batches are in the outbox.
    let delivered = async || stack.one.subscriptions.lag("sub").await.unwrap()[0].unacked_records;
    until("all were delivered", async || delivered().await == 3).await;
    // Everything on this thread stands still, and goes on with the next message first.
    std::thread::sleep(LEASE + Duration::from_millis(200));
    let next = consumer.responses.next().now_or_never().expect("it says so at once").expect("with an error");
    assert_eq!(next.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn acknowledgements_that_were_not_written_before_a_move_end_the_call_with_an_error() {
    let stack = Stack::fresh().await;
    stack.append().await;
    let mut consumer = stack.one.consumer().await;
    let id = consumer.next().await;
    // The other one takes over behind its back.
    stack.one.link.set_meta(false);
    stack.two.members.send_replace(members(2, MemberState::Down));
    let mut new = stack.two.consumer().await;
    assert_eq!(new.next().await, id);
    consumer.ack(id).await;
    stack.one.link.set_meta(true);
    let status = consumer.finish().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(
        stack.two.committed(stack.shard).await,
        FIRST_LSN - 1,
        "it was never acknowledged to the owner"
    );
}

#[tokio::test]
async fn before_a_stop_consumers_are_sent_to_a_node_that_knows_all_they_acknowledged() {
    let stack = Stack::fresh().await;
    for _ in 0..3 {
        stack.append().await;
    }
    let mut old = stack.one.consumer().await;
    let mut last = old.next().await;
    old.ack(last).await;
    last = old.next().await;
    old.ack(last).await;
    until("both were taken", async || {
        stack.one.subscriptions.lag("sub").await.unwrap()[0].committed == last.batch_id
    })
    .await;
    let start = Instant::now();
    stack.one.ownership.drain(Duration::from_secs(5)).await;
    let status = old.end().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(stack.two.owner().await, 2);
    let mut new = stack.two.attach(Claiming::IfPlacedHere).await.unwrap();
    assert_eq!(new.next().await.batch_id, last.batch_id + 1);
    assert!(start.elapsed() < LEASE, "nobody was waited for: {:?}", start.elapsed());
    assert_eq!(stack.one.attach(Claiming::Anyhow).await.err(), Some(NotServed::Elsewhere(NodeId(2))));
}

#[tokio::test]
async fn a_deleted_subscription_leaves_no_owner_behind() {
    let stack = Stack::fresh().await;
    let _consumer = stack.one.consumer().await;
    assert_eq!(stack.keys("owner/").await, ["owner/subscription/sub"]);
    stack.one.subscriptions.delete("sub", true).await.unwrap();
    assert!(stack.keys("owner/").await.is_empty());
    assert!(stack.keys("subscription/").await.is_empty());
}

#[tokio::test]
async fn a_polled_reader_is_polled_at_its_owner_and_goes_on_elsewhere_where_it_was() {
    let stack = Stack::fresh().await;
    for _ in 0..4 {
        stack.append().await;
    }
    let (shard, start) = (stack.shard, FIRST_LSN);
    let reader = NewReader { id: "r".into(), stream: "s".into(), shard, start, timeout_ms: 10 };
    stack.one.readers.create(reader).await.unwrap();
    let owner = stack.one.ownership.owner_of(Kind::ShardReader, "r").await.unwrap();
    let (one, two) = if owner == NodeId(1) { (&stack.one, &stack.two) } else { (&stack.two, &stack.one) };
    let poll = async |node: &Node| {
        let (received, _) = node.readers.poll("r", 1).await?;
        Ok::<_, ServerError>(received[0].record_ids[0].batch_id)
    };
    let wrong = poll(two).await.unwrap_err();
    assert_eq!(wrong.class(), Some(Class::WrongServer), "{wrong}");
    let wrong = two.readers.delete("r").await.unwrap_err();
    assert_eq!(wrong.class(), Some(Class::WrongServer), "{wrong}");
    let read = [poll(one).await.unwrap(), poll(one).await.unwrap()];
    // The second answer is received when it polls again; the first one is known to be.
    one.ownership.drain(Duration::from_secs(5)).await;
    assert_eq!(poll(two).await.unwrap(), read[1]);
    let wrong = poll(one).await.unwrap_err();
    assert_eq!(wrong.class(), Some(Class::WrongServer), "{wrong}");
    two.readers.delete("r").await.unwrap();
    assert!(stack.keys("owner/").await.is_empty() && stack.keys("reader").await.is_empty());
}

#[tokio::test]
async fn a_node_that_has_its_store_to_itself_writes_nothing_about_owners() {
    let stack = Stack::fresh().await;
    let alone = Ownership::alone(Arc::new(Session::exclusive(NodeId(9))));
    let before = stack.keys("").await;
    let claim = alone.claim(Kind::Subscription, "sub").await.unwrap();
    assert!(claim.is_valid() && claim.guard().is_none());
    assert_eq!(alone.owner_of(Kind::Subscription, "other").await, Ok(NodeId(9)));
    assert_eq!(alone.stateless("key"), Some(NodeId(9)));
    alone.forget(&claim).await.unwrap();
    alone.session().release().await;
    assert_eq!(stack.keys("").await, before);
}
