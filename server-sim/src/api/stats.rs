//! Statistics: the append counters of streams.

use crate::error::{Class, Result, ServerError};
use crate::node::NodeContext;
use crate::stats::{Counter, StreamStats};
use hstreamdb_proto::api::{self as wire, stat_type::Stat};
use std::sync::Arc;

pub(super) async fn get(
    node: &Arc<NodeContext>,
    request: wire::GetStatsRequest,
) -> Result<wire::GetStatsResponse> {
    // Asked for twice is answered once, which also bounds the answer.
    let mut wanted: Vec<Stat> = Vec::new();
    for stat in request.stats.into_iter().filter_map(|kind| kind.stat) {
        if !wanted.contains(&stat) && wanted.len() < MAX_KINDS {
            wanted.push(stat);
        }
    }
    if wanted.is_empty() {
        return Err(ServerError::new(Class::InvalidStatsType, "name at least one statistic"));
    }
    let mut response = wire::GetStatsResponse::default();
    for stat in wanted {
        let stat_type = Some(wire::StatType { stat: Some(stat) });
        match counter(stat) {
            Some(read) => {
                let stat_values = node
                    .streams
                    .with_prefix("")
                    .iter()
                    .map(|stream| {
                        let value = node.stats.find_stream(stream.id).map_or(0, |stats| read(&stats));
                        (stream.name.clone(), i64::try_from(value).unwrap_or(i64::MAX))
                    })
                    .collect();
                response.stats_values.push(wire::StatValue { stat_type, stat_values });
            }
            None => response
                .errors
                .push(wire::StatError { stat_type, message: "this server does not count that".to_owned() }),
        }
    }
    Ok(response)
}

/// More than there are statistics.
const MAX_KINDS: usize = 64;

fn counter(stat: Stat) -> Option<Counter<StreamStats>> {
    let Stat::StreamStat(number) = stat else { return None };
    let name = match wire::StreamStats::try_from(number).ok()? {
        wire::StreamStats::AppendInBytes => "append_in_bytes",
        wire::StreamStats::AppendInRecords => "append_in_records",
        wire::StreamStats::AppendTotal => "append_total",
        wire::StreamStats::AppendFailed => "append_failed",
        wire::StreamStats::ReadInBytes => "read_in_bytes",
        wire::StreamStats::ReadInBatches => "read_in_batches",
    };
    StreamStats::COUNTERS.iter().find(|(known, _)| *known == name).map(|(_, read)| *read)
}
