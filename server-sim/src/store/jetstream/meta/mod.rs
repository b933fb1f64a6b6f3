//! [`MetaStore`] on a key-value bucket of JetStream.
//!
//! Every node keeps all metadata in memory and follows the bucket; a read writes a mark, waits until that comes out of what it
//! follows, and answers from memory. Every write is a compare-and-set of the servers, by the number of the last message of its
//! key or of the guard's; that number is the version. Why, and what happens to writes whose answer is lost:
//! docs/decisions/0025.
//!
//! | file | what |
//! | --- | --- |
//! | `bucket` | the stream behind it |
//! | `key`, `message` | how keys and changes look in it |
//! | `mirror` | all of it in memory |
//! | `follow` | what keeps that up to date |
//! | `barrier` | seeing everything that was written before |
//! | `write` | putting and removing |
//! | `chain` | what became of a write whose answer was lost |

mod barrier;
mod bucket;
mod chain;
mod follow;
mod key;
mod message;
mod mirror;
mod write;

use super::connection::Connection;
use super::failure::Lost;
use super::open_error::Attempt;
use crate::store::{Expect, Guard, MetaStore, MetaWatch, Result, StoreError, Versioned};
use async_trait::async_trait;
use barrier::Barrier;
use bucket::Bucket;
use bytes::Bytes;
use mirror::Mirror;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use write::{Sent, Write};

/// A first list that takes longer is begun anew, with another connection.
const FIRST_LIST_WITHIN: Duration = Duration::from_secs(30);

/// Metadata in a bucket.
#[derive(Debug)]
pub(super) struct JetStreamMeta {
    meta: Arc<Meta>,
    replicas: usize,
    closed: CancellationToken,
    _end: DropGuard,
}

/// What calls and the task that follows the bucket share.
struct Meta {
    connection: Arc<Connection>,
    bucket: Bucket,
    mirror: Mirror,
    barrier: Barrier,
    /// Subject of this node's marks.
    mark: String,
    /// Asks for a new consumer.
    again: Notify,
}

impl fmt::Debug for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meta").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl JetStreamMeta {
    /// Makes the bucket if there is none and reads all of it.
    pub(super) async fn open(
        connection: Arc<Connection>,
        replicas: Option<usize>,
    ) -> Result<Arc<JetStreamMeta>, Attempt> {
        let bucket = Bucket::of(&connection);
        let replicas = bucket.ensure(&connection, replicas).await?;
        // No key has an = before such letters.
        let mark = format!("{}=mark.{:016x}", bucket.prefix, rand::random::<u64>());
        let (mirror, barrier, again) = (Mirror::new(), Barrier::default(), Notify::new());
        let meta = Arc::new(Meta { connection, bucket, mirror, barrier, mark, again });
        let closed = CancellationToken::new();
        let end = closed.clone().drop_guard();
        tokio::spawn(follow::follow(meta.clone(), closed.clone()));
        let deadline = Instant::now() + FIRST_LIST_WITHIN;
        if !meta.mirror.reached(1, deadline).await {
            return Err(Attempt::Again("the metadata do not come through".to_owned()));
        }
        Ok(Arc::new(JetStreamMeta { meta, replicas, closed, _end: end }))
    }

    /// How many copies there are.
    pub(super) fn replicas(&self) -> usize {
        self.replicas
    }

    /// Ends calls and watches.
    pub(super) fn close(&self) {
        self.closed.cancel();
        self.meta.mirror.feeds.close();
    }

    async fn unless_closed<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(StoreError::Closed),
            done = work => done,
        }
    }

    /// Reads when everything is there that was written before.
    async fn read<T>(&self, what: &str, read: impl FnOnce(&Mirror) -> Result<T>) -> Result<T> {
        let deadline = self.meta.deadline();
        self.unless_closed(async {
            let fresh = self.meta.fresh(deadline).await;
            fresh.map_err(|lost| self.meta.unreachable(what, &lost, Outcome::Nothing))?;
            read(&self.meta.mirror)
        })
        .await
    }
}

/// What is known of a write that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Nothing was written.
    Nothing,
    /// It may have been written, or may yet be.
    Open,
}

impl Meta {
    fn deadline(&self) -> Instant {
        Instant::now() + self.connection.timeout()
    }

    fn unreachable(&self, what: &str, lost: &Lost, outcome: Outcome) -> StoreError {
        let outcome = match outcome {
            Outcome::Nothing => "nothing was changed",
            Outcome::Open => "whether it took effect is not known",
        };
        let (timeout, why) = (self.connection.timeout(), &lost.why);
        StoreError::Unreachable(format!("{what}: no answer from NATS within {timeout:?} ({why}); {outcome}"))
    }
}

#[async_trait]
impl MetaStore for JetStreamMeta {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        self.read(key, |mirror| mirror.get(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        self.read(prefix, |mirror| mirror.list(prefix)).await
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64> {
        self.unless_closed(self.meta.change(Write::put(key, value)?, expect)).await
    }

    async fn put_many(&self, values: Vec<(String, Bytes)>, guard: Option<Guard>) -> Result<()> {
        // The last value of a key counts.
        let values: BTreeMap<String, Bytes> = values.into_iter().collect();
        let writes = values.into_iter().map(|(key, value)| Write::put(&key, value));
        let writes = writes.collect::<Result<Vec<_>>>()?;
        self.unless_closed(self.meta.change_many(writes, guard)).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<()> {
        self.unless_closed(self.meta.change(Write::delete(key)?, expect)).await.map(|_| ())
    }

    fn watch(&self, prefix: &str) -> MetaWatch {
        self.meta.mirror.feeds.watch(prefix)
    }

    async fn settle(&self) -> Result<bool> {
        self.read("waiting for watches", |_| Ok(true)).await
    }
}
