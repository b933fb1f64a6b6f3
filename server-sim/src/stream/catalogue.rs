//! The catalogue of streams: in memory for reads, in the [`MetaStore`] for good.
//!
//! Changes that span keys are ordered so that a stop between any two of them is repaired by
//! [`Streams::open`]: shards exist before the stream that names them, and a stream on its way out is first
//! written under `archive/`, together with whether its data goes, too.

use super::{Shard, Stream, StreamId};
use crate::error::{Class, Result, ServerError};
use crate::store::{Expect, FIRST_LSN, LogStore, MetaStore, ShardId, ShardSpec, StoreError};
use bytes::Bytes;
use hstreamdb_proto::partition::even_range;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};
use tonic::Code;

const LIVE: &str = "stream/";
const ARCHIVE: &str = "archive/";
/// Below this number every identity may have been given away, whatever became of its owner.
const IDS_BELOW: &str = "stream-ids-below";
/// Identities that one write sets aside: those of a minute, so that creating rarely waits for a second sync.
const IDS_SET_ASIDE: u64 = 60_000 << 20;

/// Every stream of this store.
#[derive(Debug)]
pub struct Streams {
    log: Arc<dyn LogStore>,
    meta: Arc<dyn MetaStore>,
    index: RwLock<Index>,
    namespace: tokio::sync::Mutex<()>,
    /// Milliseconds since 1970.
    clock: fn() -> u64,
}

#[derive(Debug, Default)]
struct Index {
    by_name: BTreeMap<String, Arc<Stream>>,
    by_id: HashMap<StreamId, Arc<Stream>>,
    by_shard: HashMap<ShardId, StreamId>,
    last_id: u64,
    /// What stands under [`IDS_BELOW`].
    ids_below: u64,
}

impl Index {
    fn insert(&mut self, stream: Arc<Stream>) {
        self.last_id = self.last_id.max(stream.id.0);
        for shard in &stream.shards {
            self.last_id = self.last_id.max(shard.id);
            self.by_shard.insert(shard.id, stream.id);
        }
        if !stream.archived {
            self.by_name.insert(stream.name.clone(), stream.clone());
        }
        self.by_id.insert(stream.id, stream);
    }

    fn remove(&mut self, stream: &Stream) {
        self.by_id.remove(&stream.id);
        for shard in &stream.shards {
            self.by_shard.remove(&shard.id);
        }
        self.unname(stream);
    }

    fn unname(&mut self, stream: &Stream) {
        if self.by_name.get(&stream.name).is_some_and(|named| named.id == stream.id) {
            self.by_name.remove(&stream.name);
        }
    }
}

/// What stands under `archive/`.
#[derive(Debug, Serialize, Deserialize)]
struct Leaving {
    stream: Stream,
    /// Its data goes, too; false while subscriptions still read it.
    doomed: bool,
}

/// What a creator asks for.
#[derive(Debug, Clone)]
pub struct NewStream {
    /// Name, already validated.
    pub name: String,
    /// At least 1.
    pub replication_factor: u32,
    /// Seconds; 0 keeps records for ever.
    pub backlog_secs: u32,
    /// At least 1.
    pub shard_count: u32,
}

impl Streams {
    /// Reads the catalogue and finishes what a stop left half done.
    ///
    /// # Errors
    /// What the stores report, and entries that cannot be read.
    pub async fn open(log: Arc<dyn LogStore>, meta: Arc<dyn MetaStore>) -> Result<Arc<Self>> {
        Self::open_with(log, meta, now_ms).await
    }

    async fn open_with(
        log: Arc<dyn LogStore>,
        meta: Arc<dyn MetaStore>,
        clock: fn() -> u64,
    ) -> Result<Arc<Self>> {
        let mut index = Index::default();
        if let Some(found) = meta.get(IDS_BELOW).await? {
            index.ids_below = decode(IDS_BELOW, &found.value)?;
            index.last_id = index.ids_below.saturating_sub(1);
        }
        let mut leaving: Vec<Leaving> = Vec::new();
        for (key, value) in meta.list(ARCHIVE).await? {
            leaving.push(decode(&key, &value.value)?);
        }
        let left: HashSet<StreamId> = leaving.iter().map(|entry| entry.stream.id).collect();
        for (key, value) in meta.list(LIVE).await? {
            let stream: Stream = decode(&key, &value.value)?;
            index.last_id = index.last_id.max(stream.id.0);
            if left.contains(&stream.id) {
                meta.delete(&key, Expect::Any).await?;
            } else {
                index.insert(Arc::new(stream));
            }
        }
        let mut doomed = Vec::new();
        for entry in leaving {
            if entry.doomed {
                doomed.push(entry.stream);
            } else {
                index.insert(Arc::new(entry.stream));
            }
        }
        // Shards without a stream are left by a creation that never finished, and then they are empty.
        // Anything else is not touched: it may be data whose catalogue entry was lost.
        let doomed_shards: HashSet<ShardId> =
            doomed.iter().flat_map(|stream: &Stream| stream.shards.iter().map(|shard| shard.id)).collect();
        let mut unfinished = Vec::new();
        let mut present = HashSet::new();
        for spec in log.shards() {
            present.insert(spec.shard);
            index.last_id = index.last_id.max(spec.shard);
            if index.by_shard.contains_key(&spec.shard) || doomed_shards.contains(&spec.shard) {
                continue;
            }
            if log.tail(spec.shard)? < FIRST_LSN {
                unfinished.push(spec.shard);
            } else {
                tracing::warn!(shard = spec.shard, "shard belongs to no stream; its data is kept");
            }
        }
        for (shard, stream) in index.by_shard.iter().filter(|(shard, _)| !present.contains(shard)) {
            tracing::error!(shard, %stream, "a shard is missing in the log; calls on it will fail");
        }
        if !unfinished.is_empty() {
            log.delete_shards(&unfinished).await?;
        }
        let (index, namespace) = (RwLock::new(index), tokio::sync::Mutex::new(()));
        let streams = Streams { log, meta, index, namespace, clock };
        for stream in doomed {
            streams.finish_drop(&stream).await?;
        }
        Ok(Arc::new(streams))
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The stream that has this name now.
    pub fn by_name(&self, name: &str) -> Option<Arc<Stream>> {
        self.read().by_name.get(name).cloned()
    }

    /// The stream of this identity, archived or not.
    pub fn by_id(&self, id: StreamId) -> Option<Arc<Stream>> {
        self.read().by_id.get(&id).cloned()
    }

    /// The stream a shard belongs to, archived or not.
    pub fn by_shard(&self, shard: ShardId) -> Option<Arc<Stream>> {
        let index = self.read();
        index.by_id.get(index.by_shard.get(&shard)?).cloned()
    }

    /// Streams whose name starts with `prefix`, in name order; archived ones have no name.
    pub fn with_prefix(&self, prefix: &str) -> Vec<Arc<Stream>> {
        let index = self.read();
        index
            .by_name
            .range(prefix.to_owned()..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(_, stream)| stream.clone())
            .collect()
    }

    /// Streams that only their subscriptions keep alive.
    pub fn archived(&self) -> Vec<Arc<Stream>> {
        self.read().by_id.values().filter(|stream| stream.archived).cloned().collect()
    }

    /// Held while a stream is created or deleted and while a subscription is created, so that these are
    /// atomic against each other.
    pub fn namespace(&self) -> &tokio::sync::Mutex<()> {
        &self.namespace
    }

    /// Creates a stream; durable on return. The caller holds [`Streams::namespace`].
    ///
    /// # Errors
    /// [`Class::StreamExists`] when the name is taken; what the stores report.
    pub async fn create(&self, new: NewStream) -> Result<Arc<Stream>> {
        if self.by_name(&new.name).is_some() {
            return Err(ServerError::new(Class::StreamExists, new.name));
        }
        let ids = self.take_ids(u64::from(new.shard_count) + 1).await?;
        let created_ms = (self.clock)();
        let shards: Vec<Shard> = (0..new.shard_count)
            .zip(ids + 1..)
            .map(|(position, id)| {
                let (start, end) = even_range(position, new.shard_count);
                Shard { id, start, end }
            })
            .collect();
        let specs: Vec<ShardSpec> = shards
            .iter()
            .map(|shard| ShardSpec { shard: shard.id, retention_secs: new.backlog_secs })
            .collect();
        let stream = Arc::new(Stream {
            id: StreamId(ids),
            name: new.name,
            replication_factor: new.replication_factor,
            backlog_secs: new.backlog_secs,
            created_ms,
            shards,
            archived: false,
        });
        self.log.create_shards(&specs).await?;
        match self.meta.put(&live_key(&stream.name), encode(&*stream)?, Expect::Absent).await {
            Ok(_) => {}
            Err(StoreError::Conflict { .. }) => {
                let shards: Vec<ShardId> = specs.iter().map(|spec| spec.shard).collect();
                if let Err(left) = self.log.delete_shards(&shards).await {
                    tracing::warn!(%left, "shards of a stream that could not be created remain");
                }
                return Err(ServerError::new(Class::StreamExists, stream.name.clone()));
            }
            // The entry may have been written all the same, so the shards must stay: the next start either
            // finds the stream with them or collects them, empty as they are.
            Err(other) => return Err(other.into()),
        }
        self.write().insert(stream.clone());
        Ok(stream)
    }

    /// Takes the name from a stream; durable on return. The caller holds [`Streams::namespace`].
    ///
    /// With `keep_data` the shards stay readable through [`Streams::by_id`] until
    /// [`Streams::drop_archived`], otherwise they go now.
    ///
    /// # Errors
    /// What the stores report.
    pub async fn delete(&self, stream: &Stream, keep_data: bool) -> Result<()> {
        let archived = Stream { archived: true, ..stream.clone() };
        let leaving = Leaving { stream: archived, doomed: !keep_data };
        self.meta.put(&archive_key(stream.id), encode(&leaving)?, Expect::Any).await?;
        // From here on the next start would finish the deletion, so nothing may be appended any more even if
        // one of the steps below fails.
        {
            let mut index = self.write();
            index.unname(stream);
            index.insert(Arc::new(leaving.stream));
        }
        self.meta.delete(&live_key(&stream.name), Expect::Any).await?;
        if !keep_data {
            self.finish_drop(stream).await?;
        }
        Ok(())
    }

    /// Removes an archived stream and its data; a live or unknown one is left alone. Called when its last
    /// subscription is gone.
    ///
    /// # Errors
    /// What the stores report; a stop half-way is finished by the next [`Streams::open`].
    pub async fn drop_archived(&self, id: StreamId) -> Result<()> {
        let Some(stream) = self.by_id(id).filter(|stream| stream.archived) else { return Ok(()) };
        let leaving = Leaving { stream: (*stream).clone(), doomed: true };
        self.meta.put(&archive_key(id), encode(&leaving)?, Expect::Any).await?;
        self.finish_drop(&stream).await
    }

    async fn finish_drop(&self, stream: &Stream) -> Result<()> {
        let shards: Vec<ShardId> = stream.shards.iter().map(|shard| shard.id).collect();
        self.log.delete_shards(&shards).await?;
        self.meta.delete(&archive_key(stream.id), Expect::Any).await?;
        self.write().remove(stream);
        Ok(())
    }

    /// Hands out `count` identities in a row that were never handed out before: milliseconds since 1970 times
    /// 2^20 plus chance, above all that may have been, so a deleted stream's ids stay retired even if the clock
    /// steps back across a restart. Below 2^63 until the year 2248. The caller holds [`Streams::namespace`].
    async fn take_ids(&self, count: u64) -> Result<u64> {
        let by_clock = ((self.clock)() << 20) | u64::from(rand::random::<u32>() & 0xf_ffff);
        let (last_id, ids_below) = {
            let index = self.read();
            (index.last_id, index.ids_below)
        };
        let first = by_clock.max(last_id.saturating_add(1));
        let end = first.checked_add(count).filter(|end| i64::try_from(*end).is_ok()).ok_or_else(|| {
            ServerError::plain(Code::Internal, "no identities are left for new streams; is the clock right?")
        })?;
        if end > ids_below {
            let below = end.saturating_add(IDS_SET_ASIDE);
            self.meta.put(IDS_BELOW, encode(&below)?, Expect::Any).await?;
            self.write().ids_below = below;
        }
        self.write().last_id = end - 1;
        Ok(first)
    }
}

fn live_key(name: &str) -> String {
    format!("{LIVE}{name}")
}

fn archive_key(id: StreamId) -> String {
    format!("{ARCHIVE}{id}")
}

fn encode(value: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| {
        ServerError::plain(Code::Internal, format!("cannot write a catalogue entry: {error}"))
    })
}

fn decode<'a, T: Deserialize<'a>>(key: &str, value: &'a [u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|error| {
        ServerError::plain(Code::Internal, format!("the catalogue entry {key:?} cannot be read: {error}"))
    })
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests;
