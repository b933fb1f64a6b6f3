//! Metadata keys of what our client and our server say to each other beyond the published messages.
//!
//! Unknown metadata is ignored on both sides of the published wire, so old and new parts mix freely.
//! `docs/protocol.md` describes the exchange.

/// Response metadata: comma-separated names of what the server can do beyond the published protocol.
///
/// Sent with every answer of `DescribeCluster`, `Echo`, `Append` and in the headers of `StreamingFetch`.
pub const CAPABILITIES: &str = "x-hstream-capabilities";

/// Capability: the server deduplicates and orders appends by producer id, epoch and per-shard sequence.
pub const CAPABILITY_PRODUCER_SEQUENCE: &str = "producer-sequence";

/// Capability: the server tells a consumer that asks which acknowledgements are durable.
pub const CAPABILITY_ACK_CONFIRMATION: &str = "ack-confirmation";

/// Capability: the server takes a policy of redelivery with a subscription.
pub const CAPABILITY_SUBSCRIPTION_POLICY: &str = "subscription-policy";

/// `StreamingFetch` request metadata: `1` when the consumer wants messages without a record whose ids are durable
/// checkpoints.
pub const ACK_CONFIRMATION: &str = "x-hstream-ack-confirmation";

/// `StreamingFetch` request metadata: what tells one consumer from all others for as long as it lives, at most 64 bytes. A
/// call under the name of an attached consumer takes its place if both say the same; otherwise the name is taken.
pub const CONSUMER_INSTANCE: &str = "x-hstream-consumer-instance";

/// `StreamingFetch` response metadata: decimal `u64` that changes whenever the subscription is another one of the
/// same name or was moved to another position. Acknowledgements given under another value mean nothing.
pub const SUBSCRIPTION_INCARNATION: &str = "x-hstream-subscription-incarnation";

/// `ReadShardStream`, `ReadSingleShardStream`, `ReadStream` and `ReadStreamByKey`, request metadata: `1` when the reader
/// wants to be told what is missing. The response metadata of a server that tells has the same key and value.
pub const READ_GAPS: &str = "x-hstream-read-gaps";

/// Batch index of the first id in a message about a gap: the records were acknowledged and cannot be read any more.
pub const GAP_LOST: u32 = 0;

/// Batch index of the first id in a message about a gap: the records were trimmed or outlived their retention.
pub const GAP_TRIMMED: u32 = 1;

/// `CreateSubscription` request metadata: `true` or `false`; whether what a departed consumer has not acknowledged
/// goes to others at once.
pub const REDELIVER_ON_DISCONNECT: &str = "x-hstream-redeliver-on-disconnect";

/// `CreateSubscription` request metadata: decimal `u32`; deliveries of a record before it goes to the dead-letter
/// stream.
pub const MAX_DELIVERIES: &str = "x-hstream-max-deliveries";

/// `CreateSubscription` request metadata: UTF-8 name of the dead-letter stream.
pub const DEAD_LETTER_STREAM: &str = "x-hstream-dead-letter-stream-bin";

/// `Append` request metadata: producer id, 32 lower-case hexadecimal digits, never all zero.
pub const PRODUCER_ID: &str = "x-hstream-producer-id";

/// `Append` request metadata: producer epoch, decimal `u32`. A higher epoch fences all lower ones of that id
/// on that shard and restarts its sequence at 0.
pub const PRODUCER_EPOCH: &str = "x-hstream-producer-epoch";

/// `Append` request metadata: sequence of this batch among all batches of this producer epoch on this shard,
/// decimal `u64`, starting at 0 and growing by one.
pub const PRODUCER_SEQUENCE: &str = "x-hstream-producer-sequence";

/// `Append` response metadata: `1` when the batch had been stored by an earlier call and these are its first ids.
pub const PRODUCER_REPEAT: &str = "x-hstream-producer-repeat";

/// Largest distance between the newest stored sequence of a producer and one whose ids are still known.
/// A client keeps at most this many batches of one shard in flight.
pub const PRODUCER_WINDOW: u64 = 64;

/// `message` members of the error bodies that answer a producer's stamp. All carry code 0.
pub mod producer_error {
    /// ABORTED. The batch before this one has not arrived; nothing was stored, send the missing ones first.
    pub const SEQUENCE_GAP: &str = "ProducerSequenceGap";
    /// FAILED_PRECONDITION. A producer with a higher epoch has written; nothing was stored, and never will be.
    pub const FENCED: &str = "ProducerFenced";
    /// FAILED_PRECONDITION. The batch was stored once, but so long ago that its ids are no longer known.
    pub const SEQUENCE_TOO_OLD: &str = "ProducerSequenceTooOld";
    /// FAILED_PRECONDITION. The server no longer remembers this producer, so it cannot tell a repeat from
    /// a new batch; nothing was stored by this call.
    pub const EXPIRED: &str = "ProducerExpired";
    /// RESOURCE_EXHAUSTED. The table of producers is full of live ones; nothing was stored.
    pub const TABLE_FULL: &str = "ProducerTableFull";
}
