//! Schemas of streams.

use super::ClientBase;
use crate::resources;
use hstreamdb::{Column, Schema};
use pyo3::prelude::*;

#[pymethods]
impl ClientBase {
    /// Registers a `Schema`: the columns of a stream.
    ///
    /// Raises `AlreadyExistsError`, `InvalidArgumentError`, `UnimplementedError` where the server has no schemas,
    /// `OutcomeUnknownError`, `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn register_schema<'py>(
        &self,
        py: Python<'py>,
        schema: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut columns = Vec::new();
        for column in schema.getattr("columns")?.try_iter()? {
            let column = column?;
            columns.push(Column {
                index: column.getattr("index")?.extract()?,
                name: column.getattr("name")?.extract()?,
                data_type: column.getattr("data_type")?.extract()?,
                nullable: column.getattr("nullable")?.extract()?,
                hidden: column.getattr("hidden")?.extract()?,
            });
        }
        let schema = Schema { owner: schema.getattr("owner")?.extract()?, columns };
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.register_schema(&schema).await })
    }

    /// The `Schema` of a stream.
    ///
    /// Raises `NotFoundError`, and as `register_schema`.
    fn get_schema<'py>(&self, py: Python<'py>, owner: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.get_schema(&owner).await }, resources::schema)
    }

    /// Forgets the schema of a stream.
    ///
    /// Raises `NotFoundError`, and as `register_schema`.
    fn unregister_schema<'py>(&self, py: Python<'py>, owner: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.unregister_schema(&owner).await })
    }
}
