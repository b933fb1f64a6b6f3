use super::*;
use crate::cluster::{Member, MemberState};
use crate::listener::{Address, Advertised};
use crate::store::Expect;
use crate::store::disk::LocalDisk;
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use bytes::Bytes;
use std::collections::BTreeMap;

const SOON: Duration = Duration::from_secs(10);

/// One store, as every node of the cluster sees it.
struct World {
    store: EmbeddedStore,
    _dir: tempfile::TempDir,
}

fn at(id: u32) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + u16::try_from(id).unwrap()))
}

fn member(id: u32) -> Member {
    let main = Address { host: "127.0.0.1".into(), port: 1 };
    Member {
        id: NodeId(id),
        generation: 1,
        internal: at(id),
        state: MemberState::Alive,
        phase: Phase::Starting,
        advertised: Advertised { main, extra: Vec::new() },
        version: String::new(),
        commit: String::new(),
    }
}

fn members(me: u32, others: &[u32]) -> Members {
    let ids = std::iter::once(&me).chain(others);
    let nodes: BTreeMap<_, _> = ids.map(|&id| (NodeId(id), member(id))).collect();
    Members { me: NodeId(me), nodes: Arc::new(nodes) }
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(LocalDisk::open(dir.path()).unwrap());
        let store = EmbeddedStore::open(disk, EmbeddedOptions::default()).await.unwrap();
        World { store, _dir: dir }
    }

    async fn lease(&self, id: u32) {
        self.store.meta().put(&format!("lease/{id}"), Bytes::from_static(b"{}"), Expect::Any).await.unwrap();
    }

    /// A node of the seeds 1 to `seeds` that begins knowing only itself.
    async fn node(&self, me: u32, seeds: u32) -> (Bootstrap, watch::Sender<Members>) {
        self.try_node(me, seeds, |_| {}).await.unwrap()
    }

    async fn try_node(
        &self,
        me: u32,
        seeds: u32,
        change: impl FnOnce(&mut BootstrapStart),
    ) -> Result<(Bootstrap, watch::Sender<Members>), BootstrapError> {
        let seeds: Vec<_> = (1..=seeds).map(|id| Seed::parse(&at(id).to_string(), 0).unwrap()).collect();
        let (sender, receiver) = watch::channel(members(me, &[]));
        let mut start = BootstrapStart {
            me: NodeId(me),
            cluster_name: "hstream".into(),
            role: role(&seeds, at(me), at(me).ip()).await,
            seeds,
            auto_init: false,
            delay: Duration::ZERO,
            lapse: SOON * 1000,
            meta: self.store.meta(),
            members: receiver,
        };
        change(&mut start);
        Ok((Bootstrap::begin(start).await?, sender))
    }
}

async fn ready(node: &Bootstrap) {
    tokio::time::timeout(SOON, node.ready()).await.expect("the node becomes ready");
    assert!(node.is_ready());
}

/// It has had every chance to become ready, and has not.
async fn not_ready(node: &Bootstrap) {
    assert!(tokio::time::timeout(Duration::from_millis(100), node.ready()).await.is_err());
}

#[tokio::test]
async fn a_node_without_seeds_is_ready_at_once_and_writes_nothing() {
    let node = Bootstrap::single(NodeId(1), Duration::ZERO);
    assert!(node.is_ready() && node.is_founded());
    node.init().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_delay_of_the_environment_comes_before_serving() {
    let began = Instant::now();
    let node = Bootstrap::single(NodeId(1), Duration::from_millis(700));
    assert!(!node.is_ready());
    node.ready().await;
    assert!(node.is_ready());
    assert_eq!(began.elapsed(), Duration::from_millis(700));
}

#[tokio::test]
async fn one_seed_alone_founds_its_cluster_and_is_ready() {
    let world = World::new().await;
    let (node, _members) = world.node(1, 1).await;
    ready(&node).await;
    assert!(node.is_founded());
    assert!(world.store.meta().get(record::KEY).await.unwrap().is_some());
}

#[tokio::test]
async fn several_seeds_wait_for_init_which_any_of_them_takes_as_often_as_one_likes() {
    let world = World::new().await;
    let (one, members_of_one) = world.node(1, 3).await;
    let (two, members_of_two) = world.node(2, 3).await;
    members_of_one.send_replace(members(1, &[2, 3]));
    members_of_two.send_replace(members(2, &[1, 3]));
    not_ready(&one).await;
    assert_eq!(one.up_time(), Duration::ZERO);
    two.init().await.unwrap();
    ready(&two).await;
    ready(&one).await;
    let stored = world.store.meta().get(record::KEY).await.unwrap();
    one.init().await.unwrap();
    two.init().await.unwrap();
    assert_eq!(world.store.meta().get(record::KEY).await.unwrap(), stored, "init twice is init once");
}

#[tokio::test]
async fn nodes_told_at_the_same_moment_found_one_cluster() {
    let world = World::new().await;
    let (one, _members_of_one) = world.node(1, 2).await;
    let (two, _members_of_two) = world.node(2, 2).await;
    let (a, b) = tokio::join!(one.init(), two.init());
    a.unwrap();
    b.unwrap();
    assert_eq!(one.progress.record.get(), two.progress.record.get());
    ready(&one).await;
    ready(&two).await;
}

#[tokio::test]
async fn with_auto_init_the_seeds_found_once_all_of_them_are_up() {
    let world = World::new().await;
    let (one, members_of_one) = world.try_node(1, 3, |start| start.auto_init = true).await.unwrap();
    members_of_one.send_replace(members(1, &[2]));
    not_ready(&one).await;
    // Another node beside the seeds is not the third seed.
    members_of_one.send_replace(members(1, &[2, 9]));
    not_ready(&one).await;
    members_of_one.send_replace(members(1, &[2, 3]));
    ready(&one).await;
}

#[tokio::test]
async fn a_seed_that_is_down_is_not_up() {
    let world = World::new().await;
    let (one, members_of_one) = world.try_node(1, 2, |start| start.auto_init = true).await.unwrap();
    let mut seen = members(1, &[2]);
    Arc::make_mut(&mut seen.nodes).get_mut(&NodeId(2)).unwrap().state = MemberState::Suspect;
    members_of_one.send_replace(seen);
    not_ready(&one).await;
}

#[tokio::test]
async fn a_node_that_joins_later_needs_one_live_node() {
    let world = World::new().await;
    let (one, _members_of_one) = world.node(1, 1).await;
    ready(&one).await;
    let (late, members_of_late) = world.node(7, 1).await;
    assert!(late.is_founded());
    not_ready(&late).await;
    members_of_late.send_replace(members(7, &[1]));
    ready(&late).await;
}

#[tokio::test]
async fn a_cluster_that_was_down_as_a_whole_needs_no_second_init() {
    let world = World::new().await;
    {
        let (one, _members) = world.node(1, 3).await;
        one.init().await.unwrap();
        ready(&one).await;
    }
    // The first one that comes back: nobody is there, and nobody holds a lease.
    let (two, _members) = world.node(2, 3).await;
    ready(&two).await;
}

#[tokio::test]
async fn a_node_that_comes_back_first_meets_those_who_hold_leases() {
    let world = World::new().await;
    let (one, members_of_one) = world.node(1, 3).await;
    one.init().await.unwrap();
    ready(&one).await;
    world.lease(1).await;
    world.lease(2).await;
    drop((one, members_of_one));
    let (one, members_of_one) = world.node(1, 3).await;
    not_ready(&one).await;
    members_of_one.send_replace(members(1, &[2]));
    ready(&one).await;
}

#[tokio::test]
async fn a_lease_that_nobody_renews_is_not_waited_for_longer_than_it_lasts() {
    let world = World::new().await;
    record::found(&*world.store.meta(), "hstream").await.unwrap();
    world.lease(2).await;
    let (one, _members) =
        world.try_node(1, 3, |start| start.lapse = Duration::from_millis(300)).await.unwrap();
    assert!(!one.is_ready());
    ready(&one).await;
}

#[tokio::test]
async fn a_store_of_another_cluster_is_refused_with_both_names() {
    let world = World::new().await;
    record::found(&*world.store.meta(), "blue").await.unwrap();
    let error = world.try_node(1, 1, |_| {}).await.unwrap_err();
    let expected = BootstrapError::OtherCluster { ours: "hstream".into(), theirs: "blue".into() };
    assert_eq!(error, expected);
    assert!(error.to_string().contains("--cluster-name blue"), "{error}");
}

#[tokio::test]
async fn a_node_that_waits_does_not_serve_a_cluster_founded_under_another_name() {
    let world = World::new().await;
    let (one, _members) = world.node(1, 3).await;
    record::found(&*world.store.meta(), "blue").await.unwrap();
    not_ready(&one).await;
    assert!(matches!(one.init().await, Err(BootstrapError::OtherCluster { .. })));
}

#[tokio::test]
async fn a_damaged_record_is_an_error_and_not_a_new_cluster() {
    let world = World::new().await;
    let meta = world.store.meta();
    meta.put(record::KEY, Bytes::from_static(b"no json"), Expect::Any).await.unwrap();
    assert!(matches!(world.try_node(1, 1, |_| {}).await, Err(BootstrapError::Corrupt(_))));
}

#[tokio::test]
async fn a_node_that_drains_is_not_ready_and_never_becomes_ready() {
    let world = World::new().await;
    let (one, _members) = world.node(1, 2).await;
    one.drain();
    one.init().await.unwrap();
    one.ready().await;
    not_running(&one).await;
}

async fn not_running(node: &Bootstrap) {
    let mut phase = node.phase();
    let running = phase.wait_for(|phase| *phase == Phase::Running);
    assert!(tokio::time::timeout(Duration::from_millis(100), running).await.is_err());
}

#[tokio::test]
async fn what_a_node_is_among_the_seeds_follows_from_addresses() {
    let seeds =
        |texts: &[&str]| texts.iter().map(|text| Seed::parse(text, 6571).unwrap()).collect::<Vec<_>>();
    let any: IpAddr = "0.0.0.0".parse().unwrap();
    let mine: SocketAddr = "10.0.0.1:6571".parse().unwrap();
    for (texts, bind, expected) in [
        (&["10.0.0.1"][..], any, Role::Alone),
        (&["127.0.0.1"], any, Role::Alone),
        (&["127.0.0.1"], mine.ip(), Role::Joiner),
        (&["10.0.0.1", "10.0.0.2"], any, Role::Seed),
        (&["10.0.0.1:6572", "10.0.0.2"], any, Role::Joiner),
        (&["10.0.0.2"], any, Role::Joiner),
        (&[], any, Role::Alone),
    ] {
        assert_eq!(role(&seeds(texts), mine, bind).await, expected, "{texts:?}");
    }
}
