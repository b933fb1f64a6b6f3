//! Settings of a reader, and opening it.

use super::bound::Bounds;
use super::key::KeySource;
use super::shard::ShardSource;
use super::source::{self, Connections};
use super::{PREFETCH_BATCHES, PREFETCH_BYTES, Reader};
use crate::client::Client;
use crate::cluster::Target;
use crate::consumer::prefetch::Prefetch;
use crate::error::{Error, ErrorKind, Result};
use crate::options::{OptionScope, OptionValue, Setting};
use crate::record::{Offset, RecordId};
use crate::retry::Operation;
use crate::routing::ShardMap;
use futures::{StreamExt as _, TryStreamExt as _};
use hstreamdb_proto::api::{GetStreamRequest, GetTailRecordIdRequest, ListShardsRequest, Shard};
use std::sync::Arc;
use std::time::Duration;

/// How many tails are asked for at a time.
const LOOKUPS_AT_ONCE: usize = 8;

#[derive(Debug, Clone)]
enum Source {
    Shard(u64),
    Stream,
    Key(String),
}

/// Builds a [`Reader`]; made by [`Client::shard_reader`](crate::Client::shard_reader),
/// [`Client::stream_reader`](crate::Client::stream_reader) and [`Client::key_reader`](crate::Client::key_reader).
#[derive(Debug, Clone)]
#[must_use = "a reader does nothing before it is opened"]
pub struct ReaderBuilder {
    client: Client,
    stream: String,
    target: Source,
    from: Offset,
    until: Option<Offset>,
    max_batches: u64,
    timeout: Option<Duration>,
}

impl Client {
    /// A reader of one shard.
    pub fn shard_reader(&self, stream: &str, shard: u64) -> ReaderBuilder {
        ReaderBuilder::new(self.clone(), stream, Source::Shard(shard))
    }

    /// A reader of all shards of a stream.
    pub fn stream_reader(&self, stream: &str) -> ReaderBuilder {
        ReaderBuilder::new(self.clone(), stream, Source::Stream)
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
            from: Offset::Earliest,
            until: None,
            max_batches: 0,
            timeout: None,
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
            _ => return Err(setting.refuse("this version does not use the option")),
        }
        Ok(self)
    }

    /// Where to start; default [`Offset::Earliest`]. A record id starts at the batch that holds it.
    pub fn from(mut self, offset: Offset) -> Self {
        self.from = offset;
        self
    }

    /// Where to end, itself included. Default: never, except that a reader of a key ends at what is the newest record
    /// when it is opened.
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

    /// Opens the reader. What "latest" means is fixed here.
    ///
    /// # Errors
    /// `NotFound` for an unknown stream or shard, as far as it had to be looked at; `InvalidArgument` for a
    /// record id of another shard. Otherwise such errors come from [`Reader::next_batch`].
    pub async fn open(self) -> Result<Reader> {
        match self.target.clone() {
            Source::Shard(shard) => {
                let bounds = self.bounds(shard, self.until).await?;
                let resource = format!("stream {:?} shard {shard}", self.stream);
                self.start_shards(resource, vec![(shard, bounds)])
            }
            Source::Stream => {
                for offset in [Some(self.from), self.until].into_iter().flatten() {
                    if let Offset::Record(id) = offset {
                        return Err(Error::new(ErrorKind::InvalidArgument, "open reader")
                            .with_resource(self.stream.clone())
                            .with_message(format!(
                                "record id {id} bounds one shard only; read that shard, or use a time"
                            )));
                    }
                }
                let shards = self.shards().await?;
                let shards: Vec<_> = futures::stream::iter(shards.into_iter().map(|shard| shard.shard_id))
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

    async fn bounds(&self, shard: u64, until: Option<Offset>) -> Result<Bounds> {
        let bounds = if Bounds::needs_tail(self.from, until) {
            let tail = self.tail(shard).await?;
            Bounds::freeze(self.from, until, tail)
        } else {
            Bounds { from: self.from, until, frozen: false }
        };
        bounds.check_shard(shard)?;
        Ok(bounds)
    }

    async fn shards(&self) -> Result<Vec<Shard>> {
        // `ListShards` answers UNAVAILABLE for a stream that does not exist, which looks like a matter of time.
        let request = GetStreamRequest { name: self.stream.clone() };
        let call = Operation::read("get stream");
        let known = self.client.cluster.call(call, Some(&self.stream), Target::Any, |mut client| {
            let request = request.clone();
            async move { client.get_stream(request).await }
        });
        known.await?;
        let request = ListShardsRequest { stream_name: self.stream.clone() };
        let call = Operation::read("list shards");
        let answer = self.client.cluster.call(call, Some(&self.stream), Target::Any, |mut client| {
            let request = request.clone();
            async move { client.list_shards(request).await }
        });
        Ok(answer.await?.shards)
    }

    async fn tail(&self, shard: u64) -> Result<RecordId> {
        let request = GetTailRecordIdRequest { stream_name: self.stream.clone(), shard_id: shard };
        let call = Operation::read("get tail record id");
        let answer = self.client.cluster.call(call, Some(&self.stream), Target::Any, |mut client| {
            let request = request.clone();
            async move { client.get_tail_record_id(request).await }
        });
        answer.await?.tail_record_id.map(RecordId::from).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "get tail record id")
                .with_resource(self.stream.clone())
                .with_message("the answer holds no id")
        })
    }

    fn limit(&self) -> Option<u64> {
        (self.max_batches > 0).then_some(self.max_batches)
    }

    fn start_shards(self, resource: String, shards: Vec<(u64, Bounds)>) -> Result<Reader> {
        let queue = Arc::new(Prefetch::new(shards.len(), PREFETCH_BATCHES, PREFETCH_BYTES, self.limit()));
        let cluster = self.client.cluster.clone();
        let connections = Arc::new(Connections::new(cluster.clone()));
        let mut tasks = Vec::with_capacity(shards.len());
        for (lane, (shard, bounds)) in shards.into_iter().enumerate() {
            let source = ShardSource {
                connections: Arc::clone(&connections),
                queue: Arc::clone(&queue),
                lane,
                stream: self.stream.clone(),
                shard,
                bounds,
                left: self.limit(),
                last: None,
            };
            tasks.push(
                tokio::spawn(source::run(source, cluster.clone(), Arc::clone(&queue), lane)).abort_handle(),
            );
        }
        Reader::new(&cluster, resource, queue, tasks, self.timeout)
    }

    async fn start_key(self, key: String) -> Result<Reader> {
        let map = ShardMap::from_wire(&self.stream, &self.shards().await?)?;
        let range = map.index_for_key(&key).and_then(|index| map.ranges().get(index));
        let shard = range.map(|range| range.id).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "open reader")
                .with_resource(self.stream.clone())
                .with_message("no shard of the stream holds the key")
        })?;
        let bounds = self.bounds(shard, Some(self.until.unwrap_or(Offset::Latest))).await?;
        let resource = format!("stream {:?} key {key:?}", self.stream);
        let queue = Arc::new(Prefetch::new(1, PREFETCH_BATCHES, PREFETCH_BYTES, self.limit()));
        let cluster = self.client.cluster;
        let source = KeySource {
            connections: Arc::new(Connections::new(cluster.clone())),
            queue: Arc::clone(&queue),
            stream: self.stream.clone(),
            key,
            shard,
            bounds,
            last: None,
        };
        let task = tokio::spawn(source::run(source, cluster.clone(), Arc::clone(&queue), 0)).abort_handle();
        Reader::new(&cluster, resource, queue, vec![task], self.timeout)
    }
}
