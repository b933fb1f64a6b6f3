//! Readers that are created once and polled: what they read is durable, how far they are is not.

use super::cursor::{Cursor, MAX_BATCHES_PER_MESSAGE, Step};
use super::delivery::{MESSAGE_BYTES, received, received_bytes};
use super::range::ShardRange;
use crate::error::{Class, Result, ServerError};
use crate::store::{Expect, FIRST_LSN, LogStore, Lsn, MetaStore, ShardId, StoreError, StoredBatch};
use bytes::Bytes;
use hstreamdb_proto::api::ReceivedRecord;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::Code;

const PREFIX: &str = "reader/";

/// Longest time one poll waits, whatever the reader's timeout says.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// A reader as created.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewReader {
    /// Identity chosen by the client.
    pub id: String,
    /// Stream name as given; informative.
    pub stream: String,
    /// The shard it reads.
    pub shard: ShardId,
    /// Where it starts, also after a restart of the node.
    pub start: Lsn,
    /// How long a poll waits for data, in milliseconds.
    pub timeout_ms: u32,
}

/// Every polled reader of this node.
#[derive(Debug)]
pub struct PolledReaders {
    log: Arc<dyn LogStore>,
    meta: Arc<dyn MetaStore>,
    /// Readers polled since the start; the lock inside serialises polls of one reader.
    open: Mutex<HashMap<String, Arc<tokio::sync::Mutex<OpenReader>>>>,
}

#[derive(Debug)]
struct OpenReader {
    spec: NewReader,
    cursor: Cursor,
    /// Read, but not yet part of an answer.
    surplus: VecDeque<StoredBatch>,
}

impl PolledReaders {
    /// Readers over the two stores.
    pub fn new(log: Arc<dyn LogStore>, meta: Arc<dyn MetaStore>) -> Self {
        PolledReaders { log, meta, open: Mutex::default() }
    }

    fn open_readers(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<OpenReader>>>> {
        self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Creates a reader; durable on return.
    ///
    /// # Errors
    /// [`Class::ShardReaderExists`]; what the store reports.
    pub async fn create(&self, reader: NewReader) -> Result<()> {
        let value = serde_json::to_vec(&reader).map_err(|error| unreadable(&reader.id, &error))?;
        match self.meta.put(&key(&reader.id), Bytes::from(value), Expect::Absent).await {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { .. }) => Err(ServerError::new(Class::ShardReaderExists, reader.id)),
            Err(other) => Err(other.into()),
        }
    }

    /// Ids of all readers, in order.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn list(&self) -> Result<Vec<String>> {
        let entries = self.meta.list(PREFIX).await?;
        Ok(entries.into_iter().filter_map(|(key, _)| key.strip_prefix(PREFIX).map(str::to_owned)).collect())
    }

    /// Removes a reader; durable on return.
    ///
    /// # Errors
    /// [`Class::EmptyShardReader`] when there is none; what the store reports.
    pub async fn delete(&self, id: &str) -> Result<()> {
        let Some(found) = self.meta.get(&key(id)).await? else { return Err(no_reader(id)) };
        match self.meta.delete(&key(id), Expect::Version(found.version)).await {
            Ok(()) => {}
            Err(StoreError::Conflict { .. }) => return Err(no_reader(id)),
            Err(other) => return Err(other.into()),
        }
        self.open_readers().remove(id);
        Ok(())
    }

    /// Up to `max_batches` batches from where the previous poll ended; waits up to the reader's timeout when
    /// nothing is there, and answers with nothing after that. Polls of one reader are served one by one.
    ///
    /// # Errors
    /// [`Class::EmptyShardReader`] when there is no such reader; what the store reports.
    pub async fn poll(&self, id: &str, max_batches: u32) -> Result<Vec<ReceivedRecord>> {
        let reader = self.reader(id).await?;
        let mut reader = reader.lock().await;
        let most = (max_batches as usize).clamp(1, MAX_BATCHES_PER_MESSAGE);
        let wait = Duration::from_millis(u64::from(reader.spec.timeout_ms)).min(MAX_WAIT);
        let deadline = tokio::time::Instant::now() + wait;
        while reader.surplus.is_empty() {
            let reader = &mut *reader;
            match reader.cursor.step(&*self.log, most).await? {
                Step::Batches(batches) => {
                    reader.surplus.extend(batches);
                    if let Some(gap) = reader.cursor.lost {
                        // Told once; the next poll goes on behind the gap.
                        let text = format!("records of LSN {} to {} are lost", gap.from, gap.to);
                        return Err(ServerError::new(Class::DataLossGapError, text));
                    }
                }
                Step::Done => break,
                Step::AtTail => match tokio::time::timeout_at(deadline, reader.cursor.wait()).await {
                    Ok(moved) => moved?,
                    Err(_) => break,
                },
            }
        }
        let shard = reader.spec.shard;
        let mut records = Vec::new();
        let mut size = 0;
        while records.len() < most {
            let Some(bytes) = reader.surplus.front().map(received_bytes) else { break };
            if !records.is_empty() && size + bytes > MESSAGE_BYTES {
                break;
            }
            size += bytes;
            records.extend(reader.surplus.pop_front().and_then(|batch| received(shard, batch)));
        }
        Ok(records)
    }

    async fn reader(&self, id: &str) -> Result<Arc<tokio::sync::Mutex<OpenReader>>> {
        if let Some(reader) = self.open_readers().get(id) {
            return Ok(reader.clone());
        }
        let Some(found) = self.meta.get(&key(id)).await? else { return Err(no_reader(id)) };
        let spec: NewReader = serde_json::from_slice(&found.value).map_err(|error| unreadable(id, &error))?;
        let range = ShardRange { start: spec.start.max(FIRST_LSN), end: None };
        let cursor = Cursor::open(&*self.log, spec.shard, range)?;
        let opened = OpenReader { spec, cursor, surplus: VecDeque::new() };
        let opened = Arc::new(tokio::sync::Mutex::new(opened));
        // Two first polls at once must share one position.
        let opened = self.open_readers().entry(id.to_owned()).or_insert(opened).clone();
        // Deleted, and perhaps created anew, while it was opened here: then this one must not stay.
        match self.meta.get(&key(id)).await? {
            Some(now) if now.version == found.version => Ok(opened),
            _ => {
                self.open_readers().remove(id);
                Err(no_reader(id))
            }
        }
    }
}

fn key(id: &str) -> String {
    format!("{PREFIX}{id}")
}

fn no_reader(id: &str) -> ServerError {
    ServerError::new(Class::EmptyShardReader, id)
}

fn unreadable(id: &str, error: &serde_json::Error) -> ServerError {
    ServerError::plain(
        Code::Internal,
        format!("the entry of reader {id:?} cannot be read or written: {error}"),
    )
}
