//! How far a reader has come, in a form that another process can go on from.

use crate::error::{Error, ErrorKind, Result};
use crate::record::{Offset, RecordId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// Where reading of one shard begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Start {
    /// At the oldest record.
    Earliest,
    /// At the first record appended at or after this time.
    Time(i64),
    /// At the batch of this record, whole.
    At(RecordId),
    /// At the first batch from here on; there need not be one with this id.
    Next(RecordId),
    /// Behind this record, which was read.
    After(RecordId),
}

/// How far a reader has come: per shard the last record that was read, or where reading begins.
///
/// Its text form is one line; it can be kept anywhere and be read again by another process or in another language. With
/// `serde` it is that text.
///
/// ```
/// use hstreamdb::{RecordId, StreamPosition};
///
/// let mut position = StreamPosition::new();
/// position.advance("7-1000000000000000003-2".parse::<RecordId>()?);
/// let kept = position.to_string();
/// assert_eq!(kept, "7:>1000000000000000003-2");
/// assert_eq!(kept.parse::<StreamPosition>()?, position);
/// # Ok::<(), hstreamdb::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamPosition(BTreeMap<u64, Start>);

impl StreamPosition {
    /// Before everything: shards it does not name are read from their oldest record.
    pub fn new() -> Self {
        StreamPosition::default()
    }

    /// Whether it names no shard.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The shards it names, in the order of their ids.
    pub fn shards(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied()
    }

    /// The last record that was read of a shard; `None` when none was.
    pub fn last_read(&self, shard_id: u64) -> Option<RecordId> {
        match self.0.get(&shard_id) {
            Some(Start::After(id)) => Some(*id),
            _ => None,
        }
    }

    /// Everything of the record's shard up to it, itself included, was read. A position never goes back: an earlier record
    /// changes nothing.
    pub fn advance(&mut self, record: RecordId) {
        let place = self.0.entry(record.shard_id).or_insert(Start::After(record));
        match place {
            Start::After(last) if *last >= record => {}
            _ => *place = Start::After(record),
        }
    }

    pub(super) fn begin(&mut self, shard_id: u64, start: Start) {
        self.0.insert(shard_id, start);
    }

    pub(super) fn start_of(&self, shard_id: u64) -> Option<Start> {
        self.0.get(&shard_id).copied()
    }
}

/// `shard:place,shard:place`; a place is `earliest`, `t` and milliseconds, or a batch and an index: as they are for
/// the whole batch, with `>=` for what comes from there on, with `>` for what comes behind.
impl fmt::Display for StreamPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (shard, start)) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            write!(f, "{shard}:")?;
            match start {
                Start::Earliest => f.write_str("earliest")?,
                Start::Time(ms) => write!(f, "t{ms}")?,
                Start::At(id) => write!(f, "{}-{}", id.batch_id, id.batch_index)?,
                Start::Next(id) => write!(f, ">={}-{}", id.batch_id, id.batch_index)?,
                Start::After(id) => write!(f, ">{}-{}", id.batch_id, id.batch_index)?,
            }
        }
        Ok(())
    }
}

impl FromStr for StreamPosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut position = StreamPosition::new();
        for entry in text.split(',').filter(|_| !text.is_empty()) {
            let parsed = entry.split_once(':').and_then(|(shard, place)| {
                let shard = shard.parse().ok()?;
                Some((shard, place_of(shard, place)?))
            });
            let fresh = parsed.is_some_and(|(shard, start)| position.0.insert(shard, start).is_none());
            if !fresh {
                return Err(Error::new(ErrorKind::InvalidArgument, "parse position").with_message(format!(
                    "{:?} is none of shard:earliest, shard:t<ms>, shard:batch-index, shard:>=batch-index, \
                     shard:>batch-index, or names a shard twice",
                    entry.chars().take(80).collect::<String>()
                )));
            }
        }
        Ok(position)
    }
}

fn place_of(shard_id: u64, place: &str) -> Option<Start> {
    let id = |text: &str| {
        let (batch, index) = text.split_once('-')?;
        Some(RecordId { shard_id, batch_id: batch.parse().ok()?, batch_index: index.parse().ok()? })
    };
    if place == "earliest" {
        return Some(Start::Earliest);
    }
    if let Some(ms) = place.strip_prefix('t') {
        return ms.parse().ok().map(Start::Time);
    }
    if let Some(rest) = place.strip_prefix(">=") {
        return id(rest).map(Start::Next);
    }
    match place.strip_prefix('>') {
        Some(rest) => id(rest).map(Start::After),
        None => id(place).map(Start::At),
    }
}

impl Serialize for StreamPosition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StreamPosition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Where a reader starts: an [`Offset`], the same for all shards, or the [`StreamPosition`] of an earlier reader.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadFrom {
    /// At an offset.
    Offset(Offset),
    /// Where an earlier reader stopped. Shards it does not name are read from their oldest record.
    Position(StreamPosition),
}

impl From<Offset> for ReadFrom {
    fn from(offset: Offset) -> Self {
        ReadFrom::Offset(offset)
    }
}

impl From<StreamPosition> for ReadFrom {
    fn from(position: StreamPosition) -> Self {
        ReadFrom::Position(position)
    }
}

impl From<&StreamPosition> for ReadFrom {
    fn from(position: &StreamPosition) -> Self {
        ReadFrom::Position(position.clone())
    }
}

/// From the text of either.
impl FromStr for ReadFrom {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // No offset has a colon in its text, and every position has one.
        if text.contains(':') {
            text.parse().map(ReadFrom::Position)
        } else {
            text.parse().map(ReadFrom::Offset)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(batch_id: u64, batch_index: u32) -> RecordId {
        RecordId { shard_id: 7, batch_id, batch_index }
    }

    #[test]
    fn every_place_survives_a_round_trip_through_text_and_serde() {
        let mut position = StreamPosition::new();
        let starts = [
            Start::Earliest,
            Start::Time(-5),
            Start::At(id(u64::MAX, u32::MAX)),
            Start::Next(id(10, 0)),
            Start::After(id(11, 3)),
        ];
        for (shard, start) in (1..).zip(starts) {
            let start = match start {
                Start::At(id) => Start::At(RecordId { shard_id: shard, ..id }),
                Start::Next(id) => Start::Next(RecordId { shard_id: shard, ..id }),
                Start::After(id) => Start::After(RecordId { shard_id: shard, ..id }),
                other => other,
            };
            position.begin(shard, start);
        }
        let text = position.to_string();
        assert_eq!(text, "1:earliest,2:t-5,3:18446744073709551615-4294967295,4:>=10-0,5:>11-3");
        assert_eq!(text.parse::<StreamPosition>().unwrap(), position);
        let json = serde_json::to_string(&position).unwrap();
        assert_eq!(serde_json::from_str::<StreamPosition>(&json).unwrap(), position);
        assert_eq!("".parse::<StreamPosition>().unwrap(), StreamPosition::new());
    }

    #[test]
    fn other_texts_are_refused_with_the_part_that_is_none() {
        for text in
            ["7", "7:", "x:earliest", "7:t", "7:>5", "7:=5-1", "7:earliest,", "7:earliest,7:t1", ",", "7:>-1"]
        {
            let error = text.parse::<StreamPosition>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text:?}");
        }
    }

    #[test]
    fn a_position_only_goes_forward() {
        let mut position = StreamPosition::new();
        position.begin(7, Start::Earliest);
        assert_eq!(position.last_read(7), None);
        position.advance(id(10, 1));
        position.advance(id(10, 0));
        position.advance(id(9, 9));
        assert_eq!(position.last_read(7), Some(id(10, 1)));
        position.advance(id(10, 2));
        assert_eq!(position.last_read(7), Some(id(10, 2)));
        assert_eq!(position.shards().collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn where_to_start_is_read_from_either_text() {
        assert_eq!("latest".parse::<ReadFrom>().unwrap(), ReadFrom::Offset(Offset::Latest));
        assert_eq!("7-10-1".parse::<ReadFrom>().unwrap(), ReadFrom::Offset(Offset::Record(id(10, 1))));
        let mut position = StreamPosition::new();
        position.advance(id(10, 1));
        assert_eq!("7:>10-1".parse::<ReadFrom>().unwrap(), ReadFrom::Position(position));
    }
}
