//! Readers that the server keeps and that are polled.
//!
//! A poll moves the reader on the server before its answer arrives. A lost answer would therefore be a hole, and a server
//! that starts again, or another node that takes over, may have forgotten how far the reader was. So whenever it is not
//! certain where the server's reader is, it is given up and another one is created behind the last record that was
//! delivered here; heads of batches that were delivered already are dropped.

mod builder;
pub(crate) mod calls;
mod session;

pub use builder::PolledReaderBuilder;

use super::gap::{Gaps, ReadGap};
use super::position::StreamPosition;
use crate::cluster::{Closable, Cluster};
use crate::error::{Error, ErrorKind, Result};
use crate::record::ReceivedBatch;
use calls::Remains;
use futures::future::BoxFuture;
use session::Session;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// A reader of one shard that the server keeps. Cheap to clone; clones take turns.
///
/// Each [`read`](Self::read) is one question with one answer, at the application's pace, with nothing read ahead. For
/// everything else [`Client::shard_reader`](crate::Client::shard_reader) is faster and leaves nothing on the server.
///
/// [`close`](Self::close) deletes the reader on the server. Dropping the last clone does that in the background, for at
/// most the request timeout; a process that is killed leaves it there, see
/// [`Client::list_shard_readers`](crate::Client::list_shard_readers).
#[derive(Clone)]
pub struct PolledReader(Arc<Inner>);

struct Inner {
    cluster: Cluster,
    resource: String,
    /// Held by one read at a time.
    session: Mutex<Session>,
    place: Arc<session::Place>,
    gaps: Arc<Gaps>,
    remains: Arc<Remains>,
    closed: CancellationToken,
}

impl fmt::Debug for PolledReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolledReader").field("resource", &self.0.resource).finish_non_exhaustive()
    }
}

impl PolledReader {
    /// Up to `max_batches` batches that follow what was delivered last; none when nothing came within the poll wait (`timeout_ms`).
    /// One answer holds what its server puts into it, which may be fewer although there are more.
    ///
    /// What is missing is passed over, counted and told, see [`gaps`](Self::gaps). Dropping the future loses nothing; the
    /// next read then creates the reader anew, which costs a call or two.
    ///
    /// # Errors
    /// `InvalidArgument` for 0 batches, `NotFound` when the shard is gone (or, code 905, its log is not in the server's
    /// configuration), `Unavailable` and `Timeout` after as many tries as other calls get, `Closed`. The reader goes on
    /// where it was when it is read again.
    pub async fn read(&self, max_batches: u32) -> Result<Vec<ReceivedBatch>> {
        if max_batches == 0 {
            return Err(self
                .error(ErrorKind::InvalidArgument)
                .with_message("at least one batch is to be read"));
        }
        tokio::select! {
            biased;
            () = self.0.closed.cancelled() => {
                Err(self.error(ErrorKind::Closed).with_message("the reader is closed"))
            }
            () = self.0.cluster.closed() => {
                Err(self.error(ErrorKind::Closed).with_message("the client is closed"))
            }
            result = async { self.0.session.lock().await.read(max_batches).await } => result,
        }
    }

    /// Where this reader is: behind every batch it has delivered. Other readers can go on from there, too.
    pub fn position(&self) -> StreamPosition {
        self.0.place.position()
    }

    /// The id the server knows the reader by now; another one whenever it had to be created anew. `None` while it has
    /// none.
    pub fn reader_id(&self) -> Option<String> {
        self.0.remains.newest()
    }

    /// What was missing so far and was passed over, as [`Reader::gaps`](crate::Reader::gaps).
    pub fn gaps(&self) -> Vec<ReadGap> {
        self.0.gaps.newest()
    }

    /// How many gaps there were so far.
    pub fn gap_count(&self) -> u64 {
        self.0.gaps.count()
    }

    /// Ends the reader, and a read under way as `Closed`, and deletes it on the server. Takes at most the request timeout.
    /// Idempotent; after an error it can be called again.
    ///
    /// # Errors
    /// When it could not be deleted: the text names the id that is left on the server.
    pub async fn close(&self) -> Result<()> {
        self.0.end(self.0.cluster.request_timeout()).await
    }

    fn error(&self, kind: ErrorKind) -> Error {
        Error::new(kind, "read").with_resource(self.0.resource.clone())
    }
}

impl Inner {
    fn end(&self, timeout: Duration) -> BoxFuture<'static, Result<()>> {
        self.closed.cancel();
        Box::pin(calls::delete_all(self.cluster.clone(), self.remains.clone(), timeout))
    }
}

impl Closable for Inner {
    fn close(&self, timeout: Duration) -> BoxFuture<'static, Result<()>> {
        self.end(timeout)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.remains.is_empty() || self.cluster.is_closed() {
            return;
        }
        // Without a runtime nothing can be sent any more.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let ending = self.end(self.cluster.request_timeout());
            runtime.spawn(async move {
                if let Err(error) = ending.await {
                    tracing::warn!(%error, "a polled reader was dropped and is left on the server");
                }
            });
        }
    }
}

impl PolledReader {
    fn new(cluster: Cluster, session: Session) -> Result<Self> {
        let inner = Arc::new(Inner {
            resource: session.resource(),
            place: session.place.clone(),
            gaps: session.gaps.clone(),
            remains: session.remains.clone(),
            cluster,
            session: Mutex::new(session),
            closed: CancellationToken::new(),
        });
        let closable: Weak<Inner> = Arc::downgrade(&inner);
        inner.cluster.register(closable)?;
        Ok(PolledReader(inner))
    }
}
