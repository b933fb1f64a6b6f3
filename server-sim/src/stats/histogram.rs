//! How long something takes, as percentiles.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Each power of two is cut into this many parts, so a percentile is at most 1/8 too high.
const PARTS: u64 = 8;
/// Up to 2^38 microseconds, which is three days; what takes longer counts as that.
const BUCKETS: usize = 36 * PARTS as usize;

/// Counts of durations in microseconds.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = self.buckets.get(bucket(us)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Microseconds that the given part (0 to 1) of all durations did not exceed, at most 1/8 too high; 0 when
    /// nothing was counted.
    pub fn percentile(&self, part: f64) -> u64 {
        let counts: Vec<u64> = self.buckets.iter().map(|count| count.load(Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        if all == 0 {
            return 0;
        }
        let wanted = ((part * all as f64).ceil() as u64).clamp(1, all);
        let mut seen = 0;
        let found = counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        found.map_or(0, highest)
    }

    /// Forgets everything.
    pub fn reset(&self) {
        for count in &self.buckets {
            count.store(0, Relaxed);
        }
    }
}

/// Small values have a bucket each; after that each power of two has [`PARTS`].
fn bucket(us: u64) -> usize {
    if us < 2 * PARTS {
        return us as usize;
    }
    let power = u64::from(us.ilog2()) - u64::from(PARTS.ilog2());
    let bucket = power * PARTS + (us >> power);
    usize::try_from(bucket).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// Highest value of a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * PARTS {
        return bucket;
    }
    let power = bucket / PARTS - 1;
    ((bucket % PARTS + PARTS + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_the_bucket_that_ends_next() {
        let powers = (0..38).flat_map(|power| [1u64 << power, (1 << power) + 1, (1 << power) - 1]);
        for us in (0..5_000).chain(powers) {
            let bucket = bucket(us);
            assert!(us <= highest(bucket), "{us}");
            assert!(bucket == 0 || highest(bucket - 1) < us, "{us}");
            assert!(highest(bucket) - us <= us / PARTS, "{us}: {}", highest(bucket));
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_an_even_spread() {
        let histogram = Histogram::default();
        assert_eq!(histogram.percentile(0.5), 0);
        for us in 1..=1_000 {
            histogram.record(Duration::from_micros(us));
        }
        for (part, exact) in [(0.0, 1), (0.5, 500), (0.75, 750), (0.95, 950), (0.99, 990), (1.0, 1_000)] {
            let got = histogram.percentile(part);
            assert!((exact..=exact + exact / PARTS).contains(&got), "{part}: {got}");
        }
        histogram.record(Duration::MAX);
        assert!(histogram.percentile(1.0) > 1 << 37);
        histogram.reset();
        assert_eq!(histogram.percentile(1.0), 0);
    }
}
