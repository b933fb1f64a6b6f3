//! Readers that the server keeps and that are polled.

use crate::{
    batch::ReceivedBatch,
    caller::Caller,
    errors, handle,
    position::StreamPosition,
    resources,
    returned::{self, InTransit, Returned},
    slot::Slot,
};
use hstreamdb::{PolledReader as CoreReader, PolledReaderBuilder};
use pyo3::{
    IntoPyObjectExt,
    prelude::*,
    types::{PyList, PyTuple},
};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What polled readers of both kinds are made of.
#[pyclass(frozen, subclass, module = "hstreamdb._native", name = "_PolledReader")]
pub struct PolledReaderBase {
    slot: Arc<Slot<PolledReaderBuilder, CoreReader>>,
    returned: Arc<Returned>,
    /// Behind what the application has.
    position: Arc<Mutex<hstreamdb::StreamPosition>>,
    caller: Caller,
    stream: String,
    shard_id: u64,
}

impl fmt::Debug for PolledReaderBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolledReader").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// Reads one shard through a reader that the server keeps, one question at a time; opened by `async with`, or by awaiting it.
///
/// Nothing is read ahead. For everything else `Client.shard_reader` is faster and leaves nothing on the server.
#[pyclass(frozen, extends = PolledReaderBase, module = "hstreamdb")]
#[derive(Debug)]
pub struct PolledReader;

/// Reads one shard through a reader that the server keeps, one question at a time; opened by `with`, or by `open`.
///
/// Nothing is read ahead. For everything else `SyncClient.shard_reader` is faster and leaves nothing on the server.
#[pyclass(frozen, extends = PolledReaderBase, module = "hstreamdb.sync")]
#[derive(Debug)]
pub struct SyncPolledReader;

impl PolledReaderBase {
    /// A reader that is not open yet.
    pub fn make(
        py: Python<'_>,
        builder: PolledReaderBuilder,
        caller: &Caller,
        stream: &str,
        shard_id: u64,
    ) -> PyResult<Py<PyAny>> {
        let base = PolledReaderBase {
            slot: Arc::new(Slot::new("reader", builder)),
            returned: Arc::default(),
            position: Arc::default(),
            caller: caller.clone(),
            stream: stream.to_owned(),
            shard_id,
        };
        handle::make(py, base, caller, PolledReader, SyncPolledReader)
    }

    fn core(&self, py: Python<'_>) -> PyResult<CoreReader> {
        self.caller.check(py)?;
        self.slot.get().map_err(|error| errors::raise(py, &error))
    }

    fn position_now(&self) -> MutexGuard<'_, hstreamdb::StreamPosition> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pull<'py>(&self, py: Python<'py>, max_batches: u32) -> PyResult<Bound<'py, PyAny>> {
        let reader = self.core(py)?;
        let some = self.returned.clone().some(max_batches as usize, move || {
            let reader = reader.clone();
            async move { reader.read(max_batches).await.map(Some) }
        });
        self.caller.call(py, some, |py, arrived: Option<InTransit>| {
            let batches = arrived.map(|item| item.take(py)).transpose()?.unwrap_or_default();
            let batches: Vec<_> = batches
                .into_iter()
                .map(|batch| Py::new(py, ReceivedBatch::new(batch, None)))
                .collect::<PyResult<_>>()?;
            PyList::new(py, batches)?.into_py_any(py)
        })
    }

    fn took(&self, value: &Bound<'_, PyAny>) {
        let Ok(batches) = value.cast::<PyList>() else { return };
        for batch in batches.iter() {
            if let Ok(batch) = batch.cast::<ReceivedBatch>()
                && let Some(last) = batch.get().received().ids().last()
            {
                self.position_now().advance(*last);
            }
        }
    }
}

#[pymethods]
impl PolledReaderBase {
    /// Name of the stream.
    #[getter]
    fn stream(&self) -> &str {
        &self.stream
    }

    /// The shard that is read.
    #[getter]
    fn shard_id(&self) -> u64 {
        self.shard_id
    }

    /// Creates the reader on the server and gives it back. What "latest" means is fixed here.
    ///
    /// Raises `AlreadyExistsError` for a reader id that is taken, `NotFoundError` for an unknown shard,
    /// `InvalidArgumentError`, `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn open(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        this.caller.check(py)?;
        let builder = this.slot.begin().map_err(|error| errors::raise(py, &error))?;
        let (slot, position) = (this.slot.clone(), this.position.clone());
        let opened = slf.clone().unbind();
        this.caller.call(py, async move { builder.open().await }, move |py, reader| {
            *position.lock().unwrap_or_else(PoisonError::into_inner) = reader.position();
            slot.opened(reader).map_err(|error| errors::raise(py, &error))?;
            Ok(opened.into_any())
        })
    }

    /// A list of up to `max_batches` batches that follow what was given last; empty when nothing came within `timeout_ms`.
    /// Cancelling it, or a timeout around it, loses nothing.
    ///
    /// Raises `InvalidArgumentError` for 0 batches, `NotFoundError` when the shard is gone, `UnavailableError`,
    /// `TimeoutError`, `ClosedError`. The reader goes on where it was when it is read again.
    #[pyo3(signature = (max_batches = 1))]
    fn read(slf: Bound<'_, Self>, max_batches: u32) -> PyResult<Bound<'_, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        if this.caller.is_blocking() {
            let batches = this.pull(py, max_batches)?;
            this.took(&batches);
            return Ok(batches);
        }
        returned::arrive(slf.as_any(), max_batches)
    }

    fn _pull<'py>(&self, py: Python<'py>, max_batches: u32) -> PyResult<Bound<'py, PyAny>> {
        self.pull(py, max_batches)
    }

    fn _took(&self, value: &Bound<'_, PyAny>) {
        self.took(value);
    }

    fn _put_back(&self, value: &Bound<'_, PyAny>) {
        self.returned.put_back(value);
    }

    /// Where this reader is: behind every batch that `read` gave. Other readers can go on from there, too.
    #[getter]
    fn position(&self, py: Python<'_>) -> PyResult<StreamPosition> {
        self.core(py)?;
        Ok(StreamPosition::from_core(self.position_now().clone()))
    }

    /// The id the server knows the reader by now; another one whenever it had to be created anew. `None` while it has none.
    #[getter]
    fn reader_id(&self, py: Python<'_>) -> PyResult<Option<String>> {
        Ok(self.core(py)?.reader_id())
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

    /// Ends reading and deletes the reader on the server. May be called again, also after an error.
    ///
    /// Raises when it could not be deleted: the text names the id that is left on the server.
    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (slot, returned) = (self.slot.clone(), self.returned.clone());
        self.caller.call_none(py, async move {
            returned.close();
            match slot.closing() {
                Some(reader) => reader.close().await,
                None => Ok(()),
            }
        })
    }

    fn __repr__(&self) -> String {
        format!("<PolledReader of stream {:?} shard {}>", self.stream, self.shard_id)
    }
}

#[pymethods]
impl PolledReader {
    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        PolledReaderBase::open(slf.into_super())?.call_method0("__await__")
    }

    fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        PolledReaderBase::open(slf.into_super())
    }

    #[pyo3(signature = (*_exception))]
    fn __aexit__<'py>(
        slf: Bound<'py, Self>,
        _exception: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        slf.as_super().get().close(slf.py())
    }
}

#[pymethods]
impl SyncPolledReader {
    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        PolledReaderBase::open(slf.into_super())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__<'py>(slf: Bound<'py, Self>, _exception: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        slf.as_super().get().close(slf.py())
    }
}
