//! A received batch: decoded when its records are asked for, acknowledged as a whole.

use crate::{
    errors,
    record::{Record, ids_tuple, not_from_consumer},
};
use hstreamdb::{Consumer as CoreConsumer, ReceivedBatch};
use pyo3::{
    prelude::*,
    sync::PyOnceLock,
    types::{PyIterator, PyList, PyTuple},
};
use std::fmt;

/// A batch of records of one shard.
#[pyclass(frozen, module = "hstreamdb")]
pub struct Batch {
    inner: ReceivedBatch,
    consumer: Option<CoreConsumer>,
    records: PyOnceLock<Py<PyList>>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Batch {
    /// A batch for Python; `consumer` is where its acknowledgement goes.
    pub fn new(inner: ReceivedBatch, consumer: Option<CoreConsumer>) -> Self {
        Batch { inner, consumer, records: PyOnceLock::new() }
    }

    /// The core's batch.
    pub fn received(&self) -> ReceivedBatch {
        self.inner.clone()
    }
}

#[pymethods]
impl Batch {
    /// The records, made at the first access.
    #[getter]
    fn records<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let records = self.records.get_or_try_init(py, || {
            let decoded = py.detach(|| self.inner.records()).map_err(|error| errors::raise(py, &error))?;
            let records = PyList::empty(py);
            for record in decoded {
                records.append(Py::new(py, Record::new(record, self.consumer.clone()))?)?;
            }
            PyResult::Ok(records.unbind())
        })?;
        Ok(records.bind(py).clone())
    }

    /// The ids of all records, known without decoding.
    #[getter]
    fn ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        ids_tuple(py, self.inner.ids())
    }

    #[getter]
    fn shard_id(&self) -> u64 {
        self.inner.shard_id()
    }

    #[getter]
    fn publish_time_ms(&self) -> i64 {
        self.inner.publish_time_ms()
    }

    /// Bytes as received, possibly compressed.
    #[getter]
    fn encoded_bytes(&self) -> usize {
        self.inner.encoded_bytes()
    }

    /// Acknowledges every record of the batch. Never waits: the consumer sends it with the next group.
    fn ack(&self, py: Python<'_>) -> PyResult<()> {
        let consumer = self.consumer.as_ref().ok_or_else(|| not_from_consumer(py))?;
        py.detach(|| consumer.ack_batch(&self.inner)).map_err(|error| errors::raise(py, &error))
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.records(py)?.try_iter()
    }

    fn __repr__(&self) -> String {
        format!("<Batch of shard {}: {} records>", self.inner.shard_id(), self.inner.len())
    }
}
