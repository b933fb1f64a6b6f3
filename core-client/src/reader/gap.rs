//! What a reader could not deliver.

use crate::metrics::Metrics;
use crate::record::RecordId;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Gaps that are kept for [`Reader::gaps`](crate::Reader::gaps); older ones are only counted.
const KEPT: usize = 100;

/// Why records are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GapKind {
    /// They were trimmed or outlived their retention before they were read.
    Trimmed,
    /// They were stored and acknowledged, and the server has lost them.
    Lost,
    /// The server may not read them.
    Forbidden,
    /// The server did not say, or could not: some or all of what lies there may never have been records.
    Unknown,
}

impl GapKind {
    /// Name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            GapKind::Trimmed => "trimmed",
            GapKind::Lost => "lost",
            GapKind::Forbidden => "forbidden",
            GapKind::Unknown => "unknown",
        }
    }
}

/// Records of one shard that were passed over because they are not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ReadGap {
    /// The shard.
    pub shard_id: u64,
    /// Why.
    pub kind: GapKind,
    /// First and last batch id that are missing, if they are known.
    pub batches: Option<(u64, u64)>,
}

impl fmt::Display for ReadGap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}: ", self.shard_id)?;
        match self.batches {
            Some((first, last)) if first == last => write!(f, "batch {first} is missing")?,
            Some((first, last)) => write!(f, "batches {first} to {last} are missing")?,
            None => f.write_str("batches are missing")?,
        }
        write!(f, " ({})", self.kind.name())
    }
}

/// The gaps of one reader.
#[derive(Debug)]
pub(super) struct Gaps {
    resource: String,
    metrics: Arc<Metrics>,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    count: u64,
    newest: VecDeque<ReadGap>,
}

impl Gaps {
    pub fn new(resource: String, metrics: Arc<Metrics>) -> Self {
        Gaps { resource, metrics, told: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tell(&self, gap: ReadGap) {
        tracing::warn!(reader = %self.resource, %gap, "records are missing and passed over");
        self.metrics.reader_gaps.add(1);
        let mut told = self.lock();
        told.count += 1;
        if told.newest.len() == KEPT {
            told.newest.pop_front();
        }
        told.newest.push_back(gap);
    }

    pub fn count(&self) -> u64 {
        self.lock().count
    }

    pub fn newest(&self) -> Vec<ReadGap> {
        self.lock().newest.iter().copied().collect()
    }
}

/// What lies between what had to come next and what came, if anything.
pub(super) fn between(expected: RecordId, came: u64) -> Option<ReadGap> {
    let last = came.checked_sub(1)?;
    (expected.batch_id <= last).then_some(ReadGap {
        shard_id: expected.shard_id,
        kind: GapKind::Unknown,
        batches: Some((expected.batch_id, last)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_gaps_are_kept_and_all_are_counted() {
        let gaps = Gaps::new("r".into(), Arc::default());
        for batch in 0..KEPT as u64 + 5 {
            gaps.tell(ReadGap { shard_id: 1, kind: GapKind::Lost, batches: Some((batch, batch)) });
        }
        assert_eq!((gaps.count(), gaps.newest().len()), (KEPT as u64 + 5, KEPT));
        assert_eq!(gaps.newest()[0].batches, Some((5, 5)));
        assert_eq!(gaps.newest()[0].to_string(), "shard 1: batch 5 is missing (lost)");
    }

    #[test]
    fn only_what_lies_between_is_a_gap() {
        let expected = RecordId { shard_id: 1, batch_id: 10, batch_index: 0 };
        assert_eq!(between(expected, 10), None);
        assert_eq!(between(expected, 9), None);
        assert_eq!(between(expected, 0), None);
        assert_eq!(between(expected, 13).unwrap().batches, Some((10, 12)));
    }
}
