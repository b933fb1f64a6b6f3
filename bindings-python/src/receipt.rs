//! What a thread that does not wait for an append gets.

use crate::{blocking::Meeting, errors};
use hstreamdb::AppendOutcome;
use pyo3::{exceptions::PyTimeoutError, prelude::*, sync::PyOnceLock};
use std::{fmt, sync::Arc, time::Duration};

/// Makes the value of an outcome.
pub type Convert = fn(Python<'_>, AppendOutcome) -> PyResult<Py<PyAny>>;

/// Stands for an append that `SyncProducer.submit` or `append_nowait` made: `result()` waits for it.
///
/// Dropping it takes nothing back. Threads may share it.
#[pyclass(frozen, module = "hstreamdb.sync")]
pub struct Receipt {
    outcome: Arc<Meeting<AppendOutcome>>,
    convert: Convert,
    /// Made at the first look: the value, or the exception.
    result: PyOnceLock<Result<Py<PyAny>, PyErr>>,
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receipt")
    }
}

impl Receipt {
    /// Of an outcome to come.
    pub fn new(outcome: Arc<Meeting<AppendOutcome>>, convert: Convert) -> Self {
        Receipt { outcome, convert, result: PyOnceLock::new() }
    }

    /// Waits, and gives the converted outcome.
    pub fn wait(&self, py: Python<'_>, timeout: Option<Duration>) -> PyResult<&Result<Py<PyAny>, PyErr>> {
        if let Some(result) = self.result.get(py) {
            return Ok(result);
        }
        if !self.outcome.wait(py, timeout)? {
            return Err(PyTimeoutError::new_err("the append is not resolved yet"));
        }
        let outcome = self.outcome.value().clone();
        Ok(self.result.get_or_init(py, || (self.convert)(py, outcome.unwrap_or_default())))
    }
}

#[pymethods]
impl Receipt {
    /// Waits for the append: gives the id (of `submit_many` the list of ids), or raises why it failed.
    ///
    /// Raises the built-in `TimeoutError` when it is not resolved within `timeout` seconds; the append goes on then.
    #[pyo3(signature = (timeout = None))]
    fn result(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        match self.wait(py, seconds(timeout)?)? {
            Ok(value) => Ok(value.clone_ref(py)),
            Err(error) => Err(error.clone_ref(py)),
        }
    }

    /// Waits for the append: gives why it failed, or `None`. Raises as `result` does when the time is up.
    #[pyo3(signature = (timeout = None))]
    fn exception(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        Ok(match self.wait(py, seconds(timeout)?)? {
            Ok(_) => None,
            Err(error) => Some(error.clone_ref(py).into_value(py).into_any()),
        })
    }

    /// Whether the append is stored or has failed. Never waits.
    fn done(&self) -> bool {
        self.outcome.value().is_some()
    }

    fn __repr__(&self) -> &'static str {
        if self.done() { "<Receipt: resolved>" } else { "<Receipt: pending>" }
    }
}

fn seconds(timeout: Option<f64>) -> PyResult<Option<Duration>> {
    timeout.map(|seconds| crate::arguments::seconds("timeout", seconds)).transpose()
}

/// The id of a single record.
pub fn only_id(py: Python<'_>, outcome: AppendOutcome) -> PyResult<Py<PyAny>> {
    if let Some(Some(id)) = outcome.ids.first() {
        return crate::record_id::make(py, *id);
    }
    match outcome.into_result() {
        Err(error) => Err(errors::raise(py, &error)),
        Ok(_) => Err(no_outcome(py)),
    }
}

/// The list of ids; or the first error, which carries the ids of the records that were stored all the same
/// (`ids`, with `None` for the others) and every failed range (`errors`).
pub fn all_ids(py: Python<'_>, outcome: AppendOutcome) -> PyResult<Py<PyAny>> {
    let mut maker = crate::record_id::Maker::new(py)?;
    let mut ids = Vec::with_capacity(outcome.ids.len());
    for id in &outcome.ids {
        ids.push(id.map(|id| maker.make(py, id)).transpose()?);
    }
    if outcome.errors.is_empty() {
        if ids.iter().any(Option::is_none) {
            return Err(no_outcome(py));
        }
        return Ok(pyo3::types::PyList::new(py, ids)?.into_any().unbind());
    }
    let mut first = None;
    let ranges = pyo3::types::PyList::empty(py);
    for (range, error) in &outcome.errors {
        let exception = errors::raise(py, error).into_value(py);
        ranges.append((range.start, range.end, &exception))?;
        first.get_or_insert(exception);
    }
    let Some(first) = first else { return Err(no_outcome(py)) };
    first.bind(py).setattr("ids", pyo3::types::PyList::new(py, ids)?)?;
    first.bind(py).setattr("errors", ranges)?;
    Err(PyErr::from_value(first.into_bound(py).into_any()))
}

fn no_outcome(py: Python<'_>) -> PyErr {
    let error = hstreamdb::Error::new(hstreamdb::ErrorKind::Internal, "append")
        .with_message("a record ended without an id and without an error")
        .with_may_have_been_applied(true);
    errors::raise(py, &error)
}
