//! Readers: records of a shard, of all shards of a stream, or of one key, without a subscription.
//!
//! A reader remembers what it has delivered. After a lost connection it goes on behind that, without a repeat and
//! without a hole; its [`position`](Reader::position) lets another process do the same. Bounds that mean "now" or a time
//! are fixed when the reader is opened, so a resumed read ends where the first one would have. What is missing, because
//! it was trimmed or lost, is passed over, counted and told ([`gaps`](Reader::gaps)).

mod batches;
mod bound;
mod builder;
mod connections;
mod gap;
mod incoming;
mod key;
mod opening;
pub(crate) mod polled;
mod position;
mod progress;
mod shard;
mod source;

pub use batches::ReaderBatches;
pub use builder::ReaderBuilder;
pub use gap::{GapKind, ReadGap};
pub use polled::{PolledReader, PolledReaderBuilder};
pub use position::{ReadFrom, StreamPosition};

use crate::cluster::{Closable, Cluster};
use crate::consumer::prefetch::Prefetch;
use crate::error::{Error, ErrorKind, Result};
use crate::record::ReceivedBatch;
use futures::future::BoxFuture;
use gap::Gaps;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::task::AbortHandle;

/// A running reader. Cheap to clone; clones take turns. Ends when closed or when the last clone is dropped; its calls
/// end on the wire then, too.
///
/// A reader has connections of its own and reads ahead only as far as its options allow (`prefetch_bytes`, `prefetch_batches`):
/// one that is not read holds up nobody else.
#[derive(Clone)]
pub struct Reader(Arc<Inner>);

struct Inner {
    resource: String,
    queue: Arc<Prefetch>,
    gaps: Arc<Gaps>,
    /// Behind what was handed out.
    position: Mutex<StreamPosition>,
    tasks: Vec<AbortHandle>,
    timeout: Option<Duration>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("resource", &self.0.resource).finish_non_exhaustive()
    }
}

impl Inner {
    fn position(&self) -> MutexGuard<'_, StreamPosition> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn next(&self) -> Result<Option<ReceivedBatch>> {
        let batch = self.queue.next().await?;
        // Nothing is awaited from here on: what was taken out is handed out.
        if let Some(last) = batch.as_ref().and_then(|batch| batch.ids().last()) {
            self.position().advance(*last);
        }
        Ok(batch)
    }

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
        gaps: Arc<Gaps>,
        position: StreamPosition,
        tasks: Vec<AbortHandle>,
        timeout: Option<Duration>,
    ) -> Result<Self> {
        let position = Mutex::new(position);
        let inner = Arc::new(Inner { resource, queue, gaps, position, tasks, timeout });
        let closable: Weak<Inner> = Arc::downgrade(&inner);
        cluster.register(closable)?;
        Ok(Reader(inner))
    }

    /// The next batch; `None` at the end (`until` or `max_batches` reached) and after [`close`](Self::close).
    ///
    /// Batches of one shard come in order. There is no order between shards: those with data take turns. A reader of a key
    /// gives batches that hold its records only. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Once, after what had been received: `NotFound`, `InvalidArgument` (bounds that contradict each other),
    /// `Unavailable` when the cluster stays out of reach for a minute. `Timeout` when `timeout_ms` is set and nothing
    /// came in time; the reader goes on then.
    pub async fn next_batch(&self) -> Result<Option<ReceivedBatch>> {
        let Some(timeout) = self.0.timeout else { return self.0.next().await };
        match tokio::time::timeout(timeout, self.0.next()).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Timeout, "read")
                .with_resource(self.0.resource.clone())
                .with_message(format!("no batch within {timeout:?}"))
                .with_may_have_been_applied(false)),
        }
    }

    /// The batches as a `futures::Stream`, from the next one on.
    pub fn batches(&self) -> ReaderBatches {
        ReaderBatches::new(self.clone())
    }

    /// Where this reader is: behind every batch it has handed out. A reader opened [`from`](ReaderBuilder::from) it gives
    /// what follows, also in another process, also after a failure in the middle of a batch if
    /// [`advance`](StreamPosition::advance) was called for its last record.
    pub fn position(&self) -> StreamPosition {
        self.0.position().clone()
    }

    /// What was missing so far and was passed over, the newest 100, oldest first. A gap is told before the batch behind it
    /// is handed out.
    ///
    /// Our server tells readers exactly what is missing. Others pass over it in silence; against those a gap shows only
    /// where reading begins or resumes and the record it begins with is gone ([`GapKind::Unknown`]).
    pub fn gaps(&self) -> Vec<ReadGap> {
        self.0.gaps.newest()
    }

    /// How many gaps there were so far.
    pub fn gap_count(&self) -> u64 {
        self.0.gaps.count()
    }

    /// Ends the reader and drops what is buffered. Idempotent.
    pub fn close(&self) {
        self.0.close();
    }
}
