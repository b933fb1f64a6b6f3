//! What the cluster describes, as the named tuples of `hstreamdb.resources`.

use crate::errors;
use hstreamdb::{
    ClientEvent, ClusterDescription, ClusterRates, ClusterStats, ConnectorInfo, ConsumerInfo, Node,
    NodeFailure, NodeStats, QueryInfo, ReadGap, Row, Schema, ShardInfo, StatRefusal, StatValues, StreamInfo,
    SubscriptionInfo, ViewInfo,
};
use pyo3::{
    prelude::*,
    types::{PyDict, PyList, PyTuple},
};

fn make<'py, A>(py: Python<'py>, class: &str, fields: A) -> PyResult<Py<PyAny>>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
{
    let class = py.import("hstreamdb.resources")?.getattr(class)?;
    Ok(class.call1(fields.into_pyobject(py)?)?.unbind())
}

/// `Stream(name, replication_factor, backlog_duration_secs, shard_count, created_ms)`.
pub fn stream(py: Python<'_>, info: StreamInfo) -> PyResult<Py<PyAny>> {
    make(
        py,
        "Stream",
        (info.name, info.replication_factor, info.backlog_duration_secs, info.shard_count, info.created_ms),
    )
}

/// `Shard(id, stream_name, start, end, epoch)`.
pub fn shard(py: Python<'_>, stream: &str, info: ShardInfo) -> PyResult<Py<PyAny>> {
    make(py, "Shard", (info.id, stream, info.start, info.end, info.epoch))
}

/// `Subscription(subscription_id, stream_name, ack_timeout, max_unacks, offset, created_ms)`.
pub fn subscription(py: Python<'_>, info: SubscriptionInfo) -> PyResult<Py<PyAny>> {
    make(
        py,
        "Subscription",
        (
            info.id,
            info.stream,
            info.ack_timeout_secs,
            info.max_unacked_records,
            info.offset.name(),
            info.created_ms,
        ),
    )
}

/// `ConsumerInfo(name, uri, user_agent)`.
pub fn consumer(py: Python<'_>, info: ConsumerInfo) -> PyResult<Py<PyAny>> {
    make(py, "ConsumerInfo", (info.name, info.uri, info.user_agent))
}

/// `Node(id, address, state, version, commit)`.
pub fn node(py: Python<'_>, node: Node) -> PyResult<Py<PyAny>> {
    make(py, "Node", (node.id, node.address.to_string(), node.state.name(), node.version, node.commit))
}

/// `Cluster(protocol_version, nodes, uptime_secs)`.
pub fn cluster(py: Python<'_>, cluster: ClusterDescription) -> PyResult<Py<PyAny>> {
    make(py, "Cluster", (cluster.protocol_version, list(py, cluster.nodes, node)?, cluster.uptime_secs))
}

/// `ReadGap(shard_id, kind, first_batch, last_batch)`.
pub fn gaps<'py>(py: Python<'py>, gaps: &[ReadGap]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for gap in gaps {
        let (first, last) = gap.batches.unzip();
        list.append(make(py, "ReadGap", (gap.shard_id, gap.kind.name(), first, last))?)?;
    }
    Ok(list)
}

/// `Query(id, state, created_ms, sql, sources, result, kind, node_id)`.
pub fn query(py: Python<'_>, info: QueryInfo) -> PyResult<Py<PyAny>> {
    let (state, kind) = (info.state.name(), info.kind.name());
    make(
        py,
        "Query",
        (info.id, state, info.created_ms, info.sql, info.sources, info.result, kind, info.node_id),
    )
}

/// `View(id, state, created_ms, sql, columns, query)`.
pub fn view(py: Python<'_>, info: ViewInfo) -> PyResult<Py<PyAny>> {
    make(py, "View", (info.id, info.state.name(), info.created_ms, info.sql, info.columns, info.query))
}

/// `Connector(name, kind, target, created_ms, state, config, offsets, task_id, node, docker_status, image)`.
pub fn connector(py: Python<'_>, info: ConnectorInfo) -> PyResult<Py<PyAny>> {
    let (kind, state) = (info.kind.name().to_owned(), info.state.name().to_owned());
    let offsets = rows(py, info.offsets)?;
    make(
        py,
        "Connector",
        (
            info.name,
            kind,
            info.target,
            info.created_ms,
            state,
            info.config,
            offsets,
            info.task_id,
            info.node,
            info.docker_status,
            info.image,
        ),
    )
}

/// `Schema(owner, columns)` with `Column(index, name, data_type, nullable, hidden)`.
pub fn schema(py: Python<'_>, schema: Schema) -> PyResult<Py<PyAny>> {
    let columns = list(py, schema.columns, |py, column| {
        let hstreamdb::Column { index, name, data_type, nullable, hidden } = column;
        make(py, "Column", (index, name, data_type, nullable, hidden))
    })?;
    make(py, "Schema", (schema.owner, columns))
}

/// Rows as a list of dicts.
pub fn rows(py: Python<'_>, rows: Vec<Row>) -> PyResult<Py<PyAny>> {
    let text = serde_json::to_string(&rows)
        .map_err(|error| pyo3::exceptions::PyValueError::new_err(error.to_string()))?;
    Ok(py.import("json")?.call_method1("loads", (text,))?.unbind())
}

fn values(py: Python<'_>, values: Vec<StatValues>) -> PyResult<Bound<'_, PyDict>> {
    let by_stat = PyDict::new(py);
    for StatValues { stat, values } in values {
        by_stat.set_item(stat.name(), values)?;
    }
    Ok(by_stat)
}

fn refusal(py: Python<'_>, refusal: StatRefusal) -> PyResult<Py<PyAny>> {
    make(py, "StatRefusal", (refusal.node.to_string(), refusal.stat.name(), refusal.message))
}

fn failure(py: Python<'_>, failure: NodeFailure) -> PyResult<Py<PyAny>> {
    let error = errors::raise(py, &failure.error).into_value(py);
    make(py, "NodeFailure", (failure.node.to_string(), error))
}

/// `NodeStats(node, values, refusals)`.
pub fn node_stats(py: Python<'_>, stats: NodeStats) -> PyResult<Py<PyAny>> {
    let refusals = list(py, stats.refusals, refusal)?;
    make(py, "NodeStats", (stats.node.to_string(), values(py, stats.values)?, refusals))
}

/// `ClusterStats(totals, nodes, refusals, failures)`.
pub fn cluster_stats(py: Python<'_>, stats: ClusterStats) -> PyResult<Py<PyAny>> {
    let nodes: Vec<_> = stats.nodes.iter().map(ToString::to_string).collect();
    let (refusals, failures) = (list(py, stats.refusals, refusal)?, list(py, stats.failures, failure)?);
    make(py, "ClusterStats", (values(py, stats.totals)?, nodes, refusals, failures))
}

/// `ClusterRates(rates, nodes, failures)`.
pub fn cluster_rates(py: Python<'_>, rates: ClusterRates) -> PyResult<Py<PyAny>> {
    let nodes: Vec<_> = rates.nodes.iter().map(ToString::to_string).collect();
    make(py, "ClusterRates", (rates.rates, nodes, list(py, rates.failures, failure)?))
}

/// `ClientEvent(kind, node, address, before, connections, error)`; what does not belong to the kind is `None`.
pub fn client_event(py: Python<'_>, event: ClientEvent) -> PyResult<Py<PyAny>> {
    let (mut member, mut address, mut before, mut connections, mut error) = (None, None, None, None, None);
    let kind = match event {
        ClientEvent::NodeAdded(node) => {
            member = Some(node);
            "node_added"
        }
        ClientEvent::NodeRemoved(node) => {
            member = Some(node);
            "node_removed"
        }
        ClientEvent::NodeStateChanged { node, before: was } => {
            (member, before) = (Some(node), Some(was.name()));
            "node_state_changed"
        }
        ClientEvent::NodeSuspect { address: at, error: why } => {
            (address, error) = (Some(at), Some(why));
            "node_suspect"
        }
        ClientEvent::NodeTrusted { address: at } => {
            address = Some(at);
            "node_trusted"
        }
        ClientEvent::Connected { address: at, connections: open } => {
            (address, connections) = (Some(at), Some(open));
            "connected"
        }
        ClientEvent::Disconnected { address: at, connections: open } => {
            (address, connections) = (Some(at), Some(open));
            "disconnected"
        }
        ClientEvent::DiscoveryFailed(why) => {
            error = Some(why);
            "discovery_failed"
        }
        ClientEvent::Closed => "closed",
        // What this version does not know.
        _ => "unknown",
    };
    let address = address.or_else(|| member.as_ref().map(|node| node.address.clone()));
    let error = error.map(|error| errors::raise(py, &error).into_value(py));
    make(
        py,
        "ClientEvent",
        (
            kind,
            member.map(|member| node(py, member)).transpose()?,
            address.map(|address| address.to_string()),
            before,
            connections,
            error,
        ),
    )
}

/// A Python list of what `make_one` makes of each.
pub fn list<T>(
    py: Python<'_>,
    infos: Vec<T>,
    make_one: impl Fn(Python<'_>, T) -> PyResult<Py<PyAny>>,
) -> PyResult<Py<PyAny>> {
    let list = PyList::empty(py);
    for info in infos {
        list.append(make_one(py, info)?)?;
    }
    Ok(list.into_any().unbind())
}
