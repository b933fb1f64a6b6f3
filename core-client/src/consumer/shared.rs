//! What the handles of a consumer and its session task have in common.

use super::event::{ConsumerEvent, ConsumerSink, ConsumerState, StopReport};
use super::handlers::Handlers;
use super::identity::Identity;
use super::ledger::{Ledger, LedgerFull};
use super::prefetch::Prefetch;
use super::seen::Seen;
use super::settings::Settings;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metrics;
use crate::record::{DecodeWatch, ReceivedBatch, RecordId};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Ranges of acknowledgements held at most, about 10 MB.
const MAX_LEDGER_RANGES: usize = 100_000;

/// What the session task is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    /// Deliver.
    Run,
    /// Wait for handlers, send what is acknowledged and leave.
    Stop(Deadlines),
}

/// How long leaving may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deadlines {
    /// Handlers are waited for until then.
    pub handlers: Instant,
    /// The session ends then at the latest.
    pub session: Instant,
}

impl Deadlines {
    /// A quarter of the time, at most five seconds, is kept for the acknowledgements and the server's answer.
    pub fn after(timeout: Duration) -> Self {
        let session = Instant::now() + timeout;
        Deadlines { handlers: session - (timeout / 4).min(MAX_LEAVE_RESERVE), session }
    }
}

/// Longest part of the time for stopping that handlers do not get.
const MAX_LEAVE_RESERVE: Duration = Duration::from_secs(5);

pub(super) struct Shared {
    pub subscription: String,
    /// Tells this consumer from all others, whatever their names.
    pub instance: String,
    pub settings: Settings,
    pub prefetch: Prefetch,
    pub acks: Notify,
    pub control: watch::Sender<Control>,
    pub state: watch::Sender<ConsumerState>,
    pub report: watch::Sender<Option<StopReport>>,
    /// Generation of the ledger up to which everything has been handed to the connection.
    pub flushed: watch::Sender<u64>,
    /// Generation up to which acknowledgements go out without waiting for company.
    pub flush_wanted: AtomicU64,
    pub handlers: Handlers,
    pub metrics: Arc<Metrics>,
    pub redelivered: AtomicU64,
    pub redelivered_acked: AtomicU64,
    pub unreadable: AtomicU64,
    pub handler_failures: AtomicU64,
    pub reconnects: AtomicU64,
    /// What this consumer has added to the gauge of pending acknowledgements.
    pending_shown: Mutex<i64>,
    name: Mutex<String>,
    book: Mutex<Book>,
    sink: Option<Arc<dyn ConsumerSink>>,
}

#[derive(Debug)]
pub(super) struct Book {
    pub ledger: Ledger,
    /// The subscription the ledger is for, as last seen.
    pub identity: Identity,
    /// Batches delivered before.
    pub seen: Seen,
    /// Those of the present session.
    pub session: Seen,
    /// The subscription has been another one before.
    pub replaced: bool,
    /// No acknowledgement is taken any more.
    pub closed: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("subscription", &self.subscription)
            .field("name", &self.name())
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub fn new(
        subscription: String,
        name: String,
        settings: Settings,
        sink: Option<Arc<dyn ConsumerSink>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Shared {
            subscription,
            instance: format!("{:032x}", rand::random::<u128>()),
            prefetch: Prefetch::new(1, settings.prefetch_batches, settings.prefetch_bytes, None),
            settings,
            acks: Notify::new(),
            control: watch::Sender::new(Control::Run),
            state: watch::Sender::new(ConsumerState::Connecting),
            report: watch::Sender::new(None),
            flushed: watch::Sender::new(0),
            flush_wanted: AtomicU64::new(0),
            handlers: Handlers::default(),
            metrics,
            redelivered: AtomicU64::new(0),
            redelivered_acked: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            handler_failures: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            pending_shown: Mutex::new(0),
            name: Mutex::new(name),
            book: Mutex::new(Book {
                ledger: Ledger::new(MAX_LEDGER_RANGES),
                identity: Identity::default(),
                seen: Seen::default(),
                session: Seen::default(),
                replaced: false,
                closed: false,
            }),
            sink,
        }
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        // No code between two changes of the book can panic.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn name(&self) -> String {
        self.name.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn rename(&self, name: String) {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }

    pub fn set_state(&self, state: ConsumerState) {
        self.state.send_if_modified(|current| std::mem::replace(current, state) != state);
    }

    pub fn event(&self, event: ConsumerEvent) {
        match &event {
            ConsumerEvent::Reconnecting { error, delay } => {
                tracing::warn!(subscription = %self.subscription, %error, ?delay, "consumer reconnects");
            }
            ConsumerEvent::Unreadable { error, .. } => {
                tracing::warn!(subscription = %self.subscription, %error, "a batch cannot be decoded");
            }
            other => tracing::debug!(subscription = %self.subscription, event = ?other, "consumer"),
        }
        self.tell_listener(&event);
        if let Some(sink) = &self.sink {
            sink.event(event);
        }
    }

    /// Tells the listener only: a sink learns of the end by its last call.
    pub fn tell_listener(&self, event: &ConsumerEvent) {
        // It is the user's code; the session goes on without it.
        if let Some(listener) = &self.settings.listener
            && catch_unwind(AssertUnwindSafe(|| listener.call(event))).is_err()
        {
            tracing::error!(subscription = %self.subscription, "a listener for consumer events panicked");
        }
    }

    /// Whether batches go to a sink.
    pub fn has_sink(&self) -> bool {
        self.sink.is_some()
    }

    /// Brings the gauge of pending acknowledgements up to date.
    pub fn show_pending(&self, pending: u64) {
        let pending = i64::try_from(pending).unwrap_or(i64::MAX);
        let mut shown = self.pending_shown.lock().unwrap_or_else(PoisonError::into_inner);
        self.metrics.consumer_pending_acks.change(pending - *shown);
        *shown = pending;
    }

    /// A batch that nobody can decode.
    pub fn note_unreadable(&self, ids: &[RecordId], error: &Error) {
        self.unreadable.fetch_add(1, Ordering::Relaxed);
        self.metrics.consumer_unreadable_batches.add(1);
        self.event(ConsumerEvent::Unreadable {
            first: ids.first().copied(),
            records: ids.len() as u64,
            error: error.clone(),
        });
    }

    /// Takes in which subscription the server speaks of. Acknowledgements for an earlier one of the same name, or
    /// for the same one before it was moved, must not hide records of this one.
    pub fn note_identity(&self, seen: Identity) {
        let replaced = {
            let mut book = self.book();
            let replaced = book.identity.note(seen);
            if replaced {
                book.ledger.clear();
                book.seen.clear();
                book.replaced = true;
            }
            replaced
        };
        if replaced {
            self.event(ConsumerEvent::SubscriptionReplaced);
        }
    }

    /// An error on this subscription.
    pub fn error(&self, kind: ErrorKind, operation: &'static str) -> Error {
        Error::new(kind, operation).with_resource(self.subscription.clone())
    }

    /// The next batch for the application. One that came again while the application had it, and has been acknowledged since,
    /// is passed over. Dropping the future loses nothing.
    pub async fn next_batch(&self) -> Result<Option<ReceivedBatch>> {
        loop {
            let next = self.prefetch.next().await?;
            match &next {
                Some(batch) if batch.is_redelivered() && self.book().ledger.has_all(batch.ids()) => {}
                _ => return Ok(next),
            }
        }
    }

    /// Puts acknowledgements into the ledger.
    pub fn ack(&self, ids: &[RecordId]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut book = self.book();
        if book.closed {
            drop(book);
            return Err(self.error(ErrorKind::Closed, "ack").with_message(
                "the consumer has stopped; the records will be delivered again to the next one",
            ));
        }
        let before = book.ledger.unsent();
        let result = if book.replaced {
            // What was not delivered since is of the subscription that is gone.
            let of_this: Vec<RecordId> =
                ids.iter().filter(|id| book.seen.covers(id.shard_id, id.batch_id)).copied().collect();
            if of_this.is_empty() { Ok(()) } else { book.ledger.ack(&of_this) }
        } else {
            book.ledger.ack(ids)
        };
        let after = book.ledger.unsent();
        drop(book);
        if before == 0 || after >= self.settings.ack_max_records {
            self.acks.notify_one();
        }
        result.map_err(|LedgerFull| {
            self.error(ErrorKind::Overloaded, "ack")
                .with_message("too many acknowledgements wait for a connection; ack again later")
        })
    }

    /// Asks the session to leave within the time; the earlier one of several such calls counts.
    pub fn request_stop(&self, deadlines: Deadlines) {
        self.prefetch.close();
        self.handlers.stopping.cancel();
        self.control.send_if_modified(|control| match *control {
            Control::Stop(earlier) if earlier.session <= deadlines.session => false,
            _ => {
                *control = Control::Stop(deadlines);
                true
            }
        });
    }

    /// Whether acknowledgements wait that were asked to be flushed.
    pub fn flush_is_wanted(&self) -> bool {
        self.flush_wanted.load(Ordering::Acquire) > *self.flushed.borrow()
    }

    /// Everything up to this generation of the ledger has been handed to the connection.
    pub fn publish_flushed(&self, generation: u64) {
        self.flushed.send_if_modified(|flushed| {
            let grows = generation > *flushed;
            *flushed = generation.max(*flushed);
            grows
        });
    }
}

impl DecodeWatch for Shared {
    fn unreadable(&self, ids: &[RecordId], error: &Error) {
        self.note_unreadable(ids, error);
    }
}
