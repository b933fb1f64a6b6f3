//! A received batch: decoded when its content is asked for, column by column or record by record; acknowledged as a whole.

use crate::{
    errors, gate,
    record::{ReceivedRecord, attributes_of, json_of, not_from_consumer},
    record_id,
};
use hstreamdb::{Consumer as CoreConsumer, PayloadKind};
use pyo3::{
    prelude::*,
    sync::PyOnceLock,
    types::{PyBytes, PyIterator, PyList, PyString, PyTuple},
};
use std::fmt;

/// Records of one shard, decoded when they are asked for.
///
/// `payloads`, `keys`, `ids` and the other columns make one list each, with one call for the whole batch; `records` makes an
/// object per record. A batch that cannot be decoded raises `CodecError` from all of them but `ids`; it can be acknowledged
/// all the same.
#[pyclass(frozen, module = "hstreamdb")]
pub struct ReceivedBatch {
    inner: hstreamdb::ReceivedBatch,
    consumer: Option<CoreConsumer>,
    records: PyOnceLock<Py<PyList>>,
}

impl fmt::Debug for ReceivedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedBatch").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl ReceivedBatch {
    /// A batch for Python; `consumer` is where its acknowledgement goes.
    pub fn new(inner: hstreamdb::ReceivedBatch, consumer: Option<CoreConsumer>) -> Self {
        ReceivedBatch { inner, consumer, records: PyOnceLock::new() }
    }

    /// The core's batch.
    pub fn received(&self) -> hstreamdb::ReceivedBatch {
        self.inner.clone()
    }

    fn decoded(&self, py: Python<'_>) -> PyResult<&[hstreamdb::ReceivedRecord]> {
        gate::detach(py, || self.inner.decoded()).map_err(|error| errors::raise(py, &error))
    }

    fn column<'py, T>(
        &self,
        py: Python<'py>,
        mut value: impl FnMut(&hstreamdb::ReceivedRecord) -> PyResult<T>,
    ) -> PyResult<Bound<'py, PyList>>
    where
        T: IntoPyObject<'py>,
    {
        let values: Vec<T> = self.decoded(py)?.iter().map(&mut value).collect::<PyResult<_>>()?;
        PyList::new(py, values)
    }
}

#[pymethods]
impl ReceivedBatch {
    /// One object per record, made at the first access.
    #[getter]
    fn records<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let records = self.records.get_or_try_init(py, || {
            let decoded =
                gate::detach(py, || self.inner.records()).map_err(|error| errors::raise(py, &error))?;
            let records: Vec<_> = decoded
                .into_iter()
                .map(|record| Py::new(py, ReceivedRecord::new(record, self.consumer.clone())))
                .collect::<PyResult<_>>()?;
            PyResult::Ok(PyList::new(py, records)?.unbind())
        })?;
        Ok(records.bind(py).clone())
    }

    /// The ids of all records, known without decoding.
    #[getter]
    fn ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        record_id::tuple(py, self.inner.ids())
    }

    /// The keys of all records; `""` for a record without one.
    #[getter]
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        // Records that follow each other often have the same key: then it is one object.
        let mut before: Option<(String, Bound<'py, PyString>)> = None;
        self.column(py, |record| {
            if let Some((key, made)) = &before
                && *key == record.key
            {
                return Ok(made.clone());
            }
            let made = PyString::new(py, &record.key);
            before = Some((record.key.clone(), made.clone()));
            Ok(made)
        })
    }

    /// The contents of all records as bytes; of structured records, their encoded form.
    #[getter]
    fn payloads<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |record| Ok(PyBytes::new(py, &record.payload)))
    }

    /// The attributes of all records, a dict each.
    #[getter]
    fn attributes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |record| attributes_of(py, record))
    }

    /// `"raw"` or `"hrecord"` for each record.
    #[getter]
    fn kinds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |record| Ok(PyString::intern(py, record.kind.name())))
    }

    /// The contents of all records as they were appended: bytes, or the dict of a structured record.
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.column(py, |record| match record.kind {
            PayloadKind::HRecord => json_of(py, record),
            _ => Ok(PyBytes::new(py, &record.payload).into_any()),
        })
    }

    /// The shard all records are of.
    #[getter]
    fn shard_id(&self) -> u64 {
        self.inner.shard_id()
    }

    /// Time of the append in milliseconds since 1970, set by the server.
    #[getter]
    fn publish_time_ms(&self) -> i64 {
        self.inner.publish_time_ms()
    }

    /// Bytes as received, possibly compressed.
    #[getter]
    fn encoded_bytes(&self) -> usize {
        self.inner.encoded_bytes()
    }

    /// Whether a consumer got it, or a part of it, before. Best effort: what other consumers got is not known.
    #[getter]
    fn is_redelivered(&self) -> bool {
        self.inner.is_redelivered()
    }

    /// Acknowledges every record of the batch. Never waits: the consumer sends it with the next group.
    ///
    /// Raises `InvalidArgumentError` for a reader's batch, `ClosedError` after the consumer has stopped.
    fn ack(&self, py: Python<'_>) -> PyResult<()> {
        let consumer = self.consumer.as_ref().ok_or_else(|| not_from_consumer(py))?;
        gate::detach(py, || consumer.ack_batch(&self.inner)).map_err(|error| errors::raise(py, &error))
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.records(py)?.try_iter()
    }

    fn __repr__(&self) -> String {
        format!("<ReceivedBatch of shard {}: {} records>", self.inner.shard_id(), self.inner.len())
    }
}
