//! Readers: records of a shard, of all shards of a stream, or of one key, without a subscription.
//!
//! A reader remembers what it has delivered. After a lost connection it goes on behind that, without a repeat and
//! without a hole. Bounds that mean "now" are fixed when the reader is opened, so a resumed read ends where the first
//! one would have.

mod bound;
mod builder;
mod key;
mod shard;
mod source;

pub use builder::ReaderBuilder;

use crate::cluster::{Closable, Cluster};
use crate::consumer::prefetch::Prefetch;
use crate::error::{Error, ErrorKind, Result};
use crate::record::ReceivedBatch;
use futures::future::BoxFuture;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::AbortHandle;

/// Batches buffered ahead of the application, over all shards.
const PREFETCH_BATCHES: usize = 100;
/// Bytes buffered ahead of the application, over all shards.
const PREFETCH_BYTES: usize = 16 << 20;

/// A running reader. Cheap to clone; clones take turns. Ends when closed or when the last clone is dropped.
#[derive(Clone)]
pub struct Reader(Arc<Inner>);

struct Inner {
    resource: String,
    queue: Arc<Prefetch>,
    tasks: Vec<AbortHandle>,
    timeout: Option<Duration>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("resource", &self.0.resource).finish_non_exhaustive()
    }
}

impl Inner {
    fn close(&self) {
        self.queue.close();
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Closable for Inner {
    fn close(&self, _timeout: Duration) -> BoxFuture<'static, Result<()>> {
        Inner::close(self);
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Reader {
    fn new(
        cluster: &Cluster,
        resource: String,
        queue: Arc<Prefetch>,
        tasks: Vec<AbortHandle>,
        timeout: Option<Duration>,
    ) -> Result<Self> {
        let inner = Arc::new(Inner { resource, queue, tasks, timeout });
        let closable: Weak<Inner> = Arc::downgrade(&inner);
        cluster.register(closable)?;
        Ok(Reader(inner))
    }

    /// The next batch; `None` at the end (`until` or `max_batches` reached) and after [`close`](Self::close).
    ///
    /// Batches of one shard come in order; shards with data take turns. A reader of a key gives batches that hold its
    /// records only. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Once, after what had been received: `NotFound`, `InvalidArgument` (bounds that contradict each other),
    /// `Unavailable` when the cluster stays out of reach for a minute. `Timeout` when `timeout_ms` is set and nothing
    /// came in time; the reader goes on then.
    pub async fn next_batch(&self) -> Result<Option<ReceivedBatch>> {
        let Some(timeout) = self.0.timeout else { return self.0.queue.next().await };
        match tokio::time::timeout(timeout, self.0.queue.next()).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Timeout, "read")
                .with_resource(self.0.resource.clone())
                .with_message(format!("no batch within {timeout:?}"))
                .with_may_have_been_applied(false)),
        }
    }

    /// Ends the reader and drops what is buffered. Idempotent.
    pub fn close(&self) {
        self.0.close();
    }
}
