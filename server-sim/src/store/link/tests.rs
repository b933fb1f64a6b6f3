//! Links that are cut and healed.

use super::*;
use crate::store::disk::{Disk, FaultDisk};
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::{FIRST_LSN, MetaChange, Seen, StoreError};
use futures::poll;
use std::pin::pin;
use tokio::time::Instant;

async fn open(disk: &FaultDisk) -> EmbeddedStore {
    let options = EmbeddedOptions { reserve_bytes: 0, ..EmbeddedOptions::default() };
    EmbeddedStore::open(Arc::new(disk.clone()) as Arc<dyn Disk>, options).await.unwrap()
}

fn link(store: &EmbeddedStore) -> StoreLink {
    StoreLink::new(store.log(), store.meta(), Some(Duration::from_millis(50)))
}

fn batch(text: &'static str) -> NewBatch {
    NewBatch { bytes: Bytes::from_static(text.as_bytes()), records: 1, producer: None }
}

fn unreachable<T: std::fmt::Debug>(outcome: Result<T>) -> String {
    match outcome {
        Err(StoreError::Unreachable(text)) => text,
        other => panic!("{other:?}"),
    }
}

async fn put(meta: &Arc<dyn MetaStore>, key: &str, text: &'static str) -> u64 {
    meta.put(key, Bytes::from_static(text.as_bytes()), Expect::Any).await.unwrap()
}

fn change(key: &str, text: &'static str, version: u64) -> Seen {
    let value = Some(Bytes::from_static(text.as_bytes()));
    Seen::Change(MetaChange { key: key.into(), value, version })
}

#[tokio::test]
async fn a_call_through_a_cut_link_waits_and_ends_as_unreachable() {
    let store = open(&FaultDisk::new()).await;
    store.log().create_shards(&[ShardSpec { shard: 1, retention_secs: 0, replicas: 1 }]).await.unwrap();
    let link = link(&store);
    link.cut();
    let asked = Instant::now();
    let text = unreachable(link.meta().put("k", Bytes::from_static(b"v"), Expect::Any).await);
    assert!(asked.elapsed() >= Duration::from_millis(50));
    assert_eq!(text, "k: no answer from the metadata within 50ms; nothing of it was sent");
    let text = unreachable(link.log().append(1, batch("a")).await);
    assert_eq!(text, "appending: no answer from the log within 50ms; nothing of it was sent");
    unreachable(link.log().tail(1));
    unreachable(link.meta().settle().await);
    // Nothing of this arrived, and others are not concerned.
    assert_eq!(store.meta().get("k").await, Ok(None));
    assert_eq!(store.log().tail(1), Ok(FIRST_LSN - 1));
    link.heal();
    link.meta().put("k", Bytes::from_static(b"v"), Expect::Absent).await.unwrap();
    assert_eq!(link.log().append(1, batch("a")).await.unwrap().lsn, FIRST_LSN);
}

#[tokio::test]
async fn log_and_metadata_are_cut_on_their_own() {
    let store = open(&FaultDisk::new()).await;
    let link = link(&store);
    link.set_meta(false);
    link.log().create_shards(&[ShardSpec { shard: 1, retention_secs: 0, replicas: 1 }]).await.unwrap();
    unreachable(link.meta().get("k").await);
    link.set_meta(true);
    link.set_log(false);
    assert_eq!(link.meta().get("k").await, Ok(None));
    unreachable(link.log().read(1, FIRST_LSN, ReadLimits { max_batches: 1, max_bytes: 1 }).await);
}

#[tokio::test]
async fn a_call_that_waits_at_a_cut_link_goes_through_once_it_is_healed() {
    let store = open(&FaultDisk::new()).await;
    let link = StoreLink::new(store.log(), store.meta(), None);
    link.cut();
    let meta = link.meta();
    let mut put = pin!(meta.put("k", Bytes::from_static(b"v"), Expect::Absent));
    assert!(poll!(&mut put).is_pending());
    link.heal();
    let version = put.await.unwrap();
    assert_eq!(store.meta().get("k").await.unwrap().unwrap().version, version);
}

#[tokio::test]
async fn a_call_under_way_when_the_link_is_cut_takes_effect_and_loses_its_answer() {
    let disk = FaultDisk::new();
    let store = open(&disk).await;
    let link = link(&store);
    disk.hold_syncs();
    let put = tokio::spawn({
        let meta = link.meta();
        async move { meta.put("k", Bytes::from_static(b"v"), Expect::Absent).await }
    });
    while disk.waiting_syncs() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    link.cut();
    disk.release_syncs();
    // Healed before the time is over: the answer is lost all the same.
    while store.meta().get("k").await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    link.heal();
    let text = unreachable(put.await.unwrap());
    assert!(text.ends_with("whether it took effect is not known"), "{text}");
}

#[tokio::test]
async fn a_watch_shows_nothing_while_cut_and_that_it_missed_something_afterwards() {
    let store = open(&FaultDisk::new()).await;
    let (link, direct) = (link(&store), store.meta());
    let mut watch = link.meta().watch("a/");
    let first = put(&direct, "a/1", "x").await;
    assert_eq!(watch.next().await, Some(change("a/1", "x", first)));
    put(&direct, "a/1", "before").await;
    link.cut();
    put(&direct, "a/2", "while").await;
    assert!(!watch.has_news());
    assert_eq!(watch.try_next(), None);
    {
        let mut next = pin!(watch.next());
        assert!(poll!(&mut next).is_pending());
        link.heal();
        assert_eq!(next.await, Some(Seen::Missed));
    }
    assert_eq!(watch.try_next(), None);
    let last = put(&direct, "a/3", "after").await;
    assert!(watch.has_news());
    assert_eq!(watch.try_next(), Some(change("a/3", "after", last)));
    assert_eq!(watch.try_next(), None);
    assert!(!watch.has_news());
}

#[tokio::test]
async fn a_cut_between_two_looks_of_a_watch_is_noticed() {
    let store = open(&FaultDisk::new()).await;
    let link = link(&store);
    let mut watch = link.meta().watch("a/");
    assert_eq!(watch.try_next(), None);
    link.cut();
    // One begun while it is cut has to list, too.
    let mut late = link.meta().watch("a/");
    link.heal();
    for watch in [&mut watch, &mut late] {
        assert!(watch.has_news());
        assert_eq!(watch.try_next(), Some(Seen::Missed));
        assert_eq!(watch.try_next(), None);
    }
}

#[tokio::test]
async fn a_tail_stands_still_while_the_link_is_cut() {
    let store = open(&FaultDisk::new()).await;
    let (link, direct) = (link(&store), store.log());
    direct.create_shards(&[ShardSpec { shard: 1, retention_secs: 0, replicas: 1 }]).await.unwrap();
    let mut tail = link.log().watch_tail(1).unwrap();
    assert_eq!(tail.latest(), FIRST_LSN - 1);
    direct.append(1, batch("a")).await.unwrap();
    tail.moved().await.unwrap();
    // Told of the move, but cut off before it could look.
    link.cut();
    assert_eq!(tail.latest(), FIRST_LSN - 1);
    let mut late = link.log().watch_tail(1).unwrap();
    direct.append(1, batch("b")).await.unwrap();
    {
        let mut moved = pin!(tail.moved());
        assert!(poll!(&mut moved).is_pending());
        link.heal();
        moved.await.unwrap();
    }
    assert_eq!((tail.latest(), late.latest()), (FIRST_LSN + 1, FIRST_LSN + 1));
    direct.delete_shards(&[1]).await.unwrap();
    while tail.moved().await.is_ok() {}
}
