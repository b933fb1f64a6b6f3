//! Batches on their way to a caller who may have stopped waiting.
//!
//! A timeout of the caller can fall between the moment the core hands out a batch and the moment the event
//! loop resolves the future. Such a batch comes back here and goes to the next caller, instead of being
//! missing until the server delivers it again.

use hstreamdb::{ReceivedBatch, Result};
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Batches that were handed out and came back.
#[derive(Default)]
pub struct Returned {
    batches: Mutex<Kept>,
    came_back: Notify,
}

#[derive(Default)]
struct Kept {
    queue: VecDeque<ReceivedBatch>,
    closed: bool,
}

impl fmt::Debug for Returned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Returned")
    }
}

impl Returned {
    fn batches(&self) -> MutexGuard<'_, Kept> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps nothing from now on: what nobody took before the stop stays unacknowledged, and comes again.
    pub fn close(&self) {
        let mut kept = self.batches();
        kept.closed = true;
        kept.queue.clear();
    }

    /// The next batch: one that came back, else what `pull` gives. `pull` must be cancel-safe.
    pub async fn next<F>(self: Arc<Self>, mut pull: impl FnMut() -> F) -> Result<Option<InTransit>>
    where
        F: Future<Output = Result<Option<ReceivedBatch>>>,
    {
        loop {
            let returned = self.batches().queue.pop_front();
            if let Some(batch) = returned {
                return Ok(Some(InTransit { batch: Some(batch), home: self }));
            }
            tokio::select! {
                biased;
                () = self.came_back.notified() => {}
                pulled = pull() => {
                    return Ok(pulled?.map(|batch| InTransit { batch: Some(batch), home: self }));
                }
            }
        }
    }
}

/// A batch that goes back unless it is taken.
#[derive(Debug)]
pub struct InTransit {
    batch: Option<ReceivedBatch>,
    home: Arc<Returned>,
}

impl InTransit {
    /// The batch has arrived.
    pub fn take(mut self) -> Option<ReceivedBatch> {
        self.batch.take()
    }
}

impl Drop for InTransit {
    fn drop(&mut self) {
        if let Some(batch) = self.batch.take() {
            let mut kept = self.home.batches();
            if !kept.closed {
                kept.queue.push_front(batch);
                self.home.came_back.notify_one();
            }
        }
    }
}
