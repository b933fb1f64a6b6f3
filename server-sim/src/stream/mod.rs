//! Streams and their shards: which exist, under which identity, and in which order they come and go.

mod catalogue;
mod ids;
mod index;
mod name;

pub use catalogue::{NewStream, Streams};
pub use name::{check_lookup_id, check_name};

use crate::store::ShardId;
use serde::{Deserialize, Serialize};

/// Identity of a stream. Unique for ever: a stream created again under an old name has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamId(pub u64);

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One shard of a stream and the key range it takes, both ends inclusive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Identity of the shard: positive, below 2^63, never used again.
    pub id: ShardId,
    /// First point of the key space it takes.
    #[serde(with = "decimal")]
    pub start: u128,
    /// Last point of the key space it takes.
    #[serde(with = "decimal")]
    pub end: u128,
}

/// A stream as created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Identity.
    pub id: StreamId,
    /// Name; of an archived stream the one it had.
    pub name: String,
    /// As asked for by the creator; this store keeps one copy.
    pub replication_factor: u32,
    /// Records older than this many seconds may be removed; 0 keeps them for ever.
    pub backlog_secs: u32,
    /// Creation time in milliseconds since 1970.
    pub created_ms: u64,
    /// Shards in key order.
    pub shards: Vec<Shard>,
    /// Deleted by force while subscriptions referred to it: has no name any more, only they still read it.
    pub archived: bool,
}

impl Stream {
    /// The shard of that identity, if it is one of this stream's.
    pub fn shard(&self, id: ShardId) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.id == id)
    }

    /// The shard that takes `point` of the key space.
    pub fn shard_of(&self, point: u128) -> Option<&Shard> {
        self.shards.iter().find(|shard| (shard.start..=shard.end).contains(&point))
    }
}

/// 128-bit numbers as decimal text, because JSON readers round large numbers.
mod decimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
