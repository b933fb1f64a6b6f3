//! What the server refuses, as data: error class, gRPC status, error code.
//!
//! Published clients branch on the status and on the JSON body, and on whether there is a JSON body at all,
//! so each class is one row of the table below. The domain raises [`ServerError`]s; only `api` turns them
//! into `tonic::Status`.

use crate::store::{StampError, StoreError};
use hstreamdb_proto::api::ErrorCode;
use hstreamdb_proto::error_body::ErrorBody;
use hstreamdb_proto::metadata::producer_error;
use serde_json::Value;
use tonic::Code;

/// Result of a domain operation.
pub type Result<T, E = ServerError> = std::result::Result<T, E>;

/// One refused operation.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerError {
    /// Travels as status + JSON body.
    Classified {
        /// The row of the table.
        class: Class,
        /// Detail, often the resource name.
        extra: Value,
    },
    /// Travels as status + plain text; what the original's storage layer raises.
    Plain {
        /// gRPC status.
        status: Code,
        /// The sentence.
        text: String,
    },
}

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident => $status:ident, $code:ident, $message:expr;)*) => {
        /// Error classes, named as on the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Class {
            $($(#[$doc])* $name,)*
        }

        impl Class {
            /// gRPC status of the class.
            pub fn status(self) -> Code {
                match self { $(Class::$name => Code::$status,)* }
            }

            /// `error` member of the JSON body.
            pub fn code(self) -> ErrorCode {
                match self { $(Class::$name => ErrorCode::$code,)* }
            }

            /// `message` member of the JSON body.
            pub fn message(self) -> &'static str {
                match self { $(Class::$name => $message,)* }
            }
        }
    };
}

classes! {
    /// `replicationFactor` is 0.
    InvalidReplicaFactor => InvalidArgument, StreamInvalidReplicaFactor, "InvalidReplicaFactor";
    /// A stream name breaks the rules.
    InvalidStreamName => InvalidArgument, StreamInvalidObjectIdentifier, "InvalidObjectIdentifier";
    /// A subscription id breaks the rules.
    InvalidSubscriptionId => InvalidArgument, SubscriptionInvalidObjectIdentifier, "InvalidObjectIdentifier";
    /// A shard reader id breaks the rules.
    InvalidReaderId => InvalidArgument, ShardReaderInvalidObjectIdentifier, "InvalidObjectIdentifier";
    /// A shard id in a lookup breaks the rules.
    InvalidShardId => InvalidArgument, InternalError, "InvalidObjectIdentifier";
    /// A query id in a lookup breaks the rules.
    InvalidQueryId => InvalidArgument, QueryInvalidObjectIdentifier, "InvalidObjectIdentifier";
    /// A view id in a lookup breaks the rules.
    InvalidViewId => InvalidArgument, ViewInvalidObjectIdentifier, "InvalidObjectIdentifier";
    /// A connector name in a lookup breaks the rules.
    InvalidConnectorName => InvalidArgument, ConnectorInvalidObjectIdentifier, "InvalidObjectIdentifier";
    /// `shardCount` is 0 or above the server's limit.
    InvalidShardCount => InvalidArgument, StreamInvalidShardCount, "InvalidShardCount";
    /// Append without records.
    EmptyBatchedRecord => InvalidArgument, StreamEmptyBatchedRecord, "BatchedRecord shouldn't be Nothing";
    /// Append above `max-record-size`.
    InvalidRecordSize => InvalidArgument, StreamInvalidRecordSize, "Record size exceeds the maximum size limit";
    /// CreateShardReader without an offset.
    InvalidShardOffset => InvalidArgument, StreamInvalidOffset, "InvalidShardOffset";
    /// Trim without a trim point.
    InvalidTrimPoint => InvalidArgument, StreamInvalidOffset, "InvalidTrimPoint";
    /// TrimShards with an id that is not one or lies beyond the tail.
    InvalidRecordId => InvalidArgument, StreamInvalidRecordId, "InvalidRecordId";
    /// TrimShards with a shard of another stream.
    ShardNotExists => InvalidArgument, StreamShardNotExists, "ShardNotExists";
    /// CreateSubscription with an offset number that is none.
    InvalidSubscriptionOffset => InvalidArgument, SubscriptionInvalidOffset, "InvalidSubscriptionOffset";
    /// Start after end, or a record id of another shard.
    ConflictShardReaderOffset => InvalidArgument, ShardReaderConflictOffset, "ConflictShardReaderOffset";
    /// ReadSingleShardStream on a stream with several shards.
    TooManyShardCount => InvalidArgument, ShardReaderTooManyShards, "TooManyShardCount";
    /// Lookup with a resource type that is none.
    InvalidResourceType => InvalidArgument, InternalError, "InvalidResourceType";
    /// Statistics with a name that is none.
    InvalidStatsType => InvalidArgument, InternalError, "InvalidStatsType";
    /// Statistics with an interval that is none.
    InvalidStatsInterval => InvalidArgument, InternalError, "InvalidStatsInterval";
    /// A request is malformed in a way the original does not check.
    InvalidRequest => InvalidArgument, InternalError, "InvalidRequest";
    /// No such stream.
    StreamNotFound => NotFound, StreamNotFound, "StreamNotFound";
    /// No such subscription.
    SubscriptionNotFound => NotFound, SubscriptionNotFound, "SubscriptionNotFound";
    /// No such shard.
    ShardNotFound => NotFound, InternalError, "ShardNotFound";
    /// No such query.
    QueryNotFound => NotFound, QueryNotFound, "QueryNotFound";
    /// No such connector.
    ConnectorNotFound => NotFound, ConnectorNotFound, "ConnectorNotFound";
    /// No such view.
    ViewNotFound => NotFound, QueryNotFound, "ViewNotFound";
    /// The owner does not advertise the listener the request came through.
    NodesNotFound => NotFound, InternalError, "NodesNotFound";
    /// The stream exists.
    StreamExists => AlreadyExists, StreamExists, "StreamExists";
    /// The subscription exists.
    SubscriptionExists => AlreadyExists, SubscriptionExists, "SubscriptionExists";
    /// A consumer of that name is attached.
    ConsumerExists => AlreadyExists, InternalError, "ConsumerExists";
    /// The reader exists.
    ShardReaderExists => AlreadyExists, InternalError, "ShardReaderExists";
    /// DeleteStream without force while subscriptions refer to it.
    FoundSubscription => FailedPrecondition, StreamFoundSubscription, "Stream still has subscription";
    /// CreateSubscription on a stream that is not there.
    NonExistentStream => FailedPrecondition, SubscriptionCreationOnNonExistentStream, "NonExistentStream";
    /// DeleteSubscription without force while consumers are attached.
    FoundActiveConsumers => FailedPrecondition, SubscriptionFoundActiveConsumers, "FoundActiveConsumers";
    /// Another node owns the resource.
    WrongServer => FailedPrecondition, WrongServer, "WrongServer";
    /// No such polled reader.
    EmptyShardReader => FailedPrecondition, InternalError, "EmptyShardReader";
    /// The subscription is being deleted.
    SubscriptionIsDeleting => Aborted, InternalError, "SubscriptionIsDeleting";
    /// The subscription stopped on this node.
    SubscriptionInvalidError => Aborted, InternalError, "SubscriptionInvalidError";
    /// The server dropped this consumer.
    ConsumerInvalidError => Aborted, InternalError, "ConsumerInvalidError";
    /// A bidirectional call was closed before its first message.
    StreamReadClose => Cancelled, InternalError, "StreamReadClose";
    /// A bidirectional call could not be read.
    StreamReadError => Cancelled, InternalError, "StreamReadError";
    /// A read met data that was acknowledged and is lost.
    DataLossGapError => DataLoss, ShardReaderDataLossGap, "DataLossGapError";
    /// A batch cannot be decoded where its records are needed one by one.
    DecodeHStreamRecordErr => InvalidArgument, InternalError, "DecodeHStreamRecordErr";
    /// The node is stopping, starting or cannot serve.
    ServerNotAvailable => Unavailable, InternalError, "ServerNotAvailable";
    /// A limit of this server is reached (connections, readers, names).
    ResourceExhausted => ResourceExhausted, InternalError, "ResourceExhausted";
    /// The call is missing valid credentials.
    Unauthenticated => Unauthenticated, InternalError, "Unauthenticated";
    /// The server does not do this.
    Unimplemented => Unimplemented, InternalError, "Unimplemented";
    /// Something inside failed.
    UnexpectedError => Internal, InternalError, "UnexpectedError";
    /// A producer's batch arrived before its predecessors.
    ProducerSequenceGap => Aborted, InternalError, producer_error::SEQUENCE_GAP;
    /// A producer with a higher epoch has written.
    ProducerFenced => FailedPrecondition, InternalError, producer_error::FENCED;
    /// A repeat of a batch stored so long ago that its ids are forgotten.
    ProducerSequenceTooOld => FailedPrecondition, InternalError, producer_error::SEQUENCE_TOO_OLD;
    /// The producer is not remembered.
    ProducerExpired => FailedPrecondition, InternalError, producer_error::EXPIRED;
    /// No room for another producer.
    ProducerTableFull => ResourceExhausted, InternalError, producer_error::TABLE_FULL;
}

impl ServerError {
    /// A classified error with its detail.
    pub fn new(class: Class, extra: impl Into<Value>) -> Self {
        ServerError::Classified { class, extra: extra.into() }
    }

    /// A plain-text error.
    pub fn plain(status: Code, text: impl Into<String>) -> Self {
        ServerError::Plain { status, text: text.into() }
    }

    /// The class, if it has one.
    pub fn class(&self) -> Option<Class> {
        match self {
            ServerError::Classified { class, .. } => Some(*class),
            ServerError::Plain { .. } => None,
        }
    }

    /// Status and status message as they go over the wire.
    pub fn to_wire(&self) -> (Code, String) {
        match self {
            ServerError::Classified { class, extra } => {
                let body = ErrorBody::new(class.code(), class.message(), extra.clone());
                (class.status(), body.to_json())
            }
            ServerError::Plain { status, text } => (*status, text.clone()),
        }
    }
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ServerError::Classified { class, extra: Value::Null } => f.write_str(class.message()),
            ServerError::Classified { class, extra: Value::String(extra) } => {
                write!(f, "{}: {extra}", class.message())
            }
            ServerError::Classified { class, extra } => write!(f, "{}: {extra}", class.message()),
            ServerError::Plain { text, .. } => f.write_str(text),
        }
    }
}

impl std::error::Error for ServerError {}

/// Store errors that no caller gave a better meaning.
impl From<StoreError> for ServerError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::ShardNotFound(shard) => ServerError::new(Class::ShardNotFound, shard.to_string()),
            StoreError::Stamp(stamp) => {
                let class = match stamp {
                    StampError::Gap { .. } => Class::ProducerSequenceGap,
                    StampError::Fenced { .. } => Class::ProducerFenced,
                    StampError::TooOld { .. } => Class::ProducerSequenceTooOld,
                    StampError::Expired => Class::ProducerExpired,
                    StampError::TableFull => Class::ProducerTableFull,
                };
                ServerError::new(class, stamp.to_string())
            }
            // Clients take RESOURCE_EXHAUSTED as "nothing was stored, come back later".
            StoreError::DiskFull(_) => ServerError::plain(Code::ResourceExhausted, error.to_string()),
            StoreError::Poisoned(_) | StoreError::Closed | StoreError::Unreachable(_) => {
                ServerError::plain(Code::Unavailable, error.to_string())
            }
            StoreError::Corrupt(_) => ServerError::new(Class::DataLossGapError, error.to_string()),
            StoreError::Conflict { .. } => ServerError::plain(Code::Aborted, error.to_string()),
            _ => ServerError::plain(Code::Internal, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classified_errors_carry_a_json_body() {
        let (code, message) = ServerError::new(Class::StreamNotFound, "s1").to_wire();
        assert_eq!(code, Code::NotFound);
        assert_eq!(message, r#"{"error":200,"extra":"s1","message":"StreamNotFound"}"#);
    }

    #[test]
    fn errors_without_detail_say_null() {
        let (_, message) = ServerError::new(Class::EmptyBatchedRecord, Value::Null).to_wire();
        assert_eq!(message, r#"{"error":206,"extra":null,"message":"BatchedRecord shouldn't be Nothing"}"#);
    }

    #[test]
    fn plain_errors_are_plain() {
        let (code, message) = ServerError::plain(Code::Unavailable, "log not found").to_wire();
        assert_eq!((code, message.as_str()), (Code::Unavailable, "log not found"));
        assert_eq!(ErrorBody::parse(&message), None);
    }
}
