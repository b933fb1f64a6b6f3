//! The side of a producer that takes records.

use super::values::Record;
use crate::{
    error::{Error, Result},
    producer::{self, Receipt},
    record::RecordId,
};
use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::sync::mpsc;

/// Takes records for a [`Producer`](super::Producer). Cheap to clone; clones keep one order per key.
#[derive(Debug, Clone)]
pub struct Appender {
    producer: producer::Producer,
    /// The producer waits until all of these are gone.
    _alive: mpsc::Sender<Infallible>,
}

impl Appender {
    pub(super) fn new(producer: producer::Producer, alive: mpsc::Sender<Infallible>) -> Self {
        Appender { producer, _alive: alive }
    }

    /// Accepts a record, waiting for flow control; what is returned tells its id once it is stored. Records are on their way
    /// from here on, also before [`Producer::start`](super::Producer::start).
    ///
    /// # Errors
    /// `InvalidArgument` for a record that is larger than servers or flow control accept, `Closed` after the producer ended.
    pub async fn append(&self, record: Record) -> Result<AppendResult> {
        self.producer.append(record.into_record()?).await.map(AppendResult)
    }
}

/// What became of a record: its id, or why it has none. Dropping it does not take the record back.
#[must_use = "the record may fail"]
#[derive(Debug)]
pub struct AppendResult(Receipt);

impl Future for AppendResult {
    type Output = Result<Result<RecordId, Arc<Error>>, RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(ready!(Pin::new(&mut self.0).poll(context)).map_err(Arc::new)))
    }
}

/// Never happens: there is always a result. Stands where the published crate has the error of a lost channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecvError {}

impl fmt::Display for RecvError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl std::error::Error for RecvError {}
