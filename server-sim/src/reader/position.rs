//! How far a polled reader is, in memory at once and on disk a little later.
//!
//! An answer counts as received when the client polls again, or when the node stops in order: what an answer
//! carried that may have been lost with the node is read again after a restart, never passed over.

use crate::cluster::ownership::{Claim, Ownership};
use crate::error::{Result, ServerError};
use crate::store::{Expect, Lsn, MetaStore, StoreError, Versioned};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tonic::Code;

const PREFIX: &str = "reader-position/";
/// Positions written at the same time, each under a guard of its own.
const WRITTEN_AT_ONCE: usize = 64;

/// Position of one reader; what it starts at while it has none is 0.
#[derive(Debug)]
pub(super) struct Position {
    /// Version of the reader's entry: a reader deleted and created again begins anew.
    reader: u64,
    /// First LSN that no answer carried.
    answered: AtomicU64,
    /// First LSN that no answer carried which is known to have been received.
    received: AtomicU64,
    saved: AtomicU64,
    /// The right to poll it, which guards what is written.
    claim: Claim,
    /// Whether the last write took effect, or will yet, is not known.
    in_doubt: AtomicBool,
}

impl Position {
    pub(super) fn new(reader: u64, next: Lsn, claim: Claim) -> Self {
        Position {
            claim,
            in_doubt: AtomicBool::new(false),
            reader,
            answered: AtomicU64::new(next),
            received: AtomicU64::new(next),
            saved: AtomicU64::new(next),
        }
    }

    /// Version of the reader's entry.
    pub(super) fn reader(&self) -> u64 {
        self.reader
    }

    /// The right to poll it.
    pub(super) fn claim(&self) -> &Claim {
        &self.claim
    }

    /// The last answer arrived; true if that is news.
    pub(super) fn receive(&self) -> bool {
        let answered = self.answered.load(Ordering::Relaxed);
        self.received.swap(answered, Ordering::Relaxed) != answered
    }

    /// An answer is on its way; the next one begins at `next`.
    pub(super) fn answer(&self, next: Lsn) {
        self.answered.store(next, Ordering::Relaxed);
    }

    fn unsaved(&self) -> Option<Lsn> {
        let received = self.received.load(Ordering::Relaxed);
        (received != self.saved.load(Ordering::Relaxed)).then_some(received)
    }

    /// Reads what an earlier process saved for this reader.
    pub(super) async fn load(meta: &dyn MetaStore, id: &str, reader: u64) -> Result<Option<Lsn>> {
        let Some(found) = meta.get(&key(id)).await? else { return Ok(None) };
        let (its, next) = parse(id, &found)?;
        Ok((its == reader).then_some(next))
    }

    /// Writes the positions that moved: all with one sync where nobody else can use the store, else each guarded by
    /// its claim. One whose reader is polled elsewhere by now is left alone, and its claim ends.
    pub(super) async fn save<'a>(
        meta: &dyn MetaStore,
        ownership: &Ownership,
        positions: impl Iterator<Item = (&'a str, &'a Position)>,
    ) -> Result<()> {
        let moved = positions.filter_map(|(id, position)| Some((id, position, position.unsaved()?)));
        let (alone, shared): (Vec<_>, Vec<_>) =
            moved.partition(|(_, position, _)| position.claim.guard().is_none());
        if !alone.is_empty() {
            let values = alone.iter().map(|(id, position, next)| position.entry(id, *next)).collect();
            meta.put_many(values, None).await?;
            for (_, position, next) in alone {
                position.saved.store(next, Ordering::Relaxed);
            }
        }
        let writes: Vec<_> = shared
            .into_iter()
            .map(|(id, position, next)| position.save_guarded(meta, ownership, id, next))
            .collect();
        let written: Vec<Result<()>> = stream::iter(writes).buffer_unordered(WRITTEN_AT_ONCE).collect().await;
        written.into_iter().collect()
    }

    async fn save_guarded(
        &self,
        meta: &dyn MetaStore,
        ownership: &Ownership,
        id: &str,
        next: Lsn,
    ) -> Result<()> {
        let written = async {
            if self.in_doubt.load(Ordering::Relaxed) {
                ownership.renew_guard(&self.claim).await?;
                self.in_doubt.store(false, Ordering::Relaxed);
            }
            meta.put_many(vec![self.entry(id, next)], self.claim.guard()).await
        };
        match written.await {
            Ok(()) => self.saved.store(next, Ordering::Relaxed),
            Err(StoreError::Conflict { .. }) => {
                ownership.fenced(&self.claim);
                self.saved.store(next, Ordering::Relaxed);
            }
            Err(error) => {
                self.in_doubt.store(true, Ordering::Relaxed);
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn entry(&self, id: &str, next: Lsn) -> (String, Bytes) {
        (key(id), Bytes::from(format!("{} {next}", self.reader)))
    }

    /// Removes what was saved for a reader.
    pub(super) async fn forget(meta: &dyn MetaStore, id: &str) -> Result<()> {
        Ok(meta.delete(&key(id), Expect::Any).await?)
    }

    /// Removes positions of readers that are gone; `readers` are the versions of those there are. What is missing there is
    /// looked up again under `reader_key`: another node may have created it a moment ago.
    pub(super) async fn forget_gone(
        meta: &dyn MetaStore,
        readers: &HashMap<String, u64>,
        reader_key: fn(&str) -> String,
    ) -> Result<()> {
        for (key, found) in meta.list(PREFIX).await? {
            let id = key.strip_prefix(PREFIX).unwrap_or_default();
            let reader = parse(id, &found)?.0;
            if readers.get(id).copied() == Some(reader) {
                continue;
            }
            if meta.get(&reader_key(id)).await?.is_some_and(|found| found.version == reader) {
                continue;
            }
            match meta.delete(&key, Expect::Version(found.version)).await {
                Ok(()) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn key(id: &str) -> String {
    format!("{PREFIX}{id}")
}

fn parse(id: &str, found: &Versioned) -> Result<(u64, Lsn)> {
    let parts = std::str::from_utf8(&found.value).ok().and_then(|text| text.split_once(' '));
    parts.and_then(|(reader, next)| Some((reader.parse().ok()?, next.parse().ok()?))).ok_or_else(|| {
        ServerError::plain(Code::DataLoss, format!("the saved position of reader {id:?} cannot be read"))
    })
}
