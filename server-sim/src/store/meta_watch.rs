//! Following what others write into the metadata.
//!
//! An engine keeps one [`MetaFeeds`]; whoever follows a prefix has a [`MetaWatch`]. To keep a copy of a prefix in memory
//! use a [`Follower`](super::Follower), which knows what to do when changes were missed.

use super::gate::GateWatch;
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};

/// Changes a watch may be behind before it has to list again.
pub(super) const WATCH_LEN: usize = 1024;

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

/// The watches of an engine, by prefix: who follows one pays for its changes only.
#[derive(Debug)]
pub struct MetaFeeds {
    /// `None` once closed.
    feeds: Mutex<Option<Vec<Feed>>>,
}

#[derive(Debug)]
struct Feed {
    prefix: String,
    changes: broadcast::Sender<MetaChange>,
    /// Grows before and after changes are sent.
    sent: Arc<AtomicU64>,
}

impl Default for MetaFeeds {
    fn default() -> Self {
        MetaFeeds { feeds: Mutex::new(Some(Vec::new())) }
    }
}

impl MetaFeeds {
    /// Changes of the keys that start with `prefix`, beginning with those told after this call.
    pub fn watch(&self, prefix: &str) -> MetaWatch {
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(feeds) = &mut *feeds else {
            return MetaWatch::new(broadcast::channel(1).1, Arc::default());
        };
        if let Some(feed) = feeds.iter().find(|feed| feed.prefix == prefix) {
            return MetaWatch::new(feed.changes.subscribe(), Arc::clone(&feed.sent));
        }
        let (changes, receiver) = broadcast::channel(WATCH_LEN);
        let sent = Arc::new(AtomicU64::new(0));
        feeds.push(Feed { prefix: prefix.to_owned(), changes, sent: Arc::clone(&sent) });
        MetaWatch::new(receiver, sent)
    }

    /// Shows changes to those who watch. An engine calls this before it answers the write that made them.
    pub fn tell(&self, changes: &[MetaChange]) {
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(feeds) = &mut *feeds else { return };
        feeds.retain(|feed| feed.changes.receiver_count() > 0);
        for feed in feeds {
            let mut news = changes.iter().filter(|change| change.key.starts_with(&feed.prefix)).peekable();
            if news.peek().is_none() {
                continue;
            }
            // Counted twice: who was woken by a change finds it counted, and who has looked in between looks again.
            feed.sent.fetch_add(1, Ordering::Release);
            for change in news {
                // Fails when the last one who watched has just left.
                let _ = feed.changes.send(change.clone());
            }
            feed.sent.fetch_add(1, Ordering::Release);
        }
    }

    /// Ends every watch.
    pub fn close(&self) {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Changes of the keys of one prefix.
///
/// On the embedded engine a change is in every watch before the write that made it is answered; whoever takes all that
/// is there before it reads its copy therefore reads what every finished write left.
#[derive(Debug)]
pub struct MetaWatch {
    changes: broadcast::Receiver<MetaChange>,
    sent: Arc<AtomicU64>,
    /// What `sent` was when everything had been taken.
    taken: u64,
    gate: Option<GateWatch>,
}

impl MetaWatch {
    fn new(changes: broadcast::Receiver<MetaChange>, sent: Arc<AtomicU64>) -> Self {
        // A change that is sent meanwhile may be counted already: to look once too often costs nothing.
        MetaWatch { changes, sent, taken: u64::MAX, gate: None }
    }

    /// The same watch behind a switch: it shows nothing while that is off, and [`Seen::Missed`] afterwards.
    pub(super) fn behind(self, gate: GateWatch) -> Self {
        MetaWatch { gate: Some(gate), ..self }
    }

    /// Waits for the next one; `None` once the store is closed. Cancellation loses nothing.
    pub async fn next(&mut self) -> Option<Seen> {
        let Some(gate) = &mut self.gate else { return next_of(&mut self.changes).await };
        loop {
            gate.opened().await;
            if gate.was_cut() {
                self.changes = self.changes.resubscribe();
                return Some(Seen::Missed);
            }
            tokio::select! {
                biased;
                () = gate.turned() => {}
                next = next_of(&mut self.changes) => return next,
            }
        }
    }

    /// The next one if it is there already.
    pub fn try_next(&mut self) -> Option<Seen> {
        if let Some(gate) = &mut self.gate {
            if !gate.is_open() {
                return None;
            }
            if gate.was_cut() {
                self.changes = self.changes.resubscribe();
                return Some(Seen::Missed);
            }
        }
        let sent = self.sent.load(Ordering::Acquire);
        match self.changes.try_recv() {
            Ok(change) => Some(Seen::Change(change)),
            Err(TryRecvError::Lagged(_)) => Some(Seen::Missed),
            Err(TryRecvError::Empty | TryRecvError::Closed) => {
                self.taken = sent;
                None
            }
        }
    }

    /// Whether [`MetaWatch::try_next`] may have something; costs a load or two.
    pub fn has_news(&self) -> bool {
        match &self.gate {
            Some(gate) if !gate.is_open() => false,
            Some(gate) if gate.has_turned() => true,
            _ => self.sent.load(Ordering::Acquire) != self.taken,
        }
    }

    /// Whether everything that was written comes through.
    pub(super) fn is_open(&self) -> bool {
        self.gate.as_ref().is_none_or(|gate| gate.is_open() && !gate.has_turned())
    }
}

async fn next_of(changes: &mut broadcast::Receiver<MetaChange>) -> Option<Seen> {
    match changes.recv().await {
        Ok(change) => Some(Seen::Change(change)),
        Err(RecvError::Lagged(_)) => Some(Seen::Missed),
        Err(RecvError::Closed) => None,
    }
}
