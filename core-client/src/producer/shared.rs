//! What the handles of a producer and its pipelines share.

use super::{
    batcher::{Intake, NewLane},
    flow::FlowControl,
    pipeline::Pipeline,
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
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Handle, time::timeout};
use tokio_util::sync::CancellationToken;

/// Records by what became of them, over the producer's life.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub acknowledged: AtomicU64,
    pub failed: AtomicU64,
    pub unresolved: AtomicU64,
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
    pub flow: Arc<FlowControl>,
    pub totals: Totals,
    /// Ends all pipelines at once.
    pub abort: CancellationToken,
    pub runtime: Handle,
    intake: Mutex<Intake>,
    me: Weak<Shared>,
}

/// What became of a producer's records, over its whole life. Records refused on the spot are not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CloseReport {
    /// Stored.
    pub acknowledged: u64,
    /// Failed before the close ended; their receipts say why, and whether they may be stored all the same.
    pub failed: u64,
    /// Given up because the time of the close was over. Those that had been sent may be stored.
    pub unresolved: u64,
}

/// How long a close waits, after its time is over, for the last receipts to be told.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
            stream,
            producer_id: identity.producer_id,
            stamps: identity.stamps,
            retry,
            transport,
            flow: FlowControl::new(settings.flow_control_bytes, settings.flow_control_records),
            totals: Totals::default(),
            abort: CancellationToken::new(),
            runtime,
            intake: Mutex::new(Intake::new(settings.clone(), map)),
            settings,
            me: me.clone(),
        })
    }

    /// Short critical sections only; nobody is told anything while it is held.
    pub fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts pipelines. Never under the intake's lock: on a runtime that is going away the task is dropped at
    /// once, and takes the lock to tell everybody.
    pub fn start(self: &Arc<Self>, lanes: Vec<NewLane>) {
        for lane in lanes {
            let pipeline = Pipeline::new(self.clone(), lane.shard_id, lane.wake);
            drop(self.runtime.spawn(pipeline.run()));
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
        let get = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        CloseReport {
            acknowledged: get(&self.totals.acknowledged),
            failed: get(&self.totals.failed),
            unresolved: get(&self.totals.unresolved),
        }
    }

    /// Asks for the shards anew after one was said to be missing, routes by them from now on, and gives the
    /// error of the records that were meant for it.
    pub async fn shard_is_missing(&self, shard_id: u64, error: Error) -> Error {
        let (gone, error) = match self.transport.shards().await {
            Ok(map) if map.ranges().iter().any(|range| range.id == shard_id) => return error,
            Ok(map) => {
                let error = error.with_kind(ErrorKind::Routing).with_retryable(true).with_message(
                    "the shard does not exist any more, the stream has others now; append it again",
                );
                (self.intake().replace_map(map), error)
            }
            Err(reason) if reason.kind() == ErrorKind::NotFound => {
                let error = error
                    .with_kind(ErrorKind::NotFound)
                    .with_retryable(false)
                    .with_message(format!("the stream does not exist: {}", reason.message()));
                (self.intake().drain(shard_id).into(), error)
            }
            Err(_) => return error,
        };
        // Told outside the lock: completions may call the producer again.
        for batch in gone {
            self.count_failed(batch.records);
            batch.resolve(Err(&self.describe(error.clone().with_may_have_been_applied(false), shard_id)));
        }
        error
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

    pub fn count_unresolved(&self, records: usize) {
        self.totals.unresolved.fetch_add(records as u64, Ordering::AcqRel);
        self.transport.metrics().append_failures.add(1);
    }
}

impl Closable for Shared {
    fn close(&self, limit: Duration) -> BoxFuture<'static, Result<()>> {
        let me = self.me.upgrade();
        Box::pin(async move {
            let Some(shared) = me else { return Ok(()) };
            let stream = shared.stream.clone();
            // What an earlier close gave up was reported by that one.
            let before = shared.totals.unresolved.load(Ordering::Acquire);
            let given_up = shared.close(limit).await.unresolved.saturating_sub(before);
            if given_up > 0 {
                return Err(Error::new(ErrorKind::Timeout, "close producer")
                    .with_resource(stream)
                    .with_message(format!("{given_up} records were given up after {limit:?}")));
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
