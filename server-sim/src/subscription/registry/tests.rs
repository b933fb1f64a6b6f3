//! Two nodes over one store, each with a catalogue of its own: every order of their steps that matters, played out.

mod chance;

use super::*;
use crate::cluster::ownership::Session;
use crate::store::disk::{Disk, FaultDisk};
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::staged::{Call, Staged, When};
use crate::store::{FIRST_LSN, NewBatch, ReadLimits};
use crate::stream::{NewStream, Stream as Shards};
use bytes::Bytes;
use futures::FutureExt as _;
use tokio::task::JoinHandle;

async fn open_store() -> EmbeddedStore {
    let disk = Arc::new(FaultDisk::new()) as Arc<dyn Disk>;
    let options = EmbeddedOptions { reserve_bytes: 0, ..EmbeddedOptions::default() };
    EmbeddedStore::open(disk, options).await.unwrap()
}

/// One node's domain.
#[derive(Clone)]
struct Side {
    staged: Arc<Staged>,
    streams: Arc<Streams>,
    subscriptions: Arc<Subscriptions>,
}

impl Side {
    async fn open(store: &EmbeddedStore, staged: Arc<Staged>) -> Side {
        let ownership = Ownership::alone(Arc::new(Session::exclusive(NodeId(1))));
        let streams = Streams::open(store.log(), staged.clone()).await.unwrap();
        let subscriptions =
            Subscriptions::open(store.log(), staged.clone(), streams.clone(), ownership).await.unwrap();
        Side { staged, streams, subscriptions }
    }

    async fn create(&self, name: &str) -> Result<Arc<Shards>> {
        let new = NewStream { name: name.into(), replication_factor: 1, backlog_secs: 0, shard_count: 2 };
        self.streams.create(new).await
    }

    async fn delete(&self, name: &str, force: bool) -> Result<StreamId> {
        self.streams.delete(name, force, |stream| self.subscriptions.is_read(stream).boxed()).await
    }

    async fn subscribe(&self, id: &str, stream: &str) -> Result<Arc<Definition>> {
        let new = NewSubscription {
            id: id.into(),
            stream_name: stream.into(),
            ack_timeout_secs: 60,
            max_unacked: 10,
            offset: 0,
            policy: PolicyChange::default(),
        };
        self.subscriptions.create(new).await
    }

    /// The same as tasks.
    fn deleting(&self, name: &'static str, force: bool) -> JoinHandle<Result<StreamId>> {
        let this = self.clone();
        tokio::spawn(async move { this.delete(name, force).await })
    }

    fn subscribing(&self, id: &'static str, stream: &'static str) -> JoinHandle<Result<Arc<Definition>>> {
        let this = self.clone();
        tokio::spawn(async move { this.subscribe(id, stream).await })
    }
}

struct Nodes {
    store: EmbeddedStore,
    a: Side,
    b: Side,
}

impl Nodes {
    async fn open() -> Nodes {
        let store = open_store().await;
        let a = Side::open(&store, Staged::over(store.meta())).await;
        let b = Side::open(&store, Staged::over(store.meta())).await;
        Nodes { store, a, b }
    }

    /// On an engine whose watches may be behind.
    async fn unsettled() -> Nodes {
        let store = open_store().await;
        let a = Side::open(&store, Staged::unsettled(store.meta())).await;
        let b = Side::open(&store, Staged::unsettled(store.meta())).await;
        Nodes { store, a, b }
    }

    /// What must hold whenever nobody is in the middle of anything, also for a node that starts then. It comes last,
    /// because a start tidies up.
    async fn check(&self) {
        self.check_on(&self.a).await;
        self.check_on(&self.b).await;
        self.check_on(&Side::open(&self.store, Staged::over(self.store.meta())).await).await;
    }

    async fn check_on(&self, side: &Side) {
        let (named, archived) = (side.streams.with_prefix(""), side.streams.archived());
        let definitions = side.subscriptions.with_prefix("");
        let names: HashSet<&String> = named.iter().map(|stream| &stream.name).collect();
        assert_eq!(names.len(), named.len(), "{named:?}");
        for definition in &definitions {
            let stream = side.streams.by_id(definition.stream);
            let stream = stream.unwrap_or_else(|| panic!("the stream of {definition:?} is gone"));
            let there = |other: &Arc<Shards>| other.id == stream.id;
            assert!(named.iter().any(there) || archived.iter().any(there), "{stream:?} is nowhere");
        }
        for stream in &archived {
            let read = definitions.iter().any(|definition| definition.stream == stream.id);
            assert!(read, "nobody reads the archived {stream:?}");
        }
        let all = named.iter().chain(&archived);
        let owned: HashSet<ShardId> =
            all.flat_map(|stream| stream.shards.iter().map(|shard| shard.id)).collect();
        let present: HashSet<ShardId> =
            self.store.log().shards().into_iter().map(|spec| spec.shard).collect();
        assert_eq!(owned, present, "shards of streams, shards in the log");
        for (prefix, there) in [("stream/", named.len()), ("archive/", archived.len())] {
            assert_eq!(self.store.meta().list(prefix).await.unwrap().len(), there, "{prefix}");
        }
    }
}

fn class<T: std::fmt::Debug>(outcome: Result<T>) -> Class {
    outcome.expect_err("is refused").class().expect("is classified")
}

#[tokio::test]
async fn what_one_node_creates_archives_or_deletes_is_so_on_the_other_at_once() {
    let Nodes { a, b, .. } = &Nodes::open().await;
    for round in 0..20 {
        let stream = a.create("s").await.unwrap();
        assert_eq!(b.streams.by_name("s"), Some(stream.clone()));
        assert_eq!(b.streams.by_shard(stream.shards[1].id), Some(stream.clone()));
        let definition = b.subscribe("sub", "s").await.unwrap();
        assert_eq!(a.subscriptions.get("sub").unwrap(), definition);
        assert_eq!(class(b.delete("s", false).await), Class::FoundSubscription);
        if round % 2 == 0 {
            b.delete("s", true).await.unwrap();
            assert_eq!(a.streams.by_name("s"), None);
            assert!(a.streams.by_id(stream.id).unwrap().archived);
            assert!(a.streams.by_shard(stream.shards[0].id).unwrap().archived);
            a.subscriptions.delete("sub", false).await.unwrap();
        } else {
            a.subscriptions.delete("sub", false).await.unwrap();
            a.delete("s", false).await.unwrap();
        }
        assert!(!b.subscriptions.exists("sub"));
        assert_eq!((b.streams.by_name("s"), b.streams.by_id(stream.id)), (None, None));
        assert_eq!(b.streams.by_shard(stream.shards[0].id), None);
    }
}

#[tokio::test]
async fn a_subscription_created_between_the_deleters_look_and_its_decision_saves_the_stream() {
    for nodes in [Nodes::open().await, Nodes::unsettled().await] {
        let Nodes { a, b, .. } = &nodes;
        for force in [false, true] {
            let stream = a.create("s").await.unwrap();
            let mut asked = a.staged.stop(When::After, Call::Put, "stream/s");
            let deletion = a.deleting("s", force);
            asked.reached().await;
            // It is there as before.
            assert_eq!(b.streams.by_name("s"), Some(stream.clone()));
            let mut decides = a.staged.stop(When::Before, Call::Put, "stream/s");
            asked.go();
            decides.reached().await;
            // It has looked and found nobody.
            b.subscribe("sub", "s").await.unwrap();
            decides.go();
            if force {
                deletion.await.unwrap().unwrap();
                assert!(b.streams.by_id(stream.id).unwrap().archived);
            } else {
                assert_eq!(class(deletion.await.unwrap()), Class::FoundSubscription);
                assert_eq!(b.streams.by_name("s"), Some(stream));
            }
            nodes.check().await;
            b.subscriptions.delete("sub", false).await.unwrap();
            if !force {
                a.delete("s", false).await.unwrap();
            }
            nodes.check().await;
        }
    }
}

#[tokio::test]
async fn a_subscription_whose_stream_was_deleted_while_it_was_written_is_taken_back() {
    let nodes = Nodes::open().await;
    let Nodes { a, b, .. } = &nodes;
    a.create("s").await.unwrap();
    // It has found the stream and its shards.
    let mut writes = b.staged.stop(When::Before, Call::Put, "subscription/");
    let creation = b.subscribing("sub", "s");
    writes.reached().await;
    a.delete("s", false).await.unwrap();
    writes.go();
    assert_eq!(class(creation.await.unwrap()), Class::NonExistentStream);
    assert!(!a.subscriptions.exists("sub"));
    nodes.check().await;
    assert!(nodes.store.log().shards().is_empty());
}

#[tokio::test]
async fn a_subscription_that_is_written_counts_before_it_is_answered() {
    let nodes = Nodes::open().await;
    let Nodes { a, b, .. } = &nodes;
    let stream = a.create("s").await.unwrap();
    let mut written = b.staged.stop(When::After, Call::Put, "subscription/");
    let creation = b.subscribing("sub", "s");
    written.reached().await;
    assert_eq!(class(a.delete("s", false).await), Class::FoundSubscription);
    // By force it is archived for that subscription, which finds it gone: then nobody reads it.
    a.delete("s", true).await.unwrap();
    assert!(b.streams.by_id(stream.id).unwrap().archived);
    written.go();
    assert_eq!(class(creation.await.unwrap()), Class::NonExistentStream);
    nodes.check().await;
    assert!(nodes.store.log().shards().is_empty());
}

#[tokio::test]
async fn a_deleter_that_died_after_asking_holds_nobody_up() {
    let nodes = Nodes::open().await;
    let Nodes { a, b, .. } = &nodes;
    for again in [false, true] {
        a.create("s").await.unwrap();
        let mut asked = a.staged.stop(When::After, Call::Put, "stream/s");
        let deletion = a.deleting("s", false);
        asked.reached().await;
        deletion.abort();
        deletion.await.unwrap_err();
        if again {
            b.delete("s", false).await.unwrap();
        } else {
            assert_eq!(class(b.create("s").await), Class::StreamExists);
            b.subscribe("sub", "s").await.unwrap();
            assert_eq!(class(b.delete("s", false).await), Class::FoundSubscription);
            b.subscriptions.delete("sub", false).await.unwrap();
            b.delete("s", false).await.unwrap();
        }
        nodes.check().await;
    }
}

#[tokio::test]
async fn a_decision_is_carried_out_by_whoever_finds_it() {
    let nodes = Nodes::open().await;
    let Nodes { a, b, .. } = &nodes;
    for read in [false, true] {
        let stream = a.create("s").await.unwrap();
        if read {
            a.subscribe("sub", "s").await.unwrap();
        }
        // Dies when all that is left to do is to remove the name.
        let mut removes = a.staged.stop(When::Before, Call::Delete, "stream/s");
        let deletion = a.deleting("s", true);
        removes.reached().await;
        deletion.abort();
        deletion.await.unwrap_err();
        for side in [a, b] {
            assert_eq!(side.streams.by_name("s"), None);
            assert_eq!(side.streams.find("s").await.unwrap(), None);
        }
        assert_eq!(class(b.subscribe("late", "s").await), Class::NonExistentStream);
        assert_eq!(class(b.delete("s", true).await), Class::StreamNotFound);
        let other = b.create("s").await.unwrap();
        assert_ne!(other.id, stream.id);
        nodes.check().await;
        assert_eq!(a.streams.by_id(stream.id).map(|stream| stream.archived), read.then_some(true));
        if read {
            a.subscriptions.delete("sub", false).await.unwrap();
        }
        b.delete("s", false).await.unwrap();
        nodes.check().await;
    }
}

#[tokio::test]
async fn a_decision_found_by_a_node_that_starts_is_carried_out() {
    let nodes = Nodes::open().await;
    let Nodes { a, .. } = &nodes;
    let stream = a.create("s").await.unwrap();
    a.subscribe("sub", "s").await.unwrap();
    let mut archives = a.staged.stop(When::Before, Call::PutMany, "archive/");
    let deletion = a.deleting("s", true);
    archives.reached().await;
    deletion.abort();
    deletion.await.unwrap_err();
    let started = Side::open(&nodes.store, Staged::over(nodes.store.meta())).await;
    assert!(started.streams.by_id(stream.id).unwrap().archived);
    nodes.check().await;
}

#[tokio::test]
async fn a_late_helper_does_not_bring_an_archived_stream_back() {
    let nodes = Nodes::open().await;
    let Nodes { a, b, .. } = &nodes;
    a.create("s").await.unwrap();
    a.subscribe("sub", "s").await.unwrap();
    let mut archives = a.staged.stop(When::Before, Call::PutMany, "archive/");
    let deletion = a.deleting("s", true);
    archives.reached().await;
    // The other node needs the name, and then the last reader goes.
    b.create("s").await.unwrap();
    b.subscriptions.delete("sub", false).await.unwrap();
    archives.go();
    deletion.await.unwrap().unwrap();
    nodes.check().await;
    assert_eq!(nodes.store.log().shards().len(), 2);
}

#[tokio::test]
async fn of_two_creations_of_a_name_one_wins_and_the_other_leaves_nothing() {
    let nodes = Nodes::open().await;
    let Nodes { a, b, .. } = &nodes;
    let mut names = a.staged.stop(When::Before, Call::Put, "stream/s");
    let creation = tokio::spawn({
        let a = a.clone();
        async move { a.create("s").await }
    });
    names.reached().await;
    assert_eq!(nodes.store.log().shards().len(), 2);
    let stream = b.create("s").await.unwrap();
    names.go();
    assert_eq!(class(creation.await.unwrap()), Class::StreamExists);
    assert_eq!(a.streams.by_name("s"), Some(stream));
    nodes.check().await;
}

#[tokio::test]
async fn of_two_deletions_one_finds_the_stream_gone() {
    let nodes = Nodes::open().await;
    let Nodes { a, b, .. } = &nodes;
    a.create("s").await.unwrap();
    let mut asked = a.staged.stop(When::After, Call::Put, "stream/s");
    let deletion = a.deleting("s", false);
    asked.reached().await;
    let mut decides = a.staged.stop(When::Before, Call::Put, "stream/s");
    asked.go();
    decides.reached().await;
    b.delete("s", false).await.unwrap();
    decides.go();
    assert_eq!(class(deletion.await.unwrap()), Class::StreamNotFound);
    nodes.check().await;
}

#[tokio::test]
async fn the_last_readers_of_an_archived_stream_may_go_on_two_nodes_at_once() {
    for nodes in [Nodes::open().await, Nodes::unsettled().await] {
        let Nodes { a, b, .. } = &nodes;
        a.create("s").await.unwrap();
        a.subscribe("one", "s").await.unwrap();
        b.subscribe("two", "s").await.unwrap();
        a.delete("s", true).await.unwrap();
        let mut removed = a.staged.stop(When::After, Call::Delete, "subscription/one");
        let deletion = tokio::spawn({
            let a = a.clone();
            async move { a.subscriptions.delete("one", false).await }
        });
        removed.reached().await;
        // It has not looked yet; this one does and finds nobody.
        b.subscriptions.delete("two", false).await.unwrap();
        removed.go();
        deletion.await.unwrap().unwrap();
        nodes.check().await;
        assert!(nodes.store.log().shards().is_empty());
    }
}

#[tokio::test]
async fn the_last_reader_may_go_while_the_stream_is_archived_for_it() {
    let nodes = Nodes::open().await;
    let Nodes { a, b, .. } = &nodes;
    a.create("s").await.unwrap();
    a.subscribe("sub", "s").await.unwrap();
    let mut asked = a.staged.stop(When::After, Call::Put, "stream/s");
    let deletion = a.deleting("s", true);
    asked.reached().await;
    let mut decides = a.staged.stop(When::Before, Call::Put, "stream/s");
    asked.go();
    decides.reached().await;
    // Nothing is archived yet that it could let go.
    b.subscriptions.delete("sub", false).await.unwrap();
    decides.go();
    deletion.await.unwrap().unwrap();
    nodes.check().await;
    assert!(nodes.store.log().shards().is_empty());
}

#[tokio::test]
async fn two_nodes_never_hand_out_the_same_identity() {
    let nodes = Nodes::open().await;
    let mut seen = HashSet::new();
    for round in 0..10 {
        let made = futures::future::join_all([&nodes.a, &nodes.b].into_iter().enumerate().map(
            |(at, side)| async move {
                let name = format!("s{round}-{at}");
                side.create(&name).await.unwrap()
            },
        ));
        for stream in made.await {
            for id in stream.shards.iter().map(|shard| shard.id).chain([stream.id.0]) {
                assert!(seen.insert(id), "{id} came twice");
            }
        }
    }
}

#[tokio::test]
async fn a_subscription_to_a_stream_that_is_gone_is_removed_by_the_next_start() {
    let nodes = Nodes::open().await;
    let Nodes { a, b, .. } = &nodes;
    a.create("s").await.unwrap();
    let mut writes = b.staged.stop(When::Before, Call::Put, "subscription/");
    let creation = b.subscribing("sub", "s");
    writes.reached().await;
    a.delete("s", false).await.unwrap();
    // Dies right after it wrote.
    let mut looks = b.staged.stop(When::Before, Call::Get, "stream/s");
    writes.go();
    looks.reached().await;
    creation.abort();
    assert!(a.subscriptions.exists("sub"));
    let started = Side::open(&nodes.store, Staged::over(nodes.store.meta())).await;
    assert!(!started.subscriptions.exists("sub"));
    assert!(!a.subscriptions.exists("sub"));
}

#[tokio::test]
async fn checkpoints_of_a_subscription_created_while_a_node_starts_stay() {
    let nodes = Nodes::open().await;
    let Nodes { a, .. } = &nodes;
    a.create("s").await.unwrap();
    let staged = Staged::over(nodes.store.meta());
    let mut lists = staged.stop(When::Before, Call::List, "checkpoint/");
    let start = tokio::spawn({
        let (log, streams, staged) = (nodes.store.log(), a.streams.clone(), staged.clone());
        let ownership = Ownership::alone(Arc::new(Session::exclusive(NodeId(2))));
        async move { Subscriptions::open(log, staged, streams, ownership).await.map(|_| ()) }
    });
    lists.reached().await;
    let definition = a.subscribe("sub", "s").await.unwrap();
    let key = format!("{}1", definition.checkpoints());
    nodes.store.meta().put(&key, Bytes::from_static(b"7"), Expect::Any).await.unwrap();
    lists.go();
    start.await.unwrap().unwrap();
    assert!(nodes.store.meta().get(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn a_policy_set_elsewhere_is_followed_and_a_change_or_end_elsewhere_ends_what_runs_here() {
    let Nodes { a, b, .. } = &Nodes::open().await;
    a.create("s").await.unwrap();
    let definition = a.subscribe("sub", "s").await.unwrap();
    let entry = b.subscriptions.entry("sub").unwrap();
    let run = async || {
        let claim = b.subscriptions.claim("sub", Claiming::Anyhow).await.unwrap();
        let entry = b.subscriptions.entry("sub").unwrap();
        b.subscriptions.start(&entry, claim).await.unwrap()
    };
    let live = run().await;
    let change = PolicyChange { redeliver_on_disconnect: Some(true), ..PolicyChange::default() };
    a.subscriptions.set_policy("sub", change).await.unwrap();
    assert!(b.subscriptions.get("sub").unwrap().policy.redeliver_on_disconnect);
    assert!(!live.ended());
    // Moved: its acknowledgements mean nothing any more.
    let latest = crate::subscription::Position::Latest;
    a.subscriptions.seek("sub", latest, false).await.unwrap();
    assert_ne!(b.subscriptions.get("sub").unwrap().incarnation, definition.incarnation);
    assert!(Arc::ptr_eq(&entry, &b.subscriptions.entry("sub").unwrap()));
    assert_eq!(live.state().ended().and_then(ServerError::class), Some(Class::SubscriptionInvalidError));
    let live = run().await;
    assert_eq!(live.incarnation(), b.subscriptions.get("sub").unwrap().incarnation);
    a.subscriptions.delete("sub", false).await.unwrap();
    assert!(!b.subscriptions.exists("sub"));
    assert_eq!(live.state().ended().and_then(ServerError::class), Some(Class::SubscriptionInvalidError));
    // What was found before it was deleted cannot be started any more.
    let claim = b.subscriptions.claim("sub", Claiming::Anyhow).await.unwrap();
    assert_eq!(class(b.subscriptions.start(&entry, claim).await), Class::SubscriptionInvalidError);
}

/// Whether what was appended to a stream can be read.
async fn readable(store: &EmbeddedStore, stream: &Shards) -> bool {
    let limits = ReadLimits { max_batches: 1, max_bytes: 1 << 20 };
    let shard = stream.shards[0].id;
    store.log().read(shard, FIRST_LSN, limits).await.is_ok_and(|chunk| chunk.batches.len() == 1)
}

async fn append(store: &EmbeddedStore, stream: &Shards) -> bool {
    let batch = NewBatch { bytes: Bytes::from_static(b"batch"), records: 1, producer: None };
    store.log().append(stream.shards[0].id, batch).await.is_ok()
}
