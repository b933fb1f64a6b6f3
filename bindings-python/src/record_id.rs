//! Record ids: named tuples of Python, numbers here.

use crate::errors;
use hstreamdb::RecordId;
use pyo3::{
    prelude::*,
    sync::PyOnceLock,
    types::{PyInt, PyTuple, PyType},
};

/// Shard and batch, and their numbers for Python.
type Shared<'py> = ((u64, u64), Bound<'py, PyInt>, Bound<'py, PyInt>);

/// Makes ids for Python. The numbers that all records of a batch share are made once per batch.
pub struct Maker<'py> {
    class: &'py Bound<'py, PyType>,
    new: &'py Bound<'py, PyAny>,
    shared: Option<Shared<'py>>,
}

impl<'py> Maker<'py> {
    /// For some ids.
    pub fn new(py: Python<'py>) -> PyResult<Self> {
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static NEW: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let class = CLASS.import(py, "hstreamdb.record_id", "RecordId")?;
        // Not the class's own, which is a function of Python around this one.
        let new = NEW
            .get_or_try_init(py, || py.get_type::<PyTuple>().getattr("__new__").map(Bound::unbind))?
            .bind(py);
        Ok(Maker { class, new, shared: None })
    }

    /// One id.
    pub fn make(&mut self, py: Python<'py>, id: RecordId) -> PyResult<Bound<'py, PyAny>> {
        let of_batch = (id.shard_id, id.batch_id);
        let (shard, batch) = match &self.shared {
            Some((known, shard, batch)) if *known == of_batch => (shard.clone(), batch.clone()),
            _ => {
                let shard = id.shard_id.into_pyobject(py)?;
                let batch = id.batch_id.into_pyobject(py)?;
                self.shared = Some((of_batch, shard.clone(), batch.clone()));
                (shard, batch)
            }
        };
        self.new.call1((self.class, (shard, batch, id.batch_index)))
    }
}

/// One id for Python.
pub fn make(py: Python<'_>, id: RecordId) -> PyResult<Py<PyAny>> {
    Maker::new(py)?.make(py, id).map(Bound::unbind)
}

/// A tuple of ids for Python.
pub fn tuple<'py>(py: Python<'py>, ids: &[RecordId]) -> PyResult<Bound<'py, PyTuple>> {
    let mut maker = Maker::new(py)?;
    let made: Vec<_> = ids.iter().map(|id| maker.make(py, *id)).collect::<PyResult<_>>()?;
    PyTuple::new(py, made)
}

/// An id from Python: a `RecordId`, or any tuple of its three numbers.
pub fn extract(value: &Bound<'_, PyAny>) -> Option<RecordId> {
    let tuple = value.cast::<PyTuple>().ok()?;
    let (shard_id, batch_id, batch_index) = tuple.extract().ok()?;
    Some(RecordId { shard_id, batch_id, batch_index })
}

/// An id that has to be one.
pub fn argument(value: &Bound<'_, PyAny>) -> PyResult<RecordId> {
    extract(value).ok_or_else(|| {
        let given = value.get_type().name().map_or_else(|_| "something else".into(), |name| name.to_string());
        pyo3::exceptions::PyTypeError::new_err(format!("expected a RecordId, got {given}"))
    })
}

/// Ids for the core, from any iterable of them, or from a single one.
pub fn list_argument(ids: &Bound<'_, PyAny>) -> PyResult<Vec<RecordId>> {
    if let Some(one) = extract(ids) {
        return Ok(vec![one]);
    }
    ids.try_iter()?.map(|id| argument(&id?)).collect()
}

/// The three numbers of an id's text form `<shard>-<batch>-<index>`.
#[pyfunction]
pub fn _parse_record_id(py: Python<'_>, text: &str) -> PyResult<(u64, u64, u32)> {
    let id: RecordId = text.parse().map_err(|error| errors::raise(py, &error))?;
    Ok((id.shard_id, id.batch_id, id.batch_index))
}
