//! Counters of a client, over everything made from it.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        /// All counters; one row here is all a new one needs.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl Metrics {
            pub(crate) fn snapshot(&self) -> MetricsSnapshot {
                MetricsSnapshot { counters: vec![$((stringify!($name), self.$name.get()),)*] }
            }
        }
    };
}

counters! {
    /// Unary calls begun.
    calls;
    /// Tries after the first one.
    call_retries;
    /// Unary calls that failed for good.
    call_failures;
    /// Connections made.
    connects;
    /// Connections that could not be made.
    connect_failures;
    /// Owner lookups sent.
    lookups;
    /// Refreshes of the node list.
    discovery_refreshes;
    /// Refreshes that no node answered.
    discovery_failures;
    /// Nodes marked as suspect.
    node_suspects;
    /// Batches acknowledged by a server.
    append_batches;
    /// Records acknowledged by a server.
    append_records;
    /// Payload bytes acknowledged by a server.
    append_bytes;
    /// Batches sent again.
    append_retries;
    /// Batches that failed for good.
    append_failures;
    /// Batches that a server had stored already.
    append_repeats;
    /// Batches received by consumers.
    consumer_batches;
    /// Records received by consumers.
    consumer_records;
    /// Encoded bytes received by consumers.
    consumer_bytes;
    /// Acknowledgements sent, repeated ones included.
    consumer_acks;
    /// Sessions opened after the first one.
    consumer_reconnects;
    /// Batches received by readers.
    reader_batches;
    /// Records received by readers.
    reader_records;
    /// Read sessions opened after the first one.
    reader_reconnects;
}

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSnapshot {
    /// Name and value, always in the same order.
    pub counters: Vec<(&'static str, u64)>,
}

impl MetricsSnapshot {
    /// The value of a counter; `None` for a name that is none.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.counters.iter().find(|(counter, _)| *counter == name).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_carry_names_and_values() {
        let metrics = Metrics::default();
        metrics.append_records.add(3);
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.get("append_records"), Some(3));
        assert_eq!(snapshot.get("calls"), Some(0));
        assert_eq!(snapshot.get("nothing"), None);
    }
}
