//! [`MetaStore`] on redb.
//!
//! One thread commits: what has gathered while it was busy goes into one transaction and one sync. Values
//! carry a checksum of our own, because redb checks its pages only when it repairs a file.

use crate::store::disk::{Disk, DiskFile};
use crate::store::{
    Expect, Guard, MetaChange, MetaFeeds, MetaStore, MetaWatch, Result, StoreError, Versioned,
};
use async_trait::async_trait;
use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, Table, TableDefinition};
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

const FILE: &str = "meta.redb";
const FILE_TEMPORARY: &str = "meta.redb.new";
const VALUES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
/// One counter gives all versions, so that a key that was deleted never shows an old version again.
const LAST_VERSION: &str = "last-version";
/// Changes waiting for the disk; who comes then waits.
const QUEUE_LEN: usize = 256;
/// Bytes of changes in one transaction, unless one change alone is larger.
const GROUP_BYTES: usize = 4 << 20;

/// Metadata in one file.
#[derive(Debug)]
pub struct RedbMeta {
    /// Gone once closed.
    open: Mutex<Option<Open>>,
    /// What was committed, for those who watch.
    feeds: Arc<MetaFeeds>,
}

#[derive(Debug)]
struct Open {
    database: Arc<Database>,
    changes: mpsc::Sender<Change>,
    committer: JoinHandle<()>,
}

#[derive(Debug)]
struct Change {
    kind: ChangeKind,
    /// Version of the value written, or 0.
    done: oneshot::Sender<Result<u64>>,
}

#[derive(Debug)]
enum ChangeKind {
    Put { key: String, value: Bytes, expect: Expect },
    PutMany { values: Vec<(String, Bytes)>, guard: Option<Guard> },
    Delete { key: String, expect: Expect },
}

impl RedbMeta {
    /// Opens the file, creating it if there is none. Blocks.
    pub fn open(disk: &dyn Disk, cache_bytes: usize) -> Result<RedbMeta> {
        let io = |error: io::Error| StoreError::Io(format!("cannot open {FILE}: {error}"));
        let names = disk.list().map_err(io)?;
        if names.iter().any(|name| name == FILE_TEMPORARY) {
            disk.remove(FILE_TEMPORARY).map_err(io)?;
        }
        if !names.iter().any(|name| name == FILE) {
            // Made aside, so that a crash leaves a whole file or none.
            drop(open_database(disk.create(FILE_TEMPORARY).map_err(io)?, cache_bytes)?);
            disk.rename(FILE_TEMPORARY, FILE).and_then(|()| disk.sync_dir()).map_err(io)?;
        }
        let database = Arc::new(open_database(disk.open(FILE).map_err(io)?, cache_bytes)?);
        let (changes, queue) = mpsc::channel(QUEUE_LEN);
        let feeds = Arc::new(MetaFeeds::default());
        let (on, told) = (Arc::clone(&database), Arc::clone(&feeds));
        let committer = std::thread::Builder::new()
            .name("hstream-meta".into())
            .spawn(move || commit_all(&on, queue, &told))
            .map_err(io)?;
        Ok(RedbMeta { open: Mutex::new(Some(Open { database, changes, committer })), feeds })
    }

    /// Ends after all changes accepted so far are durable.
    pub async fn close(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Open { database, changes, committer }) = open else { return };
        drop(changes);
        let ended = super::blocking(move || {
            let joined = committer.join().is_ok();
            drop(database);
            joined
        });
        if !matches!(ended.await, Ok(true)) {
            tracing::error!("the metadata were not closed properly");
        }
        self.feeds.close();
    }

    fn database(&self) -> Result<Arc<Database>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().map(|open| Arc::clone(&open.database)).ok_or(StoreError::Closed)
    }

    async fn change(&self, kind: ChangeKind) -> Result<u64> {
        let changes = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.as_ref().map(|open| open.changes.clone()).ok_or(StoreError::Closed)?
        };
        let (done, reply) = oneshot::channel();
        changes.send(Change { kind, done }).await.map_err(|_| StoreError::Closed)?;
        drop(changes);
        reply.await.unwrap_or_else(|_| Err(StoreError::Poisoned("the metadata's writer died".into())))
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let database = self.database()?;
        super::blocking(move || guarded(|| read(&database))).await?
    }
}

#[async_trait]
impl MetaStore for RedbMeta {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        let key = key.to_owned();
        self.read(move |database| {
            let transaction = database.begin_read().map_err(failed)?;
            let table = transaction.open_table(VALUES).map_err(failed)?;
            let found = table.get(key.as_str()).map_err(failed)?;
            found.map(|value| decode(&key, value.value())).transpose()
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        let prefix = prefix.to_owned();
        self.read(move |database| {
            let transaction = database.begin_read().map_err(failed)?;
            let table = transaction.open_table(VALUES).map_err(failed)?;
            let mut found = Vec::new();
            for entry in table.range(prefix.as_str()..).map_err(failed)? {
                let (key, value) = entry.map_err(failed)?;
                if !key.value().starts_with(&prefix) {
                    break;
                }
                found.push((key.value().to_owned(), decode(key.value(), value.value())?));
            }
            Ok(found)
        })
        .await
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64> {
        self.change(ChangeKind::Put { key: key.to_owned(), value, expect }).await
    }

    async fn put_many(&self, values: Vec<(String, Bytes)>, guard: Option<Guard>) -> Result<()> {
        self.change(ChangeKind::PutMany { values, guard }).await.map(|_| ())
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<()> {
        self.change(ChangeKind::Delete { key: key.to_owned(), expect }).await.map(|_| ())
    }

    fn watch(&self, prefix: &str) -> MetaWatch {
        self.feeds.watch(prefix)
    }

    async fn settle(&self) -> Result<bool> {
        // Watches know of a change before whoever made it does.
        self.database().map(|_| true)
    }
}

/// Commits changes until nobody can send any.
fn commit_all(database: &Database, mut queue: mpsc::Receiver<Change>, feeds: &MetaFeeds) {
    let mut poison: Option<StoreError> = None;
    while let Some(first) = queue.blocking_recv() {
        let mut bytes = first.kind.bytes();
        let mut group = vec![first];
        while bytes < GROUP_BYTES
            && let Ok(change) = queue.try_recv()
        {
            bytes += change.kind.bytes();
            group.push(change);
        }
        let result = match &poison {
            Some(error) => Err(error.clone()),
            None => guarded(|| commit(database, &group)),
        };
        if let (Err(error), None) = (&result, &poison) {
            tracing::error!(%error, "the metadata take no more writes");
            poison = Some(StoreError::Poisoned(format!("writing the metadata failed: {error}")));
        }
        match (result, &poison) {
            (Ok((answers, changes)), _) => {
                // Before anybody is answered: who has an answer may rely on what watchers know.
                feeds.tell(&changes);
                for (change, answer) in group.into_iter().zip(answers) {
                    let _ = change.done.send(answer);
                }
            }
            (Err(error), poison) => {
                let error = poison.clone().unwrap_or(error);
                for change in group {
                    let _ = change.done.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Writes a group in one transaction; each change gets its own answer, an error is everybody's.
fn commit(database: &Database, group: &[Change]) -> Result<(Vec<Result<u64>>, Vec<MetaChange>)> {
    let transaction = database.begin_write().map_err(failed)?;
    let mut answers = Vec::with_capacity(group.len());
    let mut changes = Vec::with_capacity(group.len());
    {
        let mut counters = transaction.open_table(COUNTERS).map_err(failed)?;
        let mut last = counters.get(LAST_VERSION).map_err(failed)?.map_or(0, |version| version.value());
        let mut values = transaction.open_table(VALUES).map_err(failed)?;
        for change in group {
            answers.push(match apply(&mut values, &change.kind, &mut last, &mut changes) {
                Err(error @ (StoreError::Conflict { .. } | StoreError::Corrupt(_))) => Err(error),
                answer => Ok(answer?),
            });
        }
        counters.insert(LAST_VERSION, last).map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    Ok((answers, changes))
}

fn apply(
    values: &mut Table<'_, &'static str, &'static [u8]>,
    kind: &ChangeKind,
    last: &mut u64,
    changes: &mut Vec<MetaChange>,
) -> Result<u64> {
    let mut put = |values: &mut Table<'_, _, _>, key: &str, value: &Bytes| {
        *last += 1;
        values.insert(key, encode(key, *last, value).as_slice()).map_err(failed)?;
        changes.push(MetaChange { key: key.to_owned(), value: Some(value.clone()), version: *last });
        Ok(*last)
    };
    match kind {
        ChangeKind::Put { key, value, expect } => {
            check(values, key, *expect)?;
            put(values, key, value)
        }
        ChangeKind::PutMany { values: many, guard } => {
            if let Some(Guard { key, version }) = guard {
                check(values, key, Expect::Version(*version))?;
            }
            for (key, value) in many {
                put(values, key, value)?;
            }
            Ok(0)
        }
        ChangeKind::Delete { key, expect } => {
            check(values, key, *expect)?;
            if values.remove(key.as_str()).map_err(failed)?.is_some() {
                *last += 1;
                changes.push(MetaChange { key: key.clone(), value: None, version: *last });
            }
            Ok(0)
        }
    }
}

fn check(values: &Table<'_, &'static str, &'static [u8]>, key: &str, expect: Expect) -> Result<()> {
    if expect == Expect::Any {
        return Ok(());
    }
    let found = values.get(key).map_err(failed)?;
    let version = found.map(|value| decode(key, value.value())).transpose()?.map(|found| found.version);
    let holds = match expect {
        Expect::Any => true,
        Expect::Absent => version.is_none(),
        Expect::Version(wanted) => version == Some(wanted),
    };
    if holds { Ok(()) } else { Err(StoreError::Conflict { key: key.to_owned() }) }
}

impl ChangeKind {
    fn bytes(&self) -> usize {
        match self {
            ChangeKind::Put { key, value, .. } => key.len() + value.len(),
            ChangeKind::PutMany { values, .. } => {
                values.iter().map(|(key, value)| key.len() + value.len()).sum()
            }
            ChangeKind::Delete { key, .. } => key.len(),
        }
    }
}

/// crc32c of key, version and value; version; value.
fn encode(key: &str, version: u64, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12 + value.len());
    bytes.extend([0; 4]);
    bytes.extend(version.to_le_bytes());
    bytes.extend(value);
    let crc = checksum(key, &bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn checksum(key: &str, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), rest)
}

fn decode(key: &str, bytes: &[u8]) -> Result<Versioned> {
    let damaged =
        || StoreError::Corrupt(format!("the value of {key:?} in {FILE} does not match its checksum"));
    let (crc, rest) = bytes.split_first_chunk().ok_or_else(damaged)?;
    let (version, value) = rest.split_first_chunk().ok_or_else(damaged)?;
    if u32::from_le_bytes(*crc) != checksum(key, rest) {
        return Err(damaged());
    }
    Ok(Versioned { value: Bytes::copy_from_slice(value), version: u64::from_le_bytes(*version) })
}

fn open_database(file: Arc<dyn DiskFile>, cache_bytes: usize) -> Result<Database> {
    guarded(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes);
        let database = builder.create_with_backend(Backend(file)).map_err(failed)?;
        // Both tables exist from the start, so that reading needs no special case. A file that has them is not
        // written: it must open on a full disk, too.
        let reading = database.begin_read().map_err(failed)?;
        if reading.open_table(VALUES).is_ok() && reading.open_table(COUNTERS).is_ok() {
            drop(reading);
            return Ok(database);
        }
        drop(reading);
        let transaction = database.begin_write().map_err(failed)?;
        transaction.open_table(VALUES).map_err(failed)?;
        transaction.open_table(COUNTERS).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(database)
    })
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(what) => StoreError::Corrupt(format!("{FILE}: {what}")),
        redb::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
            StoreError::DiskFull(format!("{FILE}: {error}"))
        }
        redb::Error::PreviousIo => {
            StoreError::Poisoned(format!("{FILE}: an earlier operation on the file failed"))
        }
        error => StoreError::Io(format!("{FILE}: {error}")),
    }
}

/// A damaged file may lead redb to a page that makes no sense; that must not take the process down.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(StoreError::Corrupt(format!("{FILE} makes no sense: {}", message_of(&*panic))))
    })
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown reason")
}

/// Our disk as redb sees it.
#[derive(Debug)]
struct Backend(Arc<dyn DiskFile>);

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, io::Error> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.truncate(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.write_at(offset, data)
    }
}
