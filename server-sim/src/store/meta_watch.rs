//! Following what others write into the metadata.

use bytes::Bytes;
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};

/// One key that was written or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaChange {
    /// The key.
    pub key: String,
    /// What it holds now; `None` when it was removed.
    pub value: Option<Bytes>,
    /// Version of this change, also of a removal; a key's later changes have higher ones.
    pub version: u64,
}

/// What a [`MetaWatch`] shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A change, in the order in which they were made.
    Change(MetaChange),
    /// Some changes were missed: list the prefix again.
    Missed,
}

/// Changes of the keys of one prefix.
///
/// On the embedded engine a change is in every watch before the write that made it is answered; whoever takes all that
/// is there before it reads its copy therefore reads what every finished write left.
#[derive(Debug)]
pub struct MetaWatch {
    changes: broadcast::Receiver<MetaChange>,
    prefix: String,
}

impl MetaWatch {
    /// Those changes in `changes` whose key starts with `prefix`.
    pub fn new(changes: broadcast::Receiver<MetaChange>, prefix: &str) -> Self {
        MetaWatch { changes, prefix: prefix.to_owned() }
    }

    /// Waits for the next one; `None` once the store is closed. Cancellation loses nothing.
    pub async fn next(&mut self) -> Option<Seen> {
        loop {
            match self.changes.recv().await {
                Ok(change) if change.key.starts_with(&self.prefix) => return Some(Seen::Change(change)),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return Some(Seen::Missed),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The next one if it is there already.
    pub fn try_next(&mut self) -> Option<Seen> {
        loop {
            match self.changes.try_recv() {
                Ok(change) if change.key.starts_with(&self.prefix) => return Some(Seen::Change(change)),
                Ok(_) => {}
                Err(TryRecvError::Lagged(_)) => return Some(Seen::Missed),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }
}
