//! A log whose reads are counted, whoever reads.

use super::Stats;
use crate::store::{
    Appended, LogStore, Lsn, NewBatch, ReadChunk, ReadLimits, Result, ShardId, ShardSpec, TailWatch,
};
use async_trait::async_trait;
use futures::future::BoxFuture;
use std::sync::Arc;
use tokio::time::Instant;

/// A log that counts what is read from it, for the stream and for the node. Everything else it passes on.
#[derive(Debug)]
pub struct CountedLog {
    log: Arc<dyn LogStore>,
    stats: Arc<Stats>,
}

impl CountedLog {
    /// Counts the reads of a log.
    pub fn over(log: Arc<dyn LogStore>, stats: Arc<Stats>) -> Arc<dyn LogStore> {
        Arc::new(CountedLog { log, stats })
    }
}

#[async_trait]
impl LogStore for CountedLog {
    async fn create_shards(&self, shards: &[ShardSpec]) -> Result<()> {
        self.log.create_shards(shards).await
    }

    async fn delete_shards(&self, shards: &[ShardId]) -> Result<()> {
        self.log.delete_shards(shards).await
    }

    fn shards(&self) -> Vec<ShardSpec> {
        self.log.shards()
    }

    // Written as the attribute would, because appends should not pay for another allocation.
    fn append<'a, 'b>(&'a self, shard: ShardId, batch: NewBatch) -> BoxFuture<'b, Result<Appended>>
    where
        'a: 'b,
        Self: 'b,
    {
        self.log.append(shard, batch)
    }

    async fn read(&self, shard: ShardId, from: Lsn, limits: ReadLimits) -> Result<ReadChunk> {
        let started = Instant::now();
        let chunk = self.log.read(shard, from, limits).await?;
        self.stats.read_log(shard, &chunk.batches, started.elapsed());
        Ok(chunk)
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
        self.log.trim(shard, up_to).await
    }

    async fn find_time(&self, shard: ShardId, time_ms: u64) -> Result<Lsn> {
        self.log.find_time(shard, time_ms).await
    }

    async fn catch_up(&self, shards: &[ShardId]) -> Result<()> {
        self.log.catch_up(shards).await
    }
}
