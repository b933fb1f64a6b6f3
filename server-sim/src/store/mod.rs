//! Where data lives: the traits the domain stands on, and the engines that implement them.
//!
//! [`LogStore`] keeps the records of every shard, [`MetaStore`] everything else (streams, subscriptions,
//! checkpoints, readers). `embedded` implements both on local disk through an injected `Disk`; an engine on a
//! replicated store implements the same two traits and nothing else changes.

#[cfg(test)]
pub(crate) mod contract;
pub mod disk;
pub mod embedded;
mod follow;
mod gate;
mod identity;
pub mod jetstream;
mod link;
mod meta_watch;
pub mod producer_table;
#[cfg(test)]
pub(crate) mod staged;
mod tail_watch;
mod varint;

pub use follow::{Follower, Mirror, View};
pub use identity::StoreId;
pub use link::{LINK_TIMEOUT, StoreLink};
pub use meta_watch::{MetaChange, MetaFeeds, MetaWatch, Seen};
pub use tail_watch::{TailClosed, TailWatch};

use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;

/// The smallest log sequence number a shard hands out is `FIRST_LSN`; `FIRST_LSN - 1` is the tail of an empty
/// shard. 10^18 keeps every id 19 digits long and below 2^63, because some clients compare ids as text and
/// some parse them as signed.
pub const FIRST_LSN: u64 = 1_000_000_000_000_000_001;

/// Shard identity. Unique for ever, never reused, non-zero, below 2^63.
pub type ShardId = u64;

/// Log sequence number of a batch inside its shard. Grows strictly; gaps are normal.
pub type Lsn = u64;

/// What a shard needs to exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardSpec {
    /// Identity of the shard.
    pub shard: ShardId,
    /// Records older than this many seconds may be removed; 0 keeps them for ever.
    pub retention_secs: u32,
    /// Copies on different machines, at least 1. An engine that keeps one copy ignores it; one that cannot keep so many
    /// keeps as many as it can and says so once.
    pub replicas: u32,
}

/// A batch on its way into a shard: the `BatchedRecord` message exactly as received.
#[derive(Debug, Clone)]
pub struct NewBatch {
    /// Encoded `BatchedRecord`. Never decoded on this path.
    pub bytes: Bytes,
    /// How many records the batch says it holds, at least 1.
    pub records: u32,
    /// Present when the client asked for exactly-once; see [`ProducerStamp`].
    pub producer: Option<ProducerStamp>,
}

/// Identity and place of a batch among all batches of its producer on one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerStamp {
    /// Random identity of the producer, never 0.
    pub id: u128,
    /// A higher epoch fences all lower ones.
    pub epoch: u32,
    /// Starts at 0 in every epoch and grows by one.
    pub sequence: u64,
}

/// Where an append ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// LSN of the batch.
    pub lsn: Lsn,
    /// Records of the stored batch (of the first one, for a repeat).
    pub records: u32,
    /// Append time in milliseconds since 1970; max(previous of the shard, clock).
    pub time_ms: u64,
    /// True when an earlier call had stored this stamp and nothing was written now.
    pub repeat: bool,
}

/// A batch as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBatch {
    /// LSN of the batch.
    pub lsn: Lsn,
    /// Append time in milliseconds since 1970.
    pub time_ms: u64,
    /// Records in the batch.
    pub records: u32,
    /// Encoded `BatchedRecord` as received.
    pub bytes: Bytes,
}

/// How much one read may return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// At most this many batches.
    pub max_batches: usize,
    /// Stop before the batch that would exceed this many bytes; the first batch is returned whatever its size.
    pub max_bytes: usize,
}

/// Why a range of LSNs has no data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapKind {
    /// Removed by a trim or by retention; readers skip it silently.
    Trimmed,
    /// Acknowledged data that can no longer be read: reported, never served.
    DataLoss,
}

/// A range of LSNs without data, both ends inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Why.
    pub kind: GapKind,
    /// First missing LSN.
    pub from: Lsn,
    /// Last missing LSN.
    pub to: Lsn,
}

/// Result of one read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadChunk {
    /// A gap that lies before the first returned batch. A read ends at a gap that follows data, so that the
    /// next read reports it.
    pub gap: Option<Gap>,
    /// Batches in LSN order.
    pub batches: Vec<StoredBatch>,
    /// Where the next read continues; equals `from` when nothing was there.
    pub next: Lsn,
}

/// What can go wrong in a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The shard does not exist (any more).
    #[error("shard {0} does not exist")]
    ShardNotFound(ShardId),
    /// The shard exists already.
    #[error("shard {0} exists already")]
    ShardExists(ShardId),
    /// A producer's stamp was refused; nothing was stored by this call.
    #[error(transparent)]
    Stamp(#[from] StampError),
    /// The disk is full (its reserve for trims and checkpoints aside); nothing was stored.
    #[error("the disk is full: {0}")]
    DiskFull(String),
    /// An earlier write or sync failed; the store takes no writes until it is opened again, because what
    /// reached the disk is unknown. Whether this call's data was stored is unknown, too.
    #[error("the store stopped taking writes: {0}")]
    Poisoned(String),
    /// Stored data does not match its checksum.
    #[error("stored data is corrupt: {0}")]
    Corrupt(String),
    /// A compare-and-set found another version.
    #[error("{key:?} was changed by somebody else")]
    Conflict {
        /// The key.
        key: String,
    },
    /// The store did not answer. What was asked of it may have been done all the same, or may yet be.
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    /// The store is closing.
    #[error("the store is closed")]
    Closed,
    /// An operation of the operating system failed.
    #[error("{0}")]
    Io(String),
}

/// Why a producer's stamp was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StampError {
    /// Batches before this one have not arrived.
    #[error("sequence {got} arrived, {expected} is the next one")]
    Gap {
        /// The sequence the shard waits for.
        expected: u64,
        /// The sequence that came.
        got: u64,
    },
    /// A producer with a higher epoch has written.
    #[error("epoch {got} is fenced by epoch {current}")]
    Fenced {
        /// Highest epoch seen.
        current: u32,
        /// The epoch that came.
        got: u32,
    },
    /// Stored, but too long ago to know its ids.
    #[error("sequence {got} was stored long ago; the oldest one still known is {oldest}")]
    TooOld {
        /// Oldest sequence whose ids are known.
        oldest: u64,
        /// The sequence that came.
        got: u64,
    },
    /// The producer is unknown and this is not its first batch.
    #[error("this producer is not known (any more)")]
    Expired,
    /// No room for another producer.
    #[error("the table of producers is full")]
    TableFull,
}

/// Result of a store operation.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The records of every shard.
#[async_trait]
pub trait LogStore: Send + Sync + fmt::Debug + 'static {
    /// Creates all the shards or none; durable on return.
    async fn create_shards(&self, shards: &[ShardSpec]) -> Result<()>;

    /// Removes shards and, in time, their data; unknown ones are ignored. Waiting readers and appends end with
    /// [`StoreError::ShardNotFound`].
    async fn delete_shards(&self, shards: &[ShardId]) -> Result<()>;

    /// All shards there are.
    fn shards(&self) -> Vec<ShardSpec>;

    /// Appends one batch and resolves after it is durable (`fdatasync` has returned).
    ///
    /// LSNs of one shard are handed out in the order in which the futures returned here are first polled.
    /// With a [`ProducerStamp`] the batch is stored exactly once: a repeat waits until the first copy is
    /// durable and answers with its ids, anything out of place is a [`StampError`].
    /// Dropping the future does not take the batch back.
    async fn append(&self, shard: ShardId, batch: NewBatch) -> Result<Appended>;

    /// Reads from LSN `from` (inclusive), never beyond the durable tail and never waiting for new data.
    async fn read(&self, shard: ShardId, from: Lsn, limits: ReadLimits) -> Result<ReadChunk>;

    /// LSN of the last durable batch; `FIRST_LSN - 1` if nothing was ever appended.
    fn tail(&self, shard: ShardId) -> Result<Lsn>;

    /// The tail as it moves; closes when the shard is deleted.
    fn watch_tail(&self, shard: ShardId) -> Result<TailWatch>;

    /// First LSN that can still be read (the tail + 1 if there is none).
    fn trim_point(&self, shard: ShardId) -> Result<Lsn>;

    /// Removes everything up to and including `up_to`; durable on return. Beyond the tail means the tail, and
    /// trimming never moves back.
    async fn trim(&self, shard: ShardId, up_to: Lsn) -> Result<()>;

    /// LSN of the first readable batch whose append time is at least `time_ms`; tail + 1 if there is none.
    async fn find_time(&self, shard: ShardId, time_ms: u64) -> Result<Lsn>;

    /// Waits until [`LogStore::tail`] and [`LogStore::trim_point`] of these shards tell everything that was acknowledged
    /// before this call, by whatever node over the same store. For what is promised by those two; not for hot paths.
    ///
    /// An engine that has one process, or whose tails never lag, returns at once. Shards that do not exist are ignored.
    async fn catch_up(&self, _shards: &[ShardId]) -> Result<()> {
        Ok(())
    }
}

/// A value and the version a compare-and-set names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Bytes,
    /// Grows with every change of the key.
    pub version: u64,
}

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything, also nothing.
    Any,
    /// No value.
    Absent,
    /// This version.
    Version(u64),
}

/// What must still be so when a write lands: this key has this version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The key that is looked at; it is not written.
    pub key: String,
    /// The version it must have.
    pub version: u64,
}

/// Small, important state: streams, subscriptions, checkpoints, readers, leases.
///
/// Keys are `/`-separated text. Every change is durable when its future resolves. Only single keys are atomic;
/// what spans keys must be written in an order that survives a stop between any two of them.
#[async_trait]
pub trait MetaStore: Send + Sync + fmt::Debug + 'static {
    /// One value.
    async fn get(&self, key: &str) -> Result<Option<Versioned>>;

    /// All values whose key starts with `prefix`, in key order.
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>>;

    /// Writes a value if the expectation holds and returns its new version.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it does not hold; nothing was written.
    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64>;

    /// Writes many values with one sync; a stop in between may leave some of them written. With a `guard` each of
    /// them is written only if the guard's key has the guard's version at that moment.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] naming the guard's key if it has another version.
    async fn put_many(&self, values: Vec<(String, Bytes)>, guard: Option<Guard>) -> Result<()>;

    /// Removes a value if the expectation holds; removing what is absent is fine under [`Expect::Any`].
    async fn delete(&self, key: &str, expect: Expect) -> Result<()>;

    /// Changes of the keys that start with `prefix`, beginning with those made after this call.
    ///
    /// Whoever keeps a copy in memory calls this first and [`MetaStore::list`] then, and takes a change only if its
    /// version is above the one it has of that key.
    fn watch(&self, prefix: &str) -> MetaWatch;

    /// Waits until everything that was written before this call, by whomever, is in the watches; false from an engine
    /// that cannot tell: whoever has to know lists the prefix.
    async fn settle(&self) -> Result<bool> {
        Ok(false)
    }
}
