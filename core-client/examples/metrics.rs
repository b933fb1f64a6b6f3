//! Metrics two ways: a snapshot when somebody asks, and a recorder that is told as it happens, here into the registry
//! of the `prometheus` crate.
//!
//! `cargo run --example metrics`, with a server at `HSTREAM_URL` (default `hstream://127.0.0.1:6570`).

use hstreamdb::{
    Client, DeleteStreamOptions, MetricKind, MetricSpec, MetricsRecorder, Record, Result, StreamOptions,
    metric_table,
};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry, TextEncoder};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// Everything a client measures, as Prometheus metrics named `hstreamdb_…`.
#[derive(Debug)]
pub struct Prometheus {
    registry: Registry,
    counters: HashMap<&'static str, IntCounter>,
    gauges: HashMap<&'static str, IntGauge>,
    durations: HashMap<&'static str, Histogram>,
}

impl Prometheus {
    /// A registry with every metric of the table, at zero.
    ///
    /// # Errors
    /// When a name is taken in the registry already.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let mut metrics = Prometheus {
            registry: registry.clone(),
            counters: HashMap::new(),
            gauges: HashMap::new(),
            durations: HashMap::new(),
        };
        for metric in metric_table() {
            let name = format!("hstreamdb_{}", metric.name);
            match metric.kind {
                MetricKind::Counter => {
                    let counter = IntCounter::new(format!("{name}_total"), metric.doc)?;
                    registry.register(Box::new(counter.clone()))?;
                    metrics.counters.insert(metric.name, counter);
                }
                MetricKind::Gauge => {
                    let gauge = IntGauge::new(name, metric.doc)?;
                    registry.register(Box::new(gauge.clone()))?;
                    metrics.gauges.insert(metric.name, gauge);
                }
                MetricKind::Duration => {
                    let seconds =
                        Histogram::with_opts(HistogramOpts::new(format!("{name}_seconds"), metric.doc))?;
                    registry.register(Box::new(seconds.clone()))?;
                    metrics.durations.insert(metric.name, seconds);
                }
                // A kind that came with a later version of the client.
                _ => {}
            }
        }
        Ok(metrics)
    }

    /// What a scrape gets.
    ///
    /// # Errors
    /// When the text cannot be encoded.
    pub fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl MetricsRecorder for Prometheus {
    fn count(&self, metric: &'static MetricSpec, by: u64) {
        if let Some(counter) = self.counters.get(metric.name) {
            counter.inc_by(by);
        }
    }

    fn change(&self, metric: &'static MetricSpec, by: i64) {
        if let Some(gauge) = self.gauges.get(metric.name) {
            gauge.add(by);
        }
    }

    fn observe(&self, metric: &'static MetricSpec, took: Duration) {
        if let Some(seconds) = self.durations.get(metric.name) {
            seconds.observe(took.as_secs_f64());
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("HSTREAM_URL").unwrap_or_else(|_| "hstream://127.0.0.1:6570".into());
    let metrics = Arc::new(Prometheus::new().expect("a fresh registry takes every name"));
    run(&url, &metrics).await?;
    println!("{}", metrics.text().expect("text"));
    Ok(())
}

/// The example; tests call it too.
pub async fn run(url: &str, metrics: &Arc<Prometheus>) -> Result<()> {
    let client = Client::builder().url(url).metrics_recorder(metrics.clone()).connect().await?;
    let stream = "metrics";
    client.delete_stream(stream, DeleteStreamOptions::new().force(true).ignore_missing(true)).await?;
    client.create_stream(stream, StreamOptions::new()).await?;
    let producer = client.producer(stream).build().await?;
    let mut receipts = Vec::new();
    for number in 0..1_000 {
        receipts.push(producer.append(Record::raw(format!("record {number}"))).await?);
    }
    for receipt in receipts {
        receipt.await?;
    }

    // The same numbers without a recorder.
    let snapshot = client.metrics();
    println!(
        "{:?} records in {:?} batches, {:?} retries",
        snapshot.get("append_records"),
        snapshot.get("append_batches"),
        snapshot.get("append_retries")
    );
    client.close(Duration::from_secs(10)).await
}
