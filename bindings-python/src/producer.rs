//! Producers.

use crate::{
    arguments::{self, Keys},
    bridge::{self, Promise},
    errors,
    feed::Feed,
    record::RecordId,
    runtime,
    slot::Slot,
};
use hstreamdb::{AppendOutcome, CancelToken, CloseReport, ProducerBuilder, RecordBatch, Runtime};
use pyo3::{
    IntoPyObjectExt,
    prelude::*,
    types::{PyList, PyString},
};
use std::{fmt, sync::Arc, time::Duration};

/// How long leaving `async with` waits for what is in flight.
const CLOSE_WAIT: Duration = Duration::from_secs(30);

/// Appends records to one stream.
#[pyclass(frozen, module = "hstreamdb")]
pub struct Producer {
    slot: Arc<Slot<ProducerBuilder, Arc<Feed>>>,
    runtime: Arc<Runtime>,
    stream: String,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Producer {
    /// A producer that is not open yet.
    pub fn new(builder: ProducerBuilder, runtime: Arc<Runtime>, stream: String) -> Self {
        Producer { slot: Arc::new(Slot::new("producer", builder)), runtime, stream }
    }

    fn feed(&self, py: Python<'_>) -> PyResult<Arc<Feed>> {
        runtime::check(py, &self.runtime)?;
        self.slot.get().map_err(|error| errors::raise(py, &error))
    }

    fn close_with<'py>(
        &self,
        py: Python<'py>,
        timeout: Duration,
        convert: impl FnOnce(Python<'_>, Option<CloseReport>) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>> {
        let slot = self.slot.clone();
        let close = async move {
            match slot.closing() {
                Some(feed) => feed.close(timeout).await.map(Some),
                None => Ok(None),
            }
        };
        bridge::call(py, &self.runtime, close, convert)
    }

    /// Hands a batch over in call order and gives the future of what `convert` makes of its outcome.
    fn submit<'py>(
        &self,
        py: Python<'py>,
        batch: RecordBatch,
        convert: impl FnOnce(Python<'_>, AppendOutcome) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>> {
        let feed = self.feed(py)?;
        let (promise, awaitable) = Promise::new(py)?;
        let cancel = CancelToken::new();
        bridge::cancel_with(&awaitable, &cancel)?;
        py.detach(|| {
            let done = Box::new(move |outcome| promise.resolve(move |py| convert(py, outcome)));
            feed.append(batch, done, cancel);
        });
        Ok(awaitable)
    }
}

#[pymethods]
impl Producer {
    /// Name of the stream.
    #[getter]
    fn stream(&self) -> &str {
        &self.stream
    }

    /// Opens the producer: looks the shards up. `async with` and `await` do this.
    fn open(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        runtime::check(py, &this.runtime)?;
        let builder = this.slot.begin().map_err(|error| errors::raise(py, &error))?;
        let (slot, runtime) = (this.slot.clone(), this.runtime.clone());
        let handle = slf.clone().unbind();
        bridge::call(py, &this.runtime, async move { builder.build().await }, move |py, producer| {
            slot.opened(Feed::new(producer, runtime)).map_err(|error| errors::raise(py, &error))?;
            Ok(handle.into_any())
        })
    }

    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        Self::open(slf)?.call_method0("__await__")
    }

    fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        Self::open(slf)
    }

    #[pyo3(signature = (*_exception))]
    fn __aexit__<'py>(
        &self,
        py: Python<'py>,
        _exception: &Bound<'py, pyo3::types::PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.close_with(py, CLOSE_WAIT, |py, _| Ok(py.None()))
    }

    /// Appends one record; the future gives its id once it is stored.
    #[pyo3(signature = (payload, key = None))]
    fn append<'py>(
        &self,
        py: Python<'py>,
        payload: &Bound<'py, PyAny>,
        key: Option<&Bound<'py, PyString>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.submit(py, one(payload, key)?, only_id)
    }

    /// Like `append`, but raises `OverloadedError` at once where that would wait for room.
    #[pyo3(signature = (payload, key = None))]
    fn append_nowait<'py>(
        &self,
        py: Python<'py>,
        payload: &Bound<'py, PyAny>,
        key: Option<&Bound<'py, PyString>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let batch = one(payload, key)?;
        let feed = self.feed(py)?;
        let (promise, awaitable) = Promise::new(py)?;
        let done = Box::new(move |outcome| promise.resolve(move |py| only_id(py, outcome)));
        if let Err((error, done)) = py.detach(|| feed.append_now(batch, done)) {
            // Nobody has seen the future: cancelled, it takes whatever the completion reports silently.
            awaitable.call_method0("cancel")?;
            drop(done);
            return Err(errors::raise(py, &error));
        }
        Ok(awaitable)
    }

    /// Appends many records in order; the future gives their ids once all are stored.
    #[pyo3(signature = (payloads, keys = None))]
    fn append_many<'py>(
        &self,
        py: Python<'py>,
        payloads: &Bound<'py, PyAny>,
        keys: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let batch = arguments::batch(payloads, &Keys::from_argument(keys)?)?;
        self.submit(py, batch, all_ids)
    }

    /// Waits until everything appended before is stored or failed; raises the first failure.
    fn flush<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let feed = self.feed(py)?;
        bridge::call_none(py, &self.runtime, async move { feed.flush().await })
    }

    /// Waits at most `timeout` seconds for what is in flight, then fails the rest. May be called again.
    #[pyo3(signature = (timeout = 30.0))]
    fn close<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Bound<'py, PyAny>> {
        let timeout = arguments::seconds("timeout", timeout)?;
        self.close_with(py, timeout, |py, report| {
            let (acknowledged, failed, unresolved) =
                report.map_or((0, 0, 0), |report| (report.acknowledged, report.failed, report.unresolved));
            let class = py.import("hstreamdb.reports")?.getattr("CloseReport")?;
            class.call1((acknowledged, failed, unresolved)).map(Bound::unbind)
        })
    }

    /// Records and payload bytes that are not resolved yet.
    #[getter]
    fn pending<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let feed = self.feed(py)?;
        let (records, bytes) = py.detach(|| feed.pending());
        py.import("hstreamdb.reports")?.getattr("Pending")?.call1((records, bytes))
    }

    fn __repr__(&self) -> String {
        format!("<Producer of stream {:?}>", self.stream)
    }
}

fn one(payload: &Bound<'_, PyAny>, key: Option<&Bound<'_, PyString>>) -> PyResult<RecordBatch> {
    let mut batch = RecordBatch::with_capacity(1, 0);
    match key {
        Some(key) => arguments::push(&mut batch, &key.to_cow()?, payload)?,
        None => arguments::push(&mut batch, "", payload)?,
    }
    Ok(batch)
}

fn only_id(py: Python<'_>, outcome: AppendOutcome) -> PyResult<Py<PyAny>> {
    if let Some(Some(id)) = outcome.ids.first() {
        return RecordId(*id).into_py_any(py);
    }
    match outcome.into_result() {
        Err(error) => Err(errors::raise(py, &error)),
        Ok(_) => Err(no_outcome(py)),
    }
}

/// The list of ids; or the first error, which carries the ids of the records that were stored all the same
/// (`ids`, with `None` for the others) and every failed range (`errors`).
fn all_ids(py: Python<'_>, outcome: AppendOutcome) -> PyResult<Py<PyAny>> {
    if outcome.errors.is_empty() {
        let ids: Option<Vec<RecordId>> = outcome.ids.iter().map(|id| id.map(RecordId)).collect();
        return match ids {
            Some(ids) => PyList::new(py, ids)?.into_py_any(py),
            None => Err(no_outcome(py)),
        };
    }
    let mut first = None;
    let ranges = PyList::empty(py);
    for (range, error) in &outcome.errors {
        let exception = errors::raise(py, error).into_value(py);
        ranges.append((range.start, range.end, &exception))?;
        first.get_or_insert(exception);
    }
    let Some(first) = first else { return Err(no_outcome(py)) };
    let ids = PyList::new(py, outcome.ids.iter().map(|id| id.map(RecordId)))?;
    first.bind(py).setattr("ids", ids)?;
    first.bind(py).setattr("errors", ranges)?;
    Err(PyErr::from_value(first.into_bound(py).into_any()))
}

fn no_outcome(py: Python<'_>) -> PyErr {
    let error = hstreamdb::Error::new(hstreamdb::ErrorKind::Internal, "append")
        .with_message("a record ended without an id and without an error")
        .with_may_have_been_applied(true);
    errors::raise(py, &error)
}
