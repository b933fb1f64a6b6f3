//! What this process has counted since its start, and how fast.
//!
//! | file | what |
//! | --- | --- |
//! | `series` | totals with their past: a rate per second over any of the last ten minutes |
//! | `histogram` | how long something takes, as percentiles |
//! | `stream`, `subscription` | what is counted about one of them, and under which names it is asked for |
//! | `counted_log` | a log whose reads are counted |
//!
//! Counters belong to objects that exist: names a client invents create none, and what is deleted is forgotten.

mod counted_log;
mod histogram;
mod series;
mod stream;
mod subscription;

pub use counted_log::CountedLog;
pub use histogram::Histogram;
pub use series::{LONGEST_INTERVAL, Series};
pub use stream::StreamStats;
pub use subscription::SubscriptionStats;

use crate::store::{ShardId, StoredBatch};
use crate::stream::{StreamId, Streams};
use std::collections::HashMap;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

/// Time series of handlers by name and alias. The only handler that is counted is `append`.
pub const HANDLER_SERIES: &[(&str, usize)] = &[("queries_in", 0), ("queries", 0)];

/// Names of the histograms.
pub const HISTOGRAMS: &[&str] = &[
    "append_request_latency",
    "append_latency",
    "read_latency",
    "append_cache_store_latency",
    "read_cache_store_latency",
    "check_store_cluster_healthy_latency",
    "check_meta_cluster_healthy_latency",
];

/// A counter of `T` as it is read.
pub type Counter<T> = fn(&T) -> u64;

/// What one node counts about itself and its streams. A subscription's counters are kept with the subscription.
#[derive(Debug)]
pub struct Stats {
    catalogue: Arc<Streams>,
    streams: RwLock<HashMap<StreamId, Arc<StreamStats>>>,
    /// Calls of `Append`, refused ones included.
    append_calls: Series<1>,
    append_request_latency: Histogram,
    append_latency: Histogram,
    read_latency: Histogram,
    /// Of parts this server does not have: they stay empty.
    absent: Histogram,
}

impl Stats {
    /// Counters for the streams of a catalogue, all at 0.
    pub fn new(catalogue: Arc<Streams>) -> Arc<Self> {
        let stats = Arc::new(Stats {
            catalogue,
            streams: RwLock::default(),
            append_calls: Series::new(),
            append_request_latency: Histogram::default(),
            append_latency: Histogram::default(),
            read_latency: Histogram::default(),
            absent: Histogram::default(),
        });
        let forgetful = Arc::downgrade(&stats);
        stats.catalogue.when_gone(move |stream| {
            if let Some(stats) = forgetful.upgrade() {
                stats.forget_stream(stream);
            }
        });
        stats
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<StreamId, Arc<StreamStats>>> {
        self.streams.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<StreamId, Arc<StreamStats>>> {
        self.streams.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The counters of a stream. Of one that is deleted or archived they lead nowhere.
    pub fn stream(&self, id: StreamId) -> Arc<StreamStats> {
        if let Some(found) = self.find_stream(id) {
            return found;
        }
        let stats = self.write().entry(id).or_default().clone();
        // The catalogue tells that a stream is gone when it takes that in, which this look waits for: either it or
        // that call removes what was inserted too late.
        if self.catalogue.by_id(id).is_none_or(|stream| stream.archived) {
            self.write().remove(&id);
        }
        stats
    }

    /// The counters of a stream, if anything was counted.
    pub fn find_stream(&self, id: StreamId) -> Option<Arc<StreamStats>> {
        self.read().get(&id).cloned()
    }

    /// Forgets a stream that the catalogue has no more, or has archived.
    fn forget_stream(&self, id: StreamId) {
        self.write().remove(&id);
    }

    /// Counts a read of the log: what it gave, and how long it took.
    fn read_log(&self, shard: ShardId, batches: &[StoredBatch], took: Duration) {
        self.read_latency.record(took);
        if batches.is_empty() {
            return;
        }
        if let Some(stream) = self.catalogue.by_shard(shard).filter(|stream| !stream.archived) {
            let bytes = batches.iter().map(|batch| batch.bytes.len()).sum();
            self.stream(stream.id).read(batches.len(), bytes);
        }
    }

    /// Calls of `Append`.
    pub fn append_calls(&self) -> &Series<1> {
        &self.append_calls
    }

    /// Time from the arrival of an append to its answer.
    pub fn append_request_latency(&self) -> &Histogram {
        &self.append_request_latency
    }

    /// Time the log takes to store a batch.
    pub fn append_latency(&self) -> &Histogram {
        &self.append_latency
    }

    /// The histogram of this name; those of parts this server does not have are empty.
    pub fn histogram(&self, name: &str) -> Option<&Histogram> {
        match name {
            "append_request_latency" => Some(&self.append_request_latency),
            "append_latency" => Some(&self.append_latency),
            "read_latency" => Some(&self.read_latency),
            name => HISTOGRAMS.contains(&name).then_some(&self.absent),
        }
    }

    /// Sets everything to 0, as at the start of the process; subscriptions keep their own.
    pub fn reset(&self) {
        self.read().values().for_each(|stats| stats.reset());
        self.append_calls.reset();
        for histogram in [&self.append_request_latency, &self.append_latency, &self.read_latency] {
            histogram.reset();
        }
    }
}
