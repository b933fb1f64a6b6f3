//! What a close has to say about records it could not wait for.

use crate::error::Error;
use std::{collections::BTreeMap, fmt};

/// What became of a producer's records, over its whole life. Records refused on the spot are not in it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CloseReport {
    /// Stored.
    pub acknowledged: u64,
    /// Failed before the close ended; their receipts say why, and whether they may be stored all the same.
    pub failed: u64,
    /// Given up because the time of the close was over: the sum over [`shards`](Self::shards).
    pub unresolved: u64,
    /// Where records were given up, ascending by shard. Their receipts tell which: `OutcomeUnknown` for those that
    /// may be stored, `Closed` for those that are not.
    pub shards: Vec<UnresolvedShard>,
}

/// Records of one shard that a close gave up.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct UnresolvedShard {
    /// The shard.
    pub shard_id: u64,
    /// Records that were on their way: look before appending them again.
    pub may_be_stored: u64,
    /// Records that are certainly not stored: append them again.
    pub not_stored: u64,
    /// Why the shard took nothing, if a try had failed.
    pub cause: Option<Error>,
}

/// Reads as `3 records were given up (shard 7: 1 may be stored, 2 are not: append at ...)`.
impl fmt::Display for CloseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records were given up", self.unresolved)?;
        for (at, shard) in self.shards.iter().take(SHOWN).enumerate() {
            f.write_str(if at == 0 { " (" } else { "; " })?;
            write!(
                f,
                "shard {}: {} may be stored, {} are not",
                shard.shard_id, shard.may_be_stored, shard.not_stored
            )?;
            if let Some(cause) = &shard.cause {
                write!(f, ": {cause}")?;
            }
        }
        match self.shards.len() {
            0 => Ok(()),
            count if count > SHOWN => write!(f, "; and {} more shards)", count - SHOWN),
            _ => f.write_str(")"),
        }
    }
}

/// Shards named in a message.
const SHOWN: usize = 3;

impl CloseReport {
    pub(super) fn new(acknowledged: u64, failed: u64, unresolved: &Unresolved) -> Self {
        let shards: Vec<_> = unresolved.0.values().cloned().collect();
        CloseReport { acknowledged, failed, unresolved: unresolved.records(), shards }
    }
}

/// What is given up so far, by shard.
#[derive(Debug, Default)]
pub(super) struct Unresolved(BTreeMap<u64, UnresolvedShard>);

impl Unresolved {
    /// All of them.
    pub fn records(&self) -> u64 {
        self.0.values().map(|shard| shard.may_be_stored + shard.not_stored).sum()
    }

    pub fn add(&mut self, shard_id: u64, records: u64, unclear: bool, cause: Option<Error>) {
        let shard =
            self.0.entry(shard_id).or_insert_with(|| UnresolvedShard { shard_id, ..Default::default() });
        if unclear {
            shard.may_be_stored += records;
        } else {
            shard.not_stored += records;
        }
        // The oldest batch's says most: the others wait for it.
        shard.cause = shard.cause.take().or(cause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_report_says_where_how_many_and_why() {
        let mut unresolved = Unresolved::default();
        unresolved.add(7, 1, true, Some(Error::new(ErrorKind::Unavailable, "append").with_node("a:1")));
        unresolved.add(7, 2, false, None);
        let report = CloseReport::new(5, 0, &unresolved);
        assert_eq!(
            report.to_string(),
            "3 records were given up (shard 7: 1 may be stored, 2 are not: append at a:1: unavailable)"
        );
        for shard in 8..12 {
            unresolved.add(shard, 1, false, None);
        }
        assert!(CloseReport::new(0, 0, &unresolved).to_string().ends_with("; and 2 more shards)"));
        assert_eq!(CloseReport::default().to_string(), "0 records were given up");
    }
}
