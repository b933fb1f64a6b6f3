//! One shard as a node sees it: what is known of it, who watches it, what is on its way into it.

use super::front::{Frame, Front};
use super::known::{Change, Known};
use super::lane::Lane;
use super::pending::Writer;
use crate::store::{Lsn, Result, ShardSpec, StoreError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// One shard.
#[derive(Debug)]
pub struct Shard {
    pub spec: ShardSpec,
    pub lane: Arc<Lane>,
    /// Taken by an append on its first poll and kept until its batch has its place in line.
    pub turn: tokio::sync::Mutex<()>,
    /// Held while stamps are read back.
    pub loading: tokio::sync::Mutex<()>,
    /// Told when something was heard that somebody may wait for.
    pub news: Notify,
    state: Mutex<State>,
}

/// What changes about a shard.
#[derive(Debug)]
pub struct State {
    pub known: Known,
    deleted: bool,
    watch: Option<watch::Sender<Lsn>>,
    /// Present once something was appended from here.
    pub writer: Option<Box<Writer>>,
}

impl Shard {
    pub fn new(spec: ShardSpec, lane: Arc<Lane>, known: Known) -> Arc<Shard> {
        Arc::new(Shard {
            spec,
            lane,
            turn: tokio::sync::Mutex::new(()),
            loading: tokio::sync::Mutex::new(()),
            news: Notify::new(),
            state: Mutex::new(State { known, deleted: false, watch: None, writer: None }),
        })
    }

    /// Subject of its messages.
    pub fn subject(&self) -> String {
        self.lane.subject(self.spec.shard)
    }

    pub fn not_found(&self) -> StoreError {
        StoreError::ShardNotFound(self.spec.shard)
    }

    /// The state. Held for memory operations only.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of a shard that is there.
    pub fn live(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.deleted { Err(self.not_found()) } else { Ok(state) }
    }

    /// What is known of it.
    pub fn known(&self) -> Result<Known> {
        self.live().map(|state| state.known)
    }

    /// Takes in a message, whether it came by or is the answer to one of ours; `None` for one that cannot be read. Answers who
    /// waits for its batches.
    pub fn apply(&self, seq: u64, front: Option<&Front>) {
        let mut state = self.state();
        if state.deleted {
            return;
        }
        let before = state.known.tail;
        // Whether messages between the last one and this one came and went without being seen.
        let missed = match front {
            Some(Front::Frame(frame)) => frame.prev != before,
            Some(Front::Mark(mark)) => mark.tail != Some(before),
            Some(Front::Trim(_)) => false,
            None => true,
        };
        let change = match front {
            Some(front) => state.known.apply(seq, front),
            None => state.known.apply_unreadable(seq),
        };
        match change {
            Change::None => return,
            Change::Trim => {}
            Change::Next { skipped } => {
                let tail = state.known.tail;
                if let Some(writer) = &mut state.writer {
                    writer.came(seq, front, skipped, missed);
                }
                if let Some(watch) = &state.watch {
                    watch.send_if_modified(|told| std::mem::replace(told, tail) != tail);
                }
            }
        }
        drop(state);
        self.news.notify_waiters();
    }

    /// Everything up to here was found to be gone.
    pub fn found_trimmed(&self, up_to: Lsn) {
        let mut state = self.state();
        state.known.trimmed = state.known.trimmed.max(up_to.min(state.known.tail));
    }

    /// The messages of the shard went away by age while nobody was there to say so.
    pub fn found_empty(&self, last: u64) {
        let mut state = self.state();
        if state.known.last == last {
            state.known.last = 0;
            state.known.trimmed = state.known.tail;
        }
    }

    /// Waits until something other than `last` is the last message, or nothing flies any more.
    pub async fn moved_on(&self, last: u64) {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            {
                let state = self.state();
                let flies = state.writer.as_ref().is_some_and(|writer| writer.flies());
                if state.deleted || state.known.last != last || !flies {
                    return;
                }
            }
            news.await;
        }
    }

    /// Waits until a message of at least this sequence was heard of.
    pub async fn heard(&self, seq: u64) {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            {
                let state = self.state();
                if state.deleted || state.known.last >= seq {
                    return;
                }
            }
            news.await;
        }
    }

    /// The tail as it moves.
    pub fn watch(&self) -> Result<watch::Receiver<Lsn>> {
        let mut state = self.live()?;
        let tail = state.known.tail;
        Ok(state.watch.get_or_insert_with(|| watch::Sender::new(tail)).subscribe())
    }

    /// Ends the shard: who waits for it is told.
    pub fn delete(&self) {
        self.end(&self.not_found(), true);
    }

    /// The store is closing.
    pub fn close(&self) {
        self.end(&StoreError::Closed, false);
    }

    fn end(&self, error: &StoreError, deleted: bool) {
        let mut state = self.state();
        state.deleted |= deleted;
        state.watch = None;
        if let Some(writer) = &mut state.writer {
            writer.fail(error);
        }
        drop(state);
        self.news.notify_waiters();
    }
}

impl State {
    /// The writer, made when first needed.
    pub fn writer(&mut self) -> &mut Writer {
        self.writer.get_or_insert_with(Box::default)
    }

    /// A frame's place behind what is known.
    pub fn frame(&self, id: u128, now_ms: u64) -> Frame {
        Frame {
            id,
            first: self.known.marked,
            prev: self.known.tail,
            prev_ms: self.known.time_ms,
            time_ms: self.known.time_ms.max(now_ms),
            stamped: self.known.stamped,
            batches: Vec::new(),
        }
    }
}
