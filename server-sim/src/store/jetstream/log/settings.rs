//! How a log on JetStream behaves.

use crate::store::producer_table::ProducerLimits;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tells the time in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How a [`JetStreamLog`](super::JetStreamLog) behaves; [`LogSettings::new`] is right for a server.
#[derive(Clone)]
pub struct LogSettings {
    /// What everything of this store is named after: streams and subjects begin with it.
    pub namespace: String,
    /// Most copies a shard may have: as many as there are servers to keep them, 1 to 5. More that are asked for are
    /// not kept.
    pub replicas: u32,
    /// Streams that hold the shards, for each number of copies. Whoever founds the store decides; default 8.
    pub lanes: u32,
    /// Largest batch, in bytes; messages of the servers must take 4,096 bytes more. Default 1 MiB.
    pub max_batch_bytes: usize,
    /// Batches that came together are stored together up to this many bytes, and up to what the servers take in a message.
    /// Default 4 MiB.
    pub frame_bytes: usize,
    /// Batches waiting to be stored may hold this many bytes; who comes then waits. Default 64 MiB.
    pub queue_bytes: usize,
    /// Memory for batches that were appended or read a moment ago, in bytes. Default 32 MiB.
    pub cache_bytes: usize,
    /// How long a call goes on trying before it ends with
    /// [`StoreError::Unreachable`](crate::store::StoreError::Unreachable). A change of leaders takes some of it. Default 10 s.
    pub timeout: Duration,
    /// How often shards are looked for whose records are all older than they are kept. Default one minute.
    pub retention_interval: Duration,
    /// By how much the servers' clocks are expected to differ from ours, in milliseconds; more costs time when a time is
    /// looked up. Default 2,000.
    pub clock_skew_ms: u64,
    /// Bounds of the memory of producers, per shard.
    pub producers: ProducerLimits,
    /// Where append times come from. Default the system's clock.
    pub clock: Clock,
}

impl LogSettings {
    /// Those of a server.
    pub fn new(namespace: impl Into<String>) -> Self {
        LogSettings {
            namespace: namespace.into(),
            replicas: 1,
            lanes: 8,
            max_batch_bytes: 1 << 20,
            frame_bytes: 4 << 20,
            queue_bytes: 64 << 20,
            cache_bytes: 32 << 20,
            timeout: Duration::from_secs(10),
            retention_interval: Duration::from_secs(60),
            clock_skew_ms: 2000,
            producers: ProducerLimits::default(),
            clock: Arc::new(system_ms),
        }
    }

    /// With values that make sense.
    pub(super) fn checked(mut self) -> Self {
        self.replicas = self.replicas.clamp(1, 5);
        self.queue_bytes = self.queue_bytes.clamp(1 << 10, 1 << 31);
        self.retention_interval = self.retention_interval.max(Duration::from_millis(1));
        self
    }
}

impl fmt::Debug for LogSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSettings")
            .field("namespace", &self.namespace)
            .field("replicas", &self.replicas)
            .field("lanes", &self.lanes)
            .field("max_batch_bytes", &self.max_batch_bytes)
            .field("frame_bytes", &self.frame_bytes)
            .field("queue_bytes", &self.queue_bytes)
            .field("cache_bytes", &self.cache_bytes)
            .field("timeout", &self.timeout)
            .field("retention_interval", &self.retention_interval)
            .field("clock_skew_ms", &self.clock_skew_ms)
            .field("producers", &self.producers)
            .finish_non_exhaustive()
    }
}

fn system_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
