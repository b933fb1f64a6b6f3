//! Readers that are created once and polled. What they read is durable at once, how far they are a moment later.

use super::cursor::{Cursor, Step};
use super::delivery::{MESSAGE_BYTES, received, received_bytes};
use super::position::Position;
use super::range::ShardRange;
use crate::cluster::ownership::{Keeper, Kind, Ownership};
use crate::error::{Class, Result, ServerError};
use crate::limits::{Budget, Charge};
use crate::store::{Expect, FIRST_LSN, LogStore, Lsn, MetaStore, ShardId, StoreError, StoredBatch};
use async_trait::async_trait;
use bytes::Bytes;
use hstreamdb_proto::api::ReceivedRecord;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Code;

const PREFIX: &str = "reader/";

/// Longest time one poll waits, whatever the reader's timeout says.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Most batches in one answer, which is cut by bytes, too.
const MAX_BATCHES_PER_POLL: usize = 100;

/// Positions are collected for this long before they are written.
const SAVE_DELAY: Duration = Duration::from_secs(1);

/// A reader as created.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewReader {
    /// Identity chosen by the client.
    pub id: String,
    /// Stream name as given; informative.
    pub stream: String,
    /// The shard it reads.
    pub shard: ShardId,
    /// Where it starts.
    pub start: Lsn,
    /// How long a poll waits for data, in milliseconds.
    pub timeout_ms: u32,
}

/// Every polled reader of this node.
#[derive(Debug)]
pub struct PolledReaders {
    log: Arc<dyn LogStore>,
    memory: Arc<Budget>,
    saved: Arc<Saved>,
    /// Ends the task that writes positions.
    _saver: DropGuard,
}

/// What the task that writes positions needs to know.
#[derive(Debug)]
struct Saved {
    meta: Arc<dyn MetaStore>,
    ownership: Arc<Ownership>,
    /// Readers polled since the start.
    open: Mutex<HashMap<String, Arc<Reader>>>,
    moved: Notify,
}

#[derive(Debug)]
struct Reader {
    position: Position,
    /// Held by one poll at a time.
    turn: tokio::sync::Mutex<Turn>,
}

#[derive(Debug)]
struct Turn {
    spec: NewReader,
    cursor: Cursor,
}

impl Saved {
    fn open(&self) -> MutexGuard<'_, HashMap<String, Arc<Reader>>> {
        self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Two first polls at once must share one position; a reader deleted meanwhile has to give way.
    fn share(&self, id: &str, opened: Arc<Reader>) -> Arc<Reader> {
        let mut open = self.open();
        match open.get(id) {
            Some(there)
                if there.position.reader() == opened.position.reader()
                    && there.position.claim().is_valid() =>
            {
                there.clone()
            }
            _ => {
                open.insert(id.to_owned(), opened.clone());
                opened
            }
        }
    }

    fn close(&self, id: &str, reader: u64) {
        let mut open = self.open();
        if open.get(id).is_some_and(|there| there.position.reader() == reader) {
            open.remove(id);
        }
    }

    async fn save(&self) -> Result<()> {
        let open: Vec<(String, Arc<Reader>)> =
            self.open().iter().map(|(id, reader)| (id.clone(), reader.clone())).collect();
        let positions = open.iter().map(|(id, reader)| (id.as_str(), &reader.position));
        let saved = Position::save(&*self.meta, &self.ownership, positions).await;
        // What is polled elsewhere now is opened anew should it come back.
        self.open().retain(|_, reader| reader.position.claim().is_valid());
        saved
    }

    async fn save_in_background(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.moved.notified() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SAVE_DELAY) => {}
            }
            if let Err(error) = self.save().await {
                tracing::warn!(%error, "positions of polled readers were not saved, trying again");
                self.moved.notify_one();
            }
        }
    }
}

#[async_trait]
impl Keeper for Saved {
    /// A reader that moves costs its client one look-up.
    fn is_idle(&self, _: &str) -> bool {
        true
    }

    async fn let_go(&self, id: &str) {
        let Some(reader) = self.open().remove(id) else { return };
        let position = std::iter::once((id, &reader.position));
        if let Err(error) = Position::save(&*self.meta, &self.ownership, position).await {
            tracing::warn!(reader = id, %error, "moves before its position was saved");
        }
    }
}

impl PolledReaders {
    /// Readers over the two stores, whose answers are charged to `memory`.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn open(
        log: Arc<dyn LogStore>,
        meta: Arc<dyn MetaStore>,
        memory: Arc<Budget>,
        ownership: Arc<Ownership>,
    ) -> Result<Self> {
        let entries = meta.list(PREFIX).await?.into_iter();
        let readers: HashMap<String, u64> = entries
            .filter_map(|(key, found)| Some((key.strip_prefix(PREFIX)?.to_owned(), found.version)))
            .collect();
        Position::forget_gone(&*meta, &readers, key).await?;
        let saved = Arc::new(Saved { meta, ownership, open: Mutex::default(), moved: Notify::new() });
        let keeper: Weak<Saved> = Arc::downgrade(&saved);
        saved.ownership.keep(Kind::ShardReader, keeper);
        let stop = CancellationToken::new();
        tokio::spawn(saved.clone().save_in_background(stop.clone()));
        Ok(PolledReaders { log, memory, saved, _saver: stop.drop_guard() })
    }

    /// Saves where every reader is. Called when no poll runs any more: every answer counts as received.
    pub async fn close(&self) {
        for reader in self.saved.open().values() {
            reader.position.receive();
        }
        if let Err(error) = self.saved.save().await {
            tracing::warn!(%error, "polled readers will repeat what they read last");
        }
    }

    /// Tells whether an id is free right now.
    ///
    /// # Errors
    /// [`Class::ShardReaderExists`]; what the store reports.
    pub async fn check_free(&self, id: &str) -> Result<()> {
        match self.saved.meta.get(&key(id)).await? {
            Some(_) => Err(exists(id)),
            None => Ok(()),
        }
    }

    /// Creates a reader; durable on return.
    ///
    /// # Errors
    /// [`Class::ShardReaderExists`]; what the store reports.
    pub async fn create(&self, reader: NewReader) -> Result<()> {
        let value = serde_json::to_vec(&reader).map_err(|error| unreadable(&reader.id, &error))?;
        match self.saved.meta.put(&key(&reader.id), Bytes::from(value), Expect::Absent).await {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { .. }) => Err(exists(&reader.id)),
            Err(other) => Err(other.into()),
        }
    }

    /// Ids of all readers, in order.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn list(&self) -> Result<Vec<String>> {
        let entries = self.saved.meta.list(PREFIX).await?;
        Ok(entries.into_iter().filter_map(|(key, _)| key.strip_prefix(PREFIX).map(str::to_owned)).collect())
    }

    /// Removes a reader; durable on return.
    ///
    /// # Errors
    /// [`Class::EmptyShardReader`] when there is none; [`Class::WrongServer`]; what the store reports.
    pub async fn delete(&self, id: &str) -> Result<()> {
        let Some(found) = self.saved.meta.get(&key(id)).await? else { return Err(no_reader()) };
        let claim = self.saved.ownership.claim(Kind::ShardReader, id).await?;
        match self.saved.meta.delete(&key(id), Expect::Version(found.version)).await {
            Ok(()) => {}
            Err(StoreError::Conflict { .. }) => return Err(no_reader()),
            Err(other) => return Err(other.into()),
        }
        self.saved.close(id, found.version);
        Position::forget(&*self.saved.meta, id).await?;
        Ok(self.saved.ownership.forget(&claim).await?)
    }

    /// Up to `max_batches` batches from where the previous poll ended; waits up to the reader's timeout when
    /// nothing is there, and answers with nothing after that. Polls of one reader are served one by one.
    ///
    /// # Errors
    /// [`Class::EmptyShardReader`] when there is no such reader; [`Class::WrongServer`] if another node serves it; what
    /// the store reports.
    pub async fn poll(&self, id: &str, max_batches: u32) -> Result<(Vec<ReceivedRecord>, Option<Charge>)> {
        let reader = self.reader(id).await?;
        let mut turn = reader.turn.lock().await;
        // Whoever asks again has the answer before.
        if reader.position.receive() {
            self.saved.moved.notify_one();
        }
        let claim = reader.position.claim();
        let answer = tokio::select! {
            answer = turn.read(&*self.log, &self.memory, max_batches) => answer,
            // Waiting any longer keeps the client from the node that has it now.
            () = claim.lost().cancelled() => Ok((Vec::new(), None)),
        };
        if !claim.is_valid() {
            let text = format!("shard reader {id} moves to another node; look it up and ask there");
            return Err(ServerError::new(Class::ServerNotAvailable, text));
        }
        reader.position.answer(turn.cursor.next());
        answer
    }

    async fn reader(&self, id: &str) -> Result<Arc<Reader>> {
        if let Some(reader) = self.saved.open().get(id).filter(|reader| reader.position.claim().is_valid()) {
            return Ok(reader.clone());
        }
        if self.saved.meta.get(&key(id)).await?.is_none() {
            return Err(no_reader());
        }
        let claim = self.saved.ownership.claim(Kind::ShardReader, id).await?;
        // Only now: no earlier owner can move it any more.
        let Some(found) = self.saved.meta.get(&key(id)).await? else { return Err(no_reader()) };
        let spec: NewReader = serde_json::from_slice(&found.value).map_err(|error| unreadable(id, &error))?;
        let saved = Position::load(&*self.saved.meta, id, found.version).await?.unwrap_or(0);
        let start = spec.start.max(saved).max(FIRST_LSN);
        let cursor = Cursor::open(&*self.log, spec.shard, ShardRange { start, end: None })?;
        let opened = Arc::new(Reader {
            position: Position::new(found.version, start, claim),
            turn: tokio::sync::Mutex::new(Turn { spec, cursor }),
        });
        let opened = self.saved.share(id, opened);
        // Deleted, and perhaps created anew, while it was opened here: then this one must not stay.
        match self.saved.meta.get(&key(id)).await? {
            Some(now) if now.version == found.version => Ok(opened),
            _ => {
                self.saved.close(id, found.version);
                Err(no_reader())
            }
        }
    }
}

impl Turn {
    /// What comes next, and what it was charged; nothing when nothing came in time.
    async fn read(
        &mut self,
        log: &dyn LogStore,
        memory: &Arc<Budget>,
        max_batches: u32,
    ) -> Result<(Vec<ReceivedRecord>, Option<Charge>)> {
        let most = (max_batches as usize).clamp(1, MAX_BATCHES_PER_POLL);
        let wait = Duration::from_millis(u64::from(self.spec.timeout_ms)).min(MAX_WAIT);
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let charge = memory.reserve(MESSAGE_BYTES).await;
            match self.cursor.step(log, most, MESSAGE_BYTES).await? {
                Step::Batches(batches) => {
                    if let Some(gap) = self.cursor.lost() {
                        // Told once; the next poll goes on behind the gap.
                        if let Some(first) = batches.first() {
                            self.cursor.back_to(first.lsn);
                        }
                        let text = format!("records of LSN {} to {} are lost", gap.from, gap.to);
                        return Err(ServerError::new(Class::DataLossGapError, text));
                    }
                    if !batches.is_empty() {
                        return Ok((self.take(batches), Some(charge)));
                    }
                }
                Step::Done => return Ok((Vec::new(), None)),
                Step::AtTail => {
                    drop(charge);
                    match tokio::time::timeout_at(deadline, self.cursor.wait()).await {
                        Ok(moved) => moved?,
                        Err(_) => return Ok((Vec::new(), None)),
                    }
                }
            }
        }
    }

    /// As many batches as fit into one answer; the others are read again.
    fn take(&mut self, batches: Vec<StoredBatch>) -> Vec<ReceivedRecord> {
        let mut records = Vec::new();
        let mut size = 0;
        for batch in batches {
            let bytes = received_bytes(&batch);
            if !records.is_empty() && size + bytes > MESSAGE_BYTES {
                self.cursor.back_to(batch.lsn);
                break;
            }
            size += bytes;
            records.extend(received(self.spec.shard, batch));
        }
        records
    }
}

fn key(id: &str) -> String {
    format!("{PREFIX}{id}")
}

/// The detail is a word of the published servers, not the id.
fn no_reader() -> ServerError {
    ServerError::new(Class::EmptyShardReader, "ShardReaderNotExists")
}

fn exists(id: &str) -> ServerError {
    ServerError::new(Class::ShardReaderExists, format!("the shard reader {id} exists already"))
}

fn unreadable(id: &str, error: &serde_json::Error) -> ServerError {
    ServerError::plain(
        Code::Internal,
        format!("the entry of reader {id:?} cannot be read or written: {error}"),
    )
}
