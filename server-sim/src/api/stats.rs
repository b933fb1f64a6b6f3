//! Statistics: counters and rates of this node, and the names by which they are asked for.

use crate::error::{Class, Result, ServerError};
use crate::node::context::NodeContext;
use crate::stats::{Counter, LONGEST_INTERVAL, StreamStats, SubscriptionStats};
use hstreamdb_proto::api::{self as wire, stat_type::Stat};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// More than there are statistics.
const MAX_KINDS: usize = 64;
/// Most intervals of one question.
const MAX_INTERVALS: usize = 64;

/// Counters of parts that this server does not have: no object of theirs exists, so nothing is counted.
pub(super) const CONNECTOR_COUNTERS: &[&str] = &["delivered_in_records", "delivered_in_bytes"];
pub(super) const QUERY_COUNTERS: &[&str] =
    &["total_input_records", "total_output_records", "total_execute_errors"];
pub(super) const VIEW_COUNTERS: &[&str] = &["total_execute_queries"];

pub(super) async fn get(
    node: &Arc<NodeContext>,
    request: wire::GetStatsRequest,
) -> Result<wire::GetStatsResponse> {
    // Asked for twice is answered once, which also bounds the answer.
    let mut wanted: Vec<Stat> = Vec::new();
    for stat in request.stats.into_iter().filter_map(|kind| kind.stat) {
        if wanted.contains(&stat) {
            continue;
        }
        if wanted.len() == MAX_KINDS {
            let text =
                format!("more than {MAX_KINDS} statistics are asked for, which is more than there are");
            return Err(ServerError::new(Class::InvalidStatsType, text));
        }
        wanted.push(stat);
    }
    if wanted.is_empty() {
        return Err(ServerError::new(Class::InvalidStatsType, "name at least one statistic"));
    }
    let mut response = wire::GetStatsResponse::default();
    for stat in wanted {
        let stat_type = Some(wire::StatType { stat: Some(stat) });
        match values(node, stat) {
            Ok(values) => {
                let stat_values = values
                    .into_iter()
                    .map(|(name, value)| (name, i64::try_from(value).unwrap_or(i64::MAX)))
                    .collect();
                response.stats_values.push(wire::StatValue { stat_type, stat_values });
            }
            Err(message) => response.errors.push(wire::StatError { stat_type, message }),
        }
    }
    Ok(response)
}

/// The counter of every object.
fn values(node: &NodeContext, stat: Stat) -> Result<Vec<(String, u64)>, String> {
    fn known<T>(number: i32, family: &str, known: Result<T, impl Sized>) -> Result<T, String> {
        known.map_err(|_| format!("there is no {family} statistic {number}"))
    }
    match stat {
        Stat::StreamStat(number) => {
            let stat = known(number, "stream", wire::StreamStats::try_from(number))?;
            let counter = counter(StreamStats::COUNTERS, stream_counter(stat));
            Ok(counter.map(|counter| of_streams(node, counter)).unwrap_or_default())
        }
        Stat::SubStat(number) => {
            let stat = known(number, "subscription", wire::SubscriptionStats::try_from(number))?;
            let counter = counter(SubscriptionStats::COUNTERS, subscription_counter(stat));
            Ok(counter.map(|counter| of_subscriptions(node, counter)).unwrap_or_default())
        }
        Stat::ConnStat(number) => {
            known(number, "connector", wire::ConnectorStats::try_from(number)).map(|_| Vec::new())
        }
        Stat::QueryStat(number) => {
            known(number, "query", wire::QueryStats::try_from(number)).map(|_| Vec::new())
        }
        Stat::ViewStat(number) => {
            known(number, "view", wire::ViewStats::try_from(number)).map(|_| Vec::new())
        }
        Stat::CacheStoreStat(number) => {
            known(number, "cache store", wire::CacheStoreStats::try_from(number)).map(|_| Vec::new())
        }
    }
}

fn stream_counter(stat: wire::StreamStats) -> &'static str {
    match stat {
        wire::StreamStats::AppendInBytes => "append_in_bytes",
        wire::StreamStats::AppendInRecords => "append_in_records",
        wire::StreamStats::AppendTotal => "append_total",
        wire::StreamStats::AppendFailed => "append_failed",
        wire::StreamStats::ReadInBytes => "read_in_bytes",
        wire::StreamStats::ReadInBatches => "read_in_batches",
    }
}

fn subscription_counter(stat: wire::SubscriptionStats) -> &'static str {
    match stat {
        wire::SubscriptionStats::SendOutBytes => "send_out_bytes",
        wire::SubscriptionStats::SendOutRecords => "send_out_records",
        wire::SubscriptionStats::SendOutRecordsFailed => "send_out_records_failed",
        wire::SubscriptionStats::ResendRecords => "resend_records",
        wire::SubscriptionStats::ResendRecordsFailed => "resend_records_failed",
        wire::SubscriptionStats::ReceivedAcks => "received_acks",
        wire::SubscriptionStats::RequestMessages => "request_messages",
        wire::SubscriptionStats::ResponseMessages => "response_messages",
        wire::SubscriptionStats::ChecklistSize => "checklist_size",
    }
}

/// The counter of that name.
pub(super) fn counter<T>(counters: &[(&str, Counter<T>)], name: &str) -> Option<Counter<T>> {
    counters.iter().find(|(known, _)| *known == name).map(|(_, counter)| *counter)
}

/// The time series of that name or alias.
pub(super) fn series(series: &[(&str, usize)], name: &str) -> Option<usize> {
    series.iter().find(|(known, _)| *known == name).map(|(_, series)| *series)
}

/// A counter of every stream; one that nothing was counted about has 0.
pub(super) fn of_streams(node: &NodeContext, counter: Counter<StreamStats>) -> Vec<(String, u64)> {
    let streams = node.streams.with_prefix("").into_iter();
    let value = |id| node.stats.find_stream(id).map_or(0, |stats| counter(&stats));
    streams.map(|stream| (stream.name.clone(), value(stream.id))).collect()
}

/// A counter of every subscription.
pub(super) fn of_subscriptions(
    node: &NodeContext,
    counter: Counter<SubscriptionStats>,
) -> Vec<(String, u64)> {
    node.subscriptions.stats().into_iter().map(|(id, stats)| (id, counter(&stats))).collect()
}

pub(super) async fn time_series(
    node: &Arc<NodeContext>,
    request: wire::PerStreamTimeSeriesStatsRequest,
) -> Result<wire::PerStreamTimeSeriesStatsResponse> {
    let series = method(&request.method)?;
    let Some(intervals) = intervals(request.intervals)? else {
        return Ok(wire::PerStreamTimeSeriesStatsResponse { stats: None });
    };
    let stream = node.streams.by_name(&request.stream_name);
    let counted = stream.and_then(|stream| node.stats.find_stream(stream.id));
    let stats = counted
        .filter(|stats| stats.has_appends())
        .map(|stats| wire::StatsDoubleVals { vals: stats.rates(series, &intervals) });
    Ok(wire::PerStreamTimeSeriesStatsResponse { stats })
}

pub(super) async fn time_series_of_all(
    node: &Arc<NodeContext>,
    request: wire::PerStreamTimeSeriesStatsAllRequest,
) -> Result<wire::PerStreamTimeSeriesStatsAllResponse> {
    let series = method(&request.method)?;
    let mut stats = HashMap::new();
    if let Some(intervals) = intervals(request.intervals)? {
        for stream in node.streams.with_prefix("") {
            let counted = node.stats.find_stream(stream.id).filter(|stats| stats.has_appends());
            if let Some(counted) = counted {
                let vals = counted.rates(series, &intervals);
                stats.insert(stream.name.clone(), wire::StatsDoubleVals { vals });
            }
        }
    }
    Ok(wire::PerStreamTimeSeriesStatsAllResponse { stats })
}

fn method(name: &str) -> Result<usize> {
    series(StreamStats::SERIES, name).ok_or_else(|| {
        let text = format!(
            "there is no time series {}; there are {}",
            quote(name),
            names(StreamStats::SERIES.iter().map(|(name, _)| *name))
        );
        ServerError::new(Class::InvalidStatsInterval, text)
    })
}

fn intervals(intervals: Option<wire::StatsIntervalVals>) -> Result<Option<Vec<Duration>>> {
    let Some(wire::StatsIntervalVals { intervals }) = intervals else { return Ok(None) };
    let millis = |ms: i32| {
        let ms = u64::try_from(ms).map_err(|_| invalid_interval(format!("{ms} ms")))?;
        Ok(Duration::from_millis(ms))
    };
    let intervals = intervals.into_iter().take(MAX_INTERVALS + 1).map(millis).collect::<Result<Vec<_>>>()?;
    check_intervals(&intervals)?;
    Ok(Some(intervals))
}

/// Refuses intervals that no window covers.
///
/// # Errors
/// [`Class::InvalidStatsInterval`].
pub(super) fn check_intervals(intervals: &[Duration]) -> Result<()> {
    if intervals.len() > MAX_INTERVALS {
        let text = format!("at most {MAX_INTERVALS} intervals can be asked for at once");
        return Err(ServerError::new(Class::InvalidStatsInterval, text));
    }
    let possible = |interval: &Duration| !interval.is_zero() && *interval <= LONGEST_INTERVAL;
    match intervals.iter().find(|interval| !possible(interval)) {
        Some(bad) => Err(invalid_interval(format!("{} ms", bad.as_millis()))),
        None => Ok(()),
    }
}

fn invalid_interval(interval: String) -> ServerError {
    let text = format!(
        "an interval of {interval} is not possible: 1 to {} ms are remembered",
        LONGEST_INTERVAL.as_millis()
    );
    ServerError::new(Class::InvalidStatsInterval, text)
}

/// What a client sent, shortened for an error.
pub(super) fn quote(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

/// Names in a sentence.
pub(super) fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}
