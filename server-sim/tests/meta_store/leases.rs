//! Leases and owner records (docs/decisions/0019) over servers behind a network.

use crate::engines::{DEADLINE, namespace, nats, open, value};
use hstream_server::cluster::ownership::{Claim, Kind, Ownership, Session, SessionStart};
use hstream_server::cluster::{Member, MemberState, Members, NodeId, Phase};
use hstream_server::listener::{Address, Advertised};
use hstream_server::store::disk::FaultDisk;
use hstream_server::store::embedded::{EmbeddedOptions, EmbeddedStore};
use hstream_server::store::jetstream::JetStreamStore;
use hstream_server::store::{Expect, MetaStore, StoreError, StoreLink};
use hstream_testkit::eventually;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const LEASE: Duration = Duration::from_millis(600);

/// A node with an engine of its own.
struct Node {
    store: JetStreamStore,
    link: StoreLink,
    members: watch::Sender<Members>,
    session: Arc<Session>,
    ownership: Arc<Ownership>,
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
    async fn open(name: &str, id: u32) -> Node {
        let store = open(nats(), name).await;
        let timeout = Some(Duration::from_millis(300));
        let log =
            EmbeddedStore::open(Arc::new(FaultDisk::new()), EmbeddedOptions::default()).await.unwrap().log();
        let link = StoreLink::new(log, store.meta(), timeout);
        let members = watch::Sender::new(members(id, MemberState::Alive));
        let address = format!("127.0.0.1:{id}");
        let start = SessionStart { meta: link.meta(), node: NodeId(id), address, lease: LEASE };
        let session = Arc::new(Session::begin(start).await.unwrap());
        let ownership = Ownership::start(session.clone(), link.meta(), members.subscribe()).await.unwrap();
        Node { store, link, members, session, ownership }
    }

    fn finds_dead(&self) {
        let me = self.session.node().0;
        self.members.send_replace(members(me, MemberState::Down));
    }

    async fn claim(&self) -> Claim {
        eventually("a claim", DEADLINE, || async {
            self.ownership.claim_here(Kind::Subscription, "sub").await.ok()
        })
        .await
    }

    async fn checkpoint(&self, claim: &Claim, text: &str) -> Result<(), StoreError> {
        self.link.meta().put_many(vec![("checkpoint".to_owned(), value(text))], claim.guard()).await
    }
}

async fn checkpoint(meta: &Arc<dyn MetaStore>) -> String {
    let found = meta.get("checkpoint").await.unwrap().unwrap();
    String::from_utf8(found.value.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_away_stops_by_itself_and_writes_nothing_afterwards() {
    let name = namespace();
    let (one, two) = (Node::open(&name, 1).await, Node::open(&name, 2).await);
    let first = one.claim().await;
    one.checkpoint(&first, "one").await.unwrap();
    assert!(first.is_valid());
    one.link.cut();
    two.finds_dead();
    let began = Instant::now();
    let second = two.claim().await;
    assert!(!first.is_valid(), "two owners at a time");
    assert!(began.elapsed() < DEADLINE);
    assert_eq!(checkpoint(&two.store.meta()).await, "one");
    two.checkpoint(&second, "two").await.unwrap();
    // What it sent may arrive late, and it may not know yet: past the link.
    let late = one.store.meta().put_many(vec![("checkpoint".to_owned(), value("late"))], first.guard()).await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
    one.link.heal();
    assert!(matches!(one.checkpoint(&first, "late").await, Err(StoreError::Conflict { .. })));
    assert_eq!(checkpoint(&one.store.meta()).await, "two");
    // It serves again, and not that.
    let session = &one.session;
    eventually("another session", DEADLINE, || async { session.term().is_valid().then_some(()) }).await;
    assert!(!first.is_valid() && second.is_valid());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_nodes_that_claim_at_once_one_owns() {
    let name = namespace();
    let (one, two) = (Node::open(&name, 1).await, Node::open(&name, 2).await);
    for round in 0..10 {
        let id = format!("sub-{round}");
        let (a, b) = tokio::join!(
            one.ownership.claim_here(Kind::Subscription, &id),
            two.ownership.claim_here(Kind::Subscription, &id)
        );
        let valid = [&a, &b].into_iter().flatten().filter(|claim| claim.is_valid()).count();
        assert_eq!(valid, 1, "{a:?} {b:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_was_renewed_shuts_out_what_was_sent_before() {
    let name = namespace();
    let (one, two) = (Node::open(&name, 1).await, Node::open(&name, 2).await);
    let claim = one.claim().await;
    let old = claim.guard();
    one.checkpoint(&claim, "before").await.unwrap();
    one.ownership.renew_guard(&claim).await.unwrap();
    one.checkpoint(&claim, "after").await.unwrap();
    for node in [&one, &two] {
        let late =
            node.store.meta().put_many(vec![("checkpoint".to_owned(), value("late"))], old.clone()).await;
        assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
    }
    assert_eq!(checkpoint(&two.store.meta()).await, "after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_higher_than_one_whose_clock_was_ahead() {
    let name = namespace();
    let store = open(nats(), &name).await;
    let ahead = u64::MAX / 4;
    let lease = format!(
        "{{\"form\":1,\"generation\":{ahead},\"address\":\"127.0.0.1:1\",\"beat\":7,\"lease_ms\":600,\"released\":true}}"
    );
    store.meta().put("lease/1", value(&lease), Expect::Absent).await.unwrap();
    let one = Node::open(&name, 1).await;
    assert!(one.session.generation() > ahead);
    let first = one.session.generation();
    one.session.release().await;
    let again = Node::open(&name, 1).await;
    assert!(again.session.generation() > first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_another_process_takes_ends_the_first_one() {
    let name = namespace();
    let one = Node::open(&name, 1).await;
    let term = one.session.term();
    // At the same address, so that it is taken for a restart.
    let again = Node::open(&name, 1).await;
    eventually("the end of the first session", DEADLINE, || async { (!term.is_valid()).then_some(()) }).await;
    assert!(again.session.term().is_valid());
    assert!(again.session.generation() > term.generation());
}
