//! Streams, subscriptions, records and where to start, in their published shapes.

use super::structure::Struct;
use crate::{
    admin::{StartFrom, StreamInfo, StreamOptions, SubscriptionInfo, SubscriptionOptions},
    error::{Error, ErrorKind, Result},
    producer::Compression,
    record::{self, Offset, PayloadKind, ReceivedRecord, RecordId},
};

/// Number of a shard.
pub type ShardId = u64;
/// Key by which a record finds its shard.
pub type PartitionKey = String;
/// Id of a subscription.
pub type SubscriptionId = String;

/// A time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Billionths of a second on top.
    pub nanos: i32,
}

impl Timestamp {
    fn from_ms(ms: i64) -> Self {
        let nanos = i32::try_from(ms.rem_euclid(1000)).unwrap_or_default() * 1_000_000;
        Timestamp { seconds: ms.div_euclid(1000), nanos }
    }
}

/// A stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stream {
    /// Name, unique in the cluster.
    pub stream_name: String,
    /// Copies of every record.
    pub replication_factor: u32,
    /// Retention in seconds; 0 keeps records for ever.
    pub backlog_duration: u32,
    /// Shards.
    pub shard_count: u32,
    /// Creation; not looked at when a stream is created.
    pub creation_time: Option<Timestamp>,
}

impl Stream {
    pub(super) fn options(&self) -> StreamOptions {
        StreamOptions::new()
            .replication_factor(self.replication_factor)
            .backlog_duration_secs(self.backlog_duration)
            .shard_count(self.shard_count)
    }
}

impl From<StreamInfo> for Stream {
    fn from(stream: StreamInfo) -> Self {
        Stream {
            stream_name: stream.name,
            replication_factor: stream.replication_factor,
            backlog_duration: stream.backlog_duration_secs,
            shard_count: stream.shard_count,
            creation_time: stream.created_ms.map(Timestamp::from_ms),
        }
    }
}

/// One of the two ends of what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SpecialOffset {
    /// The oldest record.
    #[default]
    Earliest,
    /// After the newest record.
    Latest,
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscription {
    /// Id, unique in the cluster.
    pub subscription_id: SubscriptionId,
    /// Stream it reads.
    pub stream_name: String,
    /// Seconds after which a record that is not acknowledged is delivered again.
    pub ack_timeout_seconds: i32,
    /// Delivery pauses while this many records wait for their acknowledgement.
    pub max_unacked_records: i32,
    /// Where it starts.
    pub offset: SpecialOffset,
    /// Creation; not looked at when a subscription is created.
    pub creation_time: Option<Timestamp>,
}

impl Subscription {
    /// # Errors
    /// `InvalidArgument` for a negative number.
    pub(super) fn options(&self) -> Result<SubscriptionOptions> {
        let number = |name: &str, value: i32| {
            u32::try_from(value).map_err(|_| {
                Error::new(ErrorKind::InvalidArgument, "create subscription")
                    .with_resource(self.subscription_id.clone())
                    .with_message(format!("{name} is {value}; it cannot be negative"))
            })
        };
        Ok(SubscriptionOptions::new()
            .ack_timeout_secs(number("ack_timeout_seconds", self.ack_timeout_seconds)?)
            .max_unacked_records(number("max_unacked_records", self.max_unacked_records)?)
            .offset(match self.offset {
                SpecialOffset::Earliest => StartFrom::Earliest,
                SpecialOffset::Latest => StartFrom::Latest,
            }))
    }
}

impl From<SubscriptionInfo> for Subscription {
    fn from(subscription: SubscriptionInfo) -> Self {
        Subscription {
            subscription_id: subscription.id,
            stream_name: subscription.stream,
            ack_timeout_seconds: subscription.ack_timeout_secs,
            max_unacked_records: subscription.max_unacked_records,
            offset: match subscription.offset {
                StartFrom::Earliest => SpecialOffset::Earliest,
                StartFrom::Latest => SpecialOffset::Latest,
            },
            creation_time: subscription.created_ms.map(Timestamp::from_ms),
        }
    }
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CompressionType {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl From<CompressionType> for Compression {
    fn from(compression: CompressionType) -> Self {
        match compression {
            CompressionType::None => Compression::None,
            CompressionType::Gzip => Compression::Gzip,
            CompressionType::Zstd => Compression::Zstd,
        }
    }
}

/// A record to append.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Records of one key go to one shard, in order.
    pub partition_key: PartitionKey,
    /// The content.
    pub payload: Payload,
}

/// The content of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// Named values.
    HRecord(Struct),
    /// Opaque bytes.
    RawRecord(Vec<u8>),
}

impl From<Vec<u8>> for Payload {
    fn from(payload: Vec<u8>) -> Self {
        Payload::RawRecord(payload)
    }
}

impl From<Struct> for Payload {
    fn from(payload: Struct) -> Self {
        Payload::HRecord(payload)
    }
}

impl Payload {
    /// Bytes that were marked as named values and are none come as bytes, so that nothing is lost.
    pub(super) fn received(record: &ReceivedRecord) -> Self {
        match record.kind {
            PayloadKind::HRecord => Struct::decode(&record.payload).map(Payload::HRecord),
            PayloadKind::Raw => None,
        }
        .unwrap_or_else(|| Payload::RawRecord(record.payload.to_vec()))
    }
}

impl Record {
    pub(super) fn into_record(self) -> Result<record::Record> {
        let (kind, payload) = match self.payload {
            Payload::HRecord(fields) => (PayloadKind::HRecord, fields.encode()?),
            Payload::RawRecord(bytes) => (PayloadKind::Raw, bytes.into()),
        };
        Ok(record::Record { key: self.partition_key, payload, kind, attributes: Vec::new() })
    }
}

/// Where a shard reader starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamShardOffset {
    /// At one of the ends.
    Special(SpecialOffset),
    /// At a record.
    Normal(RecordId),
}

impl From<StreamShardOffset> for Offset {
    fn from(offset: StreamShardOffset) -> Self {
        match offset {
            StreamShardOffset::Special(SpecialOffset::Earliest) => Offset::Earliest,
            StreamShardOffset::Special(SpecialOffset::Latest) => Offset::Latest,
            StreamShardOffset::Normal(record) => Offset::Record(record),
        }
    }
}

/// A consumer attached to a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Consumer {
    /// Name, unique in its subscription.
    pub name: String,
    /// Where it connects from.
    pub uri: String,
    /// Its software.
    pub user_agent: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_have_nanos_that_count_forward() {
        assert_eq!(Timestamp::from_ms(1_500), Timestamp { seconds: 1, nanos: 500_000_000 });
        assert_eq!(Timestamp::from_ms(-1), Timestamp { seconds: -1, nanos: 999_000_000 });
    }

    #[test]
    fn a_negative_number_is_refused_with_its_name() {
        let subscription = Subscription { max_unacked_records: -5, ..Subscription::default() };
        let error = subscription.options().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("max_unacked_records is -5"), "{error}");
    }
}
