//! Arguments from Python: options as keyword arguments, time spans, payloads.

use crate::{errors, record::RecordId};
use hstreamdb::{Error, ErrorKind, Offset, OptionValue, Record, RecordBatch};
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    prelude::*,
    types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PyString, PyTuple},
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
    if let Ok(id) = value.extract::<RecordId>() {
        return Ok(OptionValue::Text(id.0.to_string()));
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(OptionValue::Bytes(bytes.as_bytes().to_vec().into()));
    }
    if let Ok(map) = value.cast::<PyDict>() {
        let pairs = map.iter().map(|(key, value)| Ok((key.extract()?, value.extract()?)));
        return Ok(OptionValue::TextMap(pairs.collect::<PyResult<_>>()?));
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        return Ok(OptionValue::TextList(value.extract()?));
    }
    Err(PyTypeError::new_err(format!(
        "option {name}: expected bool, int, float, str, bytes, dict or list, got {}",
        value.get_type().name()?
    )))
}

/// A place in a stream: `"earliest"`, `"latest"`, a record id, or milliseconds since 1970.
pub fn offset(py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Offset> {
    if value.is_instance_of::<PyInt>() {
        return Ok(Offset::Timestamp(value.extract()?));
    }
    if let Ok(id) = value.extract::<RecordId>() {
        return Ok(Offset::Record(id.0));
    }
    let text: String = value.extract()?;
    text.parse().map_err(|error| errors::raise(py, &error))
}

/// A time span in seconds.
pub fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| PyValueError::new_err(format!("{name}: {value} is not a time span in seconds")))
}

/// Adds one record to a batch: bytes-like and text are raw payloads, a dict is a structured record.
pub fn push(batch: &mut RecordBatch, key: &str, payload: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Ok(bytes) = payload.cast::<PyBytes>() {
        batch.push(key, bytes.as_bytes());
    } else if let Ok(text) = payload.cast::<PyString>() {
        batch.push(key, text.to_cow()?.as_bytes());
    } else if let Ok(bytes) = payload.cast::<PyByteArray>() {
        batch.push(key, &bytes.to_vec());
    } else if payload.is_instance_of::<PyDict>() {
        let py = payload.py();
        let json: String = py.import("json")?.call_method1("dumps", (payload,))?.extract()?;
        let record = Record::hrecord_json(&json).map_err(|error| errors::raise(py, &error))?;
        batch.push_record(&record.with_key(key));
    } else if payload.is_instance_of::<PyMemoryView>() {
        let bytes = payload.call_method0("tobytes")?;
        batch.push(key, bytes.cast::<PyBytes>()?.as_bytes());
    } else {
        return Err(PyTypeError::new_err(format!(
            "payload: expected bytes, bytearray, memoryview, str or dict, got {}",
            payload.get_type().name()?
        )));
    }
    Ok(())
}

/// The keys of `append_many`: none, one for all, or one per record.
pub enum Keys<'py> {
    /// All records have the same key, perhaps the empty one.
    One(String),
    /// A list with `None` or a key for each record.
    Each(Vec<Option<Bound<'py, PyString>>>),
}

impl<'py> Keys<'py> {
    /// Reads the argument.
    pub fn from_argument(keys: Option<&Bound<'py, PyAny>>) -> PyResult<Keys<'py>> {
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

/// Builds the columnar batch of `append_many`.
pub fn batch(payloads: &Bound<'_, PyAny>, keys: &Keys<'_>) -> PyResult<RecordBatch> {
    let py = payloads.py();
    if payloads.is_instance_of::<PyBytes>() || payloads.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err("payloads: expected a list of payloads, got a single one"));
    }
    let mut batch = RecordBatch::with_capacity(payloads.len().unwrap_or(0), 0);
    for (index, payload) in payloads.try_iter()?.enumerate() {
        let payload = payload?;
        match keys {
            Keys::One(key) => push(&mut batch, key, &payload)?,
            Keys::Each(keys) => match keys.get(index) {
                Some(Some(key)) => push(&mut batch, &key.to_cow()?, &payload)?,
                Some(None) => push(&mut batch, "", &payload)?,
                None => return Err(count_mismatch(py, keys.len(), "fewer keys than payloads")),
            },
        }
    }
    if let Keys::Each(keys) = keys
        && keys.len() != batch.len()
    {
        return Err(count_mismatch(py, keys.len(), "more keys than payloads"));
    }
    Ok(batch)
}

fn count_mismatch(py: Python<'_>, keys: usize, what: &str) -> PyErr {
    let error = Error::new(ErrorKind::InvalidArgument, "append_many")
        .with_message(format!("{what} ({keys} keys); give one key per payload, one text for all, or none"));
    errors::raise(py, &error)
}
