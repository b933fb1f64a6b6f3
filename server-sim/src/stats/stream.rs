//! What is counted about one stream.

use super::Counter;
use super::series::Series;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Totals of the series of a stream.
const BYTES: usize = 0;
const RECORDS: usize = 1;
const REQUESTS: usize = 2;
const FAILED: usize = 3;

/// Counters of one stream.
#[derive(Debug, Default)]
pub struct StreamStats {
    appends: Series<4>,
    read_bytes: AtomicU64,
    read_batches: AtomicU64,
}

impl StreamStats {
    /// Counters by name.
    pub const COUNTERS: &[(&str, Counter<Self>)] = &[
        ("append_in_bytes", |stats| stats.appends.total(BYTES)),
        ("append_in_records", |stats| stats.appends.total(RECORDS)),
        ("append_total", |stats| stats.appends.total(REQUESTS)),
        ("append_failed", |stats| stats.appends.total(FAILED)),
        ("read_in_bytes", |stats| stats.read_bytes.load(Relaxed)),
        ("read_in_batches", |stats| stats.read_batches.load(Relaxed)),
    ];

    /// Time series by name and alias.
    pub const SERIES: &[(&str, usize)] = &[
        ("append_in_bytes", BYTES),
        ("appends", BYTES),
        ("append_in_records", RECORDS),
        ("append_in_requests", REQUESTS),
        ("append_failed_requests", FAILED),
    ];

    /// Counts one append: `stored` is its bytes and records, `None` when it failed.
    pub fn append(&self, stored: Option<(usize, u32)>) {
        self.appends.add(match stored {
            Some((bytes, records)) => [bytes as u64, u64::from(records), 1, 0],
            None => [0, 0, 1, 1],
        });
    }

    /// Counts what was read from the log.
    pub fn read(&self, batches: usize, bytes: usize) {
        self.read_batches.fetch_add(batches as u64, Relaxed);
        self.read_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// True once anything was to be appended.
    pub fn has_appends(&self) -> bool {
        self.appends.total(REQUESTS) > 0
    }

    /// Rates per second of one of [`SERIES`](Self::SERIES).
    pub fn rates(&self, series: usize, intervals: &[Duration]) -> Vec<f64> {
        self.appends.rates(series, intervals)
    }

    /// Memory it takes now.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() - size_of::<Series<4>>() + self.appends.bytes()
    }

    /// Everything at 0.
    pub fn reset(&self) {
        self.appends.reset();
        self.read_bytes.store(0, Relaxed);
        self.read_batches.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(stats: &StreamStats, name: &str) -> u64 {
        StreamStats::COUNTERS.iter().find(|(known, _)| *known == name).unwrap().1(stats)
    }

    #[test]
    fn appends_and_reads_are_counted_under_their_names() {
        let stats = StreamStats::default();
        stats.append(Some((100, 3)));
        stats.append(Some((50, 1)));
        stats.append(None);
        stats.read(2, 120);
        for (name, value) in [
            ("append_in_bytes", 150),
            ("append_in_records", 4),
            ("append_total", 3),
            ("append_failed", 1),
            ("read_in_bytes", 120),
            ("read_in_batches", 2),
        ] {
            assert_eq!(counter(&stats, name), value, "{name}");
        }
        stats.reset();
        assert!(StreamStats::COUNTERS.iter().all(|(_, read)| read(&stats) == 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_alias_names_the_same_series() {
        let stats = StreamStats::default();
        stats.append(Some((100, 2)));
        tokio::time::advance(Duration::from_secs(10)).await;
        let rate = |name: &str| {
            let (_, series) = StreamStats::SERIES.iter().find(|(known, _)| *known == name).unwrap();
            stats.rates(*series, &[Duration::from_secs(60)])
        };
        assert_eq!(rate("appends"), [10.0]);
        assert_eq!(rate("appends"), rate("append_in_bytes"));
        assert_eq!(rate("append_in_records"), [0.2]);
        assert_eq!(rate("append_in_requests"), [0.1]);
        assert_eq!(rate("append_failed_requests"), [0.0]);
    }
}
