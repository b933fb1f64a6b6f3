//! The catalogue of streams, which all nodes over a store share.
//!
//! Every node has a copy in memory that follows the [`MetaStore`]; the store alone decides. Nothing here is guarded by a
//! lock of one process, because several nodes do all of it at once:
//!
//! - **A name** is one key. Two creations of it: the second write of `stream/NAME` conflicts, and its shards, which
//!   nobody has heard of, go again.
//! - **Deleting** against **creating a subscription** spans two keys. The deleter first writes that it asks
//!   ([`Stage::Asked`]), then looks for subscriptions, and then decides by compare-and-set from the version it asked
//!   under ([`Stage::Kept`] or [`Stage::Doomed`]). The creator first writes the subscription and then looks at the
//!   stream ([`Streams::confirm`]): if it finds the question it takes it back, by which the decision fails and the deleter
//!   looks again; if it finds the decision, or nothing, it takes its subscription back. As both write first and look
//!   then, at least one sees the other. Neither waits for the other, so none that dies holds anybody up.
//! - **Two deletions**: a question is as good as another's, so both may decide from the same version; one decision
//!   conflicts and finds the stream gone.
//! - **A decision** is carried out by whoever finds it: data first and the name then, or the entry under `archive/`
//!   first (guarded by the decision, so that a late helper cannot bring it back) and the name then.
//! - **The last subscriptions** of an archived stream, deleted on two nodes: both remove first and look then, so at least
//!   one finds none left and lets the data go. Both may; that is the same. The deleter of the stream looks once more after
//!   it has archived it, for the same reason: the last one may have gone while it decided.
//!
//! A stop between any two writes leaves shards without a stream at worst, which [`Streams::reclaim`] collects.

use super::ids::Ids;
use super::index::{
    ARCHIVE, Archived, Entry, Index, LIVE, Leaving, Named, Stage, archive_key, encode, live_key,
};
use super::{Shard, Stream, StreamId};
use crate::error::{Class, Result, ServerError};
use crate::store::{
    Expect, FIRST_LSN, Follower, Guard, LogStore, MetaStore, ShardId, ShardSpec, StoreError, View,
};
use futures::future::BoxFuture;
use hstreamdb_proto::partition::even_range;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tonic::Code;

/// Times that a change begins anew because others change the same stream at the same time. Each time somebody else has
/// got ahead.
const TRIES: usize = 32;
/// Names that one node changes at the same time.
const TURNS: usize = 64;

/// Every stream of this store.
#[derive(Debug)]
pub struct Streams {
    log: Arc<dyn LogStore>,
    meta: Arc<dyn MetaStore>,
    index: Arc<Follower<Index>>,
    ids: Ids,
    /// Held, by the hash of the name, while a stream is created or deleted: not for safety, but so that the changes of
    /// one node do not make each other begin anew.
    turns: Vec<tokio::sync::Mutex<()>>,
    /// Milliseconds since 1970.
    clock: fn() -> u64,
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
    /// Reads the catalogue, follows it, and finishes what a stop left half done.
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
        // An entry under `archive/` is written before the name goes.
        let index = Follower::open(meta.clone(), &[LIVE, ARCHIVE], Index::default()).await?;
        let last_id = {
            let index = index.read();
            let of_streams = index.shards().map(|(shard, stream)| shard.max(stream.id.0));
            log.shards().into_iter().map(|spec| spec.shard).chain(of_streams).max().unwrap_or(0)
        };
        let ids = Ids::above(meta.clone(), clock, last_id.saturating_add(1));
        let turns = (0..TURNS).map(|_| tokio::sync::Mutex::default()).collect();
        let streams = Streams { log, meta, index, ids, turns, clock };
        let leaving = streams.read().leaving();
        for named in leaving {
            streams.finish(&named).await?;
        }
        let doomed: Vec<Archived> =
            streams.read().archived().filter(|archived| archived.doomed).cloned().collect();
        for archived in doomed {
            streams.finish_drop(&archived).await?;
        }
        Ok(Arc::new(streams))
    }

    /// Removes what creations that never finished have left in the log. Only for a node that nobody else shares the store
    /// with: another one's creation would be taken for such.
    ///
    /// # Errors
    /// What the stores report.
    pub async fn reclaim(&self) -> Result<()> {
        self.index.fresh().await?;
        let present = self.log.shards();
        let mut unfinished = Vec::new();
        {
            let index = self.index.read();
            // Shards without a stream are left by a creation that never finished, and then they are empty.
            // Anything else is not touched: it may be data whose catalogue entry was lost.
            for spec in present.iter().filter(|spec| !index.has_shard(spec.shard)) {
                if self.log.tail(spec.shard)? < FIRST_LSN {
                    unfinished.push(spec.shard);
                } else {
                    let shard = spec.shard;
                    tracing::warn!(shard, "shard belongs to no stream; its data is kept");
                }
            }
            let present: HashSet<ShardId> = present.iter().map(|spec| spec.shard).collect();
            for (shard, stream) in index.shards().filter(|(shard, _)| !present.contains(shard)) {
                let stream = stream.id;
                tracing::error!(shard, %stream, "a shard is missing in the log; calls on it will fail");
            }
        }
        if !unfinished.is_empty() {
            self.log.delete_shards(&unfinished).await?;
        }
        Ok(())
    }

    fn read(&self) -> View<'_, Index> {
        self.index.read()
    }

    /// The stream that has this name now.
    pub fn by_name(&self, name: &str) -> Option<Arc<Stream>> {
        self.read().by_name(name).cloned()
    }

    /// The stream that has this name now; the store is asked before it is said that there is none.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn find(&self, name: &str) -> Result<Option<Arc<Stream>>> {
        if let Some(found) = self.by_name(name) {
            return Ok(Some(found));
        }
        self.index.fetch(&live_key(name)).await?;
        Ok(self.by_name(name))
    }

    /// The stream of this identity, archived or not.
    pub fn by_id(&self, id: StreamId) -> Option<Arc<Stream>> {
        self.read().by_id(id).cloned()
    }

    /// The stream a shard belongs to, archived or not.
    pub fn by_shard(&self, shard: ShardId) -> Option<Arc<Stream>> {
        self.read().by_shard(shard).cloned()
    }

    /// Streams whose name starts with `prefix`, in name order; archived ones have no name.
    pub fn with_prefix(&self, prefix: &str) -> Vec<Arc<Stream>> {
        self.read().with_prefix(prefix).cloned().collect()
    }

    /// Streams that only their subscriptions keep alive.
    pub fn archived(&self) -> Vec<Arc<Stream>> {
        self.read().archived().map(|archived| archived.stream.clone()).collect()
    }

    /// Calls `when_gone` with every stream that is deleted or archived from now on, by whatever node, perhaps more than
    /// once. It must not use the catalogue.
    pub fn when_gone(&self, when_gone: impl Fn(StreamId) + Send + Sync + 'static) {
        self.index.change(|index| index.when_gone(Box::new(when_gone)));
    }

    /// Makes sure that the copy has everything that was written before this call.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn fresh(&self) -> Result<()> {
        self.index.fresh().await
    }

    /// Creates a stream; durable on return.
    ///
    /// # Errors
    /// [`Class::StreamExists`] when the name is taken; what the stores report. Unless it is the first, the stream may have
    /// been created.
    pub async fn create(&self, new: NewStream) -> Result<Arc<Stream>> {
        let _turn = self.turn(&new.name).await;
        for _ in 0..TRIES {
            match self.entry(&new.name).await? {
                Some(named) if named.stage.is_named() => {
                    return Err(ServerError::new(Class::StreamExists, new.name));
                }
                Some(named) => self.finish(&named).await?,
                None => {}
            }
            let stream = self.prepare(&new).await?;
            let specs: Vec<ShardSpec> = stream
                .shards
                .iter()
                .map(|shard| ShardSpec {
                    shard: shard.id,
                    retention_secs: new.backlog_secs,
                    replicas: new.replication_factor,
                })
                .collect();
            self.log.create_shards(&specs).await?;
            let entry = encode(&Entry { stream: stream.clone(), stage: Stage::Stays })?;
            match self.index.put(&live_key(&stream.name), entry, Expect::Absent).await {
                Ok(_) => return Ok(Arc::new(stream)),
                // Look whose it is now.
                Err(StoreError::Conflict { .. }) => {
                    if let Err(left) = self.drop_data(&stream).await {
                        tracing::warn!(%left, "shards of a stream that could not be created remain");
                    }
                }
                // The entry may have been written all the same, so the shards must stay: whoever has the store for
                // itself next either finds the stream with them or collects them, empty as they are.
                Err(other) => return Err(other.into()),
            }
        }
        Err(contended(&new.name))
    }

    async fn prepare(&self, new: &NewStream) -> Result<Stream> {
        let ids = self.ids.take(u64::from(new.shard_count) + 1).await?;
        let shards = (0..new.shard_count)
            .zip(ids + 1..)
            .map(|(position, id)| {
                let (start, end) = even_range(position, new.shard_count);
                Shard { id, start, end }
            })
            .collect();
        Ok(Stream {
            id: StreamId(ids),
            name: new.name.clone(),
            replication_factor: new.replication_factor,
            backlog_secs: new.backlog_secs,
            created_ms: (self.clock)(),
            shards,
            archived: false,
        })
    }

    /// Takes the name from a stream; durable on return. `is_read` tells whether a subscription reads it, with everything
    /// that was written before it was asked. One that is read is only deleted with `force`: its shards stay
    /// readable through [`Streams::by_id`] until [`Streams::drop_archived`]; otherwise its data goes now.
    ///
    /// # Errors
    /// [`Class::StreamNotFound`], [`Class::FoundSubscription`], what the stores report; in the last case the stream may be
    /// gone.
    pub async fn delete<'a>(
        &self,
        name: &str,
        force: bool,
        is_read: impl Fn(StreamId) -> BoxFuture<'a, Result<bool>> + Send + Sync,
    ) -> Result<StreamId> {
        let _turn = self.turn(name).await;
        for _ in 0..TRIES {
            let Some(named) = self.entry(name).await? else { return Err(not_found(name)) };
            if !named.stage.is_named() {
                self.finish(&named).await?;
                return Err(not_found(name));
            }
            let id = named.stream.id;
            if !force && is_read(id).await? {
                return Err(ServerError::new(Class::FoundSubscription, serde_json::Value::Null));
            }
            let asked = match named.stage {
                Stage::Asked => named,
                _ => match self.advance(&named, Stage::Asked).await? {
                    Some(asked) => asked,
                    None => continue,
                },
            };
            let read = is_read(id).await?;
            if read && !force {
                // Created since the first look. Whoever else asks has to ask again.
                self.advance(&asked, Stage::Stays).await?;
                return Err(ServerError::new(Class::FoundSubscription, serde_json::Value::Null));
            }
            let decision = if read { Stage::Kept } else { Stage::Doomed };
            // Without success somebody has created a subscription, or deleted the stream.
            if let Some(decided) = self.advance(&asked, decision).await? {
                self.finish(&decided).await?;
                // The last subscription may have gone between the look and the decision, and found nothing to drop.
                if read && !is_read(id).await? {
                    self.drop_archived(id).await?;
                }
                return Ok(id);
            }
        }
        Err(contended(name))
    }

    /// Whether a stream still has its name, asked by somebody who has written a subscription to it: if so, whoever
    /// deletes it will see that.
    ///
    /// # Errors
    /// What the store reports: then it is not known.
    pub async fn confirm(&self, name: &str, id: StreamId) -> Result<bool> {
        for _ in 0..TRIES {
            let Some(named) = self.entry(name).await?.filter(|named| named.stream.id == id) else {
                return Ok(false);
            };
            match named.stage {
                Stage::Stays => return Ok(true),
                Stage::Kept | Stage::Doomed => return Ok(false),
                Stage::Asked => {
                    if self.advance(&named, Stage::Stays).await?.is_some() {
                        return Ok(true);
                    }
                }
            }
        }
        Err(contended(name))
    }

    /// Removes an archived stream and its data; a live or unknown one is left alone. Called when no subscription reads it
    /// any more, which is for ever: it has no name under which one could be created.
    ///
    /// # Errors
    /// What the stores report; a stop half-way is finished by the next [`Streams::open`].
    pub async fn drop_archived(&self, id: StreamId) -> Result<()> {
        let leaving = {
            let index = self.read();
            let named = index.by_id(id).and_then(|stream| index.entry(&stream.name));
            named.filter(|named| named.stream.id == id && !named.stage.is_named()).cloned()
        };
        if let Some(named) = leaving {
            self.finish(&named).await?;
        }
        self.index.fetch(&archive_key(id)).await?;
        let archived = self.read().archived_entry(id).cloned();
        let Some(mut archived) = archived else { return Ok(()) };
        if !archived.doomed {
            let leaving = encode(&Leaving { stream: (*archived.stream).clone(), doomed: true })?;
            match self.index.put(&archive_key(id), leaving, Expect::Version(archived.version)).await {
                Ok(version) => archived.version = version,
                // Somebody else does it.
                Err(StoreError::Conflict { .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.finish_drop(&archived).await
    }

    async fn turn(&self, name: &str) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let at = xxhash_rust::xxh3::xxh3_64(name.as_bytes()) as usize % TURNS;
        Some(self.turns.get(at)?.lock().await)
    }

    /// What stands under a name in the store.
    async fn entry(&self, name: &str) -> Result<Option<Named>> {
        self.index.fetch(&live_key(name)).await?;
        let index = self.read();
        let Some(named) = index.entry(name).cloned() else { return Ok(None) };
        // An earlier release wrote the archive first, and may have stopped before the name went.
        let kept = named.stage.is_named() && index.archived_entry(named.stream.id).is_some();
        Ok(Some(if kept { Named { stage: Stage::Kept, ..named } } else { named }))
    }

    /// Writes the next stage of a stream; `None` if it was changed since.
    async fn advance(&self, named: &Named, stage: Stage) -> Result<Option<Named>> {
        let stream = Stream { archived: false, ..(*named.stream).clone() };
        let entry = encode(&Entry { stream, stage })?;
        match self.index.put(&live_key(&named.stream.name), entry, Expect::Version(named.version)).await {
            Ok(version) => Ok(Some(Named { stream: named.stream.clone(), stage, version })),
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Carries out what was decided about a stream, if nobody has done it meanwhile.
    async fn finish(&self, named: &Named) -> Result<()> {
        let key = live_key(&named.stream.name);
        let stream = &named.stream;
        let archived = self.read().archived_entry(stream.id).is_some();
        if named.stage == Stage::Doomed {
            self.drop_data(stream).await?;
        } else if !archived {
            let leaving = Leaving { stream: Stream { archived: true, ..(**stream).clone() }, doomed: false };
            let guard = Guard { key: key.clone(), version: named.version };
            let values = vec![(archive_key(stream.id), encode(&leaving)?)];
            match self.meta.put_many(values, Some(guard)).await {
                Ok(()) => self.index.fetch(&archive_key(stream.id)).await?,
                Err(StoreError::Conflict { .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
        }
        unless_changed(self.index.delete(&key, Expect::Version(named.version)).await)
    }

    /// Lets the data of an archived stream go that nobody reads any more.
    async fn finish_drop(&self, archived: &Archived) -> Result<()> {
        self.drop_data(&archived.stream).await?;
        let key = archive_key(archived.stream.id);
        unless_changed(self.index.delete(&key, Expect::Version(archived.version)).await)
    }

    async fn drop_data(&self, stream: &Stream) -> Result<()> {
        let shards: Vec<ShardId> = stream.shards.iter().map(|shard| shard.id).collect();
        Ok(self.log.delete_shards(&shards).await?)
    }
}

/// Fine if somebody else was first.
fn unless_changed(outcome: Result<(), StoreError>) -> Result<()> {
    match outcome {
        Ok(()) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn not_found(name: &str) -> ServerError {
    ServerError::new(Class::StreamNotFound, name)
}

fn contended(name: &str) -> ServerError {
    let text = format!("stream {name} is created and deleted by others at the same time; try again");
    ServerError::plain(Code::Aborted, text)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests;
