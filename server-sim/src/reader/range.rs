//! Offsets as clients name them, and the LSNs they mean on a shard at the time of the call.

use crate::error::{Class, Result, ServerError};
use crate::store::{FIRST_LSN, LogStore, Lsn, ShardId};
use hstreamdb_proto::api::{RecordId, ShardOffset, SpecialOffset, StreamOffset};
use hstreamdb_proto::api::{shard_offset, stream_offset};

/// LSN that stands for "the oldest": below everything, so that it conflicts with no end.
const OLDEST: Lsn = 1;

/// A place in a shard as a client names it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Offset {
    /// The oldest record there is.
    Earliest,
    /// As a start only what comes later; as an end everything there is now.
    Latest,
    /// The batch of this record, whole.
    Record(RecordId),
    /// The first batch appended at or after this time, in milliseconds since 1970.
    Time(u64),
}

impl Offset {
    /// Reads an offset off the wire; `None` where the message or its content is absent.
    ///
    /// # Errors
    /// [`Class::InvalidShardOffset`] for a special offset that is none.
    pub fn of_shard(offset: Option<ShardOffset>) -> Result<Option<Self>> {
        match offset.and_then(|offset| offset.offset) {
            None => Ok(None),
            Some(shard_offset::Offset::SpecialOffset(special)) => Self::special(special).map(Some),
            Some(shard_offset::Offset::RecordOffset(id)) => Ok(Some(Offset::Record(id))),
            Some(shard_offset::Offset::TimestampOffset(time)) => Ok(Some(Self::time(time.timestamp_in_ms))),
        }
    }

    /// As [`Offset::of_shard`], for the offsets of a whole stream.
    ///
    /// # Errors
    /// [`Class::InvalidShardOffset`] for a special offset that is none.
    pub fn of_stream(offset: Option<StreamOffset>) -> Result<Option<Self>> {
        match offset.and_then(|offset| offset.offset) {
            None => Ok(None),
            Some(stream_offset::Offset::SpecialOffset(special)) => Self::special(special).map(Some),
            Some(stream_offset::Offset::TimestampOffset(time)) => Ok(Some(Self::time(time.timestamp_in_ms))),
        }
    }

    fn special(special: i32) -> Result<Self> {
        match SpecialOffset::try_from(special) {
            Ok(SpecialOffset::Earliest) => Ok(Offset::Earliest),
            Ok(SpecialOffset::Latest) => Ok(Offset::Latest),
            Err(_) => Err(ServerError::new(
                Class::InvalidShardOffset,
                format!("there is no special offset {special}; 0 is EARLIEST, 1 is LATEST"),
            )),
        }
    }

    fn time(ms: i64) -> Self {
        Offset::Time(u64::try_from(ms).unwrap_or(0))
    }

    fn check_shard(self, shard: ShardId) -> Result<()> {
        match self {
            Offset::Record(id) if id.shard_id != shard => Err(ServerError::new(
                Class::ConflictShardReaderOffset,
                format!("the offset {id} is of shard {}, but shard {shard} is read", id.shard_id),
            )),
            _ => Ok(()),
        }
    }

    /// LSN to start at; `None` means the oldest.
    ///
    /// # Errors
    /// [`Class::ConflictShardReaderOffset`] for a record of another shard; what the store reports.
    pub async fn start(offset: Option<Self>, log: &dyn LogStore, shard: ShardId) -> Result<Lsn> {
        if offset == Some(Offset::Latest) {
            log.catch_up(&[shard]).await?;
        }
        let tail = log.tail(shard)?;
        let Some(offset) = offset else { return Ok(OLDEST) };
        offset.check_shard(shard)?;
        Ok(match offset {
            Offset::Earliest => OLDEST,
            Offset::Latest => tail.saturating_add(1),
            Offset::Record(id) => id.batch_id,
            Offset::Time(ms) => log.find_time(shard, ms).await?,
        })
    }
}

/// The LSNs one call reads of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardRange {
    /// First LSN to read.
    pub start: Lsn,
    /// Last LSN to read; `None` follows the tail for ever.
    pub end: Option<Lsn>,
}

impl ShardRange {
    /// Resolves the two ends of a read now.
    ///
    /// # Errors
    /// [`Class::ConflictShardReaderOffset`] when the start lies behind the end or an offset names another
    /// shard; what the store reports.
    pub async fn resolve(
        log: &dyn LogStore,
        shard: ShardId,
        from: Option<Offset>,
        until: Option<Offset>,
    ) -> Result<Self> {
        let start = Offset::start(from, log, shard).await?;
        let Some(until) = until else {
            return Ok(ShardRange { start: start.max(FIRST_LSN), end: None });
        };
        until.check_shard(shard)?;
        if matches!(until, Offset::Latest | Offset::Time(_)) {
            log.catch_up(&[shard]).await?;
        }
        let tail = log.tail(shard)?;
        let (nominal, end) = match until {
            Offset::Earliest => (OLDEST, OLDEST),
            Offset::Latest => (tail, tail),
            Offset::Record(id) => (id.batch_id, id.batch_id),
            Offset::Time(ms) => {
                // Append times never step back within a shard, so what lies at or before `ms` ends right
                // before the first batch that is later.
                let at = log.find_time(shard, ms).await?.min(tail);
                let later = log.find_time(shard, ms.saturating_add(1)).await?;
                (at, later.saturating_sub(1).min(tail))
            }
        };
        if start > nominal {
            return Err(ServerError::new(
                Class::ConflictShardReaderOffset,
                format!("the read of shard {shard} would start at LSN {start}, behind its end {nominal}"),
            ));
        }
        Ok(ShardRange { start: start.max(FIRST_LSN), end: Some(end) })
    }
}
