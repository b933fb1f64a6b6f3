//! Streams and their shards.

use super::timestamp_ms;
use crate::{
    client::Client,
    cluster::Target,
    error::{Error, ErrorKind, Result},
    options::{OptionScope, OptionValue, Setting},
    record::RecordId,
    retry::Operation,
};
use hstreamdb_proto::{api, partition::key_hash};

/// How a stream is created. Defaults: one copy, one day of retention, one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct StreamOptions {
    replication_factor: u32,
    backlog_duration_secs: u32,
    shard_count: u32,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions { replication_factor: 1, backlog_duration_secs: 86_400, shard_count: 1 }
    }
}

impl StreamOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Copies of every record; default 1, at least 1.
    pub fn replication_factor(mut self, copies: u32) -> Self {
        self.replication_factor = copies;
        self
    }

    /// Retention in seconds; default 86,400, 0 keeps records for ever.
    pub fn backlog_duration_secs(mut self, seconds: u32) -> Self {
        self.backlog_duration_secs = seconds;
        self
    }

    /// Shards the key space is split into; default 1, at least 1. Cannot be changed later.
    pub fn shard_count(mut self, shards: u32) -> Self {
        self.shard_count = shards;
        self
    }

    /// Sets an option of the table by name, in snake or camel case.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown name, with the known ones, and for a value that does not fit.
    pub fn set(mut self, name: &str, value: impl Into<OptionValue>) -> Result<Self> {
        let setting = Setting::new(OptionScope::Stream, name, value)?;
        match setting.name() {
            "replication_factor" => self.replication_factor = setting.integer()?,
            "backlog_duration_secs" => self.backlog_duration_secs = setting.integer()?,
            "shard_count" => self.shard_count = setting.integer()?,
            _ => return Err(setting.refuse("it is in the table but not wired")),
        }
        Ok(self)
    }
}

/// How a stream is deleted. Default: refuse when subscriptions exist or the stream does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct DeleteStreamOptions {
    /// Delete it although subscriptions exist; they keep what they have and end.
    pub force: bool,
    /// A stream that does not exist is no error.
    pub ignore_missing: bool,
}

impl DeleteStreamOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to delete the stream although subscriptions exist.
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Whether a stream that does not exist is no error.
    pub fn ignore_missing(mut self, ignore: bool) -> Self {
        self.ignore_missing = ignore;
        self
    }
}

/// A stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    /// Name, unique in the cluster.
    pub name: String,
    /// Copies of every record.
    pub replication_factor: u32,
    /// Retention in seconds; 0 keeps records for ever.
    pub backlog_duration_secs: u32,
    /// Shards.
    pub shard_count: u32,
    /// Creation in milliseconds since 1970, when the server says it.
    pub created_ms: Option<i64>,
}

impl From<api::Stream> for StreamInfo {
    fn from(stream: api::Stream) -> Self {
        StreamInfo {
            name: stream.stream_name,
            replication_factor: stream.replication_factor,
            backlog_duration_secs: stream.backlog_duration,
            shard_count: stream.shard_count,
            created_ms: timestamp_ms(stream.creation_time),
        }
    }
}

/// A shard: one ordered log of a stream, for the keys whose hash lies in its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardInfo {
    /// Number, unique in the cluster.
    pub id: u64,
    /// Start of its range of key hashes, inclusive.
    pub start: u128,
    /// End of its range of key hashes, inclusive.
    pub end: u128,
    /// Grows when shards are split or merged.
    pub epoch: u64,
    /// Whether it takes records.
    pub active: bool,
}

impl ShardInfo {
    fn from_wire(shard: &api::Shard) -> Result<Self> {
        let bound = |text: &str| {
            text.parse::<u128>().map_err(|_| {
                let shown: String = text.chars().take(60).collect();
                Error::new(ErrorKind::Codec, "list shards")
                    .with_resource(shard.stream_name.clone())
                    .with_message(format!("{shown:?} is no bound of a key range"))
            })
        };
        Ok(ShardInfo {
            id: shard.shard_id,
            start: bound(&shard.start_hash_range_key)?,
            end: bound(&shard.end_hash_range_key)?,
            epoch: shard.epoch,
            active: shard.is_active,
        })
    }
}

impl Client {
    /// Creates a stream.
    ///
    /// # Errors
    /// `AlreadyExists`, `InvalidArgument` for a name or number the server refuses; `OutcomeUnknown` when the
    /// connection broke after the call was sent: it is not repeated then.
    pub async fn create_stream(&self, name: &str, options: StreamOptions) -> Result<StreamInfo> {
        let request = api::Stream {
            stream_name: name.to_owned(),
            replication_factor: options.replication_factor,
            backlog_duration: options.backlog_duration_secs,
            shard_count: options.shard_count,
            creation_time: None,
        };
        let created = self
            .cluster
            .call(Operation::once("create stream"), Some(name), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.create_stream(request).await }
            })
            .await?;
        Ok(created.into())
    }

    /// Deletes a stream with its records.
    ///
    /// # Errors
    /// `NotFound` unless missing ones are ignored, `FailedPrecondition` when subscriptions exist and `force` is not
    /// set, `OutcomeUnknown` as for [`create_stream`](Client::create_stream).
    pub async fn delete_stream(&self, name: &str, options: DeleteStreamOptions) -> Result<()> {
        let request = api::DeleteStreamRequest {
            stream_name: name.to_owned(),
            ignore_non_exist: options.ignore_missing,
            force: options.force,
        };
        // Without complaints about missing streams, deleting twice is deleting once.
        let operation = if options.ignore_missing {
            Operation::repeatable("delete stream")
        } else {
            Operation::once("delete stream")
        };
        self.cluster
            .call(operation, Some(name), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.delete_stream(request).await }
            })
            .await
    }

    /// Describes a stream.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Timeout`, `Closed`.
    pub async fn get_stream(&self, name: &str) -> Result<StreamInfo> {
        let request = api::GetStreamRequest { name: name.to_owned() };
        let response = self
            .cluster
            .call(Operation::read("get stream"), Some(name), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.get_stream(request).await }
            })
            .await?;
        response.stream.map(StreamInfo::from).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "get stream")
                .with_resource(name)
                .with_message("the answer holds no stream")
        })
    }

    /// Whether a stream exists.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `Closed`.
    pub async fn stream_exists(&self, name: &str) -> Result<bool> {
        match self.get_stream(name).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All streams.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `Closed`.
    pub async fn list_streams(&self) -> Result<Vec<StreamInfo>> {
        let response = self
            .cluster
            .call(Operation::read("list streams"), None, Target::Any, |mut client| async move {
                client.list_streams(api::ListStreamsRequest {}).await
            })
            .await?;
        Ok(response.streams.into_iter().map(StreamInfo::from).collect())
    }

    /// All streams whose name begins with a prefix.
    ///
    /// # Errors
    /// As [`list_streams`](Client::list_streams).
    pub async fn list_streams_with_prefix(&self, prefix: &str) -> Result<Vec<StreamInfo>> {
        let request = api::ListStreamsWithPrefixRequest { prefix: prefix.to_owned() };
        let response = self
            .cluster
            .call(Operation::read("list streams"), Some(prefix), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.list_streams_with_prefix(request).await }
            })
            .await?;
        Ok(response.streams.into_iter().map(StreamInfo::from).collect())
    }

    /// The shards of a stream, in the order of their ranges.
    ///
    /// # Errors
    /// `NotFound`, `Codec` when a range is no range, `Unavailable`, `Timeout`, `Closed`.
    pub async fn list_shards(&self, stream: &str) -> Result<Vec<ShardInfo>> {
        // Servers answer UNAVAILABLE for a stream that does not exist, and repeating that would take seconds.
        self.get_stream(stream).await.map_err(|error| error.with_operation("list shards"))?;
        let request = api::ListShardsRequest { stream_name: stream.to_owned() };
        let response = self
            .cluster
            .call(Operation::read("list shards"), Some(stream), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.list_shards(request).await }
            })
            .await?;
        let mut shards = response.shards.iter().map(ShardInfo::from_wire).collect::<Result<Vec<_>>>()?;
        shards.sort_by_key(|shard| shard.start);
        Ok(shards)
    }

    /// The shard that records of a key go to.
    ///
    /// # Errors
    /// `Routing` when no shard takes the key, and as [`list_shards`](Client::list_shards).
    pub async fn shard_for_key(&self, stream: &str, key: &str) -> Result<ShardInfo> {
        let hash = key_hash(key);
        let shards = self.list_shards(stream).await?;
        shards.into_iter().find(|shard| (shard.start..=shard.end).contains(&hash)).ok_or_else(|| {
            Error::new(ErrorKind::Routing, "find shard for key")
                .with_resource(stream)
                .with_message("no shard takes the key")
                .with_retryable(false)
        })
    }

    /// The id of the newest record of a shard; its batch is 0 when nothing was appended yet.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Timeout`, `Closed`.
    pub async fn tail_record_id(&self, stream: &str, shard_id: u64) -> Result<RecordId> {
        let request = api::GetTailRecordIdRequest { stream_name: stream.to_owned(), shard_id };
        let resource = format!("{stream:?} shard {shard_id}");
        let response = self
            .cluster
            .call(Operation::read("get tail of"), Some(&resource), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.get_tail_record_id(request).await }
            })
            .await?;
        Ok(response.tail_record_id.map(RecordId::from).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::option_table;

    #[test]
    fn every_stream_option_of_the_table_can_be_set_and_defaults_agree() {
        let mut from_table =
            StreamOptions { replication_factor: 9, backlog_duration_secs: 9, shard_count: 9 };
        for row in option_table().iter().filter(|row| row.scope == OptionScope::Stream) {
            from_table = from_table.set(row.name, row.default).unwrap();
        }
        assert_eq!(from_table, StreamOptions::default());
    }

    #[test]
    fn a_range_that_is_none_is_an_error() {
        let shard = api::Shard { start_hash_range_key: "-1".into(), ..Default::default() };
        assert_eq!(ShardInfo::from_wire(&shard).unwrap_err().kind(), ErrorKind::Codec);
    }
}
