//! Readers: records from a position, without a subscription and without acks.

use crate::{
    batch::ReceivedBatch,
    caller::Caller,
    errors, handle,
    position::StreamPosition,
    resources,
    returned::{self, InTransit, Returned},
    slot::Slot,
};
use hstreamdb::{Reader as CoreReader, ReaderBuilder};
use pyo3::{
    IntoPyObjectExt,
    exceptions::{PyStopAsyncIteration, PyStopIteration},
    prelude::*,
    types::{PyList, PyTuple},
};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What readers of both kinds are made of.
#[pyclass(frozen, subclass, module = "hstreamdb._native", name = "_Reader")]
pub struct ReaderBase {
    slot: Arc<Slot<ReaderBuilder, Arc<CoreReader>>>,
    returned: Arc<Returned>,
    /// Behind what the application has; the core's own is ahead while a batch is on its way, or came back.
    position: Arc<Mutex<hstreamdb::StreamPosition>>,
    caller: Caller,
    stream: String,
}

impl fmt::Debug for ReaderBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// Reads a shard, a stream or a key from a position, without a subscription; opened by `async with`, or by awaiting it.
///
/// It goes on by itself after a lost connection, without a repeat and without a hole.
#[pyclass(frozen, extends = ReaderBase, module = "hstreamdb")]
#[derive(Debug)]
pub struct Reader;

/// Reads a shard, a stream or a key from a position, without a subscription; opened by `with`, or by `open`.
///
/// It goes on by itself after a lost connection, without a repeat and without a hole.
#[pyclass(frozen, extends = ReaderBase, module = "hstreamdb.sync")]
#[derive(Debug)]
pub struct SyncReader;

impl ReaderBase {
    /// A reader that is not open yet.
    pub fn make(
        py: Python<'_>,
        builder: ReaderBuilder,
        caller: &Caller,
        stream: &str,
    ) -> PyResult<Py<PyAny>> {
        let base = ReaderBase {
            slot: Arc::new(Slot::new("reader", builder)),
            returned: Arc::default(),
            position: Arc::default(),
            caller: caller.clone(),
            stream: stream.to_owned(),
        };
        handle::make(py, base, caller, Reader, SyncReader)
    }

    fn core(&self, py: Python<'_>) -> PyResult<Arc<CoreReader>> {
        self.caller.check(py)?;
        self.slot.get().map_err(|error| errors::raise(py, &error))
    }

    fn position_now(&self) -> MutexGuard<'_, hstreamdb::StreamPosition> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pull<'py>(
        &self,
        py: Python<'py>,
        at_end: fn(Python<'_>) -> PyResult<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let reader = self.core(py)?;
        let next = self.returned.clone().next(move || {
            let reader = reader.clone();
            async move { reader.next_batch().await }
        });
        self.caller.call(py, next, move |py, arrived: Option<InTransit>| {
            match arrived.map(|item| item.take(py)).transpose()?.and_then(|mut batches| batches.pop()) {
                Some(batch) => ReceivedBatch::new(batch, None).into_py_any(py),
                None => at_end(py),
            }
        })
    }

    /// The application has a batch now.
    fn took(&self, value: &Bound<'_, PyAny>) {
        if let Ok(batch) = value.cast::<ReceivedBatch>()
            && let Some(last) = batch.get().received().ids().last()
        {
            self.position_now().advance(*last);
        }
    }

    /// A batch for a caller that waits with its thread.
    fn next_now<'py>(
        &self,
        py: Python<'py>,
        at_end: fn(Python<'_>) -> PyResult<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let batch = self.pull(py, at_end)?;
        self.took(&batch);
        Ok(batch)
    }
}

#[pymethods]
impl ReaderBase {
    /// Name of the stream.
    #[getter]
    fn stream(&self) -> &str {
        &self.stream
    }

    /// Opens the reader and gives it back. What "latest" means, and where a time ends the read, is fixed here.
    ///
    /// Raises `NotFoundError` for an unknown stream or shard, `InvalidArgumentError` for a position or record id of other
    /// shards and bounds that contradict each other, `UnavailableError`, `ClosedError`.
    fn open(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        this.caller.check(py)?;
        let builder = this.slot.begin().map_err(|error| errors::raise(py, &error))?;
        let (slot, position) = (this.slot.clone(), this.position.clone());
        let opened = slf.clone().unbind();
        this.caller.call(py, async move { builder.open().await }, move |py, reader| {
            *position.lock().unwrap_or_else(PoisonError::into_inner) = reader.position();
            slot.opened(Arc::new(reader)).map_err(|error| errors::raise(py, &error))?;
            Ok(opened.into_any())
        })
    }

    /// The next batch, or `None` at the end (`until` or `max_batches` reached) and after `close`. Cancelling it, or a timeout
    /// around it, loses nothing.
    ///
    /// Raises `NotFoundError`, `InvalidArgumentError`, or `UnavailableError` after a minute without the cluster, once;
    /// `TimeoutError` when `timeout_ms` is set and nothing came in time: the reader goes on then.
    fn next_batch(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let py = slf.py();
        if slf.get().caller.is_blocking() {
            return slf.get().next_now(py, |py| Ok(py.None()));
        }
        returned::arrive(slf.as_any(), false)
    }

    fn _pull<'py>(&self, py: Python<'py>, iterating: bool) -> PyResult<Bound<'py, PyAny>> {
        self.pull(py, if iterating { |_| Err(PyStopAsyncIteration::new_err(())) } else { |py| Ok(py.None()) })
    }

    fn _took(&self, value: &Bound<'_, PyAny>) {
        self.took(value);
    }

    fn _put_back(&self, value: &Bound<'_, PyAny>) {
        self.returned.put_back(value);
    }

    /// Where this reader is: behind every batch that `next_batch` or the iteration gave. A reader opened `from_` it gives what
    /// follows. A batch whose caller stopped waiting counts as not given: it comes with the next call.
    #[getter]
    fn position(&self, py: Python<'_>) -> PyResult<StreamPosition> {
        self.core(py)?;
        Ok(StreamPosition::from_core(self.position_now().clone()))
    }

    /// What was missing so far and was passed over: the newest 100 `ReadGap`, oldest first.
    #[getter]
    fn gaps<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        resources::gaps(py, &self.core(py)?.gaps())
    }

    /// How many gaps there were so far.
    #[getter]
    fn gap_count(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.core(py)?.gap_count())
    }

    /// Ends reading. May be called again.
    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (slot, returned) = (self.slot.clone(), self.returned.clone());
        self.caller.call_none(py, async move {
            returned.close();
            if let Some(reader) = slot.closing() {
                reader.close();
            }
            Ok(())
        })
    }

    fn __repr__(&self) -> String {
        format!("<Reader of stream {:?}>", self.stream)
    }
}

#[pymethods]
impl Reader {
    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        ReaderBase::open(slf.into_super())?.call_method0("__await__")
    }

    fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        ReaderBase::open(slf.into_super())
    }

    #[pyo3(signature = (*_exception))]
    fn __aexit__<'py>(
        slf: Bound<'py, Self>,
        _exception: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        slf.as_super().get().close(slf.py())
    }

    fn __aiter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __anext__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        returned::arrive(slf.as_any(), true)
    }
}

#[pymethods]
impl SyncReader {
    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        ReaderBase::open(slf.into_super())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__<'py>(slf: Bound<'py, Self>, _exception: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        slf.as_super().get().close(slf.py())
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        slf.as_super().get().next_now(slf.py(), |_| Err(PyStopIteration::new_err(())))
    }
}
