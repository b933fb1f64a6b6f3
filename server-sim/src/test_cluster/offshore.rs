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
