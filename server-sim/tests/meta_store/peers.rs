//! Three peers whose leaders die, stand still and come back.

use crate::engines::{DEADLINE, namespace, open, options, value};
use hstream_server::store::jetstream::JetStreamStore;
use hstream_server::store::{Expect, MetaStore, StoreError, Versioned};
use hstream_testkit::eventually;
use hstream_testkit::nats::{Nats, NatsOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn peers() -> Nats {
    Nats::start(NatsOptions { peers: 3, ..NatsOptions::default() }).unwrap()
}

fn bucket(name: &str) -> String {
    format!("KV_{name}_meta")
}

/// A node that knows one peer at its start.
async fn at(nats: &Nats, name: &str, peer: usize) -> JetStreamStore {
    let mut options = options(nats, name);
    options.url = format!("nats://127.0.0.1:{}/{name}", nats.port(peer)).parse().unwrap();
    JetStreamStore::open(options).await.unwrap()
}

fn count_in(found: Option<&Versioned>) -> u64 {
    found.map_or(0, |found| std::str::from_utf8(&found.value).unwrap().parse().unwrap())
}

/// What several nodes did to one number.
#[derive(Default)]
struct Tally {
    /// Answered.
    sure: AtomicU64,
    /// Of which nobody knows.
    open: AtomicU64,
    /// The highest number that was answered.
    highest: AtomicU64,
    stop: AtomicBool,
}

impl Tally {
    /// Adds one again and again; never reads less than what was answered before the read began.
    async fn count(&self, meta: Arc<dyn MetaStore>) {
        while !self.stop.load(Ordering::SeqCst) {
            let least = self.highest.load(Ordering::SeqCst);
            let Ok(found) = meta.get("n").await else { continue };
            let count = count_in(found.as_ref());
            assert!(count >= least, "read {count} after {least} was answered");
            let expect = found.map_or(Expect::Absent, |found| Expect::Version(found.version));
            match meta.put("n", value(&(count + 1).to_string()), expect).await {
                Ok(_) => {
                    self.sure.fetch_add(1, Ordering::SeqCst);
                    self.highest.fetch_max(count + 1, Ordering::SeqCst);
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(StoreError::Unreachable(_)) => {
                    self.open.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn sure(&self) -> u64 {
        self.sure.load(Ordering::SeqCst)
    }

    /// Until so many more were answered.
    async fn go_on(&self, more: u64) {
        let until = self.sure() + more;
        eventually("more answers", DEADLINE, || async { (self.sure() >= until).then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_is_old_and_no_write_is_lost_while_leaders_change() {
    let nats = peers();
    let name = namespace();
    let mut stores = Vec::new();
    for peer in 0..3 {
        stores.push(at(&nats, &name, peer).await);
    }
    let tally = Arc::new(Tally::default());
    let work: Vec<_> = stores
        .iter()
        .map(|store| {
            let (tally, meta) = (tally.clone(), store.meta());
            tokio::spawn(async move { tally.count(meta).await })
        })
        .collect();
    tally.go_on(50).await;
    let mut gaps = Vec::new();
    for kill in [false, true] {
        let leader = nats.leader_of(&bucket(&name)).unwrap();
        // One that stands still goes on as the leader it was for a while once it wakes up.
        if kill {
            nats.kill(leader).unwrap()
        } else {
            nats.pause(leader).unwrap()
        }
        let began = Instant::now();
        tally.go_on(1).await;
        tally.go_on(50).await;
        gaps.push(began.elapsed());
        if kill {
            nats.restart(leader).unwrap()
        } else {
            nats.resume(leader).unwrap()
        }
        tally.go_on(50).await;
        nats.ready().await.unwrap();
    }
    tally.stop.store(true, Ordering::SeqCst);
    for done in futures::future::join_all(work).await {
        done.unwrap();
    }
    let (sure, open) = (tally.sure(), tally.open.load(Ordering::SeqCst));
    for store in &stores {
        let count = count_in(store.meta().get("n").await.unwrap().as_ref());
        assert!((sure..=sure + open).contains(&count), "{count} counted, {sure} answered, {open} open");
    }
    println!("{sure} answered, {open} open; went on after {gaps:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_goes_on_when_all_peers_were_away_and_nothing_is_lost() {
    let nats = peers();
    let name = namespace();
    let mut slow = options(&nats, &name);
    slow.timeout = Duration::from_secs(1);
    let store = JetStreamStore::open(slow).await.unwrap();
    let meta = store.meta();
    let mut watch = meta.watch("k/");
    let version = meta.put("k/1", value("a"), Expect::Absent).await.unwrap();
    assert!(watch.try_next().is_some());
    for peer in 0..3 {
        nats.kill(peer).unwrap();
    }
    let away = meta.put("k/2", value("b"), Expect::Absent).await;
    assert!(matches!(away, Err(StoreError::Unreachable(_))), "{away:?}");
    assert!(matches!(meta.get("k/1").await, Err(StoreError::Unreachable(_))));
    for peer in 0..3 {
        nats.restart(peer).unwrap();
    }
    let found = eventually("an answer", DEADLINE, || async { meta.get("k/1").await.ok() }).await;
    assert_eq!(found, Some(Versioned { value: value("a"), version }));
    eventually("a write", DEADLINE, || async { meta.put("k/3", value("c"), Expect::Any).await.ok() }).await;
    let mut keys = Vec::new();
    while !keys.contains(&"k/3".to_owned()) {
        match tokio::time::timeout(DEADLINE, watch.next()).await.expect("the watch goes on") {
            Some(hstream_server::store::Seen::Change(change)) => keys.push(change.key),
            other => panic!("{other:?}"),
        }
    }
    assert!(!keys.contains(&"k/1".to_owned()), "what was seen is not told twice: {keys:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_have_three_copies_in_a_cluster_and_as_many_as_asked_for() {
    let nats = peers();
    let replicas = async |name: &str| {
        let client = async_nats::connect(nats.urls()).await.unwrap();
        let mut stream = async_nats::jetstream::new(client).get_stream(bucket(name)).await.unwrap();
        stream.info().await.unwrap().config.num_replicas
    };
    let name = namespace();
    let store = open(&nats, &name).await;
    assert_eq!(replicas(&name).await, 3);
    store.close().await;
    let name = namespace();
    let mut one = options(&nats, &name);
    one.replicas = Some(1);
    let store = JetStreamStore::open(one).await.unwrap();
    store.meta().put("k", value("v"), Expect::Absent).await.unwrap();
    assert_eq!(replicas(&name).await, 1);
    store.close().await;
    // More than there were.
    let store = open(&nats, &name).await;
    assert_eq!(replicas(&name).await, 3);
    assert_eq!(store.meta().get("k").await.unwrap().unwrap().value, value("v"));
    store.close().await;
    let mut four = options(&nats, &namespace());
    (four.replicas, four.open_within) = (Some(4), Duration::from_secs(2));
    let error = JetStreamStore::open(four).await.unwrap_err().to_string();
    assert!(error.contains("4 copies") && error.contains("--store-replicas"), "{error}");
}
