//! The log on JetStream.
//!
//! Decision 0024 (`docs/decisions/`) says why it is as it is. In short: a few streams, the lanes, hold all shards; a message is
//! a frame of batches; it is stored only if the shard's last message is the one its sender knew; every node follows the headers
//! of everything.
//!
//! | file | what |
//! | --- | --- |
//! | `place` | LSNs |
//! | `front` | what stands in the header of a message |
//! | `wire` | requests to JetStream and what the answers mean |
//! | `lane`, `barrier`, `follower` | the streams; everything acknowledged before; what comes by |
//! | `directory` | which shards there are |
//! | `known`, `shard` | what a node knows of a shard |
//! | `pending`, `writer` | batches in line; appending |
//! | `stamps` | producers' stamps, and writing them down |
//! | `chunk`, `cache`, `reader` | reading |
//! | `upkeep` | trims, retention, deletion |

mod barrier;
mod cache;
mod chunk;
mod directory;
mod follower;
mod front;
mod known;
mod lane;
mod pending;
mod place;
mod reader;
mod settings;
mod shard;
mod stamps;
#[cfg(test)]
mod tests;
mod upkeep;
mod wire;
mod writer;

pub use settings::LogSettings;

use super::super::{
    Appended, LogStore, Lsn, MetaStore, NewBatch, ReadChunk, ReadLimits, Result, ShardId, ShardSpec,
    StoreError, TailWatch,
};
use async_nats::jetstream::Context;
use async_trait::async_trait;
use cache::Cache;
use directory::{Directory, Lanes};
use futures::{StreamExt as _, TryStreamExt as _};
use lane::Lane;
use shard::Shard;
use stamps::Snapshots;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};
use wire::Wire;

/// What a batch costs in the queue besides its bytes.
const QUEUED: usize = 128;
/// Messages of one call that are on their way at the same time.
const AT_A_TIME: usize = 64;

/// The records of every shard, on JetStream. What runs in the background ends when it is dropped.
pub struct JetStreamLog {
    engine: Arc<Engine>,
    _end: DropGuard,
}

impl fmt::Debug for JetStreamLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetStreamLog").field("settings", &self.engine.settings).finish_non_exhaustive()
    }
}

/// What all parts share.
#[derive(Debug)]
struct Engine {
    settings: LogSettings,
    wire: Wire,
    directory: Directory,
    snapshots: Snapshots,
    cache: Cache,
    /// Bytes that may still wait to be appended.
    room: Arc<Semaphore>,
    closed: AtomicBool,
    end: CancellationToken,
    /// Numbers of copies that were asked for and cannot be had, of which it was said.
    capped: std::sync::Mutex<HashSet<u32>>,
}

impl JetStreamLog {
    /// Opens the log of a namespace, or founds it. On return the tails of all shards are what they were or more.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] if JetStream does not answer in time; what it refuses; what the metadata report.
    pub async fn open(context: Context, meta: Arc<dyn MetaStore>, settings: LogSettings) -> Result<Self> {
        let settings = settings.checked();
        let wire = Wire::new(context, settings.timeout);
        let count = Lanes::count(&*meta, settings.lanes).await?;
        let end = CancellationToken::new();
        let guard = end.clone().drop_guard();
        let snapshots = Snapshots::new(&settings.namespace, settings.replicas);
        wire.ensure_stream(&snapshots.config()).await?;
        let lanes = Lanes::new(settings.namespace.clone(), count, wire.clone(), end.clone());
        let directory = Directory::open(meta, lanes).await?;
        let engine = Arc::new(Engine {
            cache: Cache::new(settings.cache_bytes),
            room: Arc::new(Semaphore::new(settings.queue_bytes)),
            closed: AtomicBool::new(false),
            capped: std::sync::Mutex::default(),
            wire,
            directory,
            snapshots,
            end: end.clone(),
            settings,
        });
        engine.catch_up_all().await?;
        let interval = engine.settings.retention_interval;
        tokio::spawn(upkeep::look_after(Arc::downgrade(&engine), interval, end));
        Ok(JetStreamLog { engine, _end: guard })
    }

    /// Waits for what is on its way and ends. Later calls answer [`StoreError::Closed`]; closing twice is fine.
    pub async fn close(&self) {
        let engine = &self.engine;
        if engine.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let shards = engine.directory.all();
        let drained = async {
            for shard in &shards {
                while !shard.state().writer.as_ref().is_none_or(|writer| writer.is_idle()) {
                    let _ = tokio::time::timeout(Duration::from_millis(20), shard.news.notified()).await;
                }
            }
            engine.cover_quiet(Duration::ZERO).await;
        };
        if tokio::time::timeout(engine.settings.timeout, drained).await.is_err() {
            tracing::warn!("the log was closed before everything was stored");
        }
        engine.end.cancel();
        shards.iter().for_each(|shard| shard.close());
    }

    fn shard(&self, id: ShardId) -> Result<Arc<Shard>> {
        self.engine.open()?;
        self.engine.directory.find(id).ok_or(StoreError::ShardNotFound(id))
    }
}

impl Engine {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn open(&self) -> Result<()> {
        if self.is_closed() { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// Waits for room to wait.
    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        // What is larger than the queue gets all of it.
        let wanted = bytes.saturating_add(QUEUED).min(self.settings.queue_bytes);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        Arc::clone(&self.room).acquire_many_owned(wanted).await.map_err(|_| StoreError::Closed)
    }

    /// Waits until everything that was stored before has come by, on the lanes of these shards.
    async fn catch_up<'a>(&self, shards: impl IntoIterator<Item = &'a Arc<Shard>>) -> Result<()> {
        let lanes: BTreeMap<_, _> = shards.into_iter().map(|shard| (shard.lane.id, &shard.lane)).collect();
        futures::future::try_join_all(lanes.into_values().map(|lane| lane.catch_up())).await.map(|_| ())
    }

    async fn catch_up_all(&self) -> Result<()> {
        let shards = self.directory.all();
        self.catch_up(&shards).await?;
        let silent = |shard: &Arc<Shard>| shard.known().is_ok_and(|known| !known.is_heard());
        let silent: Vec<Arc<Shard>> = shards.into_iter().filter(silent).collect();
        let heard = futures::stream::iter(silent).map(|shard| async move {
            match self.hear(&shard).await {
                // Deleted meanwhile.
                Ok(()) | Err(StoreError::ShardNotFound(_)) => Ok(()),
                Err(error) => Err(error),
            }
        });
        heard.buffer_unordered(AT_A_TIME).try_collect().await
    }

    /// As many copies as there can be of those that are asked for.
    fn replicas(&self, wanted: u32) -> u32 {
        let most = self.settings.replicas.max(1);
        if wanted > most {
            let mut told = self.capped.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // As many as matter to anybody; a client can ask for any number.
            if told.len() < 16 && told.insert(wanted) {
                tracing::warn!(
                    "streams ask for {wanted} copies; this store keeps {most}, which is what its servers are set up for"
                );
            }
        }
        wanted.clamp(1, most)
    }

    async fn create(&self, specs: Vec<ShardSpec>) -> Result<()> {
        let mut ids = HashSet::new();
        for spec in &specs {
            if !ids.insert(spec.shard) || self.directory.find(spec.shard).is_some() {
                return Err(StoreError::ShardExists(spec.shard));
            }
        }
        let begun: Vec<(ShardId, Arc<Lane>)> =
            specs.iter().map(|spec| (spec.shard, self.directory.lanes.lane(spec))).collect();
        let lanes: BTreeMap<_, _> = begun.iter().map(|(_, lane)| (lane.id, lane)).collect();
        futures::future::try_join_all(lanes.into_values().map(|lane| lane.make())).await?;
        let begun =
            futures::stream::iter(begun).map(|(shard, lane)| async move { self.begin(&lane, shard).await });
        begun.buffer_unordered(AT_A_TIME).try_collect::<()>().await?;
        self.directory.add(&specs).await
    }

    async fn delete(&self, ids: &[ShardId]) -> Result<()> {
        let gone = self.directory.remove(ids).await?;
        let purged = futures::stream::iter(gone).map(|shard| async move {
            shard.delete();
            if let Err(error) = self.purge(&shard.lane, shard.spec.shard).await {
                let shard = shard.spec.shard;
                tracing::warn!(shard, %error, "a deleted shard takes room until the next start");
            }
        });
        purged.buffer_unordered(AT_A_TIME).collect::<()>().await;
        Ok(())
    }
}

#[async_trait]
impl LogStore for JetStreamLog {
    async fn create_shards(&self, shards: &[ShardSpec]) -> Result<()> {
        self.engine.open()?;
        let capped =
            |spec: &ShardSpec| ShardSpec { replicas: self.engine.replicas(spec.replicas), ..spec.clone() };
        self.engine.create(shards.iter().map(capped).collect()).await
    }

    async fn delete_shards(&self, shards: &[ShardId]) -> Result<()> {
        self.engine.open()?;
        self.engine.delete(shards).await
    }

    fn shards(&self) -> Vec<ShardSpec> {
        self.engine.directory.all().iter().map(|shard| shard.spec.clone()).collect()
    }

    async fn append(&self, shard: ShardId, batch: NewBatch) -> Result<Appended> {
        let shard = self.shard(shard)?;
        self.engine.append(shard, batch).await
    }

    async fn read(&self, shard: ShardId, from: Lsn, limits: ReadLimits) -> Result<ReadChunk> {
        let shard = self.shard(shard)?;
        self.engine.read(&shard, from, limits).await
    }

    fn tail(&self, shard: ShardId) -> Result<Lsn> {
        Ok(self.shard(shard)?.known()?.tail)
    }

    fn watch_tail(&self, shard: ShardId) -> Result<TailWatch> {
        self.shard(shard)?.watch().map(TailWatch::from)
    }

    /// May be lower than what servers have removed by age; a read from there says so.
    fn trim_point(&self, shard: ShardId) -> Result<Lsn> {
        Ok(self.shard(shard)?.known()?.trimmed + 1)
    }

    async fn trim(&self, shard: ShardId, up_to: Lsn) -> Result<()> {
        let shard = self.shard(shard)?;
        self.engine.trim(&shard, up_to).await
    }

    async fn find_time(&self, shard: ShardId, time_ms: u64) -> Result<Lsn> {
        let shard = self.shard(shard)?;
        self.engine.find_time(&shard, time_ms).await
    }

    async fn catch_up(&self, shards: &[ShardId]) -> Result<()> {
        self.engine.open()?;
        let shards: Vec<Arc<Shard>> =
            shards.iter().filter_map(|id| self.engine.directory.find(*id)).collect();
        self.engine.catch_up(&shards).await
    }
}
