//! The store of one machine: a segment log for records and a redb file for metadata, on one [`Disk`].
//!
//! Where to look: `frame` is the format, `shard` the memory of one shard, `queue` and `writer` the way to the
//! disk, `recovery` the start, `segment_index` what makes that short, `compaction` and `scrub` what
//! `housekeeping` does in the background, `log` and `meta` the two traits.
//!
//! In the directory:
//!
//! | name | content |
//! | --- | --- |
//! | `NUMBER-SALT.log` | a segment: frames in the order in which they were appended; the one with the highest number is written |
//! | `NUMBER-SALT-FIRST-GENERATION.log` | a compacted segment: what was left of the segments FIRST to NUMBER |
//! | the same, ending in `.idx` | what stands where in that segment; can be removed at any time |
//! | the same, ending in `.tmp` | a compaction under way |
//! | `meta.redb` | streams, subscriptions, checkpoints |
//! | `format`, `lock` | what wrote the directory, who uses it |

mod compaction;
mod frame;
mod housekeeping;
mod log;
mod meta;
mod queue;
mod recovery;
mod scrub;
mod segment_id;
mod segment_index;
mod segments;
mod shard;
mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

use super::disk::Disk;
use super::producer_table::ProducerLimits;
use super::{LogStore, MetaStore, Result, ShardId, StoreError};
use log::SegmentLog;
use meta::RedbMeta;
use queue::Queue;
use segments::Segments;
use shard::{Entry, Shard};
use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, Semaphore};

/// Tells the time in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How an [`EmbeddedStore`] behaves; [`Default`] is right for a server.
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// A segment is closed once it is this long, in bytes; at most 1 GiB. Default 64 MiB.
    pub segment_bytes: u32,
    /// Batches waiting for the disk may hold this many bytes; who comes then waits. Default 64 MiB.
    pub queue_bytes: usize,
    /// At most this many bytes are written between two syncs, unless one batch alone is larger. Default 8 MiB.
    pub group_bytes: usize,
    /// Appends are refused when they would leave less than this many bytes on the disk. Default 64 MiB.
    pub reserve_bytes: u64,
    /// Bounds of the memory of producers, per shard.
    pub producers: ProducerLimits,
    /// How often batches older than their shard's retention are looked for. Default one minute.
    pub retention_interval: Duration,
    /// Memory for pages of the metadata file, in bytes. Default 16 MiB.
    pub meta_cache_bytes: usize,
    /// Whether a log with damage in what was once durable is opened. If so, readers are told which batches are
    /// lost; if not, opening is refused and nothing is changed. Default true.
    ///
    /// This covers what opening looks at: the newest segment, the indexes of the others, and that no LSN is
    /// missing; everything with `verify_log`. Damage found later is logged and reported to readers.
    pub serve_damaged: bool,
    /// Whether opening reads the whole log and compares every checksum. Default false: older segments are then
    /// compared in the background, see `scrub_bytes_per_sec`, and whenever something is read.
    pub verify_log: bool,
    /// How fast what is left of mostly dead segments is copied to free them, in bytes per second; 0 never copies.
    /// A full disk lifts the limit. Default 64 MiB.
    pub compaction_bytes_per_sec: u64,
    /// How fast segments that were not read when the store was opened are compared with their checksums, once,
    /// in bytes per second; 0 never does. Default 16 MiB.
    pub scrub_bytes_per_sec: u64,
    /// Where append times come from. Default the system's clock.
    pub clock: Clock,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        EmbeddedOptions {
            segment_bytes: 64 << 20,
            queue_bytes: 64 << 20,
            group_bytes: 8 << 20,
            reserve_bytes: 64 << 20,
            producers: ProducerLimits::default(),
            retention_interval: Duration::from_secs(60),
            meta_cache_bytes: 16 << 20,
            serve_damaged: true,
            verify_log: false,
            compaction_bytes_per_sec: 64 << 20,
            scrub_bytes_per_sec: 16 << 20,
            clock: Arc::new(system_ms),
        }
    }
}

impl fmt::Debug for EmbeddedOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedOptions")
            .field("segment_bytes", &self.segment_bytes)
            .field("queue_bytes", &self.queue_bytes)
            .field("group_bytes", &self.group_bytes)
            .field("reserve_bytes", &self.reserve_bytes)
            .field("producers", &self.producers)
            .field("retention_interval", &self.retention_interval)
            .field("meta_cache_bytes", &self.meta_cache_bytes)
            .field("serve_damaged", &self.serve_damaged)
            .field("verify_log", &self.verify_log)
            .field("compaction_bytes_per_sec", &self.compaction_bytes_per_sec)
            .field("scrub_bytes_per_sec", &self.scrub_bytes_per_sec)
            .finish_non_exhaustive()
    }
}

fn system_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Both halves of the store, opened together.
#[derive(Debug)]
pub struct EmbeddedStore {
    log: Arc<SegmentLog>,
    meta: Arc<RedbMeta>,
    disk: Arc<dyn Disk>,
    writer: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl EmbeddedStore {
    /// Opens or creates the store on `disk` and recovers what a crash left. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the disk cannot be read or written, [`StoreError::Corrupt`] if so much is damaged
    /// that what is left cannot be served.
    pub async fn open(disk: Arc<dyn Disk>, options: EmbeddedOptions) -> Result<EmbeddedStore> {
        let (on, cache) = (Arc::clone(&disk), options.meta_cache_bytes);
        let (log, writer) = open_log(Arc::clone(&disk), options).await?;
        // If this fails the log ends with its last handle.
        let meta = blocking(move || RedbMeta::open(&*on, cache)).await??;
        Ok(EmbeddedStore { log, meta: Arc::new(meta), disk, writer: tokio::sync::Mutex::new(Some(writer)) })
    }

    /// The records of every shard.
    pub fn log(&self) -> Arc<dyn LogStore> {
        Arc::clone(&self.log) as Arc<dyn LogStore>
    }

    /// Everything else.
    pub fn meta(&self) -> Arc<dyn MetaStore> {
        Arc::clone(&self.meta) as Arc<dyn MetaStore>
    }

    /// Makes everything accepted so far durable and gives the directory back. Later calls answer
    /// [`StoreError::Closed`]; closing twice is fine.
    pub async fn close(&self) {
        self.log.shared.queue.close();
        if let Some(thread) = self.writer.lock().await.take() {
            // A writer that panicked has said so and ended the queue.
            let _ = blocking(move || thread.join().is_ok()).await;
        }
        let shared = Arc::clone(&self.log.shared);
        let _ = blocking(move || shared.end_housekeeping()).await;
        self.meta.close().await;
        self.disk.close();
    }
}

/// Opens the log alone and starts its writer.
async fn open_log(
    disk: Arc<dyn Disk>,
    mut options: EmbeddedOptions,
) -> Result<(Arc<SegmentLog>, JoinHandle<()>)> {
    options.segment_bytes = options.segment_bytes.clamp(1, 1 << 30);
    options.queue_bytes = options.queue_bytes.clamp(1 << 10, Semaphore::MAX_PERMITS.min(1 << 31));
    let (on, how) = (Arc::clone(&disk), options.clone());
    let recovered = blocking(move || recovery::recover(&*on, &how)).await??;
    let interval = options.retention_interval.max(Duration::from_millis(1));
    let shared = Arc::new(Shared {
        room: Arc::new(Semaphore::new(options.queue_bytes)),
        options,
        disk,
        shards: RwLock::new(recovered.shards),
        segments: recovered.segments,
        queue: Queue::default(),
        exclusive: Arc::default(),
        closing: AtomicBool::new(false),
        touching: Mutex::default(),
        housekeeping: Notify::new(),
    });
    let writer = writer::Writer::new(Arc::clone(&shared), recovered.active, recovered.len);
    let thread = std::thread::Builder::new()
        .name("hstream-log".into())
        .spawn(move || writer.run())
        .map_err(|error| StoreError::Io(format!("cannot start the writer of the log: {error}")))?;
    let log = Arc::new(SegmentLog { shared });
    keep_retention(&log, interval);
    housekeeping::start(&log, interval);
    Ok((log, thread))
}

/// Trims by age until the log is gone or closed.
fn keep_retention(log: &Arc<SegmentLog>, interval: Duration) {
    let log = Arc::downgrade(log);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(interval).await;
            let Some(log) = log.upgrade() else { return };
            match log.enforce_retention().await {
                Ok(()) => {}
                Err(StoreError::Closed | StoreError::Poisoned(_)) => return,
                Err(error) => {
                    tracing::warn!(%error, "old batches could not be removed; it will be tried again")
                }
            }
        }
    });
}

/// What the writer and the users of the log share.
#[derive(Debug)]
struct Shared {
    options: EmbeddedOptions,
    disk: Arc<dyn Disk>,
    shards: RwLock<HashMap<ShardId, Arc<Shard>>>,
    segments: Segments,
    queue: Queue,
    /// Bytes the queue can still take.
    room: Arc<Semaphore>,
    /// Held while shards are created or deleted.
    exclusive: Arc<tokio::sync::Mutex<()>>,
    /// True once no file but the active segment may be touched.
    closing: AtomicBool,
    /// Held while files are touched.
    touching: Mutex<()>,
    /// Told when there may be something to do for `housekeeping`.
    housekeeping: Notify,
}

impl Shared {
    fn shards(&self) -> RwLockReadGuard<'_, HashMap<ShardId, Arc<Shard>>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn shards_mut(&self) -> RwLockWriteGuard<'_, HashMap<ShardId, Arc<Shard>>> {
        self.shards.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: ShardId) -> Option<Arc<Shard>> {
        self.shards().get(&id).cloned()
    }

    fn sorted_shards(&self) -> Vec<Arc<Shard>> {
        let mut shards: Vec<Arc<Shard>> = self.shards().values().cloned().collect();
        shards.sort_by_key(|shard| shard.spec.shard);
        shards
    }

    /// The durable state of all shards as a frame body.
    fn encode_snapshot(&self) -> Vec<u8> {
        let shards: Vec<_> = self.sorted_shards().iter().map(|shard| shard.snapshot()).collect();
        snapshot::encode_snapshot(shards.iter())
    }

    /// Batches in segments with these numbers, in log order.
    fn entries_in(&self, segments: RangeInclusive<u32>) -> Vec<(ShardId, Entry)> {
        let numbers = self.segments.numbers();
        // A segment that is not listed was begun a moment ago and is the last.
        let number = |slot: u32| numbers.get(&slot).copied().unwrap_or(u32::MAX);
        let mut found: Vec<(ShardId, Entry)> = Vec::new();
        for shard in self.sorted_shards() {
            let entries = shard.entries_in(segments.clone(), number);
            found.extend(entries.into_iter().map(|entry| (shard.spec.shard, entry)));
        }
        found.sort_by_key(|(_, entry)| (number(entry.segment), entry.offset));
        found
    }

    /// From now on a batch that cannot be read is a gap, unless it was trimmed or moved meanwhile.
    fn lose(&self, shard: &Shard, entry: &Entry, why: &str) {
        if shard.lose(entry) {
            let segment = self.segments.numbers().get(&entry.segment).copied();
            tracing::error!(
                shard = shard.spec.shard,
                lsn = entry.lsn,
                segment,
                offset = entry.offset,
                "a stored batch is lost: {why}"
            );
            self.segments.lose(shard.spec.shard, entry);
        }
    }

    /// Leave to touch files until it is dropped; `None` once the store is closed.
    fn open(&self) -> Option<MutexGuard<'_, ()>> {
        let touching = self.touching.lock().unwrap_or_else(PoisonError::into_inner);
        (!self.closing.load(Ordering::Relaxed)).then_some(touching)
    }

    /// Waits for whoever touches files and lets nobody else.
    fn end_housekeeping(&self) {
        self.closing.store(true, Ordering::Relaxed);
        drop(self.touching.lock());
        self.housekeeping.notify_one();
    }

    /// Removes files nobody wants; the caller has leave to.
    fn remove_dead(&self) {
        let wanted = |shard, lsn| {
            let trimmed = self.find(shard).and_then(|shard| shard.trimmed().ok());
            trimmed.is_some_and(|trimmed| trimmed < lsn)
        };
        if let Err(error) = self.segments.remove_dead(&*self.disk, wanted) {
            tracing::warn!(%error, "a dead segment of the log could not be removed; it will be tried again");
        }
    }

    /// Takes no more writes and answers everybody who waits for one; the first reason stays.
    fn stop(&self, error: StoreError) {
        writer::fail(self.queue.stop(error), self.stop_reason());
        self.room.close();
        let reason = self.stop_reason();
        for shard in self.sorted_shards() {
            shard.fail_pending(&reason);
        }
    }

    fn stop_reason(&self) -> StoreError {
        let died = || StoreError::Poisoned("the writer of the log died".into());
        self.queue.stopped().unwrap_or_else(died)
    }
}

/// Runs what blocks off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StoreError::Io(format!("an operation on the store died: {error}")))
}
