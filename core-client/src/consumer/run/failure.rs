//! A batch or record that could not be handled.

use crate::consumer::shared::Shared;
use crate::error::{Error, ErrorKind};
use crate::record::{PayloadKind, RecordId};
use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// Why it could not be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureReason {
    /// The handler returned an error.
    Error,
    /// The handler panicked.
    Panic,
    /// The batch cannot be decoded.
    Unreadable,
    /// The record holds another kind of payload than [`RunOptions::expect`](super::RunOptions::expect) says.
    UnexpectedKind,
}

impl FailureReason {
    /// Name in snake case.
    pub fn name(self) -> &'static str {
        match self {
            FailureReason::Error => "error",
            FailureReason::Panic => "panic",
            FailureReason::Unreadable => "unreadable",
            FailureReason::UnexpectedKind => "unexpected_kind",
        }
    }
}

/// What is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureAction {
    /// Leave it unacknowledged and go on: the server delivers it again after the ack timeout, until it goes to the
    /// dead-letter stream where the subscription has one.
    Skip,
    /// Acknowledge it and go on: no consumer of the subscription sees it again.
    Acknowledge,
    /// Stop the consumer; `run` returns the error.
    Stop,
    /// Give it to the handler again after this pause. Stopping ends the pause and leaves it unacknowledged.
    Retry(Duration),
}

impl FailureAction {
    /// `skip`, `acknowledge`, `stop` or `retry`.
    pub fn name(self) -> &'static str {
        match self {
            FailureAction::Skip => "skip",
            FailureAction::Acknowledge => "acknowledge",
            FailureAction::Stop => "stop",
            FailureAction::Retry(_) => "retry",
        }
    }

    /// The action of that name, except `retry`, which needs a pause.
    pub fn from_name(name: &str) -> Option<FailureAction> {
        [FailureAction::Skip, FailureAction::Acknowledge, FailureAction::Stop]
            .into_iter()
            .find(|action| action.name() == name)
    }
}

/// A failed try.
#[derive(Debug, Clone)]
pub struct Failure {
    pub(super) reason: FailureReason,
    pub(super) error: Error,
    pub(super) ids: Vec<RecordId>,
    pub(super) tries: u32,
}

impl Failure {
    /// Why.
    pub fn reason(&self) -> FailureReason {
        self.reason
    }

    /// What happened; the handler's own error is its [`source`](StdError::source).
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The record, or all records of the batch.
    pub fn ids(&self) -> &[RecordId] {
        &self.ids
    }

    /// How often it was tried.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    pub(super) fn of_handler(
        shared: &Shared,
        ids: &[RecordId],
        tries: u32,
        error: Box<dyn StdError + Send + Sync>,
    ) -> Self {
        let text = format!("the handler failed on {}: {error}", name_of(ids));
        let error = failed(shared, text).with_source(HandlerError(error));
        Failure { reason: FailureReason::Error, error, ids: ids.to_vec(), tries }
    }

    pub(super) fn of_panic(shared: &Shared, ids: &[RecordId], tries: u32, panic: &(dyn Any + Send)) -> Self {
        let words = panic.downcast_ref::<&str>().copied();
        let words = words.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
        let error = failed(shared, format!("the handler panicked on {}: {words}", name_of(ids)));
        Failure { reason: FailureReason::Panic, error, ids: ids.to_vec(), tries }
    }

    pub(super) fn unreadable(ids: &[RecordId], error: Error) -> Self {
        Failure { reason: FailureReason::Unreadable, error, ids: ids.to_vec(), tries: 1 }
    }

    pub(super) fn unexpected(
        shared: &Shared,
        id: RecordId,
        expected: PayloadKind,
        found: PayloadKind,
    ) -> Self {
        let text = format!("record {id} is {}, {} was expected", found.name(), expected.name());
        Failure {
            reason: FailureReason::UnexpectedKind,
            error: failed(shared, text),
            ids: vec![id],
            tries: 1,
        }
    }
}

/// `Closed`: that is what the consumer is when this error reaches the caller of `run`.
fn failed(shared: &Shared, text: String) -> Error {
    shared.error(ErrorKind::Closed, "handle records").with_message(text)
}

fn name_of(ids: &[RecordId]) -> String {
    match ids {
        [] => "an empty batch".into(),
        [id] => format!("record {id}"),
        [id, ..] => format!("batch {}-{}", id.shard_id, id.batch_id),
    }
}

/// What the handler returned, as the source of our error.
#[derive(Debug)]
struct HandlerError(Box<dyn StdError + Send + Sync>);

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for HandlerError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // The handler's error itself, so that it can be downcast.
        Some(&*self.0)
    }
}
