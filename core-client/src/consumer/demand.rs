//! Demand by credits: batches into a sink, as many as were granted.

use super::event::{ConsumerSink, StopReport};
use super::shared::Shared;
use crate::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;
use tokio::sync::watch;

/// How many batches the sink may still get.
#[derive(Debug, Default)]
pub(super) struct Credits {
    left: AtomicU64,
    changed: Notify,
}

impl Credits {
    pub fn add(&self, batches: u64) {
        // Saturating: a wrap would take away what was granted.
        let _ = self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| Some(left.saturating_add(batches)));
        self.changed.notify_one();
    }

    /// Takes one credit; one taker only.
    async fn take(&self) {
        loop {
            let changed = self.changed.notified();
            let taken =
                self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
            if taken.is_ok() {
                return;
            }
            changed.await;
        }
    }
}

/// Moves batches into the sink, one per credit, and says once that it is over.
pub(super) async fn pump(shared: Arc<Shared>, credits: Arc<Credits>, sink: Arc<dyn ConsumerSink>) {
    let mut closing = Closing { sink, reason: None };
    let mut report = shared.report.subscribe();
    loop {
        tokio::select! {
            () = credits.take() => {}
            // The end is told without a credit, unless batches are still to be had.
            _ = ended(&shared, &mut report) => {
                closing.reason = shared.prefetch.take_error();
                return;
            }
        }
        match shared.next_batch().await {
            Ok(Some(batch)) => closing.sink.batch(batch),
            Ok(None) => return,
            Err(error) => {
                closing.reason = Some(error);
                return;
            }
        }
    }
}

/// Resolves when the consumer is over and nothing is left in its buffer.
async fn ended(shared: &Shared, report: &mut watch::Receiver<Option<StopReport>>) {
    if report.wait_for(Option::is_some).await.is_ok() && shared.prefetch.buffered().0 > 0 {
        std::future::pending::<()>().await;
    }
}

/// Calls the sink's `closed` exactly once, also when the task is dropped with its runtime.
struct Closing {
    sink: Arc<dyn ConsumerSink>,
    reason: Option<Error>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.sink.closed(self.reason.take());
    }
}
