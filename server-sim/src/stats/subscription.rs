//! What is counted about one subscription.

use super::Counter;
use super::series::Series;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Totals of the series of a subscription.
const BYTES: usize = 0;
const RECORDS: usize = 1;
const ACKS: usize = 2;
const REQUESTS: usize = 3;
const RESPONSES: usize = 4;

/// Counters of one subscription. Each method is called once per message, not per record.
#[derive(Debug, Default)]
pub struct SubscriptionStats {
    traffic: Series<5>,
    failed_records: AtomicU64,
    resent_records: AtomicU64,
    resend_failed_records: AtomicU64,
    /// Batches in flight, which wait for their acknowledgements.
    in_flight: AtomicU64,
}

impl SubscriptionStats {
    /// Counters by name.
    pub const COUNTERS: &[(&str, Counter<Self>)] = &[
        ("send_out_bytes", |stats| stats.traffic.total(BYTES)),
        ("send_out_records", |stats| stats.traffic.total(RECORDS)),
        ("send_out_records_failed", |stats| stats.failed_records.load(Relaxed)),
        ("resend_records", |stats| stats.resent_records.load(Relaxed)),
        ("resend_records_failed", |stats| stats.resend_failed_records.load(Relaxed)),
        ("received_acks", |stats| stats.traffic.total(ACKS)),
        ("request_messages", |stats| stats.traffic.total(REQUESTS)),
        ("response_messages", |stats| stats.traffic.total(RESPONSES)),
        ("checklist_size", |stats| stats.in_flight.load(Relaxed)),
    ];

    /// Time series by name and alias.
    pub const SERIES: &[(&str, usize)] = &[
        ("send_out_bytes", BYTES),
        ("sends", BYTES),
        ("send_out_records", RECORDS),
        ("acks", ACKS),
        ("acknowledgements", ACKS),
        ("request_messages", REQUESTS),
        ("response_messages", RESPONSES),
    ];

    /// A message from a consumer, with this many acknowledgements.
    pub fn request(&self, acks: usize) {
        self.traffic.add([0, 0, acks as u64, 1, 0]);
    }

    /// A message left for a consumer: its bytes and records.
    pub fn sent(&self, bytes: usize, records: usize) {
        self.traffic.add([bytes as u64, records as u64, 0, 0, 1]);
    }

    /// Records that could not be sent to a consumer because it is gone.
    pub fn not_sent(&self, records: usize) {
        self.failed_records.fetch_add(records as u64, Relaxed);
    }

    /// Records that are on their way once more; those that leave are counted by [`sent`](Self::sent), too.
    pub fn resent(&self, records: usize) {
        self.resent_records.fetch_add(records as u64, Relaxed);
    }

    /// Records that should have been sent once more and could not.
    pub fn not_resent(&self, records: usize) {
        self.resend_failed_records.fetch_add(records as u64, Relaxed);
    }

    /// Batches in flight now.
    pub fn in_flight(&self, batches: usize) {
        self.in_flight.store(batches as u64, Relaxed);
    }

    /// Rates per second of one of [`SERIES`](Self::SERIES).
    pub fn rates(&self, series: usize, intervals: &[Duration]) -> Vec<f64> {
        self.traffic.rates(series, intervals)
    }

    /// Everything at 0, except what is in flight.
    pub fn reset(&self) {
        self.traffic.reset();
        for counter in [&self.failed_records, &self.resent_records, &self.resend_failed_records] {
            counter.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_counts_under_its_names() {
        let stats = SubscriptionStats::default();
        stats.request(0);
        stats.request(5);
        stats.sent(100, 3);
        stats.not_sent(2);
        stats.resent(4);
        stats.not_resent(6);
        stats.in_flight(7);
        let read = |stats: &SubscriptionStats| -> Vec<(&str, u64)> {
            SubscriptionStats::COUNTERS.iter().map(|(name, read)| (*name, read(stats))).collect()
        };
        assert_eq!(
            read(&stats),
            [
                ("send_out_bytes", 100),
                ("send_out_records", 3),
                ("send_out_records_failed", 2),
                ("resend_records", 4),
                ("resend_records_failed", 6),
                ("received_acks", 5),
                ("request_messages", 2),
                ("response_messages", 1),
                ("checklist_size", 7),
            ]
        );
        stats.reset();
        assert!(read(&stats).iter().all(|(name, value)| *value == 0 || *name == "checklist_size"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_alias_names_the_same_series() {
        let stats = SubscriptionStats::default();
        stats.request(30);
        stats.sent(100, 20);
        tokio::time::advance(Duration::from_secs(10)).await;
        let rate = |name: &str| {
            let (_, series) = SubscriptionStats::SERIES.iter().find(|(known, _)| *known == name).unwrap();
            stats.rates(*series, &[Duration::from_secs(60)])
        };
        for (name, expected) in [
            ("sends", 10.0),
            ("send_out_bytes", 10.0),
            ("send_out_records", 2.0),
            ("acks", 3.0),
            ("acknowledgements", 3.0),
            ("request_messages", 0.1),
            ("response_messages", 0.1),
        ] {
            assert_eq!(rate(name), [expected], "{name}");
        }
    }
}
