//! Counters, gauges and durations of a client, over everything made from it, and the way out to a metrics system.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

/// What a metric measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MetricKind {
    /// A number that only grows.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// How long something took.
    Duration,
}

impl MetricKind {
    /// Name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Duration => "duration",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MetricSpec {
    /// Name in snake case, the same in every language.
    pub name: &'static str,
    /// What it measures.
    pub kind: MetricKind,
    /// What it says, in words.
    pub doc: &'static str,
}

/// Takes a client's measurements to a metrics system, as they happen: per call, batch or session, never per record.
///
/// Methods are called from the client's tasks: they must not block. A panic in one is contained; the recorder is not
/// called again then. [`metric_table`] names every metric there is, for systems that want them registered first.
///
/// ```
/// use hstreamdb::{MetricSpec, MetricsRecorder};
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// #[derive(Default)]
/// struct Retries(AtomicU64);
///
/// impl MetricsRecorder for Retries {
///     fn count(&self, metric: &'static MetricSpec, by: u64) {
///         if metric.name.ends_with("_retries") {
///             self.0.fetch_add(by, Ordering::Relaxed);
///         }
///     }
/// }
/// ```
pub trait MetricsRecorder: Send + Sync + 'static {
    /// A counter has grown.
    fn count(&self, metric: &'static MetricSpec, by: u64);

    /// A gauge has changed. What is left when a client ends is taken back before its last task is gone.
    fn change(&self, metric: &'static MetricSpec, by: i64) {
        let _ = (metric, by);
    }

    /// Something took so long.
    fn observe(&self, metric: &'static MetricSpec, took: Duration) {
        let _ = (metric, took);
    }
}

/// The recorder of a client, called until it panics.
struct Outlet {
    recorder: Arc<dyn MetricsRecorder>,
    broken: AtomicBool,
}

impl Outlet {
    fn call(&self, record: impl FnOnce(&dyn MetricsRecorder)) {
        if self.broken.load(Ordering::Relaxed) {
            return;
        }
        // It is the user's code; our tasks have more to do.
        if catch_unwind(AssertUnwindSafe(|| record(&*self.recorder))).is_err()
            && !self.broken.swap(true, Ordering::Relaxed)
        {
            tracing::error!("the metrics recorder panicked and is not called again");
        }
    }
}

type SharedOutlet = Option<Arc<Outlet>>;

/// A number that only grows.
pub(crate) struct Counter {
    value: AtomicU64,
    spec: &'static MetricSpec,
    outlet: SharedOutlet,
}

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.value.fetch_add(count, Ordering::Relaxed);
        if let Some(outlet) = &self.outlet {
            outlet.call(|recorder| recorder.count(self.spec, count));
        }
    }
}

/// A number that goes up and down.
pub(crate) struct Gauge {
    value: AtomicI64,
    spec: &'static MetricSpec,
    outlet: SharedOutlet,
}

impl Gauge {
    pub(crate) fn change(&self, by: i64) {
        if by == 0 {
            return;
        }
        self.value.fetch_add(by, Ordering::Relaxed);
        if let Some(outlet) = &self.outlet {
            outlet.call(|recorder| recorder.change(self.spec, by));
        }
    }
}

/// How long something takes.
pub(crate) struct Timing {
    count: AtomicU64,
    total_micros: AtomicU64,
    longest_micros: AtomicU64,
    spec: &'static MetricSpec,
    outlet: SharedOutlet,
}

impl Timing {
    pub(crate) fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.total_micros.fetch_add(micros, Ordering::Relaxed);
        self.longest_micros.fetch_max(micros, Ordering::Relaxed);
        if let Some(outlet) = &self.outlet {
            outlet.call(|recorder| recorder.observe(self.spec, took));
        }
    }

    fn summary(&self) -> DurationSummary {
        DurationSummary {
            count: self.count.load(Ordering::Relaxed),
            total: Duration::from_micros(self.total_micros.load(Ordering::Relaxed)),
            longest: Duration::from_micros(self.longest_micros.load(Ordering::Relaxed)),
        }
    }
}

macro_rules! metrics {
    (
        counters { $($(#[doc = $counter_doc:literal])* $counter:ident;)* }
        gauges { $($(#[doc = $gauge_doc:literal])* $gauge:ident;)* }
        durations { $($(#[doc = $timing_doc:literal])* $timing:ident;)* }
    ) => {
        #[allow(non_upper_case_globals, reason = "named as the metrics are")]
        mod specs {
            use super::{MetricKind, MetricSpec};
            $(pub(super) const $counter: MetricSpec = MetricSpec {
                name: stringify!($counter), kind: MetricKind::Counter, doc: concat!($($counter_doc),*).trim_ascii_start(),
            };)*
            $(pub(super) const $gauge: MetricSpec = MetricSpec {
                name: stringify!($gauge), kind: MetricKind::Gauge, doc: concat!($($gauge_doc),*).trim_ascii_start(),
            };)*
            $(pub(super) const $timing: MetricSpec = MetricSpec {
                name: stringify!($timing), kind: MetricKind::Duration, doc: concat!($($timing_doc),*).trim_ascii_start(),
            };)*
        }

        static TABLE: &[MetricSpec] = &[$(specs::$counter,)* $(specs::$gauge,)* $(specs::$timing,)*];

        /// All metrics; one row here is all a new one needs.
        pub(crate) struct Metrics {
            $($(#[doc = $counter_doc])* pub $counter: Counter,)*
            $($(#[doc = $gauge_doc])* pub $gauge: Gauge,)*
            $($(#[doc = $timing_doc])* pub $timing: Timing,)*
        }

        impl Metrics {
            pub(crate) fn new(recorder: Option<Arc<dyn MetricsRecorder>>) -> Self {
                let outlet: SharedOutlet =
                    recorder.map(|recorder| Arc::new(Outlet { recorder, broken: AtomicBool::new(false) }));
                Metrics {
                    $($counter: Counter {
                        value: AtomicU64::new(0), spec: &specs::$counter, outlet: outlet.clone(),
                    },)*
                    $($gauge: Gauge {
                        value: AtomicI64::new(0), spec: &specs::$gauge, outlet: outlet.clone(),
                    },)*
                    $($timing: Timing {
                        count: AtomicU64::new(0),
                        total_micros: AtomicU64::new(0),
                        longest_micros: AtomicU64::new(0),
                        spec: &specs::$timing,
                        outlet: outlet.clone(),
                    },)*
                }
            }

            pub(crate) fn snapshot(&self) -> MetricsSnapshot {
                MetricsSnapshot {
                    counters: vec![
                        $((stringify!($counter), self.$counter.value.load(Ordering::Relaxed)),)*
                    ],
                    gauges: vec![$((stringify!($gauge), self.$gauge.value.load(Ordering::Relaxed)),)*],
                    durations: vec![$((stringify!($timing), self.$timing.summary()),)*],
                }
            }
        }
    };
}

metrics! {
    counters {
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
        /// Suspect nodes that answered again.
        node_trusts;
        /// Probes sent to suspect nodes.
        node_probes;
        /// Echoes sent over connections that owed an answer and said nothing.
        line_checks;
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
        /// Sessions of consumers lost, and tries to attach one that failed.
        consumer_reconnects;
        /// Records delivered to consumers again.
        consumer_redelivered_records;
        /// Those of them that had been acknowledged.
        consumer_redelivered_acked_records;
        /// Batches delivered to consumers that cannot be decoded.
        consumer_unreadable_batches;
        /// Tries of handlers that failed or panicked, and what was not given to one.
        consumer_handler_failures;
        /// Questions to owners of subscriptions whose sessions had been quiet.
        consumer_probes;
        /// Batches received by readers.
        reader_batches;
        /// Records received by readers.
        reader_records;
        /// Calls of readers that were lost and began anew, behind what had been delivered.
        reader_reconnects;
        /// Times that records were missing and passed over by readers.
        reader_gaps;
        /// Echoes sent over connections of readers that had been quiet.
        reader_probes;
    }
    gauges {
        /// Batches that producers have sent and that are not acknowledged yet.
        append_inflight_batches;
        /// Their encoded payloads, in bytes.
        append_inflight_bytes;
        /// Sessions of consumers that are attached.
        consumer_sessions;
        /// Acknowledgements that are unsent or not known to be safe, records.
        consumer_pending_acks;
    }
    durations {
        /// Unary calls, tries and pauses included.
        call_duration;
        /// Batches from their first record to their acknowledgement.
        append_duration;
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new(None)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}

/// Every metric of a client, always in the same order.
pub fn metric_table() -> &'static [MetricSpec] {
    TABLE
}

/// Durations of one kind, summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DurationSummary {
    /// How many there were.
    pub count: u64,
    /// What they took together.
    pub total: Duration,
    /// The longest.
    pub longest: Duration,
}

/// The metrics at one moment; names are those of [`metric_table`], always in the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MetricsSnapshot {
    /// Name and value of what only grows.
    pub counters: Vec<(&'static str, u64)>,
    /// Name and value of what goes up and down.
    pub gauges: Vec<(&'static str, i64)>,
    /// Name and sums of what takes time.
    pub durations: Vec<(&'static str, DurationSummary)>,
}

impl MetricsSnapshot {
    /// The value of a counter; `None` for a name that is none.
    pub fn get(&self, name: &str) -> Option<u64> {
        find(&self.counters, name)
    }

    /// The value of a gauge; `None` for a name that is none.
    pub fn gauge(&self, name: &str) -> Option<i64> {
        find(&self.gauges, name)
    }

    /// The sums of a duration; `None` for a name that is none.
    pub fn duration(&self, name: &str) -> Option<DurationSummary> {
        find(&self.durations, name)
    }
}

fn find<T: Copy>(values: &[(&'static str, T)], name: &str) -> Option<T> {
    values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn snapshots_carry_names_and_values() {
        let metrics = Metrics::default();
        metrics.append_records.add(3);
        metrics.append_inflight_bytes.change(5);
        metrics.append_inflight_bytes.change(-2);
        metrics.call_duration.observe(Duration::from_millis(2));
        metrics.call_duration.observe(Duration::from_millis(4));
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.get("append_records"), Some(3));
        assert_eq!(snapshot.get("calls"), Some(0));
        assert_eq!(snapshot.get("nothing"), None);
        assert_eq!(snapshot.gauge("append_inflight_bytes"), Some(3));
        let calls = snapshot.duration("call_duration").unwrap();
        assert_eq!((calls.count, calls.total), (2, Duration::from_millis(6)));
        assert_eq!(calls.longest, Duration::from_millis(4));
    }

    #[derive(Default)]
    struct Notes(Mutex<Vec<String>>);

    impl MetricsRecorder for Notes {
        fn count(&self, metric: &'static MetricSpec, by: u64) {
            self.0.lock().unwrap().push(format!("{} +{by}", metric.name));
        }
        fn change(&self, metric: &'static MetricSpec, by: i64) {
            self.0.lock().unwrap().push(format!("{} {by:+}", metric.name));
        }
        fn observe(&self, metric: &'static MetricSpec, took: Duration) {
            self.0.lock().unwrap().push(format!("{} {took:?}", metric.name));
        }
    }

    #[test]
    fn a_recorder_gets_what_the_snapshot_shows() {
        let notes = Arc::new(Notes::default());
        let metrics = Metrics::new(Some(notes.clone()));
        metrics.append_batches.add(2);
        metrics.append_inflight_batches.change(-7);
        metrics.append_inflight_batches.change(0);
        metrics.append_duration.observe(Duration::from_secs(1));
        let told = notes.0.lock().unwrap().clone();
        assert_eq!(told, ["append_batches +2", "append_inflight_batches -7", "append_duration 1s"]);
    }

    #[test]
    fn a_recorder_that_panics_is_not_called_again() {
        struct Broken(AtomicU64);
        impl MetricsRecorder for Broken {
            fn count(&self, _: &'static MetricSpec, _: u64) {
                self.0.fetch_add(1, Ordering::Relaxed);
                panic!("of the user");
            }
        }
        let broken = Arc::new(Broken(AtomicU64::new(0)));
        let metrics = Metrics::new(Some(broken.clone()));
        for _ in 0..3 {
            metrics.calls.add(1);
        }
        assert_eq!(metrics.snapshot().get("calls"), Some(3));
        assert_eq!(broken.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn every_metric_has_one_row_with_words() {
        let mut names: Vec<_> = metric_table().iter().map(|metric| metric.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for metric in metric_table() {
            assert!(metric.doc.ends_with('.') && !metric.doc.starts_with(' '), "{metric:?}");
        }
        let snapshot = Metrics::default().snapshot();
        assert_eq!(snapshot.counters.len() + snapshot.gauges.len() + snapshot.durations.len(), count);
    }
}
