//! Consumers.

use crate::{
    arguments,
    batch::ReceivedBatch,
    caller::Caller,
    errors, gate, handle,
    listener::Listener,
    record_id, reports,
    returned::{self, InTransit, Returned},
    run::{Run, Unasked},
    slot::Slot,
};
use hstreamdb::{Consumer as CoreConsumer, ConsumerBuilder, RunOptions, StopReport};
use pyo3::{
    IntoPyObjectExt,
    exceptions::{PyStopAsyncIteration, PyStopIteration},
    prelude::*,
    types::{PyDict, PyTuple},
};
use std::{fmt, sync::Arc, time::Duration};

/// How long leaving the `with` block waits for acks to be sent.
const STOP_WAIT: Duration = Duration::from_secs(30);
/// How a consumer that was never started ends.
const NOTHING_TO_STOP: StopReport = StopReport { unsent_acks: 0, clean: true, unfinished_handlers: 0 };

/// What consumers of both kinds are made of.
#[pyclass(frozen, subclass, module = "hstreamdb._native", name = "_Consumer")]
pub struct ConsumerBase {
    slot: Arc<Slot<ConsumerBuilder, CoreConsumer>>,
    returned: Arc<Returned>,
    caller: Caller,
    subscription: String,
    on_event: Option<Py<PyAny>>,
}

impl fmt::Debug for ConsumerBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("subscription", &self.subscription).finish_non_exhaustive()
    }
}

/// Receives one subscription; started by `async with`, or by awaiting it.
///
/// What was delivered and not acknowledged is delivered again. A lost connection is no error: it goes on by itself.
#[pyclass(frozen, extends = ConsumerBase, module = "hstreamdb")]
#[derive(Debug)]
pub struct Consumer;

/// Receives one subscription; started by `with`, or by `start`.
///
/// What was delivered and not acknowledged is delivered again. A lost connection is no error: it goes on by itself.
#[pyclass(frozen, extends = ConsumerBase, module = "hstreamdb.sync")]
#[derive(Debug)]
pub struct SyncConsumer;

impl ConsumerBase {
    /// A consumer that has not started yet.
    pub fn make(
        py: Python<'_>,
        builder: ConsumerBuilder,
        caller: &Caller,
        subscription: &str,
        on_event: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let base = ConsumerBase {
            slot: Arc::new(Slot::new("consumer", builder)),
            returned: Arc::default(),
            caller: caller.clone(),
            subscription: subscription.to_owned(),
            on_event,
        };
        handle::make(py, base, caller, Consumer, SyncConsumer)
    }

    fn core(&self, py: Python<'_>) -> PyResult<CoreConsumer> {
        self.caller.check(py)?;
        self.slot.get().map_err(|error| errors::raise(py, &error))
    }

    fn pull<'py>(
        &self,
        py: Python<'py>,
        at_end: fn(Python<'_>) -> PyResult<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.core(py)?;
        let acks_to = consumer.clone();
        let next = self.returned.clone().next(move || {
            let consumer = consumer.clone();
            async move { consumer.next_batch().await }
        });
        self.caller.call(py, next, move |py, arrived: Option<InTransit>| {
            match arrived.map(|item| item.take(py)).transpose()?.and_then(|mut batches| batches.pop()) {
                Some(batch) => ReceivedBatch::new(batch, Some(acks_to)).into_py_any(py),
                None => at_end(py),
            }
        })
    }

    fn stop_with<'py>(
        &self,
        py: Python<'py>,
        timeout: Duration,
        convert: impl FnOnce(Python<'_>, StopReport) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (slot, returned) = (self.slot.clone(), self.returned.clone());
        let stop = async move {
            returned.close();
            match slot.closing() {
                Some(consumer) => consumer.stop(timeout).await,
                None => Ok(NOTHING_TO_STOP),
            }
        };
        self.caller.call(py, stop, convert)
    }
}

#[pymethods]
impl ConsumerBase {
    /// Id of the subscription.
    #[getter]
    fn subscription(&self) -> &str {
        &self.subscription
    }

    /// Name under which the server knows this consumer; may get a suffix when the name stays taken.
    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.core(py)?.name())
    }

    /// Where it is in its life: `"connecting"`, `"connected"`, `"reconnecting"`, `"stopping"` or `"closed"`.
    #[getter]
    fn state(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.core(py)?.state().name())
    }

    /// Its counters: a `ConsumerStats`.
    #[getter]
    fn stats(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let consumer = self.core(py)?;
        reports::consumer_stats(py, gate::detach(py, || consumer.stats()))
    }

    /// Starts receiving and gives the consumer back, when it is attached or after the request timeout; it goes on trying then.
    ///
    /// Raises `NotFoundError` for an unknown subscription, `InvalidArgumentError` for a name that is none,
    /// `UnauthenticatedError`, `ClosedError`.
    fn start(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        this.caller.check(py)?;
        let mut builder = this.slot.begin().map_err(|error| errors::raise(py, &error))?;
        if let Some(callback) = &this.on_event {
            let listener = Listener::new(py, callback.clone_ref(py), "on_event", &this.caller)?;
            builder = builder.on_event(move |event| {
                let event = event.clone();
                listener.tell(move |py| reports::consumer_event(py, &event));
            });
        }
        let slot = this.slot.clone();
        let opened = slf.clone().unbind();
        this.caller.call(py, async move { builder.start().await }, move |py, consumer| {
            slot.opened(consumer).map_err(|error| errors::raise(py, &error))?;
            Ok(opened.into_any())
        })
    }

    /// The next batch, or `None` after `stop`. Cancelling it, or a timeout around it, loses nothing.
    ///
    /// Raises, once and after what had been received, what ended the consumer: `NotFoundError`, `FailedPreconditionError` when the
    /// subscription is deleted, `UnauthenticatedError`, `InvalidArgumentError`.
    fn next_batch(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let py = slf.py();
        if slf.get().caller.is_blocking() {
            return slf.get().pull(py, |py| Ok(py.None()));
        }
        returned::arrive(slf.as_any(), false)
    }

    fn _pull<'py>(&self, py: Python<'py>, iterating: bool) -> PyResult<Bound<'py, PyAny>> {
        self.pull(py, if iterating { |_| Err(PyStopAsyncIteration::new_err(())) } else { |py| Ok(py.None()) })
    }

    fn _took(&self, _value: &Bound<'_, PyAny>) {}

    fn _put_back(&self, value: &Bound<'_, PyAny>) {
        self.returned.put_back(value);
    }

    /// Begins what `run` and `run_records` of `hstreamdb._handlers` do: those call handlers, and have no frame of ours below
    /// them, which a daemon thread that is ended with the interpreter could not leave.
    fn _start_run(
        &self,
        py: Python<'_>,
        records: bool,
        asks: bool,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Run> {
        let consumer = self.core(py)?;
        let run_options = arguments::apply(py, RunOptions::new(), options, RunOptions::set)?;
        let asked = if asks { Some(Unasked::new(options)?) } else { None };
        Run::start(py, consumer, run_options, records, asked, &self.caller)
    }

    /// Acknowledges records by id: one, or any iterable. Never waits.
    ///
    /// Raises `ClosedError` after the consumer has stopped, `OverloadedError` when about 100 000 ranges wait for a connection;
    /// none is taken then.
    fn ack(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<()> {
        let consumer = self.core(py)?;
        let ids = record_id::list_argument(ids)?;
        gate::detach(py, || consumer.ack(&ids)).map_err(|error| errors::raise(py, &error))
    }

    /// Waits until every ack made so far was sent. The wire has no answer to an ack; only a clean `stop` tells that the server
    /// has read them.
    ///
    /// Raises `ClosedError` when the consumer ends before that.
    fn flush_acks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.core(py)?;
        self.caller.call_none(py, async move { consumer.flush_acks().await })
    }

    /// Ends delivery: nothing more is received, while acks still go out. For handlers to finish before `stop`.
    fn stop_delivery(&self, py: Python<'_>) -> PyResult<()> {
        let consumer = self.core(py)?;
        self.returned.close();
        gate::detach(py, || consumer.stop_delivery());
        Ok(())
    }

    /// Ends delivery, waits at most `timeout` seconds (`None`: without limit) until handlers have ended and the acks are sent, and gives a `StopReport`.
    /// May be called again, but not from a handler.
    #[pyo3(signature = (timeout = Some(30.0)))]
    fn stop<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        self.stop_with(py, arguments::time_limit(timeout)?, reports::stop)
    }

    fn __repr__(&self) -> String {
        format!("<Consumer of subscription {:?}>", self.subscription)
    }
}

#[pymethods]
impl Consumer {
    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        ConsumerBase::start(slf.into_super())?.call_method0("__await__")
    }

    fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        ConsumerBase::start(slf.into_super())
    }

    #[pyo3(signature = (*_exception))]
    fn __aexit__<'py>(
        slf: Bound<'py, Self>,
        _exception: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        slf.as_super().get().stop_with(slf.py(), STOP_WAIT, |py, _| Ok(py.None()))
    }

    fn __aiter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __anext__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        returned::arrive(slf.as_any(), true)
    }
}

#[pymethods]
impl SyncConsumer {
    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        ConsumerBase::start(slf.into_super())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__<'py>(slf: Bound<'py, Self>, _exception: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        slf.as_super().get().stop_with(slf.py(), STOP_WAIT, |py, _| Ok(py.None()))
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        slf.as_super().get().pull(slf.py(), |_| Err(PyStopIteration::new_err(())))
    }
}
