//! Queries.

use super::ClientBase;
use crate::resources;
use hstreamdb::ParsedSql;
use pyo3::{IntoPyObjectExt, prelude::*};

#[pymethods]
impl ClientBase {
    /// Starts a query that goes on for ever and gives its `Query`. `namespace` is a prefix for the names in the statement.
    ///
    /// Raises `AlreadyExistsError`, `InvalidArgumentError` for a name or statement that is none, `UnimplementedError` where the
    /// server has no queries, `OutcomeUnknownError`, `UnavailableError`, `TimeoutError`, `ClosedError`.
    #[pyo3(signature = (name, sql, *, namespace = None))]
    fn create_query<'py>(
        &self,
        py: Python<'py>,
        name: String,
        sql: String,
        namespace: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let create = async move {
            match namespace {
                Some(namespace) => core.create_query_with_namespace(&name, &sql, &namespace).await,
                None => core.create_query(&name, &sql).await,
            }
        };
        self.caller.call(py, create, resources::query)
    }

    /// A list of all `Query`.
    ///
    /// Raises `UnimplementedError`, `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn list_queries<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.list_queries().await }, |py, all| {
            resources::list(py, all, resources::query)
        })
    }

    /// One `Query`.
    ///
    /// Raises `NotFoundError`, `InvalidArgumentError` for a name that is none, and as `list_queries`.
    fn get_query<'py>(&self, py: Python<'py>, query: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.get_query(&query).await }, resources::query)
    }

    /// Ends a query; it can be deleted then.
    ///
    /// Raises `NotFoundError`, `FailedPreconditionError`, and as `list_queries`; so for all that changes a query.
    fn terminate_query<'py>(&self, py: Python<'py>, query: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.terminate_query(&query).await })
    }

    /// Pauses a query.
    fn pause_query<'py>(&self, py: Python<'py>, query: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.pause_query(&query).await })
    }

    /// Lets a paused or aborted query go on.
    fn resume_query<'py>(&self, py: Python<'py>, query: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.resume_query(&query).await })
    }

    /// Deletes a query that has ended.
    fn delete_query<'py>(&self, py: Python<'py>, query: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.delete_query(&query).await })
    }

    /// Runs a statement once and gives its rows, a list of dicts. Servers without schemas write SQL numbers and times as objects of
    /// one member; `plain_row` makes them plain.
    ///
    /// Raises `InvalidArgumentError` for a statement that is none, `InternalError` when it fails while it runs, and as
    /// `list_queries`.
    fn execute_query<'py>(&self, py: Python<'py>, sql: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.execute_query(&sql).await }, resources::rows)
    }

    /// The name of the view that a statement selects from, or `None` for a statement that this version does not know.
    ///
    /// Raises `InvalidArgumentError` for a statement that is none, and as `list_queries`.
    fn parse_sql<'py>(&self, py: Python<'py>, sql: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.parse_sql(&sql).await }, |py, parsed| match parsed {
            ParsedSql::ViewSelect { view } => view.into_py_any(py),
            _ => Ok(py.None()),
        })
    }
}
