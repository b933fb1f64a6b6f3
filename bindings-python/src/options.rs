//! The core's table of options, for documentation and tests.

use pyo3::{
    prelude::*,
    types::{PyDict, PyList},
};

/// Every option as a dict: scope, name, kind, unit, default, doc.
#[pyfunction]
pub fn option_table(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let table = PyList::empty(py);
    for option in hstreamdb::option_table() {
        let row = PyDict::new(py);
        row.set_item("scope", option.scope.name())?;
        row.set_item("name", option.name)?;
        row.set_item("kind", format!("{:?}", option.kind))?;
        row.set_item("unit", option.unit)?;
        row.set_item("default", option.default)?;
        row.set_item("doc", option.doc)?;
        table.append(row)?;
    }
    Ok(table)
}
