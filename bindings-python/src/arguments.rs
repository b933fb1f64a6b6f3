//! Arguments from Python: options as keyword arguments, time spans, payloads.

use crate::{
    errors,
    hrecord::{HRecord, structured},
    position::StreamPosition,
    record_id,
};
use hstreamdb::{Error, ErrorKind, NodeAddress, Offset, OptionValue, Record, RecordBatch};
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    prelude::*,
    sync::PyOnceLock,
    types::{
        PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMapping, PyMemoryView, PyString,
        PyTuple, PyType,
    },
};
use std::time::Duration;

/// Hands every keyword argument to the `set` of a builder, which knows the options and refuses others.
/// `None` stands for the default.
pub fn apply<B>(
    py: Python<'_>,
    mut builder: B,
    options: Option<&Bound<'_, PyDict>>,
    set: impl Fn(B, &str, OptionValue) -> hstreamdb::Result<B>,
) -> PyResult<B> {
    let Some(options) = options else { return Ok(builder) };
    for (name, value) in options {
        if value.is_none() {
            continue;
        }
        let name: String = name.extract()?;
        // `from_`: the spelling of names that are keywords of Python.
        let name = name.strip_suffix('_').unwrap_or(&name);
        let value = option_value(name, &value)?;
        builder = set(builder, name, value).map_err(|error| errors::raise(py, &error))?;
    }
    Ok(builder)
}

fn option_value(name: &str, value: &Bound<'_, PyAny>) -> PyResult<OptionValue> {
    // bool first: it is an int in Python.
    if value.is_instance_of::<PyBool>() {
        return Ok(OptionValue::Bool(value.extract()?));
    }
    if value.is_instance_of::<PyInt>() {
        return Ok(OptionValue::Integer(value.extract()?));
    }
    if value.is_instance_of::<PyFloat>() {
        return Ok(OptionValue::Number(value.extract()?));
    }
    if value.is_instance_of::<PyString>() {
        return Ok(OptionValue::Text(value.extract()?));
    }
    if let Some(id) = record_id::extract(value) {
        return Ok(OptionValue::Text(id.to_string()));
    }
    if let Ok(position) = value.cast::<StreamPosition>() {
        return Ok(OptionValue::Text(position.get().text()));
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(OptionValue::Bytes(bytes.as_bytes().to_vec().into()));
    }
    if let Ok(map) = value.cast::<PyMapping>() {
        let pairs = map.items()?.iter().map(|pair| pair.extract()).collect::<PyResult<_>>()?;
        return Ok(OptionValue::TextMap(pairs));
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        return Ok(OptionValue::TextList(value.extract()?));
    }
    if let Some(value) = time_value(name, value)? {
        return Ok(value);
    }
    if value.hasattr("__fspath__")? {
        return Ok(OptionValue::Text(value.call_method0("__fspath__")?.extract()?));
    }
    Err(PyTypeError::new_err(format!(
        "option {name}: expected bool, int, float, str, bytes, dict, list, path, timedelta or datetime, got {}",
        value.get_type().name()?
    )))
}

/// A `timedelta` in the unit that the option's name says, a `datetime` in milliseconds since 1970.
fn time_value(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Option<OptionValue>> {
    let py = value.py();
    static DELTA: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    if value.is_instance(DELTA.import(py, "datetime", "timedelta")?)? {
        let seconds: f64 = value.call_method0("total_seconds")?.extract()?;
        let unit = if name.to_ascii_lowercase().ends_with("ms") { 1000.0 } else { 1.0 };
        // Up, so that a short time does not become none.
        return Ok(Some(OptionValue::Number((seconds * unit).ceil())));
    }
    Ok(milliseconds(value)?.map(|ms| OptionValue::Text(ms.to_string())))
}

/// A `datetime` as milliseconds since 1970; one without a time zone is local time, as everywhere in Python.
fn milliseconds(value: &Bound<'_, PyAny>) -> PyResult<Option<i64>> {
    static DATETIME: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    if !value.is_instance(DATETIME.import(value.py(), "datetime", "datetime")?)? {
        return Ok(None);
    }
    let seconds: f64 = value.call_method0("timestamp")?.extract()?;
    Ok(Some((seconds * 1000.0).round() as i64))
}

/// A place in a stream: `"earliest"`, `"latest"`, a record id, a `datetime`, or milliseconds since 1970.
pub fn offset(py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Offset> {
    if value.is_instance_of::<PyInt>() {
        return Ok(Offset::Timestamp(value.extract()?));
    }
    if let Some(id) = record_id::extract(value) {
        return Ok(Offset::Record(id));
    }
    if let Some(ms) = milliseconds(value)? {
        return Ok(Offset::Timestamp(ms));
    }
    let text: String = value.extract()?;
    text.parse().map_err(|error| errors::raise(py, &error))
}

/// A time span in seconds.
pub fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| PyValueError::new_err(format!("{name}: {value} is not a time span in seconds")))
}

/// A limit in seconds; `None` stands for none.
pub fn time_limit(timeout: Option<f64>) -> PyResult<Duration> {
    /// Ten years: no limit, and far from what clocks can add.
    const NONE: Duration = Duration::from_secs(10 * 365 * 86_400);
    timeout.map_or(Ok(NONE), |timeout| Ok(seconds("timeout", timeout)?.min(NONE)))
}

/// The address of a node, from `"host:port"` or from a `Node`.
pub fn node_address(py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<NodeAddress> {
    let text: String = match value.cast::<PyString>() {
        Ok(text) => text.extract()?,
        Err(_) => value.getattr("address")?.extract()?,
    };
    text.parse().map_err(|error: Error| errors::raise(py, &error))
}

/// Text pairs out of a mapping; none without one.
pub fn attributes(value: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<(String, String)>> {
    let Some(value) = value.filter(|value| !value.is_none()) else { return Ok(Vec::new()) };
    let map = value
        .cast::<PyMapping>()
        .map_err(|_| PyTypeError::new_err("attributes: expected a mapping of str to str"))?;
    map.items()?.iter().map(|pair| pair.extract()).collect()
}

/// Adds one record to a batch: bytes-like and text are raw payloads, a dict is a structured record.
pub fn push(
    batch: &mut RecordBatch,
    key: &str,
    payload: &Bound<'_, PyAny>,
    attributes: &[(String, String)],
) -> PyResult<()> {
    let mut raw = |bytes: &[u8]| {
        if attributes.is_empty() {
            batch.push(key, bytes);
        } else {
            let record = Record::raw(bytes.to_vec()).with_key(key);
            batch.push_record(&with_attributes(record, attributes));
        }
    };
    if let Ok(bytes) = payload.cast::<PyBytes>() {
        raw(bytes.as_bytes());
    } else if let Ok(text) = payload.cast::<PyString>() {
        raw(text.to_cow()?.as_bytes());
    } else if let Ok(bytes) = payload.cast::<PyByteArray>() {
        raw(&bytes.to_vec());
    } else if payload.is_instance_of::<PyDict>() {
        batch.push_record(&with_attributes(structured(payload)?.with_key(key), attributes));
    } else if let Ok(encoded) = payload.cast::<HRecord>() {
        batch.push_record(&with_attributes(encoded.get().record().with_key(key), attributes));
    } else {
        // Whatever else shows its memory, such as an array.
        let view = PyMemoryView::from(payload).map_err(|_| wrong_payload(payload))?;
        let bytes = view.call_method0("tobytes")?;
        raw(bytes.cast::<PyBytes>()?.as_bytes());
    }
    Ok(())
}

fn with_attributes(record: Record, attributes: &[(String, String)]) -> Record {
    attributes.iter().fold(record, |record, (name, value)| record.with_attribute(name, value))
}

fn wrong_payload(payload: &Bound<'_, PyAny>) -> PyErr {
    let given = payload.get_type().name().map_or_else(|_| "something else".into(), |name| name.to_string());
    PyTypeError::new_err(format!(
        "payload: expected bytes, bytearray, memoryview, str, dict or HRecord, got {given}"
    ))
}

/// The batch of a single record.
pub fn single(
    payload: &Bound<'_, PyAny>,
    key: Option<&Bound<'_, PyString>>,
    attributes_of: Option<&Bound<'_, PyAny>>,
) -> PyResult<RecordBatch> {
    let attributes = attributes(attributes_of)?;
    let mut batch = RecordBatch::with_capacity(1, 0);
    match key {
        Some(key) => push(&mut batch, &key.to_cow()?, payload, &attributes)?,
        None => push(&mut batch, "", payload, &attributes)?,
    }
    Ok(batch)
}

/// The keys of `append_many`: none, one for all, or one per record.
enum Keys<'py> {
    /// All records have the same key, perhaps the empty one.
    One(String),
    /// A list with `None` or a key for each record.
    Each(Vec<Option<Bound<'py, PyString>>>),
}

impl<'py> Keys<'py> {
    /// Reads the argument.
    fn from_argument(keys: Option<&Bound<'py, PyAny>>) -> PyResult<Keys<'py>> {
        let Some(keys) = keys else { return Ok(Keys::One(String::new())) };
        if keys.is_none() {
            return Ok(Keys::One(String::new()));
        }
        if let Ok(one) = keys.cast::<PyString>() {
            return Ok(Keys::One(one.to_cow()?.into_owned()));
        }
        let mut each = Vec::new();
        for key in keys.try_iter()? {
            let key = key?;
            each.push(if key.is_none() { None } else { Some(key.cast_into::<PyString>()?) });
        }
        Ok(Keys::Each(each))
    }
}

/// The attributes of `append_many`: the same for all records, or those of each.
enum Attributes {
    One(Vec<(String, String)>),
    Each(Vec<Vec<(String, String)>>),
}

impl Attributes {
    fn from_argument(value: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let Some(value) = value.filter(|value| !value.is_none()) else {
            return Ok(Attributes::One(Vec::new()));
        };
        if value.cast::<PyMapping>().is_ok() {
            return attributes(Some(value)).map(Attributes::One);
        }
        value.try_iter()?.map(|each| attributes(Some(&each?))).collect::<PyResult<_>>().map(Attributes::Each)
    }
}

/// Builds the columnar batch of `append_many`.
pub fn batch(
    payloads: &Bound<'_, PyAny>,
    keys: Option<&Bound<'_, PyAny>>,
    attributes: Option<&Bound<'_, PyAny>>,
) -> PyResult<RecordBatch> {
    let py = payloads.py();
    let keys = Keys::from_argument(keys)?;
    let attributes = Attributes::from_argument(attributes)?;
    if payloads.is_instance_of::<PyBytes>() || payloads.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err("payloads: expected a list of payloads, got a single one"));
    }
    let mut batch = RecordBatch::with_capacity(payloads.len().unwrap_or(0), 0);
    for (index, payload) in payloads.try_iter()?.enumerate() {
        let payload = payload?;
        let attributes: &[_] = match &attributes {
            Attributes::One(one) => one,
            Attributes::Each(each) => match each.get(index) {
                Some(attributes) => attributes,
                None => return Err(count_mismatch(py, "attributes", each.len(), "fewer")),
            },
        };
        match &keys {
            Keys::One(key) => push(&mut batch, key, &payload, attributes)?,
            Keys::Each(keys) => match keys.get(index) {
                Some(Some(key)) => push(&mut batch, &key.to_cow()?, &payload, attributes)?,
                Some(None) => push(&mut batch, "", &payload, attributes)?,
                None => return Err(count_mismatch(py, "keys", keys.len(), "fewer")),
            },
        }
    }
    if let Keys::Each(keys) = &keys
        && keys.len() != batch.len()
    {
        return Err(count_mismatch(py, "keys", keys.len(), "more"));
    }
    if let Attributes::Each(each) = &attributes
        && each.len() != batch.len()
    {
        return Err(count_mismatch(py, "attributes", each.len(), "more"));
    }
    Ok(batch)
}

fn count_mismatch(py: Python<'_>, what: &str, given: usize, comparison: &str) -> PyErr {
    let error = Error::new(ErrorKind::InvalidArgument, "append many").with_message(format!(
        "{comparison} {what} than payloads ({given} {what}); give one per payload, one for all, or none"
    ));
    errors::raise(py, &error)
}
