//! Views.

use super::ClientBase;
use crate::resources;
use pyo3::prelude::*;

#[pymethods]
impl ClientBase {
    /// A list of all `View`.
    ///
    /// Raises `UnimplementedError` where the server has no views, `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn list_views<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.list_views().await }, |py, all| {
            resources::list(py, all, resources::view)
        })
    }

    /// One `View`.
    ///
    /// Raises `NotFoundError`, `InvalidArgumentError` for a name that is none, and as `list_views`.
    fn get_view<'py>(&self, py: Python<'py>, view: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.get_view(&view).await }, resources::view)
    }

    /// Deletes a view and its query, which must have been terminated before.
    ///
    /// Raises `NotFoundError` unless `ignore_missing`, `FailedPreconditionError` (407) when its query has not been terminated,
    /// `OutcomeUnknownError`, and as `list_views`.
    #[pyo3(signature = (view, *, ignore_missing = false))]
    fn delete_view<'py>(
        &self,
        py: Python<'py>,
        view: String,
        ignore_missing: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.delete_view(&view, ignore_missing).await })
    }

    /// Selects from a view: a list of dicts, one for each of its groups that the statement leaves. `namespace` is a prefix for the
    /// names in the statement.
    ///
    /// Raises `InvalidArgumentError` for a statement that is no select from a view, `NotFoundError` when there is no such view or
    /// its query does not run, `InternalError` when it fails while it runs, and as `list_views`.
    #[pyo3(signature = (sql, *, namespace = None))]
    fn execute_view_query<'py>(
        &self,
        py: Python<'py>,
        sql: String,
        namespace: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let execute = async move {
            match namespace {
                Some(namespace) => core.execute_view_query_with_namespace(&sql, &namespace).await,
                None => core.execute_view_query(&sql).await,
            }
        };
        self.caller.call(py, execute, resources::rows)
    }
}
