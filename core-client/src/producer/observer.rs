//! What an application is told about every batch.

use crate::{
    error::{Error, Result},
    record::RecordId,
};
use std::{
    fmt,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

/// Records of one call that are in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchPart {
    /// The [`tag`](crate::RecordBatch::tag) they came with; 0 for a record that was appended alone.
    pub tag: u64,
    /// Their positions in the call.
    pub positions: Range<usize>,
}

/// What became of one batch, as told to [`on_batch`](super::ProducerBuilder::on_batch).
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct BatchReport<'a> {
    /// The stream's name.
    pub stream: &'a str,
    /// The shard the records were for.
    pub shard_id: u64,
    /// Number of records.
    pub records: usize,
    /// Length of their encoded form, compressed if it was sent.
    pub bytes: usize,
    /// Time since the batch's first record was accepted.
    pub took: Duration,
    /// One id per record, in order, or why none has one.
    pub result: Result<&'a [RecordId], &'a Error>,
    /// Where the records came from, in the order of the batch: together the parts have as many positions as there are
    /// records.
    pub parts: &'a [BatchPart],
}

/// The application's callback.
#[derive(Clone)]
pub(super) struct Observer {
    stream: Arc<str>,
    callback: Arc<dyn Fn(&BatchReport<'_>) + Send + Sync>,
}

impl Observer {
    pub fn new(stream: &str, callback: Arc<dyn Fn(&BatchReport<'_>) + Send + Sync>) -> Self {
        Observer { stream: stream.into(), callback }
    }

    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// A panic in it is the application's and must not take the shard's pipeline along.
    pub fn tell(&self, report: &BatchReport<'_>) {
        if catch_unwind(AssertUnwindSafe(|| (self.callback)(report))).is_err() {
            tracing::error!(stream = &*self.stream, "the callback given to on_batch panicked");
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("stream", &self.stream).finish_non_exhaustive()
    }
}
