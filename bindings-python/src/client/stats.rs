//! Statistics.

use super::{ClientBase, cluster::unknown};
use crate::{arguments, resources};
use hstreamdb::{Stat, StreamRate};
use pyo3::{
    IntoPyObjectExt,
    prelude::*,
    types::{PyDict, PyList},
};
use std::time::Duration;

/// Every statistic as a dict: name, subject, unit, level, doc. A level goes down as well.
#[pyfunction]
pub fn stat_table(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let table = PyList::empty(py);
    for stat in Stat::ALL {
        let row = PyDict::new(py);
        row.set_item("name", stat.name())?;
        row.set_item("subject", stat.subject().name())?;
        row.set_item("unit", stat.unit().name())?;
        row.set_item("level", stat.is_level())?;
        row.set_item("doc", stat.doc())?;
        table.append(row)?;
    }
    Ok(table)
}

fn stats_of(py: Python<'_>, names: Vec<String>) -> PyResult<Vec<Stat>> {
    let known = |name: &String| {
        Stat::from_name(name).ok_or_else(|| unknown(py, "get statistics", "statistic of stat_table()", name))
    };
    names.iter().map(known).collect()
}

fn rate_of(py: Python<'_>, name: &str) -> PyResult<StreamRate> {
    StreamRate::from_name(name).ok_or_else(|| {
        let names: Vec<_> = StreamRate::ALL.iter().map(|rate| rate.name()).collect();
        unknown(py, "get time series", &format!("rate, which are {}", names.join(", ")), name)
    })
}

fn intervals_of(seconds: Vec<f64>) -> PyResult<Vec<Duration>> {
    seconds.into_iter().map(|seconds| arguments::seconds("intervals", seconds)).collect()
}

#[pymethods]
impl ClientBase {
    /// What one node has counted: a `NodeStats`. `node`: `"host:port"` or a `Node`; `stats`: names of `stat_table()`. Nodes count
    /// what passes through them, see `get_stats_all_nodes`.
    ///
    /// Raises `InvalidArgumentError` for a statistic that is none, `UnavailableError`, `TimeoutError`, `ClosedError`. What the node
    /// refuses is in the answer.
    fn get_stats<'py>(
        &self,
        py: Python<'py>,
        node: &Bound<'py, PyAny>,
        stats: Vec<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (node, stats) = (arguments::node_address(py, node)?, stats_of(py, stats)?);
        let core = self.core.clone();
        self.caller.call(py, async move { core.get_stats(&node, &stats).await }, resources::node_stats)
    }

    /// What all nodes have counted, added up: a `ClusterStats`. A node that does not answer is named in it, since its numbers are
    /// missing.
    ///
    /// Raises as `get_stats`, `UnavailableError` or `TimeoutError` when no node answers at all.
    fn get_stats_all_nodes<'py>(&self, py: Python<'py>, stats: Vec<String>) -> PyResult<Bound<'py, PyAny>> {
        let stats = stats_of(py, stats)?;
        let core = self.core.clone();
        self.caller.call(py, async move { core.get_stats_all_nodes(&stats).await }, resources::cluster_stats)
    }

    /// A rate of a stream at one node, per second and as an average over each of `intervals` (seconds, up to 600) that end now: a
    /// list, or `None` when the node has counted nothing about the stream. `rate`: `"append_in_bytes"`, `"append_in_records"`,
    /// `"append_in_requests"` or `"append_failed_requests"`.
    ///
    /// Raises `InvalidArgumentError` for a rate or interval that is none, `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn stream_time_series<'py>(
        &self,
        py: Python<'py>,
        node: &Bound<'py, PyAny>,
        rate: &str,
        stream: String,
        intervals: Vec<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (node, rate) = (arguments::node_address(py, node)?, rate_of(py, rate)?);
        let intervals = intervals_of(intervals)?;
        let core = self.core.clone();
        let get = async move { core.stream_time_series(&node, rate, &stream, &intervals).await };
        self.caller.call(py, get, |py, rates| rates.into_py_any(py))
    }

    /// The same of every stream that the node has counted something about: a dict of lists.
    ///
    /// Raises as `stream_time_series`.
    fn stream_time_series_all<'py>(
        &self,
        py: Python<'py>,
        node: &Bound<'py, PyAny>,
        rate: &str,
        intervals: Vec<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (node, rate) = (arguments::node_address(py, node)?, rate_of(py, rate)?);
        let intervals = intervals_of(intervals)?;
        let core = self.core.clone();
        let get = async move { core.stream_time_series_all(&node, rate, &intervals).await };
        self.caller.call(py, get, |py, rates| rates.into_py_any(py))
    }

    /// The same over all nodes, added up: a `ClusterRates`.
    ///
    /// Raises as `stream_time_series`, when no node answers at all.
    fn stream_time_series_all_nodes<'py>(
        &self,
        py: Python<'py>,
        rate: &str,
        intervals: Vec<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (rate, intervals) = (rate_of(py, rate)?, intervals_of(intervals)?);
        let core = self.core.clone();
        let get = async move { core.stream_time_series_all_nodes(rate, &intervals).await };
        self.caller.call(py, get, resources::cluster_rates)
    }
}
