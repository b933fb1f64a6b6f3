//! Readers: records from a position, without a subscription and without acks.

use crate::{
    batch::Batch,
    bridge, errors,
    returned::{self, Returned},
    runtime,
    slot::Slot,
};
use hstreamdb::{Reader as CoreReader, ReaderBuilder, Runtime};
use pyo3::{IntoPyObjectExt, exceptions::PyStopAsyncIteration, prelude::*, types::PyTuple};
use std::{fmt, sync::Arc};

/// Reads a shard, a stream or a key.
#[pyclass(frozen, module = "hstreamdb")]
pub struct Reader {
    slot: Arc<Slot<ReaderBuilder, Arc<CoreReader>>>,
    returned: Arc<Returned>,
    runtime: Arc<Runtime>,
    stream: String,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Reader {
    /// A reader that is not open yet.
    pub fn new(builder: ReaderBuilder, runtime: Arc<Runtime>, stream: String) -> Self {
        Reader { slot: Arc::new(Slot::new("reader", builder)), returned: Arc::default(), runtime, stream }
    }

    fn pull<'py>(&self, py: Python<'py>, iterating: bool) -> PyResult<Bound<'py, PyAny>> {
        runtime::check(py, &self.runtime)?;
        let reader = self.slot.get().map_err(|error| errors::raise(py, &error))?;
        let next = self.returned.clone().next(move || {
            let reader = reader.clone();
            async move { reader.next_batch().await }
        });
        bridge::call(py, &self.runtime, next, move |py, arrived| {
            match arrived.map(|item| item.take(py)).transpose()?.flatten() {
                Some(batch) => Batch::new(batch, None).into_py_any(py),
                None if iterating => Err(PyStopAsyncIteration::new_err(())),
                None => Ok(py.None()),
            }
        })
    }
}

#[pymethods]
impl Reader {
    /// Name of the stream.
    #[getter]
    fn stream(&self) -> &str {
        &self.stream
    }

    /// Opens the reader. `async with` and `await` do this.
    fn open(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        runtime::check(py, &this.runtime)?;
        let builder = this.slot.begin().map_err(|error| errors::raise(py, &error))?;
        let slot = this.slot.clone();
        let handle = slf.clone().unbind();
        bridge::call(py, &this.runtime, async move { builder.open().await }, move |py, reader| {
            slot.opened(Arc::new(reader)).map_err(|error| errors::raise(py, &error))?;
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
        _exception: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.close(py)
    }

    fn __aiter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __anext__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        returned::arrive(slf.as_any(), true)
    }

    /// The next batch, or `None` at the end. Cancelling it (`asyncio.wait_for`) loses nothing.
    fn next_batch(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        returned::arrive(slf.as_any(), false)
    }

    fn _pull<'py>(&self, py: Python<'py>, iterating: bool) -> PyResult<Bound<'py, PyAny>> {
        self.pull(py, iterating)
    }

    fn _put_back(&self, value: &Bound<'_, PyAny>) {
        self.returned.put_back(value);
    }

    /// Ends reading. May be called again.
    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (slot, returned) = (self.slot.clone(), self.returned.clone());
        bridge::call_none(py, &self.runtime, async move {
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
