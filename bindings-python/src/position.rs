//! How far a reader has come.

use crate::{errors, record_id};
use pyo3::{prelude::*, types::PyList};
use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How far a reader has come: for each shard the last record that was read, or where reading begins.
///
/// `str()` of it is one line that can be kept anywhere and be given to `from_` of another reader, in another process or
/// language, too.
///
/// >>> from hstreamdb import RecordId, StreamPosition
/// >>> position = StreamPosition()
/// >>> position.advance(RecordId(7, 1000000000000000003, 2))
/// >>> str(position)
/// '7:>1000000000000000003-2'
/// >>> StreamPosition(str(position)) == position
/// True
#[pyclass(frozen, module = "hstreamdb")]
pub struct StreamPosition(Mutex<hstreamdb::StreamPosition>);

impl fmt::Debug for StreamPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StreamPosition").field(&*self.lock()).finish()
    }
}

impl StreamPosition {
    /// The core's position for Python.
    pub fn from_core(position: hstreamdb::StreamPosition) -> Self {
        StreamPosition(Mutex::new(position))
    }

    fn lock(&self) -> MutexGuard<'_, hstreamdb::StreamPosition> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its line.
    pub fn text(&self) -> String {
        self.lock().to_string()
    }
}

#[pymethods]
impl StreamPosition {
    /// From its text; without one, before everything: shards it does not name are read from their oldest record.
    #[new]
    #[pyo3(signature = (text = ""))]
    fn new(py: Python<'_>, text: &str) -> PyResult<Self> {
        let position = text.parse().map_err(|error| errors::raise(py, &error))?;
        Ok(StreamPosition::from_core(position))
    }

    /// The ids of the shards it names, ascending.
    #[getter]
    fn shards<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let shards: Vec<u64> = self.lock().shards().collect();
        PyList::new(py, shards)
    }

    /// The last record that was read of a shard; `None` when none was.
    fn last_read(&self, py: Python<'_>, shard_id: u64) -> PyResult<Option<Py<PyAny>>> {
        let last = self.lock().last_read(shard_id);
        last.map(|id| record_id::make(py, id)).transpose()
    }

    /// Says that everything of the record's shard up to it, itself included, was read. A position never goes back.
    fn advance(&self, record_id: &Bound<'_, PyAny>) -> PyResult<()> {
        let id = record_id::argument(record_id)?;
        self.lock().advance(id);
        Ok(())
    }

    fn __str__(&self) -> String {
        self.text()
    }

    fn __repr__(&self) -> String {
        format!("StreamPosition({:?})", self.text())
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        // One after the other: a position may be compared with itself.
        let text = self.text();
        other.cast::<StreamPosition>().is_ok_and(|other| other.get().text() == text)
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> (Bound<'py, PyAny>, (String,)) {
        (py.get_type::<StreamPosition>().into_any(), (self.text(),))
    }
}
