//! What a client tells about its cluster, one event after the other.

use crate::{caller::Caller, handle, resources};
use hstreamdb::{ClientEvent, Events as CoreEvents};
use pyo3::{
    exceptions::{PyStopAsyncIteration, PyStopIteration},
    prelude::*,
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::Mutex;

/// What events of both kinds are made of.
#[pyclass(frozen, subclass, module = "hstreamdb._native", name = "_Events")]
pub struct EventsBase {
    events: Arc<Mutex<CoreEvents>>,
    dropped: Arc<AtomicU64>,
    /// The client was closed: that was the last event.
    ended: Arc<AtomicBool>,
    caller: Caller,
}

impl fmt::Debug for EventsBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

/// Membership and connection events of a client, for `async for`. At most 256 unread ones are kept; a reader that is slower
/// loses the oldest, see `dropped`.
#[pyclass(frozen, extends = EventsBase, module = "hstreamdb")]
#[derive(Debug)]
pub struct Events;

/// Membership and connection events of a client, for `for`. At most 256 unread ones are kept; a reader that is slower loses the
/// oldest, see `dropped`.
#[pyclass(frozen, extends = EventsBase, module = "hstreamdb.sync")]
#[derive(Debug)]
pub struct SyncEvents;

impl EventsBase {
    /// Events from now on; none when the client is closed already.
    pub fn make(py: Python<'_>, events: CoreEvents, closed: bool, caller: &Caller) -> PyResult<Py<PyAny>> {
        let base = EventsBase {
            events: Arc::new(Mutex::new(events)),
            dropped: Arc::default(),
            ended: Arc::new(AtomicBool::new(closed)),
            caller: caller.clone(),
        };
        handle::make(py, base, caller, Events, SyncEvents)
    }

    fn pull<'py>(
        &self,
        py: Python<'py>,
        at_end: fn(Python<'_>) -> PyResult<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (events, dropped, ended) = (self.events.clone(), self.dropped.clone(), self.ended.clone());
        let next = async move {
            let mut events = events.lock().await;
            if ended.load(Relaxed) {
                return Ok(None);
            }
            let event = events.next().await;
            ended.store(matches!(&event, None | Some(ClientEvent::Closed)), Relaxed);
            dropped.store(events.dropped(), Relaxed);
            Ok(event)
        };
        self.caller.call(py, next, move |py, event| match event {
            Some(event) => resources::client_event(py, event),
            None => at_end(py),
        })
    }
}

#[pymethods]
impl EventsBase {
    /// The next `ClientEvent`; `None` after the one that says that the client was closed.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.pull(py, |py| Ok(py.None()))
    }

    /// How many events were lost because nobody read them.
    #[getter]
    fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

#[pymethods]
impl Events {
    fn __aiter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __anext__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        slf.as_super().get().pull(slf.py(), |_| Err(PyStopAsyncIteration::new_err(())))
    }
}

#[pymethods]
impl SyncEvents {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        slf.as_super().get().pull(slf.py(), |_| Err(PyStopIteration::new_err(())))
    }
}
