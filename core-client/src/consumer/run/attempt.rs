//! One batch through its handler: tries, failures and what follows from them.

use super::context::HandlerContext;
use super::failure::{Failure, FailureAction, FailureReason};
use super::options::RunOptions;
use crate::consumer::acker::Acker;
use crate::consumer::shared::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{ReceivedBatch, ReceivedRecord, RecordId};
use futures::FutureExt as _;
use std::error::Error as StdError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Records handled one by one are acknowledged together, this long after the first of them at the latest.
const ACK_EVERY: Duration = Duration::from_millis(100);
/// Pause before acknowledgements are tried again that the ledger had no room for.
const LEDGER_FULL_PAUSE: Duration = Duration::from_millis(50);

/// How a batch or record has ended.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Handled, or to be passed over for good.
    Acknowledge,
    /// Left unacknowledged.
    Leave,
    /// The consumer is to stop.
    Stop(Error),
}

/// Tries batches and records. Cheap to clone.
#[derive(Clone)]
pub(super) struct Attempts {
    shared: Arc<Shared>,
    options: Arc<RunOptions>,
}

impl Attempts {
    pub fn new(shared: &Arc<Shared>, options: &RunOptions) -> Self {
        Attempts { shared: Arc::clone(shared), options: Arc::new(options.clone()) }
    }

    /// The whole batch at once.
    pub async fn batch<H, F, E>(&self, batch: ReceivedBatch, handler: &H) -> Verdict
    where
        H: Fn(ReceivedBatch, HandlerContext) -> F + Sync,
        F: Future<Output = Result<(), E>> + Send,
        E: Into<Box<dyn StdError + Send + Sync>> + Send,
    {
        let verdict = self.tries(batch.ids(), Some(&batch), |context| handler(batch.clone(), context)).await;
        if matches!(verdict, Verdict::Acknowledge) {
            self.acknowledge(batch.ids()).await;
        }
        verdict
    }

    /// The records of a batch, one after the other.
    pub async fn records<H, F, E>(&self, batch: ReceivedBatch, handler: &H) -> Verdict
    where
        H: Fn(ReceivedRecord, HandlerContext) -> F + Sync,
        F: Future<Output = Result<(), E>> + Send,
        E: Into<Box<dyn StdError + Send + Sync>> + Send,
    {
        let records = match batch.decoded() {
            Ok(records) => records,
            Err(error) => {
                let verdict = self.give_up_on(Failure::unreadable(batch.ids(), error)).await;
                if matches!(verdict, Verdict::Acknowledge) {
                    self.acknowledge(batch.ids()).await;
                }
                return verdict;
            }
        };
        let mut done = Done::default();
        for record in records {
            if self.shared.handlers.stopping.is_cancelled() {
                break;
            }
            let verdict = match self.options.expect {
                Some(kind) if kind != record.kind => {
                    self.give_up_on(Failure::unexpected(&self.shared, record.id, kind, record.kind)).await
                }
                _ => self.tries(&[record.id], None, |context| handler(record.clone(), context)).await,
            };
            match verdict {
                Verdict::Acknowledge => done.push(record.id),
                Verdict::Leave => {}
                Verdict::Stop(error) => {
                    self.acknowledge(&done.take()).await;
                    return Verdict::Stop(error);
                }
            }
            if done.is_due() {
                self.acknowledge(&done.take()).await;
            }
        }
        self.acknowledge(&done.take()).await;
        Verdict::Leave
    }

    /// Calls the handler until it succeeds or nothing more is to be tried.
    async fn tries<F, E>(
        &self,
        ids: &[RecordId],
        batch: Option<&ReceivedBatch>,
        call: impl Fn(HandlerContext) -> F + Send + Sync,
    ) -> Verdict
    where
        F: Future<Output = Result<(), E>> + Send,
        E: Into<Box<dyn StdError + Send + Sync>> + Send,
    {
        let mut pauses = self.options.pauses();
        let mut tries = 0u32;
        loop {
            tries = tries.saturating_add(1);
            let context = HandlerContext {
                acker: Acker(Arc::clone(&self.shared)),
                stopping: self.shared.handlers.stopping.clone(),
                tries,
            };
            let result = {
                let _working = self.shared.handlers.begin_work();
                // The call itself is inside, since it may panic before there is a future.
                AssertUnwindSafe(async { call(context).await }).catch_unwind().await
            };
            let mut failure = match result {
                Ok(Ok(())) => return Verdict::Acknowledge,
                Ok(Err(error)) => Failure::of_handler(&self.shared, ids, tries, error.into()),
                Err(panic) => Failure::of_panic(&self.shared, ids, tries, &*panic),
            };
            if batch.is_some_and(ReceivedBatch::is_known_unreadable) {
                failure.reason = FailureReason::Unreadable;
            }
            let action = self.decide(&failure, || pauses.next());
            if let Some(verdict) = self.follow(failure, action).await {
                return verdict;
            }
        }
    }

    /// A failure that trying again does not cure, unless the user's callback thinks otherwise.
    async fn give_up_on(&self, failure: Failure) -> Verdict {
        loop {
            let action = self.decide(&failure, || None);
            if let Some(verdict) = self.follow(failure.clone(), action).await {
                return verdict;
            }
        }
    }

    fn decide(&self, failure: &Failure, next_pause: impl FnOnce() -> Option<Duration>) -> FailureAction {
        self.shared.metrics.consumer_handler_failures.add(1);
        self.shared.handler_failures.fetch_add(1, Ordering::Relaxed);
        if let Some(decide) = &self.options.on_failure {
            return catch_unwind(AssertUnwindSafe(|| decide(failure))).unwrap_or(FailureAction::Stop);
        }
        match failure.reason {
            FailureReason::Unreadable => self.options.on_unreadable,
            FailureReason::UnexpectedKind => self.options.on_error,
            FailureReason::Error | FailureReason::Panic => {
                next_pause().map_or(self.options.on_error, FailureAction::Retry)
            }
        }
    }

    /// Does it; `None` to try again.
    async fn follow(&self, failure: Failure, action: FailureAction) -> Option<Verdict> {
        let stopping = &self.shared.handlers.stopping;
        let error = &failure.error;
        match action {
            FailureAction::Retry(pause) => {
                tracing::debug!(subscription = %self.shared.subscription, %error, ?pause, "handling is tried again");
                // Always a turn for others, also without a pause.
                tokio::task::yield_now().await;
                tokio::select! {
                    biased;
                    () = stopping.cancelled() => Some(Verdict::Leave),
                    () = tokio::time::sleep(pause) => None,
                }
            }
            // A consumer that is stopping lets go of what it did not manage.
            FailureAction::Skip => {
                tracing::warn!(subscription = %self.shared.subscription, %error, "left unacknowledged");
                Some(Verdict::Leave)
            }
            FailureAction::Acknowledge => {
                tracing::warn!(subscription = %self.shared.subscription, %error, "passed over");
                Some(Verdict::Acknowledge)
            }
            FailureAction::Stop => Some(Verdict::Stop(failure.error)),
        }
    }

    /// Acknowledges, and waits while the ledger is full. Once the consumer is over there is nothing to be done: the
    /// records will be delivered again.
    async fn acknowledge(&self, ids: &[RecordId]) {
        while let Err(error) = self.shared.ack(ids) {
            if error.kind() != ErrorKind::Overloaded {
                tracing::debug!(subscription = %self.shared.subscription, %error, "handled too late");
                return;
            }
            tokio::time::sleep(LEDGER_FULL_PAUSE).await;
        }
    }
}

/// Records handled and not acknowledged yet.
#[derive(Default)]
struct Done {
    ids: Vec<RecordId>,
    since: Option<Instant>,
}

impl Done {
    fn push(&mut self, id: RecordId) {
        self.since.get_or_insert_with(Instant::now);
        self.ids.push(id);
    }

    fn is_due(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= ACK_EVERY)
    }

    fn take(&mut self) -> Vec<RecordId> {
        self.since = None;
        std::mem::take(&mut self.ids)
    }
}
