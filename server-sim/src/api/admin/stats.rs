//! Statistics as tables.

use super::super::stats::{
    CONNECTOR_COUNTERS, QUERY_COUNTERS, VIEW_COUNTERS, check_intervals, counter, names, of_streams,
    of_subscriptions, quote, series,
};
use super::answer::Answer;
use super::interval::Interval;
use crate::error::Result;
use crate::node::context::NodeContext;
use crate::stats::{HANDLER_SERIES, HISTOGRAMS, StreamStats, SubscriptionStats};
use clap::{Args, ValueEnum};
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct Stats {
    /// What it is counted for
    category: Category,
    /// Name of the counter, the time series or the histogram
    name: String,
    /// Time over which a rate is taken, as 500ms, 10s or 1min, at most 10min; repeatable [default: 1min 5min 10min]
    #[arg(short, long, value_name = "INTERVAL")]
    intervals: Vec<Interval>,
    /// Part of all durations of a histogram, 0 to 1; repeatable [default: 0.5 0.75 0.95 0.99]
    #[arg(short, long, value_name = "PART", value_parser = parse_part)]
    percentiles: Vec<f64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Category {
    StreamCounter,
    Stream,
    SubscriptionCounter,
    Subscription,
    Handle,
    ConnectorCounter,
    QueryCounter,
    ViewCounter,
    ServerHistogram,
}

fn parse_part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "write a number from 0 to 1, as 0.99".to_owned())
}

impl Stats {
    pub(super) fn run(self, node: &NodeContext) -> Result<Answer> {
        let name = self.name.as_str();
        Ok(match self.category {
            Category::StreamCounter => match counter(StreamStats::COUNTERS, name) {
                Some(counter) => counters("stream_name", name, of_streams(node, counter)),
                None => unknown(name, first(StreamStats::COUNTERS)),
            },
            Category::SubscriptionCounter => match counter(SubscriptionStats::COUNTERS, name) {
                Some(counter) => counters("subscription_id", name, of_subscriptions(node, counter)),
                None => unknown(name, first(SubscriptionStats::COUNTERS)),
            },
            Category::ConnectorCounter => none_exist("task_name", name, CONNECTOR_COUNTERS),
            Category::QueryCounter => none_exist("query_name", name, QUERY_COUNTERS),
            Category::ViewCounter => none_exist("view_name", name, VIEW_COUNTERS),
            Category::Stream => match series(StreamStats::SERIES, name) {
                Some(series) => {
                    let streams = node.streams.with_prefix("").into_iter();
                    self.rates("stream_name", |intervals| {
                        let rates = |id| match node.stats.find_stream(id) {
                            Some(stats) => stats.rates(series, intervals),
                            None => vec![0.0; intervals.len()],
                        };
                        streams.map(|stream| (stream.name.clone(), rates(stream.id))).collect()
                    })?
                }
                None => unknown(name, first(StreamStats::SERIES)),
            },
            Category::Subscription => match series(SubscriptionStats::SERIES, name) {
                Some(series) => self.rates("subscription_id", |intervals| {
                    let stats = node.subscriptions.stats().into_iter();
                    stats.map(|(id, stats)| (id, stats.rates(series, intervals))).collect()
                })?,
                None => unknown(name, first(SubscriptionStats::SERIES)),
            },
            Category::Handle => match series(HANDLER_SERIES, name) {
                Some(series) => self.rates("handle_name", |intervals| {
                    vec![("append".to_owned(), node.stats.append_calls().rates(series, intervals))]
                })?,
                None => unknown(name, first(HANDLER_SERIES)),
            },
            Category::ServerHistogram => match node.stats.histogram(name) {
                Some(histogram) => {
                    let parts = match &self.percentiles[..] {
                        [] => &[0.5, 0.75, 0.95, 0.99],
                        asked => asked,
                    };
                    Answer::Table {
                        headers: parts.iter().map(|part| percent(*part)).collect(),
                        rows: vec![
                            parts.iter().map(|part| histogram.percentile(*part).to_string()).collect(),
                        ],
                    }
                }
                None => unknown(name, HISTOGRAMS.iter().copied()),
            },
        })
    }

    /// A table with a column per interval.
    fn rates(&self, of: &str, read: impl FnOnce(&[Duration]) -> Vec<(String, Vec<f64>)>) -> Result<Answer> {
        let intervals = match &self.intervals[..] {
            [] => ["1min", "5min", "10min"].iter().filter_map(|text| text.parse().ok()).collect(),
            asked => asked.to_vec(),
        };
        let durations: Vec<Duration> = intervals.iter().map(|interval| interval.duration).collect();
        check_intervals(&durations)?;
        let columns = intervals.iter().map(|interval| format!("{}_{interval}", self.name));
        let row = |(object, rates): (String, Vec<f64>)| {
            // Rounded down, as published servers do.
            std::iter::once(object).chain(rates.iter().map(|rate| (*rate as u64).to_string())).collect()
        };
        Ok(Answer::Table {
            headers: std::iter::once(of.to_owned()).chain(columns).collect(),
            rows: read(&durations).into_iter().map(row).collect(),
        })
    }
}

pub(super) fn reset(node: &NodeContext) -> Answer {
    node.stats.reset();
    for (_, stats) in node.subscriptions.stats() {
        stats.reset();
    }
    Answer::ok()
}

fn counters(of: &str, name: &str, values: Vec<(String, u64)>) -> Answer {
    Answer::table([of, name], values.into_iter().map(|(object, value)| [object, value.to_string()]))
}

/// The table of a part that this server does not have.
fn none_exist(of: &str, name: &str, known: &[&str]) -> Answer {
    if known.contains(&name) { counters(of, name, Vec::new()) } else { unknown(name, known.iter().copied()) }
}

fn first<'a, T>(table: &'a [(&'a str, T)]) -> impl Iterator<Item = &'a str> {
    table.iter().map(|(name, _)| *name)
}

fn unknown<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Answer {
    Answer::Error(format!("there is no statistic {}; there are {}", quote(name), names(known)))
}

/// `p99`, `p99.9`.
fn percent(part: f64) -> String {
    format!("p{}", (part * 1e8).round() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_named_in_percent() {
        for (part, name) in
            [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"), (0.07, "p7"), (0.0, "p0"), (1.0, "p100")]
        {
            assert_eq!(percent(part), name);
        }
    }
}
