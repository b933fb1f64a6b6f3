//! One node's way to the store, which can be cut.
//!
//! Several nodes of one process share an engine without a network in between. Their links behave as one: a node that is
//! cut off gets no answers and sees nothing of what others change, and learns afterwards that it missed something.

use super::gate::{Gate, GateWatch};
use super::{
    Appended, Expect, Guard, LogStore, Lsn, MetaStore, MetaWatch, NewBatch, ReadChunk, ReadLimits, Result,
    ShardId, ShardSpec, TailWatch, Versioned,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// How long a call through a link that is cut waits for an answer.
pub const LINK_TIMEOUT: Duration = Duration::from_secs(5);

/// One node's way to the log and to the metadata, each with a switch.
///
/// While one is cut, calls wait and end with [`StoreError::Unreachable`](super::StoreError::Unreachable) after the
/// timeout; so do calls under way when it is cut, whose effect may have happened. What has to answer at once fails at once.
/// Watches of the metadata show nothing while cut and [`Seen::Missed`](super::Seen::Missed) once healed; tails of shards
/// stand still.
#[derive(Debug, Clone)]
pub struct StoreLink {
    log: Arc<LinkedLog>,
    meta: Arc<LinkedMeta>,
}

impl StoreLink {
    /// A link that is whole; calls wait for `timeout` once it is cut, by default [`LINK_TIMEOUT`].
    pub fn new(log: Arc<dyn LogStore>, meta: Arc<dyn MetaStore>, timeout: Option<Duration>) -> Self {
        let timeout = timeout.unwrap_or(LINK_TIMEOUT);
        StoreLink {
            log: Arc::new(LinkedLog { log, gate: Gate::new("the log", timeout) }),
            meta: Arc::new(LinkedMeta { meta, gate: Gate::new("the metadata", timeout) }),
        }
    }

    /// The log through this link.
    pub fn log(&self) -> Arc<dyn LogStore> {
        Arc::clone(&self.log) as Arc<dyn LogStore>
    }

    /// The metadata through this link.
    pub fn meta(&self) -> Arc<dyn MetaStore> {
        Arc::clone(&self.meta) as Arc<dyn MetaStore>
    }

    /// Cuts or heals the way to the log.
    pub fn set_log(&self, open: bool) {
        self.log.gate.turn(open);
    }

    /// Cuts or heals the way to the metadata.
    pub fn set_meta(&self, open: bool) {
        self.meta.gate.turn(open);
    }

    /// Cuts both ways.
    pub fn cut(&self) {
        self.set_log(false);
        self.set_meta(false);
    }

    /// Heals both ways.
    pub fn heal(&self) {
        self.set_log(true);
        self.set_meta(true);
    }
}

#[derive(Debug)]
struct LinkedLog {
    log: Arc<dyn LogStore>,
    gate: Arc<Gate>,
}

#[async_trait]
impl LogStore for LinkedLog {
    async fn create_shards(&self, shards: &[ShardSpec]) -> Result<()> {
        self.gate.through("creating shards", self.log.create_shards(shards)).await
    }

    async fn delete_shards(&self, shards: &[ShardId]) -> Result<()> {
        self.gate.through("deleting shards", self.log.delete_shards(shards)).await
    }

    /// Also while cut: it cannot say that it does not know.
    fn shards(&self) -> Vec<ShardSpec> {
        self.log.shards()
    }

    async fn append(&self, shard: ShardId, batch: NewBatch) -> Result<Appended> {
        self.gate.through("appending", self.log.append(shard, batch)).await
    }

    async fn read(&self, shard: ShardId, from: Lsn, limits: ReadLimits) -> Result<ReadChunk> {
        self.gate.through("reading", self.log.read(shard, from, limits)).await
    }

    fn tail(&self, shard: ShardId) -> Result<Lsn> {
        self.gate.through_now("asking for a tail", || self.log.tail(shard))
    }

    fn watch_tail(&self, shard: ShardId) -> Result<TailWatch> {
        Ok(self.log.watch_tail(shard)?.behind(GateWatch::new(&self.gate)))
    }

    fn trim_point(&self, shard: ShardId) -> Result<Lsn> {
        self.gate.through_now("asking for a trim point", || self.log.trim_point(shard))
    }

    async fn trim(&self, shard: ShardId, up_to: Lsn) -> Result<()> {
        self.gate.through("trimming", self.log.trim(shard, up_to)).await
    }

    async fn find_time(&self, shard: ShardId, time_ms: u64) -> Result<Lsn> {
        self.gate.through("looking for a time", self.log.find_time(shard, time_ms)).await
    }

    async fn catch_up(&self, shards: &[ShardId]) -> Result<()> {
        self.gate.through("asking for what is new", self.log.catch_up(shards)).await
    }
}

#[derive(Debug)]
struct LinkedMeta {
    meta: Arc<dyn MetaStore>,
    gate: Arc<Gate>,
}

#[async_trait]
impl MetaStore for LinkedMeta {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        self.gate.through(key, self.meta.get(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        self.gate.through(prefix, self.meta.list(prefix)).await
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64> {
        self.gate.through(key, self.meta.put(key, value, expect)).await
    }

    async fn put_many(&self, values: Vec<(String, Bytes)>, guard: Option<Guard>) -> Result<()> {
        self.gate.through("writing several values", self.meta.put_many(values, guard)).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<()> {
        self.gate.through(key, self.meta.delete(key, expect)).await
    }

    fn watch(&self, prefix: &str) -> MetaWatch {
        self.meta.watch(prefix).behind(GateWatch::new(&self.gate))
    }

    async fn settle(&self) -> Result<bool> {
        self.gate.through("waiting for watches", self.meta.settle()).await
    }
}

#[cfg(test)]
mod tests;
