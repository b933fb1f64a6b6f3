//! Received records and their ids as Python sees them.

use crate::errors;
use hstreamdb::{Consumer as CoreConsumer, ReceivedRecord};
use pyo3::{
    basic::CompareOp,
    prelude::*,
    sync::PyOnceLock,
    types::{PyBytes, PyDict, PyTuple},
};
use std::{
    collections::hash_map::DefaultHasher,
    fmt,
    hash::{Hash, Hasher},
};

/// Identity and position of a stored record.
#[pyclass(frozen, module = "hstreamdb", from_py_object)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordId(pub hstreamdb::RecordId);

#[pymethods]
impl RecordId {
    #[new]
    fn new(shard_id: u64, batch_id: u64, batch_index: u32) -> Self {
        RecordId(hstreamdb::RecordId { shard_id, batch_id, batch_index })
    }

    /// The id of its text form `<shard>-<batch>-<index>`.
    #[staticmethod]
    fn parse(py: Python<'_>, text: &str) -> PyResult<Self> {
        text.parse().map(RecordId).map_err(|error| errors::raise(py, &error))
    }

    #[getter]
    fn shard_id(&self) -> u64 {
        self.0.shard_id
    }

    #[getter]
    fn batch_id(&self) -> u64 {
        self.0.batch_id
    }

    #[getter]
    fn batch_index(&self) -> u32 {
        self.0.batch_index
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        let hstreamdb::RecordId { shard_id, batch_id, batch_index } = self.0;
        format!("RecordId(shard_id={shard_id}, batch_id={batch_id}, batch_index={batch_index})")
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        hasher.finish()
    }

    fn __richcmp__(&self, other: &RecordId, op: CompareOp) -> bool {
        op.matches(self.0.cmp(&other.0))
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (u64, u64, u32))> {
        let class = py.get_type::<RecordId>().into_any();
        Ok((class, (self.0.shard_id, self.0.batch_id, self.0.batch_index)))
    }
}

/// A list of ids for the core, from any iterable of [`RecordId`], or from a single one.
pub fn ids_argument(ids: &Bound<'_, PyAny>) -> PyResult<Vec<hstreamdb::RecordId>> {
    if let Ok(one) = ids.extract::<RecordId>() {
        return Ok(vec![one.0]);
    }
    ids.try_iter()?.map(|id| Ok(id?.extract::<RecordId>()?.0)).collect()
}

/// One received record.
#[pyclass(frozen, module = "hstreamdb")]
pub struct Record {
    inner: ReceivedRecord,
    consumer: Option<CoreConsumer>,
    payload: PyOnceLock<Py<PyBytes>>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

impl Record {
    /// A record of a batch; `consumer` is where its acknowledgement goes.
    pub fn new(inner: ReceivedRecord, consumer: Option<CoreConsumer>) -> Self {
        Record { inner, consumer, payload: PyOnceLock::new() }
    }
}

#[pymethods]
impl Record {
    #[getter]
    fn id(&self) -> RecordId {
        RecordId(self.inner.id)
    }

    #[getter]
    fn key(&self) -> &str {
        &self.inner.key
    }

    /// The content; copied out of the batch at the first access.
    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.payload.get_or_init(py, || PyBytes::new(py, &self.inner.payload).unbind()).bind(py).clone()
    }

    /// `"raw"` or `"hrecord"`.
    #[getter]
    fn kind(&self) -> &'static str {
        self.inner.kind.name()
    }

    #[getter]
    fn publish_time_ms(&self) -> i64 {
        self.inner.publish_time_ms
    }

    #[getter]
    fn attributes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let attributes = PyDict::new(py);
        for (name, value) in &self.inner.attributes {
            attributes.set_item(name, value)?;
        }
        Ok(attributes)
    }

    /// The dict of a structured record.
    fn json<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let text = self.inner.to_json().map_err(|error| errors::raise(py, &error))?;
        py.import("json")?.call_method1("loads", (text,))
    }

    /// Acknowledges this record; only records of a consumer can be.
    fn ack(&self, py: Python<'_>) -> PyResult<()> {
        let consumer = self.consumer.as_ref().ok_or_else(|| not_from_consumer(py))?;
        py.detach(|| consumer.ack(&[self.inner.id])).map_err(|error| errors::raise(py, &error))
    }

    fn __repr__(&self) -> String {
        format!("<Record {} key={:?} {} bytes>", self.inner.id, self.inner.key, self.inner.payload.len())
    }
}

/// What acknowledging a reader's record gives.
pub fn not_from_consumer(py: Python<'_>) -> PyErr {
    let error = hstreamdb::Error::new(hstreamdb::ErrorKind::InvalidArgument, "ack")
        .with_message("it came from a reader; only what a consumer delivered can be acknowledged");
    errors::raise(py, &error)
}

/// A tuple of ids for Python.
pub fn ids_tuple<'py>(py: Python<'py>, ids: &[hstreamdb::RecordId]) -> PyResult<Bound<'py, PyTuple>> {
    PyTuple::new(py, ids.iter().copied().map(RecordId))
}
