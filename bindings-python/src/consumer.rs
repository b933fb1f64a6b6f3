//! Consumers.

use crate::{
    arguments,
    batch::Batch,
    bridge, errors,
    record::ids_argument,
    returned::{self, Returned},
    runtime,
    slot::Slot,
};
use hstreamdb::{Consumer as CoreConsumer, ConsumerBuilder, Runtime, StopReport};
use pyo3::{IntoPyObjectExt, exceptions::PyStopAsyncIteration, prelude::*, types::PyTuple};
use std::{fmt, sync::Arc, time::Duration};

/// How long leaving `async with` waits for acks to be sent.
const STOP_WAIT: Duration = Duration::from_secs(30);

/// Receives the batches of one subscription.
#[pyclass(frozen, module = "hstreamdb")]
pub struct Consumer {
    slot: Arc<Slot<ConsumerBuilder, CoreConsumer>>,
    returned: Arc<Returned>,
    runtime: Arc<Runtime>,
    subscription: String,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("subscription", &self.subscription).finish_non_exhaustive()
    }
}

impl Consumer {
    /// A consumer that has not started yet.
    pub fn new(builder: ConsumerBuilder, runtime: Arc<Runtime>, subscription: String) -> Self {
        let slot = Arc::new(Slot::new("consumer", builder));
        Consumer { slot, returned: Arc::default(), runtime, subscription }
    }

    fn core(&self, py: Python<'_>) -> PyResult<CoreConsumer> {
        runtime::check(py, &self.runtime)?;
        self.slot.get().map_err(|error| errors::raise(py, &error))
    }

    fn pull<'py>(&self, py: Python<'py>, iterating: bool) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.core(py)?;
        let acks_to = consumer.clone();
        let next = self.returned.clone().next(move || {
            let consumer = consumer.clone();
            async move { consumer.next_batch().await }
        });
        bridge::call(py, &self.runtime, next, move |py, arrived| {
            match arrived.map(|item| item.take(py)).transpose()?.flatten() {
                Some(batch) => Batch::new(batch, Some(acks_to)).into_py_any(py),
                None if iterating => Err(PyStopAsyncIteration::new_err(())),
                None => Ok(py.None()),
            }
        })
    }

    fn stop_with<'py>(
        &self,
        py: Python<'py>,
        timeout: Duration,
        convert: impl FnOnce(Python<'_>, Option<StopReport>) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (slot, returned) = (self.slot.clone(), self.returned.clone());
        let stop = async move {
            returned.close();
            match slot.closing() {
                Some(consumer) => consumer.stop(timeout).await.map(Some),
                None => Ok(None),
            }
        };
        bridge::call(py, &self.runtime, stop, convert)
    }
}

#[pymethods]
impl Consumer {
    /// Id of the subscription.
    #[getter]
    fn subscription(&self) -> &str {
        &self.subscription
    }

    /// Name under which the server knows this consumer.
    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.core(py)?.name())
    }

    /// Where it is in its life, such as `"connected"`.
    #[getter]
    fn state(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.core(py)?.state().name())
    }

    /// Starts receiving. `async with` and `await` do this.
    fn start(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        runtime::check(py, &this.runtime)?;
        let builder = this.slot.begin().map_err(|error| errors::raise(py, &error))?;
        let slot = this.slot.clone();
        let handle = slf.clone().unbind();
        bridge::call(py, &this.runtime, async move { builder.start().await }, move |py, consumer| {
            slot.opened(consumer).map_err(|error| errors::raise(py, &error))?;
            Ok(handle.into_any())
        })
    }

    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        Self::start(slf)?.call_method0("__await__")
    }

    fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        Self::start(slf)
    }

    #[pyo3(signature = (*_exception))]
    fn __aexit__<'py>(
        &self,
        py: Python<'py>,
        _exception: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.stop_with(py, STOP_WAIT, |py, _| Ok(py.None()))
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

    /// Acknowledges records by id: one, or any iterable. Never waits.
    fn ack(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<()> {
        let consumer = self.core(py)?;
        let ids = ids_argument(ids)?;
        py.detach(|| consumer.ack(&ids)).map_err(|error| errors::raise(py, &error))
    }

    /// Waits until every ack made so far was sent.
    fn flush_acks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.core(py)?;
        bridge::call_none(py, &self.runtime, async move { consumer.flush_acks().await })
    }

    /// Ends delivery and waits at most `timeout` seconds until the acks are sent. May be called again.
    #[pyo3(signature = (timeout = 30.0))]
    fn stop<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Bound<'py, PyAny>> {
        let timeout = arguments::seconds("timeout", timeout)?;
        self.stop_with(py, timeout, |py, report| {
            let (unsent_acks, clean) = report.map_or((0, true), |report| (report.unsent_acks, report.clean));
            let class = py.import("hstreamdb.reports")?.getattr("StopReport")?;
            class.call1((unsent_acks, clean)).map(Bound::unbind)
        })
    }

    fn __repr__(&self) -> String {
        format!("<Consumer of subscription {:?}>", self.subscription)
    }
}
