//! Statistics: what nodes have counted, one by one and added up.

mod kinds;
mod rates;

pub use kinds::{Stat, StatSubject, StatUnit};
pub use rates::{ClusterRates, StreamRate};

use crate::{
    client::Client,
    cluster::{NodeAddress, NodeState, Target},
    error::{Error, ErrorKind, Result},
    retry::Operation,
};
use futures::{StreamExt as _, stream};
use hstreamdb_proto::api;
use std::collections::BTreeMap;

/// Nodes asked at a time.
const NODES_AT_ONCE: usize = 16;

/// A statistic of each thing it is counted about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatValues {
    /// The statistic.
    pub stat: Stat,
    /// Its number, by name of the stream, subscription, connector, query, view or node.
    pub values: BTreeMap<String, i64>,
}

/// A statistic that a node did not give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatRefusal {
    /// The node.
    pub node: NodeAddress,
    /// The statistic.
    pub stat: Stat,
    /// Why, in the node's words.
    pub message: String,
}

/// A node that did not answer.
#[derive(Debug, Clone)]
pub struct NodeFailure {
    /// The node.
    pub node: NodeAddress,
    /// Why.
    pub error: Error,
}

/// What one node has counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStats {
    /// The node.
    pub node: NodeAddress,
    /// What it gave, in the order in which it was asked for.
    pub values: Vec<StatValues>,
    /// What it did not give.
    pub refusals: Vec<StatRefusal>,
}

/// What all nodes have counted together.
#[derive(Debug, Clone)]
pub struct ClusterStats {
    /// The numbers of the nodes that answered, added up; in the order in which they were asked for.
    pub totals: Vec<StatValues>,
    /// The nodes that answered.
    pub nodes: Vec<NodeAddress>,
    /// What nodes that answered did not give: it is missing in `totals`.
    pub refusals: Vec<StatRefusal>,
    /// Nodes that did not answer: what they have counted is missing in `totals`.
    pub failures: Vec<NodeFailure>,
}

impl ClusterStats {
    /// Whether every node gave everything.
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty() && self.refusals.is_empty()
    }
}

impl Client {
    /// What one node has counted. Nodes count what passes through them: appends of one stream may be spread over all, see
    /// [`get_stats_all_nodes`](Self::get_stats_all_nodes).
    ///
    /// # Errors
    /// `InvalidArgument` when no statistic is named, `Unavailable`, `Timeout`, `Closed`. What the node refuses is in the
    /// answer.
    pub async fn get_stats(&self, node: &NodeAddress, stats: &[Stat]) -> Result<NodeStats> {
        let request = api::GetStatsRequest { stats: stats.iter().map(|stat| stat.to_wire()).collect() };
        let target = Target::Node(node.clone());
        let answer = self
            .unary(
                Operation::read("get statistics"),
                None,
                target,
                request,
                |mut client, request| async move { client.get_stats(request).await },
            )
            .await?;
        Ok(sort(node, stats, answer))
    }

    /// What all nodes have counted, added up. The cluster is asked for its nodes first; one that does not answer, or does
    /// not run, is named in the answer, since its numbers are missing.
    ///
    /// # Errors
    /// `InvalidArgument` when no statistic is named, `Unavailable` or `Timeout` when no node answers at all, `Closed`.
    pub async fn get_stats_all_nodes(&self, stats: &[Stat]) -> Result<ClusterStats> {
        let (answers, failures) = self
            .on_all_nodes("get statistics", |node| async move { self.get_stats(&node, stats).await })
            .await?;
        let mut sums: BTreeMap<Stat, BTreeMap<String, i64>> = BTreeMap::new();
        let mut all = ClusterStats { totals: Vec::new(), nodes: Vec::new(), refusals: Vec::new(), failures };
        for (node, answer) in answers {
            all.nodes.push(node);
            all.refusals.extend(answer.refusals);
            for StatValues { stat, values } in answer.values {
                let sums = sums.entry(stat).or_default();
                for (name, value) in values {
                    let sum = sums.entry(name).or_default();
                    *sum = sum.saturating_add(value);
                }
            }
        }
        all.totals = once_each(stats)
            .into_iter()
            .filter_map(|stat| Some(StatValues { stat, values: sums.remove(&stat)? }))
            .collect();
        Ok(all)
    }

    /// Asks every node of the cluster the same; answers and failures are in the order of the nodes.
    ///
    /// # Errors
    /// When the cluster cannot be described, and the first failure when no node answers.
    async fn on_all_nodes<T, F, Fut>(
        &self,
        operation: &'static str,
        ask: F,
    ) -> Result<(Vec<(NodeAddress, T)>, Vec<NodeFailure>)>
    where
        F: Fn(NodeAddress) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let cluster = self.describe_cluster().await.map_err(|error| error.with_operation(operation))?;
        let ask = &ask;
        let asked = cluster.nodes.into_iter().map(|node| async move {
            let answer = match node.state {
                NodeState::Running => ask(node.address.clone()).await,
                state => Err(not_running(operation, &node.address, state)),
            };
            (node.address, answer)
        });
        let mut answers = Vec::new();
        let mut failures = Vec::new();
        let mut results = stream::iter(asked).buffered(NODES_AT_ONCE);
        while let Some((node, result)) = results.next().await {
            match result {
                Ok(answer) => answers.push((node, answer)),
                // The question is wrong, not the node.
                Err(error) if error.kind() == ErrorKind::InvalidArgument => return Err(error),
                Err(error) => failures.push(NodeFailure { node, error }),
            }
        }
        match failures.into_iter() {
            mut failures if answers.is_empty() => Err(failures.next().map_or_else(
                || Error::new(ErrorKind::Unavailable, operation).with_message("the cluster names no node"),
                |failure| failure.error,
            )),
            failures => Ok((answers, failures.collect())),
        }
    }
}

fn not_running(operation: &'static str, node: &NodeAddress, state: NodeState) -> Error {
    Error::new(ErrorKind::Unavailable, operation)
        .with_node(node)
        .with_message(format!("the cluster says that the node is not running but {}", state.name()))
        .with_may_have_been_applied(false)
}

/// What was asked for, each once.
fn once_each(stats: &[Stat]) -> Vec<Stat> {
    let mut each = Vec::new();
    for stat in stats {
        if !each.contains(stat) {
            each.push(*stat);
        }
    }
    each
}

/// Puts an answer into the order of the question; nothing that was asked for is passed over in silence.
fn sort(node: &NodeAddress, asked: &[Stat], answer: api::GetStatsResponse) -> NodeStats {
    let mut values: BTreeMap<Stat, BTreeMap<String, i64>> = BTreeMap::new();
    for value in answer.stats_values {
        if let Some(stat) = Stat::from_wire(value.stat_type.as_ref()) {
            values.entry(stat).or_default().extend(value.stat_values);
        }
    }
    let mut errors: BTreeMap<Stat, String> = BTreeMap::new();
    for error in answer.errors {
        if let Some(stat) = Stat::from_wire(error.stat_type.as_ref()) {
            errors.entry(stat).or_insert(error.message);
        }
    }
    let mut sorted = NodeStats { node: node.clone(), values: Vec::new(), refusals: Vec::new() };
    for stat in once_each(asked) {
        match values.remove(&stat) {
            Some(values) => sorted.values.push(StatValues { stat, values }),
            None => sorted.refusals.push(StatRefusal {
                node: node.clone(),
                stat,
                message: errors.remove(&stat).unwrap_or_else(|| "the node passed over it".to_owned()),
            }),
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_question_and_nothing_is_passed_over() {
        use Stat::{StreamAppendTotal, StreamReadInBytes, ViewTotalExecuteQueries};
        let value = |stat: Stat, number| api::StatValue {
            stat_type: Some(stat.to_wire()),
            stat_values: [("s".to_owned(), number)].into(),
        };
        let answer = api::GetStatsResponse {
            stats_values: vec![
                value(StreamReadInBytes, 2),
                // Nobody asked for this, and the next is none.
                value(Stat::StreamAppendFailed, 9),
                api::StatValue { stat_type: None, ..Default::default() },
                value(StreamAppendTotal, 1),
            ],
            errors: vec![api::StatError { stat_type: None, message: "lost".into() }],
        };
        let node = NodeAddress::new("n", 1);
        let asked = [StreamAppendTotal, ViewTotalExecuteQueries, StreamReadInBytes, StreamAppendTotal];
        let sorted = sort(&node, &asked, answer);
        let order: Vec<_> = sorted.values.iter().map(|values| (values.stat, values.values["s"])).collect();
        assert_eq!(order, [(StreamAppendTotal, 1), (StreamReadInBytes, 2)]);
        assert_eq!(sorted.refusals.len(), 1);
        assert_eq!(sorted.refusals[0].stat, ViewTotalExecuteQueries);
    }
}
