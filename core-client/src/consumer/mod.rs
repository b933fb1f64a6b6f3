//! Consumers: what a subscription delivers, acknowledgements that survive a lost connection, and an orderly end.
//!
//! At least once: a record whose acknowledgement the server has not seen is delivered again. The ledger keeps
//! acknowledgements until they are known to be safe, so a reconnect alone does not bring records again.

mod builder;
mod event;
mod identity;
mod ledger;
pub(crate) mod prefetch;
mod ranges;
mod session;
mod shared;
mod worker;

pub use builder::ConsumerBuilder;
pub use event::{ConsumerEvent, ConsumerSink, ConsumerState, StopReport};

use crate::client::Client;
use crate::cluster::Closable;
use crate::error::{ErrorKind, Result};
use crate::record::{ReceivedBatch, RecordId};
use futures::future::BoxFuture;
use shared::{Settings, Shared};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use worker::Worker;

/// How long a consumer whose last handle was dropped goes on to send its acknowledgements.
const DROP_GRACE: Duration = Duration::from_secs(5);
/// The longest wait that is told apart from for ever.
const MAX_WAIT: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A consumer of a subscription. Cheap to clone; clones are the same consumer.
///
/// Stop it with [`stop`](Self::stop). When the last handle is dropped instead, it leaves in the background within
/// 5 seconds, if the runtime lives that long.
#[derive(Clone)]
pub struct Consumer(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    credits: Arc<Credits>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.request_stop(Instant::now() + DROP_GRACE);
    }
}

impl Closable for Handle {
    fn close(&self, timeout: Duration) -> BoxFuture<'static, Result<()>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { stop(&shared, timeout).await.map(|_| ()) })
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.shared.fmt(f)
    }
}

impl Consumer {
    /// The next batch; `None` when the consumer has stopped.
    ///
    /// Batches of one shard come in order, except those delivered again after the ack timeout. Dropping the future
    /// loses nothing. With a sink, batches go there instead.
    ///
    /// # Errors
    /// Once, after what had been received: the error that ended the consumer (`NotFound`, `FailedPrecondition` when the
    /// subscription is deleted, `Unauthenticated`, `InvalidArgument`). A lost connection is not an error here.
    pub async fn next_batch(&self) -> Result<Option<ReceivedBatch>> {
        self.0.shared.prefetch.next().await
    }

    /// Allows the sink this many more batches.
    pub fn grant(&self, batches: u32) {
        self.0.credits.add(u64::from(batches));
    }

    /// Acknowledges records, in any order; repeating one is harmless. Never blocks: the acknowledgements go out
    /// in the background, and again after a reconnect.
    ///
    /// # Errors
    /// `Closed` when the consumer has stopped; `Overloaded` when about 100,000 ranges wait for a connection, then
    /// none of `ids` is taken.
    pub fn ack(&self, ids: &[RecordId]) -> Result<()> {
        self.0.shared.ack(ids)
    }

    /// Acknowledges all records of a batch.
    ///
    /// # Errors
    /// Those of [`ack`](Self::ack).
    pub fn ack_batch(&self, batch: &ReceivedBatch) -> Result<()> {
        self.ack(batch.ids())
    }

    /// Resolves when everything acknowledged before has been handed to the connection. The wire has no answer to an
    /// acknowledgement; only a clean [`stop`](Self::stop) tells that the server has read them.
    ///
    /// # Errors
    /// `Closed` when the consumer ends before that.
    pub async fn flush_acks(&self) -> Result<()> {
        let shared = &self.0.shared;
        let (wanted, nothing_to_do) = {
            let book = shared.book();
            (book.ledger.generation(), book.ledger.unsent() == 0)
        };
        if nothing_to_do {
            return Ok(());
        }
        shared.flush_wanted.fetch_max(wanted, Ordering::AcqRel);
        shared.acks.notify_one();
        let mut flushed = shared.flushed.subscribe();
        let mut report = shared.report.subscribe();
        tokio::select! {
            biased;
            Ok(_) = flushed.wait_for(|flushed| *flushed >= wanted) => Ok(()),
            _ = report.wait_for(Option::is_some) => Err(shared
                .error(ErrorKind::Closed, "flush acks")
                .with_message("the consumer ended before the acknowledgements were sent")),
        }
    }

    /// Ends delivery: nothing more comes out of [`next_batch`](Self::next_batch) or into the sink, while
    /// acknowledgements still go out. For handlers to finish before [`stop`](Self::stop).
    pub fn stop_delivery(&self) {
        self.0.shared.prefetch.close();
    }

    /// Stops in order: ends delivery, sends the acknowledgements given so far, closes its side of the session and waits
    /// for the server to close its own. Takes at most `timeout`, then cuts the session. Batches received ahead and not
    /// taken stay unacknowledged. Idempotent; later calls get the same report.
    ///
    /// # Errors
    /// None; what could not be confirmed is in the report.
    pub async fn stop(&self, timeout: Duration) -> Result<StopReport> {
        stop(&self.0.shared, timeout).await
    }

    /// Where it is in its life.
    pub fn state(&self) -> ConsumerState {
        *self.0.shared.state.borrow()
    }

    /// Name under which it is attached; may get a suffix when the name stays taken.
    pub fn name(&self) -> String {
        self.0.shared.name()
    }

    /// Subscription it consumes.
    pub fn subscription(&self) -> &str {
        &self.0.shared.subscription
    }

    /// Counters of this consumer.
    pub fn stats(&self) -> ConsumerStats {
        let shared = &self.0.shared;
        let (batches, bytes) = shared.prefetch.buffered();
        let book = shared.book();
        ConsumerStats {
            buffered_batches: batches,
            buffered_bytes: bytes,
            unsent_acks: book.ledger.unsent(),
            unconfirmed_acks: book.ledger.unconfirmed(),
            forgotten_acks: book.ledger.forgotten(),
            redelivered_records: shared.redelivered.load(Ordering::Relaxed),
            reconnects: shared.reconnects.load(Ordering::Relaxed),
        }
    }
}

/// Counters of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerStats {
    /// Batches received and not taken yet.
    pub buffered_batches: usize,
    /// Memory they take, in bytes.
    pub buffered_bytes: usize,
    /// Acknowledgements waiting to be sent, records.
    pub unsent_acks: u64,
    /// Acknowledgements sent and not known to be safe, records.
    pub unconfirmed_acks: u64,
    /// Acknowledgements sent and dropped from memory for lack of room, records.
    pub forgotten_acks: u64,
    /// Records that came again although they were acknowledged.
    pub redelivered_records: u64,
    /// Sessions lost and tries failed.
    pub reconnects: u64,
}

async fn stop(shared: &Shared, timeout: Duration) -> Result<StopReport> {
    shared.request_stop(Instant::now() + timeout.min(MAX_WAIT));
    let mut report = shared.report.subscribe();
    let report = report.wait_for(Option::is_some).await.ok().and_then(|report| *report);
    report.ok_or_else(|| shared.error(ErrorKind::Closed, "stop consumer"))
}

/// How many batches the sink may still get.
#[derive(Debug, Default)]
struct Credits {
    left: AtomicU64,
    changed: Notify,
}

impl Credits {
    fn add(&self, batches: u64) {
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

async fn start(
    client: &Client,
    subscription: String,
    settings: Settings,
    sink: Option<Arc<dyn ConsumerSink>>,
) -> Result<Consumer> {
    let cluster = &client.cluster;
    let name = settings.name.clone().unwrap_or_else(|| format!("consumer-{:016x}", rand::random::<u64>()));
    let shared = Arc::new(Shared::new(subscription, name.clone(), settings, sink.clone()));
    // From here on a dropped future stops what was started.
    let handle = Arc::new(Handle { shared: Arc::clone(&shared), credits: Arc::default() });
    let closable: Weak<Handle> = Arc::downgrade(&handle);
    cluster.register(closable)?;
    let control = shared.control.subscribe();
    let worker =
        Worker { shared: Arc::clone(&shared), cluster: cluster.clone(), control, base_name: name, taken: 0 };
    tokio::spawn(worker.run());

    let mut state = shared.state.subscribe();
    let settled = state.wait_for(|state| *state != ConsumerState::Connecting);
    let _ = tokio::time::timeout(cluster.request_timeout(), settled).await;
    // The error is there before the state says that it is over.
    let state = *shared.state.borrow();
    if state == ConsumerState::Closed
        && let Some(error) = shared.prefetch.take_error()
    {
        return Err(error);
    }
    if let Some(sink) = sink {
        tokio::spawn(pump(Arc::clone(&shared), Arc::clone(&handle.credits), sink));
    }
    Ok(Consumer(handle))
}

/// Moves batches into the sink, one per credit, and says once that it is over.
async fn pump(shared: Arc<Shared>, credits: Arc<Credits>, sink: Arc<dyn ConsumerSink>) {
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
        match shared.prefetch.next().await {
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
async fn ended(shared: &Shared, report: &mut tokio::sync::watch::Receiver<Option<StopReport>>) {
    if report.wait_for(Option::is_some).await.is_ok() && shared.prefetch.buffered().0 > 0 {
        std::future::pending::<()>().await;
    }
}

/// Calls the sink's `closed` exactly once, also when the task is dropped with its runtime.
struct Closing {
    sink: Arc<dyn ConsumerSink>,
    reason: Option<crate::error::Error>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.sink.closed(self.reason.take());
    }
}
