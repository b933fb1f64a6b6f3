//! Rates of streams over the last seconds and minutes.

use super::NodeFailure;
use crate::{
    client::Client,
    cluster::{NodeAddress, Target},
    error::{Error, ErrorKind, Result},
    retry::Operation,
};
use hstreamdb_proto::api;
use std::{collections::BTreeMap, time::Duration};

/// Something that happens to a stream, measured per second.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamRate {
    /// Bytes appended.
    AppendInBytes,
    /// Records appended.
    AppendInRecords,
    /// Appends.
    AppendInRequests,
    /// Appends that failed.
    AppendFailedRequests,
}

impl StreamRate {
    /// All rates.
    pub const ALL: &'static [StreamRate] = &[
        StreamRate::AppendInBytes,
        StreamRate::AppendInRecords,
        StreamRate::AppendInRequests,
        StreamRate::AppendFailedRequests,
    ];

    /// Name in snake case, as on the wire.
    pub fn name(self) -> &'static str {
        match self {
            StreamRate::AppendInBytes => "append_in_bytes",
            StreamRate::AppendInRecords => "append_in_records",
            StreamRate::AppendInRequests => "append_in_requests",
            StreamRate::AppendFailedRequests => "append_failed_requests",
        }
    }

    /// The rate of that [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<StreamRate> {
        Self::ALL.iter().copied().find(|rate| rate.name() == name)
    }
}

/// A rate of every stream over all nodes.
#[derive(Debug, Clone)]
pub struct ClusterRates {
    /// Per stream one number for each interval, per second: those of the nodes that answered, added up.
    pub rates: BTreeMap<String, Vec<f64>>,
    /// The nodes that answered.
    pub nodes: Vec<NodeAddress>,
    /// Nodes that did not answer: what happens there is missing in `rates`.
    pub failures: Vec<NodeFailure>,
}

impl Client {
    /// A rate of a stream at one node, per second and as an average over each of `intervals` that end now. `None` when the
    /// node has not counted anything about the stream.
    ///
    /// # Errors
    /// `InvalidArgument` for an interval that is none or longer than servers remember (10 minutes), `Unavailable`,
    /// `Timeout`, `Closed`, `Codec` when the answer does not fit the question.
    pub async fn stream_time_series(
        &self,
        node: &NodeAddress,
        rate: StreamRate,
        stream: &str,
        intervals: &[Duration],
    ) -> Result<Option<Vec<f64>>> {
        const NAME: &str = "get time series";
        let request = api::PerStreamTimeSeriesStatsRequest {
            method: rate.name().to_owned(),
            stream_name: stream.to_owned(),
            intervals: Some(to_wire(intervals).map_err(|error| error.with_resource(stream))?),
        };
        let target = Target::Node(node.clone());
        let answer = self
            .unary(Operation::read(NAME), Some(stream), target, request, |mut client, request| async move {
                client.per_stream_time_series_stats(request).await
            })
            .await?;
        answer.stats.map(|stats| fitting(node, stream, intervals, stats)).transpose()
    }

    /// A rate of every stream that the node has counted something about; otherwise as
    /// [`stream_time_series`](Self::stream_time_series).
    ///
    /// # Errors
    /// As [`stream_time_series`](Self::stream_time_series).
    pub async fn stream_time_series_all(
        &self,
        node: &NodeAddress,
        rate: StreamRate,
        intervals: &[Duration],
    ) -> Result<BTreeMap<String, Vec<f64>>> {
        const NAME: &str = "get time series of all streams";
        let request = api::PerStreamTimeSeriesStatsAllRequest {
            method: rate.name().to_owned(),
            intervals: Some(to_wire(intervals).map_err(|error| error.with_operation(NAME))?),
        };
        let target = Target::Node(node.clone());
        let answer = self
            .unary(Operation::read(NAME), None, target, request, |mut client, request| async move {
                client.per_stream_time_series_stats_all(request).await
            })
            .await?;
        let fit = |(stream, stats): (String, _)| {
            let rates = fitting(node, &stream, intervals, stats)?;
            Ok((stream, rates))
        };
        answer.stats.into_iter().map(fit).collect()
    }

    /// A rate of every stream over all nodes, added up. Nodes that do not answer are named in the answer, as by
    /// [`get_stats_all_nodes`](Self::get_stats_all_nodes).
    ///
    /// # Errors
    /// Those of [`stream_time_series`](Self::stream_time_series), when no node answers at all.
    pub async fn stream_time_series_all_nodes(
        &self,
        rate: StreamRate,
        intervals: &[Duration],
    ) -> Result<ClusterRates> {
        let (answers, failures) = self
            .on_all_nodes("get time series of all streams", |node| async move {
                self.stream_time_series_all(&node, rate, intervals).await
            })
            .await?;
        Ok(add_up(answers, failures))
    }
}

fn add_up(
    answers: Vec<(NodeAddress, BTreeMap<String, Vec<f64>>)>,
    failures: Vec<NodeFailure>,
) -> ClusterRates {
    let mut all = ClusterRates { rates: BTreeMap::new(), nodes: Vec::new(), failures };
    for (node, answer) in answers {
        all.nodes.push(node);
        for (stream, rates) in answer {
            let sums = all.rates.entry(stream).or_insert_with(|| vec![0.0; rates.len()]);
            for (sum, rate) in sums.iter_mut().zip(rates) {
                *sum += rate;
            }
        }
    }
    all
}

fn to_wire(intervals: &[Duration]) -> Result<api::StatsIntervalVals> {
    let invalid =
        |message: String| Error::new(ErrorKind::InvalidArgument, "get time series").with_message(message);
    if intervals.is_empty() {
        return Err(invalid("name at least one interval".to_owned()));
    }
    let millis = |interval: &Duration| {
        i32::try_from(interval.as_millis())
            .ok()
            .filter(|ms| *ms > 0)
            .ok_or_else(|| invalid(format!("an interval of {interval:?} is not possible")))
    };
    Ok(api::StatsIntervalVals { intervals: intervals.iter().map(millis).collect::<Result<_>>()? })
}

/// One number for each interval, or the answer is none.
fn fitting(
    node: &NodeAddress,
    stream: &str,
    intervals: &[Duration],
    stats: api::StatsDoubleVals,
) -> Result<Vec<f64>> {
    if stats.vals.len() == intervals.len() {
        return Ok(stats.vals);
    }
    Err(Error::new(ErrorKind::Codec, "get time series").with_resource(stream).with_node(node).with_message(
        format!("{} intervals were asked for and {} rates came back", intervals.len(), stats.vals.len()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_that_are_none_are_refused_here() {
        for intervals in [&[][..], &[Duration::ZERO], &[Duration::from_secs(1), Duration::MAX]] {
            assert_eq!(to_wire(intervals).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
        assert_eq!(to_wire(&[Duration::from_secs(4)]).unwrap().intervals, [4000]);
    }

    #[test]
    fn rates_of_several_nodes_are_added_up_by_stream_and_interval() {
        let answer = |port, rates: &[(&str, [f64; 2])]| {
            let rates = rates.iter().map(|(stream, rates)| ((*stream).to_owned(), rates.to_vec()));
            (NodeAddress::new("n", port), rates.collect())
        };
        let answers =
            vec![answer(1, &[("a", [1.0, 2.0]), ("b", [5.0, 0.0])]), answer(2, &[("a", [0.5, 0.25])])];
        let all = add_up(answers, Vec::new());
        assert_eq!(all.nodes.len(), 2);
        assert_eq!(all.rates, [("a".to_owned(), vec![1.5, 2.25]), ("b".to_owned(), vec![5.0, 0.0])].into());
    }

    #[test]
    fn an_answer_of_another_length_is_an_error() {
        let node = NodeAddress::new("n", 1);
        let stats = api::StatsDoubleVals { vals: vec![1.0] };
        let second = Duration::from_secs(1);
        assert_eq!(fitting(&node, "s", &[second], stats.clone()).unwrap(), [1.0]);
        assert_eq!(fitting(&node, "s", &[second; 2], stats).unwrap_err().kind(), ErrorKind::Codec);
    }
}
