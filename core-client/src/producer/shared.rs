//! What the handles of a producer and its pipelines share.

use super::{
    batch::Batch,
    batcher::Intake,
    delivery::Gone,
    flow::FlowControl,
    lookup::ShardLookup,
    observer::{BatchPart, BatchReport},
    report::{CloseReport, Unresolved},
    settings::ProducerSettings,
    transport::Transport,
};
use crate::{
    cluster::Closable,
    error::{Error, ErrorKind, Result},
    retry::RetryPolicy,
    routing::ShardMap,
};
use futures::future::BoxFuture;
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// Records by what became of them, over the producer's life.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub acknowledged: AtomicU64,
    pub failed: AtomicU64,
    pub unresolved: Mutex<Unresolved>,
}

/// How the producer shows itself to servers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    /// Random, never 0.
    pub producer_id: u128,
    /// Whether the cluster honours stamps.
    pub stamps: bool,
}

pub(super) struct Shared {
    pub stream: String,
    pub producer_id: u128,
    /// Whether the cluster honoured stamps when the producer was built.
    pub stamps: bool,
    pub settings: Arc<ProducerSettings>,
    pub retry: RetryPolicy,
    pub transport: Arc<dyn Transport>,
    pub lookup: Arc<ShardLookup>,
    pub flow: Arc<FlowControl>,
    pub totals: Totals,
    /// Ends all pipelines at once.
    pub abort: CancellationToken,
    pub runtime: Handle,
    intake: Mutex<Intake>,
    /// Whether the shards are being asked for because a key had none.
    refreshing: AtomicBool,
    me: Weak<Shared>,
}

/// How long a close waits, after its time is over, for the last receipts to be told.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How old the list of shards may be when a key has none: a stream without a place for it is asked about once in
/// this time, however many records come.
const FRESH_SHARDS: Duration = Duration::from_secs(1);

impl Shared {
    /// What it takes to produce to `stream`, which has the shards of `map`.
    pub fn new(
        stream: String,
        identity: Identity,
        settings: ProducerSettings,
        retry: RetryPolicy,
        transport: Arc<dyn Transport>,
        map: ShardMap,
        runtime: Handle,
    ) -> Arc<Self> {
        let settings = Arc::new(settings);
        Arc::new_cyclic(|me| Shared {
            producer_id: identity.producer_id,
            stamps: identity.stamps,
            retry: settings.retry(retry),
            lookup: Arc::new(ShardLookup::new(transport.clone())),
            transport,
            flow: FlowControl::new(settings.flow_control_bytes, settings.flow_control_records),
            totals: Totals::default(),
            abort: CancellationToken::new(),
            runtime,
            intake: Mutex::new(Intake::new(settings.clone(), settings.observer(&stream), map)),
            refreshing: AtomicBool::new(false),
            stream,
            settings,
            me: me.clone(),
        })
    }

    /// Short critical sections only; nobody is told anything while it is held.
    pub fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever is told of batches about a record that gets into none, so that each record of a call with a tag is told
    /// of exactly once.
    pub fn tell_refused(&self, tag: u64, position: usize, error: &Error) {
        if tag == 0 {
            return;
        }
        if let Some(observer) = self.settings.observer(&self.stream) {
            observer.tell(&BatchReport {
                stream: observer.stream(),
                shard_id: 0,
                records: 1,
                bytes: 0,
                took: Duration::ZERO,
                result: Err(error),
                parts: &[BatchPart { tag, positions: position..position + 1 }],
            });
        }
    }

    /// Stops the intake; what was accepted is still sent.
    pub fn finish(&self) {
        self.intake().close();
        self.flow.close();
    }

    /// Stops the intake, sends what was accepted, and after `limit` gives up what is left.
    pub async fn close(self: Arc<Self>, limit: Duration) -> CloseReport {
        self.finish();
        let sent = self.intake().flush();
        // Errors are the receipts' business here.
        if timeout(limit, sent.wait()).await.is_err() {
            self.abort.cancel();
            let told = self.intake().flush();
            if timeout(LAST_WORDS, told.wait()).await.is_err() {
                tracing::warn!(stream = %self.stream, "completions did not return within a second after the close");
            }
        }
        CloseReport::new(
            self.totals.acknowledged.load(Ordering::Acquire),
            self.totals.failed.load(Ordering::Acquire),
            &self.unresolved(),
        )
    }

    /// Routes by the shards the stream has now, and gives the error of the records that were meant for the one
    /// that is gone.
    pub fn shard_is_gone(&self, shard_id: u64, error: Error, gone: Gone) -> Error {
        let (left, error) = match gone {
            Gone::Shards(shards) => {
                let error = error.with_kind(ErrorKind::Routing).with_retryable(true).with_message(
                    "the shard does not exist any more, the stream has others now; append it again",
                );
                (self.intake().route_by(shards), error)
            }
            Gone::Stream(reason) => {
                let error = error
                    .with_kind(ErrorKind::NotFound)
                    .with_retryable(false)
                    .with_message(format!("the stream does not exist: {}", reason.message()));
                (self.intake().drain(shard_id).into(), error)
            }
        };
        self.fail_left(left, &error);
        error
    }

    /// Asks for the shards after a key had none; an answer of the last moments will do.
    ///
    /// # Errors
    /// `NotFound` when the stream does not exist, whatever else kept the answer away.
    pub async fn refresh_shards(&self) -> Result<()> {
        let now = Instant::now();
        let shards = self.lookup.after(now.checked_sub(FRESH_SHARDS).unwrap_or(now)).await?;
        let left = self.intake().route_by(shards);
        let error = Error::new(ErrorKind::Routing, "append")
            .with_message("the shard does not exist any more, the stream has others now; append it again");
        self.fail_left(left, &error);
        Ok(())
    }

    /// The same for callers that cannot wait.
    pub fn refresh_shards_later(self: &Arc<Self>) {
        if self.refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = self.clone();
        drop(self.runtime.spawn(async move {
            if let Err(error) = shared.refresh_shards().await {
                tracing::debug!(stream = %shared.stream, %error, "the shards could not be asked for");
            }
            shared.refreshing.store(false, Ordering::Release);
        }));
    }

    /// Told outside the lock: completions may call the producer again.
    fn fail_left(&self, left: Vec<Batch>, error: &Error) {
        for batch in left {
            self.count_failed(batch.records);
            let error = error.clone().with_may_have_been_applied(false);
            let shard_id = batch.shard_id;
            batch.resolve(Err(&self.describe(error, shard_id)));
        }
    }

    /// The error with what it happened on.
    pub fn describe(&self, error: Error, shard_id: u64) -> Error {
        error.with_operation("append").with_resource(format!("stream {:?} shard {shard_id}", self.stream))
    }

    pub fn count_stored(&self, records: usize, bytes: usize) {
        self.totals.acknowledged.fetch_add(records as u64, Ordering::AcqRel);
        self.transport.metrics().append_batches.add(1);
        self.transport.metrics().append_records.add(records as u64);
        self.transport.metrics().append_bytes.add(bytes as u64);
    }

    pub fn count_failed(&self, records: usize) {
        self.totals.failed.fetch_add(records as u64, Ordering::AcqRel);
        self.transport.metrics().append_failures.add(1);
    }

    /// Records given up by the end of the producer, and why their shard took none.
    pub fn count_unresolved(&self, shard_id: u64, records: usize, unclear: bool, cause: Option<Error>) {
        self.unresolved().add(shard_id, records as u64, unclear, cause);
        self.transport.metrics().append_failures.add(1);
    }

    fn unresolved(&self) -> MutexGuard<'_, Unresolved> {
        self.totals.unresolved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Closable for Shared {
    fn close(&self, limit: Duration) -> BoxFuture<'static, Result<()>> {
        let me = self.me.upgrade();
        Box::pin(async move {
            let Some(shared) = me else { return Ok(()) };
            let stream = shared.stream.clone();
            // What an earlier close gave up was reported by that one.
            let before = shared.unresolved().records();
            let report = shared.close(limit).await;
            if report.unresolved > before {
                let earlier = if before == 0 { String::new() } else { format!(", {before} of them earlier") };
                return Err(Error::new(ErrorKind::Timeout, "close producer")
                    .with_resource(stream)
                    .with_message(format!("after {limit:?} {report}{earlier}")));
            }
            Ok(())
        })
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("stream", &self.stream).finish_non_exhaustive()
    }
}
