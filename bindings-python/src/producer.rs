//! Producers.

use crate::{
    arguments,
    blocking::Meeting,
    bridge::{self, Promise},
    caller::Caller,
    errors,
    feed::Feed,
    gate, handle,
    listener::Listener,
    receipt::{Convert, Receipt, all_ids, only_id},
    reports,
    slot::Slot,
};
use hstreamdb::{CancelToken, CloseReport, Completion, ProducerBuilder, RecordBatch};
use pyo3::{
    IntoPyObjectExt,
    prelude::*,
    types::{PyString, PyTuple},
};
use std::{fmt, sync::Arc, time::Duration};

/// How long leaving the `with` block waits for what is in flight.
const CLOSE_WAIT: Duration = Duration::from_secs(30);

/// What producers of both kinds are made of.
#[pyclass(frozen, subclass, module = "hstreamdb._native", name = "_Producer")]
pub struct ProducerBase {
    slot: Arc<Slot<ProducerBuilder, Arc<Feed>>>,
    caller: Caller,
    stream: String,
    on_batch: Option<Py<PyAny>>,
}

impl fmt::Debug for ProducerBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// Appends to one stream; opened by `async with`, or by awaiting it.
#[pyclass(frozen, extends = ProducerBase, module = "hstreamdb")]
#[derive(Debug)]
pub struct Producer;

/// Appends to one stream; opened by `with`, or by `open`.
#[pyclass(frozen, extends = ProducerBase, module = "hstreamdb.sync")]
#[derive(Debug)]
pub struct SyncProducer;

impl ProducerBase {
    /// A producer that is not open yet.
    pub fn make(
        py: Python<'_>,
        builder: ProducerBuilder,
        caller: &Caller,
        stream: &str,
        on_batch: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let base = ProducerBase {
            slot: Arc::new(Slot::new("producer", builder)),
            caller: caller.clone(),
            stream: stream.to_owned(),
            on_batch,
        };
        handle::make(py, base, caller, Producer, SyncProducer)
    }

    fn feed(&self, py: Python<'_>) -> PyResult<Arc<Feed>> {
        self.caller.check(py)?;
        self.slot.get().map_err(|error| errors::raise(py, &error))
    }

    fn close_with<'py>(
        &self,
        py: Python<'py>,
        timeout: Duration,
        convert: impl FnOnce(Python<'_>, CloseReport) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>> {
        let slot = self.slot.clone();
        let close = async move {
            match slot.closing() {
                Some(feed) => feed.close(timeout).await,
                None => Ok(CloseReport::default()),
            }
        };
        self.caller.call(py, close, convert)
    }

    /// Hands a batch over in call order and gives an awaitable of what `convert` makes of its outcome, or that itself.
    fn submit<'py>(
        &self,
        py: Python<'py>,
        batch: RecordBatch,
        convert: Convert,
    ) -> PyResult<Bound<'py, PyAny>> {
        let feed = self.feed(py)?;
        let cancel = CancelToken::new();
        if self.caller.is_blocking() {
            let (receipt, done) = receipt(convert);
            gate::detach(py, || feed.append(batch, done, cancel.clone()));
            let waited = receipt.wait(py, None);
            if waited.is_err() {
                gate::detach(py, || cancel.cancel());
            }
            return match waited? {
                Ok(value) => Ok(value.clone_ref(py).into_bound(py)),
                Err(error) => Err(error.clone_ref(py)),
            };
        }
        let (promise, awaitable) = Promise::new(py)?;
        bridge::cancel_with(&awaitable, &cancel)?;
        gate::detach(py, || {
            let done = Box::new(move |outcome| promise.resolve(move |py| convert(py, outcome)));
            feed.append(batch, done, cancel);
        });
        Ok(awaitable)
    }

    /// For a thread that does not wait for the outcome, but for room.
    fn submit_with_receipt(&self, py: Python<'_>, batch: RecordBatch, convert: Convert) -> PyResult<Receipt> {
        let feed = self.feed(py)?;
        if gate::detach(py, || feed.is_waiting()) {
            let before = feed.clone();
            self.caller.call_none(py, async move {
                before.handed_over().await;
                Ok(())
            })?;
        }
        let (receipt, done) = receipt(convert);
        gate::detach(py, || feed.append(batch, done, CancelToken::new()));
        Ok(receipt)
    }
}

fn receipt(convert: Convert) -> (Receipt, Completion) {
    let outcome = Arc::new(Meeting::default());
    let receipt = Receipt::new(outcome.clone(), convert);
    (receipt, Box::new(move |resolved| outcome.put(resolved)))
}

#[pymethods]
impl ProducerBase {
    /// Name of the stream.
    #[getter]
    fn stream(&self) -> &str {
        &self.stream
    }

    /// Opens the producer and gives it back: looks the shards up.
    ///
    /// Raises `NotFoundError` for an unknown stream, `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn open(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        this.caller.check(py)?;
        let mut builder = this.slot.begin().map_err(|error| errors::raise(py, &error))?;
        if let Some(callback) = &this.on_batch {
            let listener = Listener::lossless(py, callback.clone_ref(py), "on_batch", &this.caller)?;
            builder = builder.on_batch(move |report| {
                let report = reports::Batch::of(report);
                listener.tell(move |py| report.to_python(py));
            });
        }
        let (slot, runtime) = (this.slot.clone(), this.caller.runtime().clone());
        let opened = slf.clone().unbind();
        this.caller.call(py, async move { builder.build().await }, move |py, producer| {
            slot.opened(Feed::new(producer, runtime)).map_err(|error| errors::raise(py, &error))?;
            Ok(opened.into_any())
        })
    }

    /// Appends one record and gives its id once it is stored. `payload`: bytes-like and text are raw, a dict is a structured
    /// record. `attributes`: texts stored beside it.
    ///
    /// The order of calls is the order within a shard. Cancelling takes back what still waits for room; what was sent is stored
    /// all the same.
    ///
    /// Raises `InvalidArgumentError` (code 207) for a record that is too large, `OverloadedError` when there is no room,
    /// `OutcomeUnknownError` when it may be stored and nobody can say, `NotFoundError` when the stream is gone, `TimeoutError`
    /// after `delivery_timeout_ms`, `ClosedError`.
    #[pyo3(signature = (payload, key = None, attributes = None))]
    fn append<'py>(
        &self,
        py: Python<'py>,
        payload: &Bound<'py, PyAny>,
        key: Option<&Bound<'py, PyString>>,
        attributes: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.submit(py, arguments::single(payload, key, attributes)?, only_id)
    }

    /// Like `append`, but raises `OverloadedError` at once where that would wait for room. With `hstreamdb.sync` it does not wait for
    /// the outcome either: it gives a `Receipt`.
    #[pyo3(signature = (payload, key = None, attributes = None))]
    fn append_nowait<'py>(
        &self,
        py: Python<'py>,
        payload: &Bound<'py, PyAny>,
        key: Option<&Bound<'py, PyString>>,
        attributes: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let batch = arguments::single(payload, key, attributes)?;
        let feed = self.feed(py)?;
        if self.caller.is_blocking() {
            let (receipt, done) = receipt(only_id);
            return match gate::detach(py, || feed.append_now(batch, done)) {
                Ok(()) => receipt.into_bound_py_any(py),
                Err((error, _)) => Err(errors::raise(py, &error)),
            };
        }
        let (promise, awaitable) = Promise::new(py)?;
        let done = Box::new(move |outcome| promise.resolve(move |py| only_id(py, outcome)));
        if let Err((error, done)) = gate::detach(py, || feed.append_now(batch, done)) {
            // Nobody has seen the future: cancelled, it takes whatever the completion reports silently.
            awaitable.call_method0("cancel")?;
            drop(done);
            return Err(errors::raise(py, &error));
        }
        Ok(awaitable)
    }

    /// Appends many records in order and gives the list of their ids once all are stored. `keys`: one per payload, one text for
    /// all, or none; `attributes`: one mapping per payload, one for all, or none.
    ///
    /// The fast way: one call for all of them. If some records fail, the error of the first carries `ids` (what was stored all the
    /// same, else `None`) and `errors`, a list of `(start, end, error)`; otherwise raises as `append` does.
    #[pyo3(signature = (payloads, keys = None, attributes = None))]
    fn append_many<'py>(
        &self,
        py: Python<'py>,
        payloads: &Bound<'py, PyAny>,
        keys: Option<&Bound<'py, PyAny>>,
        attributes: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.submit(py, arguments::batch(payloads, keys, attributes)?, all_ids)
    }

    /// Sends what waits in open batches, and waits until everything appended before is stored or has failed; raises the first
    /// failure.
    fn flush<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let feed = self.feed(py)?;
        self.caller.call_none(py, async move { feed.flush().await })
    }

    /// The same for the shard of one key; other shards go on collecting.
    ///
    /// Raises the first failure, or `RoutingError` when no shard takes the key.
    fn flush_key<'py>(&self, py: Python<'py>, key: String) -> PyResult<Bound<'py, PyAny>> {
        let feed = self.feed(py)?;
        self.caller.call_none(py, async move { feed.flush_key(&key).await })
    }

    /// The same for one shard.
    ///
    /// Raises the first failure, or `RoutingError` when the stream has no such shard.
    fn flush_shard<'py>(&self, py: Python<'py>, shard_id: u64) -> PyResult<Bound<'py, PyAny>> {
        let feed = self.feed(py)?;
        self.caller.call_none(py, async move { feed.flush_shard(shard_id).await })
    }

    /// Appends many records whose outcome only `on_batch` tells: waits until they are *accepted*, which is for room. `tag` is a
    /// number other than 0 by which `on_batch` names them again, in `BatchReport.parts`; a record that gets into no batch is told
    /// alone. Otherwise as `append_many`.
    ///
    /// Raises `OverloadedError`, `ClosedError`, and `InvalidArgumentError` for more than flow control ever allows: nothing was
    /// appended then.
    #[pyo3(signature = (payloads, keys = None, attributes = None, *, tag = 0))]
    fn post<'py>(
        &self,
        py: Python<'py>,
        payloads: &Bound<'py, PyAny>,
        keys: Option<&Bound<'py, PyAny>>,
        attributes: Option<&Bound<'py, PyAny>>,
        tag: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let batch = arguments::batch(payloads, keys, attributes)?.with_tag(tag);
        let feed = self.feed(py)?;
        let cancel = CancelToken::new();
        // In the order of calls, whenever it is awaited.
        let accepted = gate::detach(py, || feed.post(batch, cancel));
        self.caller.call_none(py, accepted)
    }

    /// Takes nothing more, waits at most `timeout` seconds (`None`: without limit) for what is in flight, gives up the rest, and
    /// gives a `CloseReport`. May be called again.
    #[pyo3(signature = (timeout = Some(30.0)))]
    fn close<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        self.close_with(py, arguments::time_limit(timeout)?, reports::close)
    }

    /// Records and payload bytes that are not resolved yet: a `Pending`.
    #[getter]
    fn pending(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let feed = self.feed(py)?;
        let (records, bytes) = gate::detach(py, || feed.pending());
        reports::pending(py, records, bytes)
    }

    fn __repr__(&self) -> String {
        format!("<Producer of stream {:?}>", self.stream)
    }
}

#[pymethods]
impl Producer {
    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        ProducerBase::open(slf.into_super())?.call_method0("__await__")
    }

    fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        ProducerBase::open(slf.into_super())
    }

    #[pyo3(signature = (*_exception))]
    fn __aexit__<'py>(
        slf: Bound<'py, Self>,
        _exception: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        slf.as_super().get().close_with(slf.py(), CLOSE_WAIT, |py, _| Ok(py.None()))
    }
}

#[pymethods]
impl SyncProducer {
    /// Appends one record without waiting for its outcome, but for room: gives a `Receipt`. Many of them share a batch.
    #[pyo3(signature = (payload, key = None, attributes = None))]
    fn submit<'py>(
        slf: Bound<'py, Self>,
        payload: &Bound<'py, PyAny>,
        key: Option<&Bound<'py, PyString>>,
        attributes: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Receipt> {
        let batch = arguments::single(payload, key, attributes)?;
        slf.as_super().get().submit_with_receipt(slf.py(), batch, only_id)
    }

    /// The same for many records; the receipt's result is the list of their ids.
    #[pyo3(signature = (payloads, keys = None, attributes = None))]
    fn submit_many<'py>(
        slf: Bound<'py, Self>,
        payloads: &Bound<'py, PyAny>,
        keys: Option<&Bound<'py, PyAny>>,
        attributes: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Receipt> {
        let batch = arguments::batch(payloads, keys, attributes)?;
        slf.as_super().get().submit_with_receipt(slf.py(), batch, all_ids)
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        ProducerBase::open(slf.into_super())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__<'py>(slf: Bound<'py, Self>, _exception: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        slf.as_super().get().close_with(slf.py(), CLOSE_WAIT, |py, _| Ok(py.None()))
    }
}
