//! A store that does its work elsewhere, as one does that is reached over a network.
//!
//! All nodes of a test cluster share one store. What a node asks of it is begun where the node runs, so that calls keep
//! their order, and goes on in the runtime of the cluster: a node that stands still or dies in the middle of a call holds
//! up nobody else.

use crate::store::{
    Appended, Expect, Guard, LogStore, Lsn, MetaStore, MetaWatch, NewBatch, ReadChunk, ReadLimits, Result,
    ShardId, ShardSpec, StoreError, TailWatch, Versioned,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use tokio::runtime::Handle;

/// Runs calls on another runtime.
#[derive(Debug, Clone)]
struct Elsewhere(Handle);

impl Elsewhere {
    async fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let mut call = Box::pin(call);
        let begun = poll_fn(|context| {
            let _inside = self.0.enter();
            Poll::Ready(call.as_mut().poll(context))
        });
        if let Poll::Ready(answer) = begun.await {
            return answer;
        }
        match self.0.spawn(call).await {
            Ok(answer) => answer,
            Err(error) if error.is_cancelled() => Err(StoreError::Closed),
            Err(error) => Err(StoreError::Io(format!("a call to the store died: {error}"))),
        }
    }
}

/// A log whose calls run on another runtime.
#[derive(Debug)]
pub(super) struct OffshoreLog {
    log: Arc<dyn LogStore>,
    elsewhere: Elsewhere,
}

impl OffshoreLog {
    pub(super) fn new(log: Arc<dyn LogStore>, runtime: Handle) -> Arc<Self> {
        Arc::new(OffshoreLog { log, elsewhere: Elsewhere(runtime) })
    }
}

#[async_trait]
impl LogStore for OffshoreLog {
    async fn create_shards(&self, shards: &[ShardSpec]) -> Result<()> {
        let (log, shards) = (self.log.clone(), shards.to_vec());
        self.elsewhere.run(async move { log.create_shards(&shards).await }).await
    }

    async fn delete_shards(&self, shards: &[ShardId]) -> Result<()> {
        let (log, shards) = (self.log.clone(), shards.to_vec());
        self.elsewhere.run(async move { log.delete_shards(&shards).await }).await
    }

    fn shards(&self) -> Vec<ShardSpec> {
        self.log.shards()
    }

    async fn append(&self, shard: ShardId, batch: NewBatch) -> Result<Appended> {
        let log = self.log.clone();
        self.elsewhere.run(async move { log.append(shard, batch).await }).await
    }

    async fn read(&self, shard: ShardId, from: Lsn, limits: ReadLimits) -> Result<ReadChunk> {
        let log = self.log.clone();
        self.elsewhere.run(async move { log.read(shard, from, limits).await }).await
    }

    fn tail(&self, shard: ShardId) -> Result<Lsn> {
        self.log.tail(shard)
    }

    fn watch_tail(&self, shard: ShardId) -> Result<TailWatch> {
        self.log.watch_tail(shard)
    }

    fn trim_point(&self, shard: ShardId) -> Result<Lsn> {
        self.log.trim_point(shard)
    }

    async fn trim(&self, shard: ShardId, up_to: Lsn) -> Result<()> {
        let log = self.log.clone();
        self.elsewhere.run(async move { log.trim(shard, up_to).await }).await
    }

    async fn find_time(&self, shard: ShardId, time_ms: u64) -> Result<Lsn> {
        let log = self.log.clone();
        self.elsewhere.run(async move { log.find_time(shard, time_ms).await }).await
    }

    async fn catch_up(&self, shards: &[ShardId]) -> Result<()> {
        let (log, shards) = (self.log.clone(), shards.to_vec());
        self.elsewhere.run(async move { log.catch_up(&shards).await }).await
    }
}

/// Metadata whose calls run on another runtime.
#[derive(Debug)]
pub(super) struct OffshoreMeta {
    meta: Arc<dyn MetaStore>,
    elsewhere: Elsewhere,
}

impl OffshoreMeta {
    pub(super) fn new(meta: Arc<dyn MetaStore>, runtime: Handle) -> Arc<Self> {
        Arc::new(OffshoreMeta { meta, elsewhere: Elsewhere(runtime) })
    }
}

#[async_trait]
impl MetaStore for OffshoreMeta {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        let (meta, key) = (self.meta.clone(), key.to_owned());
        self.elsewhere.run(async move { meta.get(&key).await }).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        let (meta, prefix) = (self.meta.clone(), prefix.to_owned());
        self.elsewhere.run(async move { meta.list(&prefix).await }).await
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64> {
        let (meta, key) = (self.meta.clone(), key.to_owned());
        self.elsewhere.run(async move { meta.put(&key, value, expect).await }).await
    }

    async fn put_many(&self, values: Vec<(String, Bytes)>, guard: Option<Guard>) -> Result<()> {
        let meta = self.meta.clone();
        self.elsewhere.run(async move { meta.put_many(values, guard).await }).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<()> {
        let (meta, key) = (self.meta.clone(), key.to_owned());
        self.elsewhere.run(async move { meta.delete(&key, expect).await }).await
    }

    fn watch(&self, prefix: &str) -> MetaWatch {
        self.meta.watch(prefix)
    }

    async fn settle(&self) -> Result<bool> {
        let meta = self.meta.clone();
        self.elsewhere.run(async move { meta.settle().await }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::{Disk, FaultDisk};
    use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
    use crate::test_cluster::pause::Pause;
    use crate::test_cluster::threads::Threads;
    use futures::stream::{FuturesOrdered, StreamExt as _};
    use std::time::Duration;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn shard(shard: ShardId) -> Vec<ShardSpec> {
        vec![ShardSpec { shard, retention_secs: 0, replicas: 1 }]
    }

    /// A store with its runtime, and the log as a node has it.
    async fn store(disk: &FaultDisk) -> (EmbeddedStore, Arc<OffshoreLog>, Threads) {
        let threads = Threads::start("store".into(), 2, None).unwrap();
        let runtime = threads.handle().unwrap().clone();
        let options = EmbeddedOptions { reserve_bytes: 0, ..EmbeddedOptions::default() };
        let disk = Arc::new(disk.clone()) as Arc<dyn Disk>;
        let store = runtime.spawn(EmbeddedStore::open(disk, options)).await.unwrap().unwrap();
        let log = OffshoreLog::new(store.log(), runtime);
        (store, log, threads)
    }

    #[tokio::test]
    async fn a_node_that_stands_still_in_the_middle_of_a_call_holds_up_nobody() {
        let disk = FaultDisk::new();
        let (store, log, _threads) = store(&disk).await;
        let node = Threads::start("node".into(), 1, None).unwrap();
        disk.hold_syncs();
        // One at a time: the node's turn comes when the first is done, and the last one's after that.
        let create = |log: Arc<dyn LogStore>, number| async move { log.create_shards(&shard(number)).await };
        let first = tokio::spawn(create(store.log(), 1));
        while disk.waiting_syncs() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (polled, waits) = tokio::sync::oneshot::channel();
        let second = node.handle().unwrap().spawn(async move {
            let mut call = Box::pin(create(log, 2));
            assert!(futures::poll!(&mut call).is_pending());
            polled.send(()).unwrap();
            call.await
        });
        waits.await.unwrap();
        let pause = Pause::default();
        pause.hold(node.handle().unwrap()).await.unwrap();
        let third = tokio::spawn(create(store.log(), 3));
        disk.release_syncs();
        first.await.unwrap().unwrap();
        let third = tokio::time::timeout(DEADLINE, third).await.expect("it does not wait for the node");
        third.unwrap().unwrap();
        assert!(store.log().tail(2).is_ok(), "what the node had asked for has happened");
        assert!(!second.is_finished());
        pause.release();
        second.await.unwrap().unwrap();
        store.close().await;
    }

    #[tokio::test]
    async fn appends_keep_the_order_in_which_they_were_made() {
        let (store, log, _threads) = store(&FaultDisk::new()).await;
        log.create_shards(&shard(1)).await.unwrap();
        let append = |_| {
            let batch = NewBatch { bytes: Bytes::from_static(b"x"), records: 1, producer: None };
            log.append(1, batch)
        };
        let appended: Vec<Lsn> =
            (0..500).map(append).collect::<FuturesOrdered<_>>().map(|done| done.unwrap().lsn).collect().await;
        assert!(appended.is_sorted(), "{appended:?}");
        store.close().await;
    }

    #[tokio::test]
    async fn a_call_goes_on_when_the_node_that_made_it_is_gone() {
        let disk = FaultDisk::new();
        let (store, log, _threads) = store(&disk).await;
        disk.hold_syncs();
        let mut call = Box::pin(async move { log.create_shards(&shard(1)).await });
        assert!(futures::poll!(&mut call).is_pending());
        drop(call);
        disk.release_syncs();
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while store.log().tail(1).is_err() {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        store.close().await;
    }
}
