//! Received records as Python sees them.

use crate::{errors, gate, record_id};
use hstreamdb::Consumer as CoreConsumer;
use pyo3::{
    prelude::*,
    sync::PyOnceLock,
    types::{PyBytes, PyDict},
};
use std::fmt;

/// One received record.
#[pyclass(frozen, module = "hstreamdb")]
pub struct ReceivedRecord {
    inner: hstreamdb::ReceivedRecord,
    consumer: Option<CoreConsumer>,
    id: PyOnceLock<Py<PyAny>>,
    payload: PyOnceLock<Py<PyBytes>>,
}

impl fmt::Debug for ReceivedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedRecord").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

impl ReceivedRecord {
    /// A record of a batch; `consumer` is where its acknowledgement goes.
    pub fn new(inner: hstreamdb::ReceivedRecord, consumer: Option<CoreConsumer>) -> Self {
        ReceivedRecord { inner, consumer, id: PyOnceLock::new(), payload: PyOnceLock::new() }
    }
}

#[pymethods]
impl ReceivedRecord {
    /// Identity and position: a `RecordId`.
    #[getter]
    fn id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let id = self.id.get_or_try_init(py, || record_id::make(py, self.inner.id))?;
        Ok(id.bind(py).clone())
    }

    /// Its partition key; `""` when it has none.
    #[getter]
    fn key(&self) -> &str {
        &self.inner.key
    }

    /// The content; copied out of the batch at the first access. Of a structured record its encoded form, see `json`.
    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.payload.get_or_init(py, || PyBytes::new(py, &self.inner.payload).unbind()).bind(py).clone()
    }

    /// `"raw"` or `"hrecord"`.
    #[getter]
    fn kind(&self) -> &'static str {
        self.inner.kind.name()
    }

    /// Time of the append in milliseconds since 1970, set by the server.
    #[getter]
    fn publish_time_ms(&self) -> i64 {
        self.inner.publish_time_ms
    }

    /// Texts that were appended beside the content.
    #[getter]
    fn attributes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        attributes_of(py, &self.inner)
    }

    /// The dict of a structured record.
    ///
    /// Raises `InvalidArgumentError` for a raw record, `CodecError` for bytes that are none.
    fn json<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json_of(py, &self.inner)
    }

    /// Acknowledges this record. Never waits.
    ///
    /// Raises `InvalidArgumentError` for a reader's record, `ClosedError` after the consumer has stopped.
    fn ack(&self, py: Python<'_>) -> PyResult<()> {
        let consumer = self.consumer.as_ref().ok_or_else(|| not_from_consumer(py))?;
        gate::detach(py, || consumer.ack(&[self.inner.id])).map_err(|error| errors::raise(py, &error))
    }

    fn __repr__(&self) -> String {
        let hstreamdb::ReceivedRecord { id, key, payload, .. } = &self.inner;
        format!("<ReceivedRecord {id} key={key:?} {} bytes>", payload.len())
    }
}

/// The attributes as a dict.
pub fn attributes_of<'py>(
    py: Python<'py>,
    record: &hstreamdb::ReceivedRecord,
) -> PyResult<Bound<'py, PyDict>> {
    let attributes = PyDict::new(py);
    for (name, value) in &record.attributes {
        attributes.set_item(name, value)?;
    }
    Ok(attributes)
}

/// The dict of a structured record.
pub fn json_of<'py>(py: Python<'py>, record: &hstreamdb::ReceivedRecord) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let _staying = gate::stay(py);
    let text = record.to_json().map_err(|error| errors::raise(py, &error))?;
    LOADS.import(py, "json", "loads")?.call1((text,))
}

/// What acknowledging a reader's record gives.
pub fn not_from_consumer(py: Python<'_>) -> PyErr {
    let error = hstreamdb::Error::new(hstreamdb::ErrorKind::InvalidArgument, "ack")
        .with_message("it came from a reader; only what a consumer delivered can be acknowledged");
    errors::raise(py, &error)
}
