//! What a subscription delivers, record by record.

use super::values::Payload;
use crate::{
    consumer::Consumer,
    error::{Error, Result},
    record::{ReceivedRecord, RecordId},
};
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

/// Records of a subscription with what acknowledges each; a [`Stream`]. Dropping it ends delivery; the consumer leaves when
/// the last [`Responder`] is gone, too.
pub struct ConsumerStream {
    consumer: Consumer,
    records: BoxStream<'static, (Payload, Responder)>,
    error: Arc<Mutex<Option<Error>>>,
}

/// Acknowledges one record.
#[derive(Debug, Clone)]
pub struct Responder {
    consumer: Consumer,
    record: ReceivedRecord,
}

impl ConsumerStream {
    pub(super) fn new(consumer: Consumer) -> Self {
        let error = Arc::new(Mutex::new(None));
        let state = (consumer.clone(), VecDeque::new(), Arc::clone(&error));
        let records = stream::unfold(state, |(consumer, mut ready, error)| async move {
            let record = next(&consumer, &mut ready, &error).await?;
            let payload = Payload::received(&record);
            let responder = Responder { consumer: consumer.clone(), record };
            Some(((payload, responder), (consumer, ready, error)))
        });
        ConsumerStream { consumer, records: records.boxed(), error }
    }

    /// The next record; `None` when it is over, see [`error`](Self::error). Lost connections do not end it.
    pub async fn next(&mut self) -> Option<(Payload, Responder)> {
        self.records.next().await
    }

    /// Why it is over; `None` while it is not, or when the client was closed.
    pub fn error(&self) -> Option<Error> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The consumer behind it, for its state, its counters and an orderly [`stop`](Consumer::stop).
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }
}

/// The next record that can be read.
async fn next(
    consumer: &Consumer,
    ready: &mut VecDeque<ReceivedRecord>,
    error: &Mutex<Option<Error>>,
) -> Option<ReceivedRecord> {
    loop {
        if let Some(record) = ready.pop_front() {
            return Some(record);
        }
        match consumer.next_batch().await {
            Ok(batch) => match batch?.records() {
                Ok(records) => ready.extend(records),
                // Not acknowledged: a client that can read it may.
                Err(error) => tracing::error!(%error, "a batch cannot be decoded and is passed over"),
            },
            Err(reason) => {
                *error.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
                return None;
            }
        }
    }
}

impl Stream for ConsumerStream {
    type Item = (Payload, Responder);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.records.poll_next_unpin(context)
    }
}

impl Drop for ConsumerStream {
    fn drop(&mut self) {
        self.consumer.stop_delivery();
    }
}

impl fmt::Debug for ConsumerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerStream").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

impl Responder {
    /// Acknowledges the record. Never blocks: acknowledgements go out together in the background, and again after a
    /// reconnect.
    ///
    /// # Errors
    /// `Closed` when the consumer has stopped, `Overloaded` when far too many wait for a connection.
    pub fn ack(self) -> Result<()> {
        self.consumer.ack(&[self.record.id])
    }

    /// The record's id.
    pub fn record_id(&self) -> RecordId {
        self.record.id
    }

    /// The whole record: key, attributes and time of the append as well.
    pub fn record(&self) -> &ReceivedRecord {
        &self.record
    }
}
