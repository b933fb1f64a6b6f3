use super::*;
use crate::store::disk::LocalDisk;
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::{NewBatch, ReadLimits};
use bytes::Bytes;
use futures::FutureExt as _;
use std::collections::HashSet;
use std::path::Path;

struct Fixture {
    store: EmbeddedStore,
    log: Arc<dyn LogStore>,
    meta: Arc<dyn MetaStore>,
}

impl Fixture {
    async fn open(path: &Path) -> Fixture {
        let disk = Arc::new(LocalDisk::open(path).unwrap());
        let store = EmbeddedStore::open(disk, EmbeddedOptions::default()).await.unwrap();
        Fixture { log: store.log(), meta: store.meta(), store }
    }

    /// As a node that has the store for itself opens them.
    async fn streams(&self) -> Arc<Streams> {
        let streams = Streams::open(self.log.clone(), self.meta.clone()).await.unwrap();
        streams.reclaim().await.unwrap();
        streams
    }

    async fn append(&self, shard: ShardId) {
        let bytes = Bytes::from_static(b"batch");
        self.log.append(shard, NewBatch { bytes, records: 1, producer: None }).await.unwrap();
    }

    async fn batches(&self, shard: ShardId) -> usize {
        let limits = ReadLimits { max_batches: 10, max_bytes: 1 << 20 };
        self.log.read(shard, FIRST_LSN, limits).await.unwrap().batches.len()
    }
}

fn unread(_: StreamId) -> BoxFuture<'static, Result<bool>> {
    futures::future::ready(Ok(false)).boxed()
}

fn new(name: &str, shard_count: u32) -> NewStream {
    NewStream { name: name.into(), replication_factor: 1, backlog_secs: 0, shard_count }
}

#[tokio::test]
async fn a_creation_that_stopped_half_way_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    fixture.log.create_shards(&[ShardSpec { shard: 5, retention_secs: 0, replicas: 1 }]).await.unwrap();
    fixture.streams().await;
    assert!(fixture.log.shards().is_empty());
    fixture.store.close().await;
}

#[tokio::test]
async fn data_without_a_stream_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    fixture.log.create_shards(&[ShardSpec { shard: 5, retention_secs: 0, replicas: 1 }]).await.unwrap();
    fixture.append(5).await;
    fixture.streams().await;
    assert_eq!(fixture.batches(5).await, 1);
    fixture.store.close().await;
}

/// A stop right after the entry under `archive/` was written.
async fn stop_in_deletion(fixture: &Fixture, doomed: bool) -> Arc<Stream> {
    let streams = fixture.streams().await;
    let stream = streams.create(new("s", 2)).await.unwrap();
    fixture.append(stream.shards[0].id).await;
    let leaving = Leaving { stream: Stream { archived: true, ..(*stream).clone() }, doomed };
    fixture.meta.put(&archive_key(stream.id), encode(&leaving).unwrap(), Expect::Any).await.unwrap();
    stream
}

#[tokio::test]
async fn a_deletion_that_stopped_half_way_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    let stream = stop_in_deletion(&fixture, true).await;
    let streams = fixture.streams().await;
    assert_eq!((streams.by_name("s"), streams.by_id(stream.id)), (None, None));
    assert!(fixture.log.shards().is_empty());
    assert!(fixture.meta.list(LIVE).await.unwrap().is_empty());
    assert!(fixture.meta.list(ARCHIVE).await.unwrap().is_empty());
    fixture.store.close().await;
}

#[tokio::test]
async fn an_archiving_that_stopped_half_way_is_finished_and_keeps_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    let stream = stop_in_deletion(&fixture, false).await;
    let streams = fixture.streams().await;
    assert_eq!(streams.by_name("s"), None);
    assert!(streams.by_id(stream.id).unwrap().archived);
    assert_eq!(fixture.batches(stream.shards[0].id).await, 1);
    // A live stream of that name is none of its business.
    let other = streams.create(new("s", 1)).await.unwrap();
    streams.drop_archived(other.id).await.unwrap();
    streams.drop_archived(stream.id).await.unwrap();
    assert_eq!(streams.by_name("s"), Some(other.clone()));
    assert_eq!(fixture.log.shards().len(), 1);
    let again = fixture.streams().await;
    assert_eq!(again.by_name("s"), Some(other));
    assert!(again.archived().is_empty());
    fixture.store.close().await;
}

#[tokio::test]
async fn identities_are_never_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let streams = fixture.streams().await;
        for round in 0..3 {
            let stream = streams.create(new("s", 4)).await.unwrap();
            let ids = stream.shards.iter().map(|shard| shard.id).chain([stream.id.0]);
            for id in ids {
                assert!(id > 0 && i64::try_from(id).is_ok());
                assert!(seen.insert(id), "{id} came twice");
            }
            let is_read = move |_| futures::future::ready(Ok(round == 0)).boxed();
            assert_eq!(streams.delete("s", true, is_read).await.unwrap(), stream.id);
        }
    }
    fixture.store.close().await;
}

#[tokio::test]
async fn retired_identities_stay_retired_when_the_clock_steps_back() {
    const NOON: u64 = 1_800_000_000_000;
    let clocks: [fn() -> u64; 4] = [|| NOON, || NOON - 3_600_000, || 0, || NOON - 1];
    let dir = tempfile::tempdir().unwrap();
    let mut highest = 0;
    for clock in clocks {
        let fixture = Fixture::open(dir.path()).await;
        let streams = Streams::open_with(fixture.log.clone(), fixture.meta.clone(), clock).await.unwrap();
        for _ in 0..3 {
            let stream = streams.create(new("s", 4)).await.unwrap();
            let ids: Vec<u64> = stream.shards.iter().map(|shard| shard.id).chain([stream.id.0]).collect();
            assert!(ids.iter().all(|id| *id > highest), "{ids:?} after {highest}");
            highest = ids.into_iter().max().unwrap();
            // Nothing of it is left to learn from.
            streams.delete("s", false, unread).await.unwrap();
        }
        fixture.store.close().await;
    }
    assert!(i64::try_from(highest).is_ok());
}
