//! The cluster as a whole: who is in it, who serves what, its operator's commands.

use super::ClientBase;
use crate::{arguments, errors, resources};
use hstreamdb::{Error, ErrorKind, ResourceKind};
use pyo3::{IntoPyObjectExt, prelude::*};

#[pymethods]
impl ClientBase {
    /// Sends a text to a node, which sends it back.
    ///
    /// Raises `UnavailableError` or `TimeoutError` when no node answers, `ClosedError`.
    fn echo<'py>(&self, py: Python<'py>, message: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.echo(&message).await }, |py, text| text.into_py_any(py))
    }

    /// Asks a node who is in the cluster: a `Cluster`. `nodes` gives the last known answer without asking.
    ///
    /// Raises `UnavailableError` or `TimeoutError` when no node answers, `ClosedError`.
    fn describe_cluster<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.describe_cluster().await }, resources::cluster)
    }

    /// Asks the cluster for its nodes now instead of at the next refresh in the background, and gives them.
    ///
    /// Raises `UnavailableError` or `TimeoutError` when no node answers (the old list stays), `ClosedError`.
    fn refresh_nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.refresh_nodes().await }, |py, nodes| {
            resources::list(py, nodes, resources::node)
        })
    }

    /// Drops the connections that calls and appends share, resolves names again and finds the nodes anew. Rarely needed: what
    /// fails is replaced by itself.
    ///
    /// Raises as `refresh_nodes`.
    fn reconnect<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.reconnect().await })
    }

    /// The `Node` that serves a shard.
    ///
    /// Raises `NotFoundError`, `UnavailableError`, `TimeoutError`, `ClosedError`; so for all look-ups.
    fn lookup_shard<'py>(&self, py: Python<'py>, shard_id: u64) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.lookup_shard(shard_id).await }, resources::node)
    }

    /// The `Node` that serves a subscription.
    fn lookup_subscription<'py>(&self, py: Python<'py>, subscription: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.lookup_subscription(&subscription).await }, resources::node)
    }

    /// The `Node` that keeps a polled reader.
    fn lookup_shard_reader<'py>(&self, py: Python<'py>, reader_id: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.lookup_shard_reader(&reader_id).await }, resources::node)
    }

    /// The `Node` that a key belongs to.
    fn lookup_key<'py>(&self, py: Python<'py>, key: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.lookup_key(&key).await }, resources::node)
    }

    /// The `Node` that serves a resource. `kind`: `"stream"`, `"subscription"`, `"shard"`, `"shard_reader"`, `"connector"`,
    /// `"query"` or `"view"`.
    fn lookup_resource<'py>(&self, py: Python<'py>, kind: &str, id: String) -> PyResult<Bound<'py, PyAny>> {
        let kind =
            ResourceKind::from_name(kind).ok_or_else(|| unknown(py, "look up resource", "kind", kind))?;
        let core = self.core.clone();
        self.caller.call(py, async move { core.lookup_resource(kind, &id).await }, resources::node)
    }

    /// Runs a command of the operator's command line, such as `server stats stream_counter appends`; the answer is JSON text.
    /// `node`: `"host:port"` or a `Node` to be asked, by default any. It is not repeated when its outcome is open.
    ///
    /// Raises `InternalError` with the usage for a command that is none, `OutcomeUnknownError`, and what the command itself raises.
    #[pyo3(signature = (command, *, node = None))]
    fn admin_command<'py>(
        &self,
        py: Python<'py>,
        command: String,
        node: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let node = node.map(|node| arguments::node_address(py, node)).transpose()?;
        let core = self.core.clone();
        let run = async move {
            match node {
                Some(node) => core.admin_command_at(&node, &command).await,
                None => core.admin_command(&command).await,
            }
        };
        self.caller.call(py, run, |py, text| text.into_py_any(py))
    }
}

/// A name that is none of those there are.
pub(super) fn unknown(py: Python<'_>, operation: &'static str, what: &str, name: &str) -> PyErr {
    let error = Error::new(ErrorKind::InvalidArgument, operation)
        .with_message(format!("{name:?} is no {what}; see the documentation for those there are"));
    errors::raise(py, &error)
}
