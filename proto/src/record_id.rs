//! `RecordId` as text: `<shard>-<batch>-<index>`, decimal, the form every client, tool and trim call uses.

use crate::api::RecordId;
use std::{cmp::Ordering, fmt, str::FromStr};

/// A text that is not `<shard>-<batch>-<index>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a record id: expected <shard>-<batch>-<index>, three decimal numbers")]
pub struct ParseRecordIdError {
    text: String,
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.shard_id, self.batch_id, self.batch_index)
    }
}

impl FromStr for RecordId {
    type Err = ParseRecordIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseRecordIdError { text: text.chars().take(80).collect() };
        let mut parts = text.split('-');
        let mut next = || {
            // `u64::from_str` would accept a leading `+`.
            parts.next().filter(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
        };
        let (shard, batch, index) = match (next(), next(), next()) {
            (Some(shard), Some(batch), Some(index)) => (shard, batch, index),
            _ => return Err(error()),
        };
        if parts.next().is_some() {
            return Err(error());
        }
        Ok(RecordId {
            shard_id: shard.parse().map_err(|_| error())?,
            batch_id: batch.parse().map_err(|_| error())?,
            batch_index: index.parse().map_err(|_| error())?,
        })
    }
}

impl PartialOrd for RecordId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RecordId {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.shard_id, self.batch_id, self.batch_index).cmp(&(
            other.shard_id,
            other.batch_id,
            other.batch_index,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_survives_a_round_trip() {
        let id = RecordId { shard_id: 7, batch_id: 1_000_000_000_000_000_001, batch_index: 42 };
        assert_eq!(id.to_string(), "7-1000000000000000001-42");
        assert_eq!("7-1000000000000000001-42".parse(), Ok(id));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "1", "1-2", "1-2-3-4", "a-2-3", "1--3", "+1-2-3", "1-2-4294967296", " 1-2-3"] {
            assert!(text.parse::<RecordId>().is_err(), "{text:?}");
        }
    }
}
