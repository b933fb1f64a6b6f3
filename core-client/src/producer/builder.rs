//! Options of a producer and the first look at its stream.

use super::{
    Compression, Producer, WhenFull,
    cluster_transport::ClusterTransport,
    observer::BatchReport,
    settings::{OnBatch, ProducerSettings},
    shared::{Identity, Shared},
};
use crate::{
    cluster::{Closable, Cluster},
    error::{Error, ErrorKind, Result},
    options::OptionValue,
};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// Options of a producer; [`build`](Self::build) makes it.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until build() is awaited"]
pub struct ProducerBuilder {
    cluster: Cluster,
    stream: String,
    settings: ProducerSettings,
}

impl ProducerBuilder {
    pub(crate) fn new(cluster: Cluster, stream: impl Into<String>) -> Self {
        ProducerBuilder { cluster, stream: stream.into(), settings: ProducerSettings::default() }
    }

    /// Sets an option by its name in the table of options, scope producer.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown name or an unfit value.
    pub fn set(mut self, name: &str, value: impl Into<OptionValue>) -> Result<Self> {
        self.settings.set(name, value.into())?;
        Ok(self)
    }

    /// Records after which a batch is sent; at least 1, default 100.
    pub fn batch_max_records(mut self, records: u32) -> Self {
        self.settings.batch_max_records = records;
        self
    }

    /// Encoded bytes that a batch does not exceed, unless one record alone does; default 512 KiB.
    pub fn batch_max_bytes(mut self, bytes: usize) -> Self {
        self.settings.batch_max_bytes = bytes;
        self
    }

    /// Age of its first record at which a batch is sent, default 100 ms; zero sends as soon as the shard has
    /// room in flight.
    pub fn batch_max_age(mut self, age: Duration) -> Self {
        self.settings.batch_max_age = age;
        self
    }

    /// Compression of batches, default none.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.settings.compression = compression;
        self
    }

    /// Level of the compression: gzip 0 to 9 (default 6), zstd -7 to 22 (default 3).
    pub fn compression_level(mut self, level: i32) -> Self {
        self.settings.compression_level = Some(level);
        self
    }

    /// Bytes that may wait for their acknowledgement, default 100 MiB.
    pub fn flow_control_bytes(mut self, bytes: usize) -> Self {
        self.settings.flow_control_bytes = bytes;
        self
    }

    /// Records that may wait for their acknowledgement, default 1,000,000.
    pub fn flow_control_records(mut self, records: usize) -> Self {
        self.settings.flow_control_records = records;
        self
    }

    /// What `append` does when flow control has no room, default wait.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.settings.when_full = when_full;
        self
    }

    /// Batches of one shard in flight at a time, 1 to 64, default 5. Servers that cannot order them get one.
    pub fn max_inflight_per_shard(mut self, batches: usize) -> Self {
        self.settings.max_inflight_per_shard = batches;
        self
    }

    /// Longest time from append to a result, tries included; default 120 s.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.settings.delivery_timeout = timeout;
        self
    }

    /// Against servers that cannot tell a repeat: retry also what may have been stored. Default false.
    pub fn allow_duplicates(mut self, allow: bool) -> Self {
        self.settings.allow_duplicates = allow;
        self
    }

    /// Deadline of one try of a batch, default the client's (5 s).
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = Some(timeout);
        self
    }

    /// Tries of a batch altogether; 1 never retries. Default: as many as `delivery_timeout` has time for, the client's
    /// number (5) where the server says that it failed.
    pub fn retry_max_attempts(mut self, attempts: u32) -> Self {
        self.settings.retry_max_attempts = Some(attempts);
        self
    }

    /// Longest pause before the second try, which doubles up to `max` with every further one; default the client's
    /// (100 ms, 5 s).
    pub fn retry_pauses(mut self, base: Duration, max: Duration) -> Self {
        (self.settings.retry_base, self.settings.retry_max) = (Some(base), Some(max));
        self
    }

    /// Is told what became of every batch: once, after its receipts, in the order of its shard. Also of batches that
    /// were never sent. A record of a call with a [`tag`](crate::RecordBatch::with_tag) that gets into no batch is told alone,
    /// of shard 0.
    ///
    /// It runs on a thread of the runtime, never inside `append` and under no lock. Until it returns, its shard goes
    /// no further and `flush` and `close` do not end, so it must not block. A panic in it is contained and logged.
    pub fn on_batch(mut self, callback: impl Fn(&BatchReport<'_>) + Send + Sync + 'static) -> Self {
        self.settings.on_batch = Some(OnBatch(Arc::new(callback)));
        self
    }

    /// Checks the options, fetches the stream's shards and makes the producer.
    ///
    /// # Errors
    /// `InvalidArgument` for options that do not fit, `NotFound` when the stream does not exist, `Unavailable`,
    /// `Closed`.
    pub async fn build(self) -> Result<Producer> {
        let (cluster, stream, settings) = self.into_parts()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::Internal, "build producer").with_message(error.to_string())
        })?;
        let request_timeout = settings.request_timeout.unwrap_or(cluster.settings().request_timeout);
        let transport =
            ClusterTransport { cluster: cluster.clone(), stream: stream.clone(), request_timeout };
        let (node, map) = transport.list_shards().await?;
        let stamps = cluster.capabilities(&node).await?.producer_sequence;
        let identity = Identity { producer_id: cluster.random_u128().max(1), stamps };
        let retry = cluster.settings().retry;
        let shared = Shared::new(stream, identity, settings, retry, Arc::new(transport), map, runtime);
        let closable: Weak<dyn Closable> = Arc::downgrade(&(shared.clone() as Arc<dyn Closable>));
        cluster.register(closable)?;
        Ok(Producer::new(shared))
    }

    /// Checks the options.
    pub(super) fn into_parts(self) -> Result<(Cluster, String, ProducerSettings)> {
        self.settings.validate()?;
        Ok((self.cluster, self.stream, self.settings))
    }
}
