//! Settings of a reader, and opening it.

use super::connections::Connections;
use super::gap::Gaps;
use super::key::KeySource;
use super::opening;
use super::position::{ReadFrom, StreamPosition};
use super::progress::Progress;
use super::shard::ShardSource;
use super::{Reader, bound::Bounds, source};
use crate::client::Client;
use crate::consumer::prefetch::Prefetch;
use crate::error::{Error, ErrorKind, Result};
use crate::options::{OptionScope, OptionValue, Setting};
use crate::record::Offset;
use crate::routing::ShardMap;
use futures::{StreamExt as _, TryStreamExt as _};
use hstreamdb_proto::api::ErrorCode;
use std::sync::Arc;
use std::time::Duration;

/// How many shards are asked about at a time.
const LOOKUPS_AT_ONCE: usize = 8;

#[derive(Debug, Clone)]
enum Source {
    Shard(u64),
    OnlyShard,
    Stream,
    Key(String),
}

/// Builds a [`Reader`]; made by [`Client::shard_reader`], [`Client::stream_reader`], [`Client::single_shard_reader`]
/// and [`Client::key_reader`].
#[derive(Debug, Clone)]
#[must_use = "a reader does nothing before it is opened"]
pub struct ReaderBuilder {
    client: Client,
    stream: String,
    target: Source,
    from: ReadFrom,
    until: Option<Offset>,
    max_batches: u64,
    timeout: Option<Duration>,
    prefetch_batches: usize,
    prefetch_bytes: usize,
    probe_interval: Duration,
}

impl Client {
    /// A reader of one shard.
    pub fn shard_reader(&self, stream: &str, shard: u64) -> ReaderBuilder {
        ReaderBuilder::new(self.clone(), stream, Source::Shard(shard))
    }

    /// A reader of all shards of a stream, in order within each shard. The shards are those there are when it is opened:
    /// a stream that is deleted and created again needs a new reader.
    pub fn stream_reader(&self, stream: &str) -> ReaderBuilder {
        ReaderBuilder::new(self.clone(), stream, Source::Stream)
    }

    /// A reader of a stream that has one shard, so that the shard need not be named and all records come in order.
    /// Opening it on a stream with more fails as `InvalidArgument`.
    pub fn single_shard_reader(&self, stream: &str) -> ReaderBuilder {
        ReaderBuilder::new(self.clone(), stream, Source::OnlyShard)
    }

    /// A reader of the records with this partition key.
    pub fn key_reader(&self, stream: &str, key: &str) -> ReaderBuilder {
        ReaderBuilder::new(self.clone(), stream, Source::Key(key.to_owned()))
    }
}

impl ReaderBuilder {
    fn new(client: Client, stream: &str, target: Source) -> Self {
        ReaderBuilder {
            client,
            stream: stream.to_owned(),
            target,
            from: ReadFrom::Offset(Offset::Earliest),
            until: None,
            max_batches: 0,
            timeout: None,
            prefetch_batches: 100,
            prefetch_bytes: 16 << 20,
            probe_interval: Duration::from_secs(15),
        }
    }

    /// Sets an option by its name in the table of options (scope `Reader`).
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown name, with the known ones, and for a value out of range.
    pub fn set(mut self, name: &str, value: impl Into<OptionValue>) -> Result<Self> {
        let setting = Setting::new(OptionScope::Reader, name, value)?;
        match setting.name() {
            "from" => self.from = setting.text()?.parse()?,
            "until" => {
                let text = setting.text()?;
                self.until = if text.is_empty() { None } else { Some(text.parse()?) };
            }
            "max_batches" => self.max_batches = setting.integer()?,
            "timeout_ms" => self = self.timeout(setting.millis()?),
            "prefetch_batches" => self.prefetch_batches = setting.integer()?,
            "prefetch_bytes" => self.prefetch_bytes = setting.integer()?,
            "probe_interval_ms" => self.probe_interval = setting.millis()?,
            "reader_id" => return Err(setting.refuse("only a polled reader has an id")),
            _ => return Err(setting.refuse("this version does not use the option")),
        }
        Ok(self)
    }

    /// Where to start: an [`Offset`], or the [`StreamPosition`] of an earlier reader to go on behind what that one gave.
    /// Default [`Offset::Earliest`]. A record id starts at the batch that holds it; one that was trimmed at the oldest
    /// record there is, see [`Reader::gaps`].
    pub fn from(mut self, from: impl Into<ReadFrom>) -> Self {
        self.from = from.into();
        self
    }

    /// Where to end, itself included. Default: never, except that a reader of a key ends at what is the newest record
    /// when it is opened. [`Offset::Latest`] and a time are resolved then, shard by shard: what is appended later is not
    /// read, so a time to come ends at what is the newest record at opening.
    pub fn until(mut self, offset: Offset) -> Self {
        self.until = Some(offset);
        self
    }

    /// End after this many batches; 0, the default, is without limit.
    pub fn max_batches(mut self, batches: u64) -> Self {
        self.max_batches = batches;
        self
    }

    /// Longest wait of one [`Reader::next_batch`]; zero, the default, waits without limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = (!timeout.is_zero()).then_some(timeout);
        self
    }

    /// Batches received ahead of the application; default 100.
    ///
    /// # Errors
    /// `InvalidArgument` for 0.
    pub fn prefetch_batches(self, batches: u32) -> Result<Self> {
        self.set("prefetch_batches", batches)
    }

    /// Bytes of batches received ahead of the application, over all shards, which share them evenly; default 16 MiB. On
    /// top come at most one message (4 MiB from our server) per shard, and what a connection carries (5 MiB each).
    ///
    /// # Errors
    /// `InvalidArgument` for 0.
    pub fn prefetch_bytes(self, bytes: u64) -> Result<Self> {
        self.set("prefetch_bytes", bytes)
    }

    /// How long a connection may say nothing before it is asked whether it still is one; default 15 s, zero never asks. One
    /// that died silently is replaced after this and the request timeout. It costs an `Echo` of some 60 bytes each way per
    /// interval and connection while nothing is appended.
    ///
    /// # Errors
    /// `InvalidArgument` when out of range.
    pub fn probe_interval(self, interval: Duration) -> Result<Self> {
        let millis = u64::try_from(interval.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        self.set("probe_interval_ms", millis)
    }

    /// Opens the reader. What "latest" means, and where a time ends the read, is fixed here.
    ///
    /// # Errors
    /// `NotFound` for an unknown stream or shard, as far as it had to be looked at; `InvalidArgument` for a record id of
    /// another shard, a position that names other shards, and a stream of several shards that should have one.
    /// Otherwise such errors come from [`Reader::next_batch`].
    pub async fn open(self) -> Result<Reader> {
        match self.target.clone() {
            Source::Shard(shard) => {
                self.check_position(&[shard])?;
                let bounds = self.bounds(shard, self.until).await?;
                let resource = format!("stream {:?} shard {shard}", self.stream);
                self.start_shards(resource, vec![(shard, bounds)])
            }
            Source::OnlyShard => {
                let shard = self.only_shard().await?;
                self.check_position(&[shard])?;
                let bounds = self.bounds(shard, self.until).await?;
                let resource = format!("stream {:?}", self.stream);
                self.start_shards(resource, vec![(shard, bounds)])
            }
            Source::Stream => {
                let from = match &self.from {
                    ReadFrom::Offset(offset) => Some(*offset),
                    ReadFrom::Position(_) => None,
                };
                for offset in [from, self.until].into_iter().flatten() {
                    if let Offset::Record(id) = offset {
                        return Err(self.refuse(format!(
                            "record id {id} bounds one shard only; read that shard, or use a time or a position"
                        )));
                    }
                }
                let shards: Vec<u64> = opening::shards(&self.client, &self.stream)
                    .await?
                    .into_iter()
                    .map(|shard| shard.shard_id)
                    .collect();
                self.check_position(&shards)?;
                let shards: Vec<_> = futures::stream::iter(shards)
                    .map(|shard| {
                        let builder = &self;
                        async move { Ok::<_, Error>((shard, builder.bounds(shard, builder.until).await?)) }
                    })
                    .buffered(LOOKUPS_AT_ONCE)
                    .try_collect()
                    .await?;
                let resource = format!("stream {:?}", self.stream);
                self.start_shards(resource, shards)
            }
            Source::Key(key) => self.start_key(key).await,
        }
    }

    fn refuse(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidArgument, "open reader")
            .with_resource(self.stream.clone())
            .with_message(message)
    }

    /// A position of shards that are not read is one of another stream, or of one that was created again. That it names
    /// more shards is fine where one is read.
    fn check_position(&self, shards: &[u64]) -> Result<()> {
        let ReadFrom::Position(position) = &self.from else { return Ok(()) };
        let known = position.shards().filter(|shard| shards.contains(shard)).count();
        let all_named = matches!(self.target, Source::Stream | Source::OnlyShard);
        let fits =
            if all_named { known == position.shards().count() } else { position.is_empty() || known > 0 };
        if fits {
            return Ok(());
        }
        Err(self.refuse(format!(
            "the position {position} is of other shards than those that are read: {shards:?}"
        )))
    }

    async fn only_shard(&self) -> Result<u64> {
        let shards = opening::shards(&self.client, &self.stream).await?;
        match &shards[..] {
            [shard] => Ok(shard.shard_id),
            // As the server would refuse it, but before "latest" is looked up.
            _ => Err(self
                .refuse(format!("the stream has {} shards; use stream_reader or shard_reader", shards.len()))
                .with_code(ErrorCode::ShardReaderTooManyShards as i32)),
        }
    }

    async fn bounds(&self, shard: u64, until: Option<Offset>) -> Result<Bounds> {
        opening::bounds(&self.client, &self.stream, shard, &self.from, until).await
    }

    fn limit(&self) -> Option<u64> {
        (self.max_batches > 0).then_some(self.max_batches)
    }

    fn queue(&self, lanes: usize) -> Arc<Prefetch> {
        Arc::new(Prefetch::new(lanes, self.prefetch_batches, self.prefetch_bytes, self.limit()))
    }

    fn connections(&self, gaps: &Arc<Gaps>) -> Arc<Connections> {
        Arc::new(Connections::new(self.client.cluster.clone(), self.probe_interval, gaps.clone()))
    }

    fn gaps(&self, resource: &str) -> Arc<Gaps> {
        Arc::new(Gaps::new(resource.to_owned(), self.client.cluster.shared_metrics()))
    }

    fn start_shards(self, resource: String, shards: Vec<(u64, Bounds)>) -> Result<Reader> {
        let cluster = self.client.cluster.clone();
        let queue = self.queue(shards.len());
        let gaps = self.gaps(&resource);
        let connections = self.connections(&gaps);
        let mut position = StreamPosition::new();
        let mut tasks = Vec::with_capacity(shards.len());
        for (lane, (shard, bounds)) in shards.into_iter().enumerate() {
            position.begin(shard, bounds.from);
            let source = ShardSource {
                connections: Arc::clone(&connections),
                queue: Arc::clone(&queue),
                lane,
                stream: self.stream.clone(),
                shard,
                by_name: matches!(self.target, Source::OnlyShard),
                bounds,
                left: self.limit(),
                progress: Progress::new(shard, bounds.from),
            };
            tasks.push(
                tokio::spawn(source::run(source, cluster.clone(), Arc::clone(&queue), lane)).abort_handle(),
            );
        }
        Reader::new(&cluster, resource, queue, gaps, position, tasks, self.timeout)
    }

    async fn start_key(self, key: String) -> Result<Reader> {
        let map = ShardMap::from_wire(&self.stream, &opening::shards(&self.client, &self.stream).await?)?;
        let range = map.index_for_key(&key).and_then(|index| map.ranges().get(index));
        let shard = range.map(|range| range.id).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "open reader")
                .with_resource(self.stream.clone())
                .with_message("no shard of the stream holds the key")
        })?;
        self.check_position(&[shard])?;
        let bounds = self.bounds(shard, Some(self.until.unwrap_or(Offset::Latest))).await?;
        let resource = format!("stream {:?} key {key:?}", self.stream);
        let queue = self.queue(1);
        let gaps = self.gaps(&resource);
        let mut position = StreamPosition::new();
        position.begin(shard, bounds.from);
        let source = KeySource {
            connections: self.connections(&gaps),
            queue: Arc::clone(&queue),
            stream: self.stream.clone(),
            key,
            shard,
            bounds,
            progress: Progress::new(shard, bounds.from),
        };
        let cluster = self.client.cluster;
        let task = tokio::spawn(source::run(source, cluster.clone(), Arc::clone(&queue), 0)).abort_handle();
        Reader::new(&cluster, resource, queue, gaps, position, vec![task], self.timeout)
    }
}
