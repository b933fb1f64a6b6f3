//! What a consumer tells about itself.

use crate::error::Error;
use crate::record::{ReceivedBatch, RecordId};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Something a user may want to see in a log or on a screen.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ConsumerEvent {
    /// The subscription's owner has taken the consumer.
    Connected {
        /// Name under which it is attached.
        name: String,
        /// The owner as `host:port`.
        node: String,
    },
    /// The session ended without having been asked to; another try follows.
    Reconnecting {
        /// Why.
        error: Error,
        /// Pause before the next try.
        delay: Duration,
    },
    /// The name stayed taken, so the consumer goes on under another one.
    Renamed {
        /// The new name.
        name: String,
    },
    /// A batch came again, or what is left of it: its ack timeout has passed, or a session was lost.
    Redelivered {
        /// How many records.
        records: u64,
        /// How many of them had been acknowledged: those acknowledgements are sent once more, and a batch of nothing
        /// else is not shown again.
        acked: u64,
    },
    /// A batch cannot be decoded, as was found when the application wanted its records. It can be acknowledged by its ids.
    Unreadable {
        /// Its first record; the others follow in the same batch.
        first: Option<RecordId>,
        /// How many.
        records: u64,
        /// What is wrong with it.
        error: Error,
    },
    /// The subscription was deleted and made anew while the connection was lost: acknowledgements for the
    /// old one were dropped.
    SubscriptionReplaced,
    /// The consumer is over. Only for listeners; a sink has a call of its own.
    Closed {
        /// How it ended.
        report: StopReport,
        /// What ended it, unless it was stopped.
        error: Option<Error>,
    },
}

impl ConsumerEvent {
    /// Name in snake case.
    pub fn name(&self) -> &'static str {
        match self {
            ConsumerEvent::Connected { .. } => "connected",
            ConsumerEvent::Reconnecting { .. } => "reconnecting",
            ConsumerEvent::Renamed { .. } => "renamed",
            ConsumerEvent::Redelivered { .. } => "redelivered",
            ConsumerEvent::Unreadable { .. } => "unreadable",
            ConsumerEvent::SubscriptionReplaced => "subscription_replaced",
            ConsumerEvent::Closed { .. } => "closed",
        }
    }
}

/// Where a consumer is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConsumerState {
    /// Looking for the subscription's owner for the first time.
    Connecting,
    /// Attached.
    Connected,
    /// The session was lost; acknowledgements are kept.
    Reconnecting,
    /// Sending the last acknowledgements.
    Stopping,
    /// Over.
    Closed,
}

impl ConsumerState {
    /// Name in snake case.
    pub fn name(self) -> &'static str {
        match self {
            ConsumerState::Connecting => "connecting",
            ConsumerState::Connected => "connected",
            ConsumerState::Reconnecting => "reconnecting",
            ConsumerState::Stopping => "stopping",
            ConsumerState::Closed => "closed",
        }
    }
}

/// How a consumer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopReport {
    /// Acknowledgements the server is not known to have seen; their records may be delivered again.
    pub unsent_acks: u64,
    /// Whether the server ended the session with OK after having read every acknowledgement, or there was
    /// nothing to tell it.
    pub clean: bool,
    /// Handlers of a run that were not finished in time and were dropped; their records may be delivered again.
    pub unfinished_handlers: u64,
}

/// The user's function for events.
#[derive(Clone)]
pub(super) struct EventListener(Arc<dyn Fn(&ConsumerEvent) + Send + Sync>);

impl EventListener {
    pub fn new(listener: impl Fn(&ConsumerEvent) + Send + Sync + 'static) -> Self {
        EventListener(Arc::new(listener))
    }

    pub fn call(&self, event: &ConsumerEvent) {
        (self.0)(event);
    }
}

impl fmt::Debug for EventListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventListener").finish_non_exhaustive()
    }
}

/// Takes batches as they come, as many as were granted with [`Consumer::grant`](crate::Consumer::grant).
///
/// Calls come from the client's runtime threads and must not block; `batch` and `closed` never overlap.
pub trait ConsumerSink: Send + Sync {
    /// A batch; one of the granted ones.
    fn batch(&self, batch: ReceivedBatch);
    /// Something happened; may come at any time, also before the first batch.
    fn event(&self, event: ConsumerEvent);
    /// The last call: no batch follows. `None` after a stop, otherwise the error that ended the consumer.
    fn closed(&self, reason: Option<Error>);
}
