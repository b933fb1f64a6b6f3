//! What the handles of a consumer and its session task have in common.

use super::event::{ConsumerEvent, ConsumerSink, ConsumerState, StopReport};
use super::identity::Identity;
use super::ledger::{Ledger, LedgerFull};
use super::prefetch::Prefetch;
use crate::error::{Error, ErrorKind, Result};
use crate::record::RecordId;
use std::fmt;
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
    /// Send what is acknowledged and leave, at this time at the latest.
    Stop(Instant),
}

/// Validated settings of a consumer.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub name: Option<String>,
    pub ack_max_records: u64,
    pub ack_max_age: Duration,
    pub prefetch_bytes: usize,
    pub prefetch_batches: usize,
}

pub(super) struct Shared {
    pub subscription: String,
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
    pub redelivered: AtomicU64,
    pub reconnects: AtomicU64,
    name: Mutex<String>,
    book: Mutex<Book>,
    sink: Option<Arc<dyn ConsumerSink>>,
}

#[derive(Debug)]
pub(super) struct Book {
    pub ledger: Ledger,
    /// The subscription the ledger is for, as last seen.
    pub identity: Identity,
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
    ) -> Self {
        Shared {
            subscription,
            prefetch: Prefetch::new(1, settings.prefetch_batches, settings.prefetch_bytes, None),
            settings,
            acks: Notify::new(),
            control: watch::Sender::new(Control::Run),
            state: watch::Sender::new(ConsumerState::Connecting),
            report: watch::Sender::new(None),
            flushed: watch::Sender::new(0),
            flush_wanted: AtomicU64::new(0),
            redelivered: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            name: Mutex::new(name),
            book: Mutex::new(Book {
                ledger: Ledger::new(MAX_LEDGER_RANGES),
                identity: Identity::default(),
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
            other => tracing::debug!(subscription = %self.subscription, event = ?other, "consumer"),
        }
        if let Some(sink) = &self.sink {
            sink.event(event);
        }
    }

    /// Takes in which subscription the server speaks of. Acknowledgements for an earlier one of the same name, or
    /// for the same one before it was moved, must not hide records of this one.
    pub fn note_identity(&self, seen: Identity) {
        let replaced = {
            let mut book = self.book();
            let replaced = book.identity.note(seen);
            if replaced {
                book.ledger.clear();
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
        let result = book.ledger.ack(ids);
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

    /// Asks the session to leave until `deadline`; the earlier one of several such calls counts.
    pub fn request_stop(&self, deadline: Instant) {
        self.prefetch.close();
        self.control.send_if_modified(|control| match *control {
            Control::Stop(earlier) if earlier <= deadline => false,
            _ => {
                *control = Control::Stop(deadline);
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
