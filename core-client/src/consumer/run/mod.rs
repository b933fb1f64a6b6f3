//! Handlers: code of the user's that is given batches or records, with what is done when it fails.

mod attempt;
mod context;
mod dispatch;
mod failure;
mod options;

pub use context::HandlerContext;
pub use failure::{Failure, FailureAction, FailureReason};
pub use options::{OnFailure, RunOptions};

use super::Consumer;
use super::shared::Shared;
use crate::error::{ErrorKind, Result};
use crate::record::{ReceivedBatch, ReceivedRecord};
use attempt::{Attempts, Verdict};
use futures::future::BoxFuture;
use std::error::Error as StdError;
use std::sync::Arc;

/// Handles one batch to the end, failures included.
type Job = Arc<dyn Fn(ReceivedBatch) -> BoxFuture<'static, Verdict> + Send + Sync>;

impl Consumer {
    /// Gives every batch to `handler` and acknowledges it when the handler returns `Ok`. Ends when the consumer does.
    ///
    /// What is done when a handler fails or panics, and how many run at a time, is said by [`RunOptions`]; here one at a
    /// time, and a batch that failed is left unacknowledged, to come again. A batch that cannot be decoded reaches the handler, too: [`ReceivedBatch::decoded`]
    /// fails then, and if the handler does, [`RunOptions::on_unreadable`] says what is done.
    ///
    /// Stopping the consumer waits for handlers at work, at most three quarters of its timeout; they can see it coming
    /// through [`HandlerContext::stopping`]. Dropping this future aborts them where they wait; their batches stay
    /// unacknowledged. Do not await [`stop`](Self::stop) in a handler.
    ///
    /// ```no_run
    /// # async fn example(client: hstreamdb::Client) -> hstreamdb::Result<()> {
    /// use hstreamdb::{FailureAction, RunOptions};
    ///
    /// let consumer = client.consumer("billing").start().await?;
    /// let options = RunOptions::new().concurrency(4).retries(3).on_error(FailureAction::Stop);
    /// consumer
    ///     .run_with(options, |batch, _context| async move {
    ///         for record in batch.decoded()? {
    ///             println!("{}: {} bytes", record.id, record.payload.len());
    ///         }
    ///         Ok::<_, hstreamdb::Error>(())
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// # Errors
    /// What ended the consumer (as [`next_batch`](Self::next_batch)); `Closed` with the handler's error as its source
    /// when a failure stopped it, `Codec` when that was a batch nobody can decode; `FailedPrecondition` for a consumer that was started with a sink.
    pub async fn run<H, F, E>(&self, handler: H) -> Result<()>
    where
        H: Fn(ReceivedBatch, HandlerContext) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
    {
        self.run_with(RunOptions::default(), handler).await
    }

    /// [`run`](Self::run) with options of its own.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub async fn run_with<H, F, E>(&self, options: RunOptions, handler: H) -> Result<()>
    where
        H: Fn(ReceivedBatch, HandlerContext) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
    {
        let (shared, handler) = (Arc::clone(&self.0.shared), Arc::new(handler));
        let attempts = Attempts::new(&shared, &options);
        let job: Job = Arc::new(move |batch| {
            let (attempts, handler) = (attempts.clone(), Arc::clone(&handler));
            Box::pin(async move { attempts.batch(batch, &*handler).await })
        });
        self.run_job(options, job).await
    }

    /// Gives every record to `handler`, those of a batch one after the other, and acknowledges each when the handler
    /// returns `Ok` for it. A batch that cannot be decoded is a failure of its own kind, see
    /// [`RunOptions::on_unreadable`].
    ///
    /// All of [`run`](Self::run) holds for records.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub async fn run_records<H, F, E>(&self, handler: H) -> Result<()>
    where
        H: Fn(ReceivedRecord, HandlerContext) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
    {
        self.run_records_with(RunOptions::default(), handler).await
    }

    /// [`run_records`](Self::run_records) with options of its own.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub async fn run_records_with<H, F, E>(&self, options: RunOptions, handler: H) -> Result<()>
    where
        H: Fn(ReceivedRecord, HandlerContext) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
    {
        let (shared, handler) = (Arc::clone(&self.0.shared), Arc::new(handler));
        let attempts = Attempts::new(&shared, &options);
        let job: Job = Arc::new(move |batch| {
            let (attempts, handler) = (attempts.clone(), Arc::clone(&handler));
            Box::pin(async move { attempts.records(batch, &*handler).await })
        });
        self.run_job(options, job).await
    }

    async fn run_job(&self, options: RunOptions, job: Job) -> Result<()> {
        let shared: &Arc<Shared> = &self.0.shared;
        if shared.has_sink() {
            return Err(shared
                .error(ErrorKind::FailedPrecondition, "run consumer")
                .with_message("its batches go to a sink; start it without one"));
        }
        let Some(failure) = dispatch::run(shared, &options, &job).await? else { return Ok(()) };
        // What has been acknowledged so far is handed in.
        self.stop(options.stop_timeout).await?;
        Err(failure)
    }
}
