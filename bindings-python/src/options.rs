//! The core's tables and small helpers, for documentation, tests and programs.

use hstreamdb::{OptionKind, Row};
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
        row.set_item("kind", kind(option.kind))?;
        row.set_item("unit", option.unit)?;
        row.set_item("default", option.default)?;
        row.set_item("doc", option.doc)?;
        table.append(row)?;
    }
    Ok(table)
}

fn kind(kind: OptionKind) -> String {
    match kind {
        OptionKind::Bool => "bool".into(),
        OptionKind::Integer { min, max } => format!("int from {min} to {max}"),
        OptionKind::Number => "float".into(),
        OptionKind::Text => "str".into(),
        OptionKind::Bytes => "bytes or str".into(),
        OptionKind::Choice(words) => format!("one of {}", words.join(", ")),
        OptionKind::TextMap => "mapping of str to str".into(),
        OptionKind::TextList => "list of str".into(),
    }
}

/// Every metric of `Client.metrics` as a dict: name, kind, doc.
#[pyfunction]
pub fn metric_table(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let table = PyList::empty(py);
    for metric in hstreamdb::metric_table() {
        let row = PyDict::new(py);
        row.set_item("name", metric.name)?;
        row.set_item("kind", metric.kind.name())?;
        row.set_item("doc", metric.doc)?;
        table.append(row)?;
    }
    Ok(table)
}

/// A row of a query with SQL values as plain ones: numbers as numbers, times, intervals and Base64 as text.
///
/// >>> from hstreamdb import plain_row
/// >>> plain_row({"n": {"$numberLong": "22"}, "city": "Ulm"})
/// {'city': 'Ulm', 'n': 22}
#[pyfunction]
pub fn plain_row<'py>(py: Python<'py>, row: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
    let json = py.import("json")?;
    let text: String = json.call_method1("dumps", (row,))?.extract()?;
    let invalid = |error: serde_json::Error| pyo3::exceptions::PyValueError::new_err(error.to_string());
    let row: Row = serde_json::from_str(&text).map_err(invalid)?;
    let plain = serde_json::to_string(&hstreamdb::plain_row(row)).map_err(invalid)?;
    json.call_method1("loads", (plain,))
}
