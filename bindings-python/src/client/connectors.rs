//! Connectors.

use super::{ClientBase, cluster::unknown};
use crate::resources;
use hstreamdb::ConnectorKind;
use pyo3::{IntoPyObjectExt, prelude::*};

fn kind_of(py: Python<'_>, name: &str) -> PyResult<ConnectorKind> {
    match name.to_ascii_lowercase().as_str() {
        "source" => Ok(ConnectorKind::Source),
        "sink" => Ok(ConnectorKind::Sink),
        _ => Err(unknown(py, "name connector", "kind of connector, which are \"source\" and \"sink\"", name)),
    }
}

#[pymethods]
impl ClientBase {
    /// Creates and starts a connector and gives its `Connector`. `kind`: `"source"` or `"sink"`; `target`: the system, such as
    /// `"mysql"`; `config`: the JSON text that its program asks for, see `connector_spec`. A try is given at least 25 s.
    ///
    /// Raises `AlreadyExistsError` (601), `InvalidArgumentError` for the name (603) or kind (602), `FailedPreconditionError` (604)
    /// with what the program says about the configuration in `extra`, `UnimplementedError` (605), `OutcomeUnknownError`,
    /// `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn create_connector<'py>(
        &self,
        py: Python<'py>,
        name: String,
        kind: &str,
        target: String,
        config: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let kind = kind_of(py, kind)?;
        let core = self.core.clone();
        let create = async move { core.create_connector(&name, kind, &target, &config).await };
        self.caller.call(py, create, resources::connector)
    }

    /// A list of all `Connector` that were not deleted.
    ///
    /// Raises `UnimplementedError` where the server has no connectors, `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn list_connectors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.list_connectors().await }, |py, all| {
            resources::list(py, all, resources::connector)
        })
    }

    /// One `Connector`.
    ///
    /// Raises `NotFoundError`, `InvalidArgumentError` for a name that is none, and as `list_connectors`.
    fn get_connector<'py>(&self, py: Python<'py>, name: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.get_connector(&name).await }, resources::connector)
    }

    /// What the program for a system takes as configuration: a JSON schema, as text. A try is given at least 25 s.
    ///
    /// Raises `UnimplementedError` (605) for a system that the server has no program for, and as `list_connectors`.
    fn connector_spec<'py>(
        &self,
        py: Python<'py>,
        kind: &str,
        target: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let kind = kind_of(py, kind)?;
        let core = self.core.clone();
        let spec = async move { core.connector_spec(kind, &target).await };
        self.caller.call(py, spec, |py, text| text.into_py_any(py))
    }

    /// `count` lines of a connector's log from line `begin` on, counted from 1, as text.
    ///
    /// Raises as `get_connector`.
    #[pyo3(signature = (name, begin = 1, count = 100))]
    fn connector_logs<'py>(
        &self,
        py: Python<'py>,
        name: String,
        begin: u32,
        count: u32,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let logs = async move { core.connector_logs(&name, begin, count).await };
        self.caller.call(py, logs, |py, text| text.into_py_any(py))
    }

    /// Gives a connector another configuration, JSON text.
    ///
    /// Raises `FailedPreconditionError`, `OutcomeUnknownError`, and as `get_connector`; so for all that changes a connector.
    fn alter_connector_config<'py>(
        &self,
        py: Python<'py>,
        name: String,
        config: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.alter_connector_config(&name, &config).await })
    }

    /// Stops a connector.
    fn pause_connector<'py>(&self, py: Python<'py>, name: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.pause_connector(&name).await })
    }

    /// Starts a stopped connector.
    fn resume_connector<'py>(&self, py: Python<'py>, name: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.resume_connector(&name).await })
    }

    /// Deletes a connector.
    fn delete_connector<'py>(&self, py: Python<'py>, name: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.delete_connector(&name).await })
    }
}
