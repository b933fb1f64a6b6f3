//! Consumers: what a subscription delivers, acknowledgements that survive a lost connection, and an orderly end.
//!
//! At least once: a record whose acknowledgement the server has not seen is delivered again. The ledger keeps
//! acknowledgements until they are known to be safe, so a reconnect alone does not bring records again.

mod acker;
mod batches;
mod builder;
mod demand;
mod doubt;
mod event;
mod handlers;
mod identity;
mod ledger;
mod name;
mod owner;
pub(crate) mod prefetch;
mod quiet;
mod ranges;
mod run;
mod seen;
mod session;
mod settings;
mod shared;
mod worker;

pub use acker::Acker;
pub use batches::Batches;
pub use builder::ConsumerBuilder;
pub use event::{ConsumerEvent, ConsumerSink, ConsumerState, StopReport};
pub use run::{Failure, FailureAction, FailureReason, HandlerContext, OnFailure, RunOptions};

use crate::client::Client;
use crate::cluster::Closable;
use crate::error::{ErrorKind, Result};
use crate::record::{ReceivedBatch, RecordId};
use demand::{Credits, pump};
use futures::future::BoxFuture;
use settings::Settings;
use shared::{Deadlines, Shared};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
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
        self.shared.request_stop(Deadlines::after(DROP_GRACE));
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
        self.0.shared.next_batch().await
    }

    /// The batches as a [`futures::Stream`](futures::Stream), to be combined with others. It keeps the consumer alive.
    pub fn batches(&self) -> Batches {
        Batches::new(self.clone())
    }

    /// Acknowledges this consumer's records from wherever they are handled.
    pub fn acker(&self) -> Acker {
        Acker(Arc::clone(&self.0.shared))
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

    /// Stops in order: ends delivery, waits for the handlers of [`run`](Self::run) that are at work, sends the
    /// acknowledgements given so far, closes its side of the session and waits for the server to close its own. Takes at
    /// most `timeout`, then cuts the session; handlers get all but a quarter of it (at most 5 s), then they are dropped.
    /// Batches received ahead and not taken stay unacknowledged. Idempotent; later calls get the same report.
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
            redelivered_acked_records: shared.redelivered_acked.load(Ordering::Relaxed),
            unreadable_batches: shared.unreadable.load(Ordering::Relaxed),
            running_handlers: shared.handlers.working(),
            handler_failures: shared.handler_failures.load(Ordering::Relaxed),
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
    /// Records that came again, acknowledged or not; best effort as
    /// [`ReceivedBatch::is_redelivered`](crate::ReceivedBatch::is_redelivered).
    pub redelivered_records: u64,
    /// Those of them that had been acknowledged.
    pub redelivered_acked_records: u64,
    /// Batches that cannot be decoded, as far as somebody has looked.
    pub unreadable_batches: u64,
    /// Handlers at work.
    pub running_handlers: u64,
    /// Tries of handlers that failed, and records and batches that were given to none.
    pub handler_failures: u64,
    /// Sessions lost and tries failed.
    pub reconnects: u64,
}

async fn stop(shared: &Shared, timeout: Duration) -> Result<StopReport> {
    let deadlines = Deadlines::after(timeout.min(MAX_WAIT));
    shared.request_stop(deadlines);
    let mut report = shared.report.subscribe();
    let report = report.wait_for(Option::is_some).await.ok().and_then(|report| *report);
    // Of a consumer that ended by itself they may still be at work.
    shared.handlers.settle(deadlines.handlers).await;
    report.ok_or_else(|| shared.error(ErrorKind::Closed, "stop consumer"))
}

async fn start(
    client: &Client,
    subscription: String,
    settings: Settings,
    sink: Option<Arc<dyn ConsumerSink>>,
) -> Result<Consumer> {
    let cluster = &client.cluster;
    let name = match &settings.name {
        Some(name) => {
            name::check(name)?;
            name.clone()
        }
        None => name::generated(),
    };
    let metrics = cluster.shared_metrics();
    let shared = Arc::new(Shared::new(subscription, name.clone(), settings, sink.clone(), metrics));
    // From here on a dropped future stops what was started.
    let handle = Arc::new(Handle { shared: Arc::clone(&shared), credits: Arc::default() });
    let closable: Weak<Handle> = Arc::downgrade(&handle);
    cluster.register(closable)?;
    let control = shared.control.subscribe();
    let worker = Worker {
        shared: Arc::clone(&shared),
        cluster: cluster.clone(),
        control,
        base_name: name,
        taken: 0,
        owner: None,
        passed_over: false,
        misled: 0,
    };
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
