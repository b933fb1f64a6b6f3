//! Structured records that are encoded before they are appended.

use crate::errors;
use hstreamdb::{PayloadKind, Record};
use pyo3::{
    prelude::*,
    sync::PyOnceLock,
    types::{PyBytes, PyDict},
};
use std::fmt;

/// A structured record that is encoded already: from a dict, or from bytes that `hrecord_encode` made or a received record holds.
/// It can be appended like a dict; `len()` is what it takes.
///
/// >>> from hstreamdb import HRecord, hrecord_encode
/// >>> record = HRecord({"a": 1})
/// >>> bytes(record) == hrecord_encode({"a": 1})
/// True
/// >>> len(HRecord(bytes(record))) == len(record)
/// True
#[pyclass(frozen, module = "hstreamdb")]
pub struct HRecord(Record);

impl fmt::Debug for HRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HRecord")
    }
}

impl HRecord {
    /// The core's record, without a key.
    pub fn record(&self) -> Record {
        self.0.clone()
    }
}

#[pymethods]
impl HRecord {
    /// Raises `InvalidArgumentError` for a dict that cannot be one.
    #[new]
    fn new(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(encoded) = value.cast::<PyBytes>() {
            let mut record = Record::raw(encoded.as_bytes().to_vec());
            record.kind = PayloadKind::HRecord;
            return Ok(HRecord(record));
        }
        structured(value.cast::<PyDict>()?.as_any()).map(HRecord)
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.payload)
    }

    fn __len__(&self) -> usize {
        self.0.payload.len()
    }

    fn __repr__(&self) -> String {
        format!("<HRecord of {} bytes>", self.0.payload.len())
    }
}

/// What a dict is stored as. Numbers become floats, so whole numbers beyond 2**53 lose digits; send those as text.
///
/// Raises `InvalidArgumentError` for a dict that cannot be stored.
#[pyfunction]
pub fn hrecord_encode<'py>(py: Python<'py>, value: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyBytes>> {
    Ok(PyBytes::new(py, &structured(value.as_any())?.payload))
}

/// The dict of bytes that `hrecord_encode` made, or a received record holds.
///
/// Raises `CodecError` for bytes that are none.
#[pyfunction]
pub fn hrecord_decode<'py>(py: Python<'py>, encoded: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let record = hstreamdb::ReceivedRecord {
        id: hstreamdb::RecordId { shard_id: 0, batch_id: 0, batch_index: 0 },
        key: String::new(),
        attributes: Vec::new(),
        publish_time_ms: 0,
        kind: PayloadKind::HRecord,
        payload: encoded.to_vec().into(),
    };
    let text = record.to_json().map_err(|error| errors::raise(py, &error))?;
    py.import("json")?.call_method1("loads", (text,))
}

/// The structured record of a dict.
pub fn structured(payload: &Bound<'_, PyAny>) -> PyResult<Record> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = payload.py();
    let json: String = DUMPS.import(py, "json", "dumps")?.call1((payload,))?.extract()?;
    Record::hrecord_json(&json).map_err(|error| errors::raise(py, &error))
}
