//! Where a record is, and where reading starts.

use crate::error::{Error, ErrorKind};
use hstreamdb_proto::api;
use std::{fmt, str::FromStr};

/// Identity and position of a stored record. Ordered within a shard; text form `<shard>-<batch>-<index>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RecordId {
    /// Shard the record is in.
    pub shard_id: u64,
    /// Log sequence number of its batch. Grows with gaps.
    pub batch_id: u64,
    /// Place in its batch, from 0.
    pub batch_index: u32,
}

impl RecordId {
    /// The wire form.
    pub(crate) fn to_wire(self) -> api::RecordId {
        api::RecordId { shard_id: self.shard_id, batch_id: self.batch_id, batch_index: self.batch_index }
    }
}

impl From<api::RecordId> for RecordId {
    fn from(id: api::RecordId) -> Self {
        RecordId { shard_id: id.shard_id, batch_id: id.batch_id, batch_index: id.batch_index }
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.shard_id, self.batch_id, self.batch_index)
    }
}

impl FromStr for RecordId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.parse::<api::RecordId>().map(RecordId::from).map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, "parse record id").with_message(error.to_string())
        })
    }
}

/// Where reading starts or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Offset {
    /// The oldest record that is still stored.
    Earliest,
    /// After the newest record there is now.
    Latest,
    /// A record, itself included.
    Record(RecordId),
    /// The first record appended at or after this time, in milliseconds since 1970.
    Timestamp(i64),
}

/// From `earliest`, `latest`, a record id or milliseconds since 1970.
impl FromStr for Offset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "earliest" => Ok(Offset::Earliest),
            "latest" => Ok(Offset::Latest),
            _ if text.contains('-') && !text.starts_with('-') => text.parse().map(Offset::Record),
            _ => text.parse().map(Offset::Timestamp).map_err(|_| {
                Error::new(ErrorKind::InvalidArgument, "parse offset").with_message(format!(
                    "{:?} is none of earliest, latest, a record id, milliseconds since 1970",
                    text.chars().take(80).collect::<String>()
                ))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_survives_a_round_trip_and_orders_by_number() {
        let id = RecordId { shard_id: 7, batch_id: 1_000_000_000_000_000_001, batch_index: 42 };
        assert_eq!(id.to_string(), "7-1000000000000000001-42");
        assert_eq!("7-1000000000000000001-42".parse::<RecordId>().unwrap(), id);
        assert!(RecordId { batch_index: 9, ..id } < RecordId { batch_index: 10, ..id });
        assert_eq!(RecordId::from(id.to_wire()), id);
    }

    #[test]
    fn other_texts_are_invalid_arguments_that_show_the_text() {
        let error = "7-8".parse::<RecordId>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("7-8"), "{error}");
    }

    #[test]
    fn offsets_are_read_from_text() {
        let parse = |text: &str| text.parse::<Offset>();
        assert_eq!(parse("earliest").unwrap(), Offset::Earliest);
        assert_eq!(parse("1700000000000").unwrap(), Offset::Timestamp(1_700_000_000_000));
        let id = RecordId { shard_id: 1, batch_id: 2, batch_index: 3 };
        assert_eq!(parse("1-2-3").unwrap(), Offset::Record(id));
        for text in ["", "soon", "1-2", "-x"] {
            assert_eq!(parse(text).unwrap_err().kind(), ErrorKind::InvalidArgument, "{text:?}");
        }
    }
}
