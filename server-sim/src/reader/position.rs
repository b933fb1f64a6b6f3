//! How far a polled reader is, in memory at once and on disk a little later.
//!
//! An answer counts as received when the client polls again, or when the node stops in order: what an answer
//! carried that may have been lost with the node is read again after a restart, never passed over.

use crate::error::{Result, ServerError};
use crate::store::{Expect, Lsn, MetaStore, Versioned};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use tonic::Code;

const PREFIX: &str = "reader-position/";

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
}

impl Position {
    pub(super) fn new(reader: u64, next: Lsn) -> Self {
        Position {
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

    /// Writes the positions that moved, all with one sync.
    pub(super) async fn save<'a>(
        meta: &dyn MetaStore,
        positions: impl Iterator<Item = (&'a str, &'a Position)>,
    ) -> Result<()> {
        let moved: Vec<_> = positions
            .filter_map(|(id, position)| position.unsaved().map(|next| (id, position, next)))
            .collect();
        if moved.is_empty() {
            return Ok(());
        }
        let values = moved
            .iter()
            .map(|(id, position, next)| (key(id), Bytes::from(format!("{} {next}", position.reader))))
            .collect();
        meta.put_many(values, None).await?;
        for (_, position, next) in moved {
            position.saved.store(next, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Removes what was saved for a reader.
    pub(super) async fn forget(meta: &dyn MetaStore, id: &str) -> Result<()> {
        Ok(meta.delete(&key(id), Expect::Any).await?)
    }

    /// Removes positions of readers that are gone; `readers` are the versions of those there are.
    pub(super) async fn forget_gone(meta: &dyn MetaStore, readers: &HashMap<String, u64>) -> Result<()> {
        for (key, found) in meta.list(PREFIX).await? {
            let id = key.strip_prefix(PREFIX).unwrap_or_default();
            if readers.get(id).copied() != Some(parse(id, &found)?.0) {
                meta.delete(&key, Expect::Version(found.version)).await?;
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
