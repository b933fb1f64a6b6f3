//! The client: connecting, closing, what it knows without asking. What it can do is below `client/`, by subject.

mod cluster;
mod connectors;
mod handles;
mod queries;
mod records;
mod schemas;
mod shard_readers;
mod stats;
mod streams;
mod subscriptions;
mod views;

pub use stats::stat_table;

use crate::{
    arguments, caller::Caller, errors, events::EventsBase, gate, handle, logs, providers, resources,
};
use hstreamdb::ClientBuilder;
use pyo3::{
    prelude::*,
    types::{PyDict, PyTuple},
};
use std::{fmt, time::Duration};

/// How long leaving the `with` block waits for producers and consumers.
const CLOSE_WAIT: Duration = Duration::from_secs(30);

/// What clients of both kinds are made of.
#[pyclass(frozen, subclass, module = "hstreamdb._native", name = "_Client")]
pub struct ClientBase {
    core: hstreamdb::Client,
    caller: Caller,
}

impl fmt::Debug for ClientBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// A connected client, made by `hstreamdb.connect`; `async with` closes it. One per process is enough: tasks, threads and event
/// loops may share it.
#[pyclass(frozen, extends = ClientBase, module = "hstreamdb")]
#[derive(Debug)]
pub struct Client;

/// A connected client, made by `hstreamdb.sync.connect`; `with` closes it. One per process is enough: threads may share it.
#[pyclass(frozen, extends = ClientBase, module = "hstreamdb.sync")]
#[derive(Debug)]
pub struct SyncClient;

fn builder(py: Python<'_>, url: &str, options: Option<&Bound<'_, PyDict>>) -> PyResult<ClientBuilder> {
    let mut builder = hstreamdb::Client::builder()
        .url(url)
        .set("user_agent_lang", "python")
        .map_err(|error| errors::raise(py, &error))?;
    let Some(options) = options else { return Ok(builder) };
    // What is asked later is no value for the table of options.
    let plain = options.copy()?;
    for (name, set) in [
        ("token_provider", providers::token_provider as fn(_, _, &Bound<'_, PyAny>) -> _),
        ("name_resolver", providers::name_resolver),
    ] {
        if let Some(function) = plain.get_item(name)? {
            plain.del_item(name)?;
            if !function.is_none() {
                builder = set(py, builder, &function)?;
            }
        }
    }
    arguments::apply(py, builder, Some(&plain), |builder, name, value| builder.set(name, value))
}

fn connect_as<'py>(
    py: Python<'py>,
    url: &str,
    options: Option<&Bound<'py, PyDict>>,
    blocking: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let builder = builder(py, url, options)?;
    let caller = Caller::new(py, blocking)?;
    logs::start(py);
    let of_client = caller.clone();
    caller.call(py, async move { builder.connect().await }, move |py, core| {
        let base = ClientBase { core, caller: of_client.clone() };
        handle::make(py, base, &of_client, Client, SyncClient)
    })
}

/// Connects to a cluster: `hstream://host:6570,host2`, or `hstreams://` for TLS. One address that answers suffices.
///
/// Options are those of scope `client` in `option_table()`; besides, `token_provider` is a function, plain or a coroutine function,
/// that gives a token or a tuple of a token and for how many seconds it is good, and `name_resolver` one that gives the addresses of
/// a host.
///
/// Raises `InvalidArgumentError` for a url that is none and options that do not fit, with the known ones; within
/// `connect_timeout_ms` `UnauthenticatedError`, or `UnavailableError` with what each address failed with.
#[pyfunction]
#[pyo3(signature = (url, **options))]
pub fn connect<'py>(
    py: Python<'py>,
    url: &str,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    connect_as(py, url, options, false)
}

/// `connect` of `hstreamdb.sync`.
#[pyfunction]
#[pyo3(signature = (url, **options))]
pub fn _connect_sync<'py>(
    py: Python<'py>,
    url: &str,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    connect_as(py, url, options, true)
}

impl ClientBase {
    fn close_within<'py>(&self, py: Python<'py>, timeout: Duration) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.close(timeout).await })
    }

    /// Calls that need no other node.
    fn check(&self, py: Python<'_>) -> PyResult<&hstreamdb::Client> {
        self.caller.check(py)?;
        Ok(&self.core)
    }
}

#[pymethods]
impl ClientBase {
    /// The nodes as the cluster named them last: a list of `Node`. Refreshed in the background; never waits.
    #[getter]
    fn nodes(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let core = self.check(py)?;
        resources::list(py, gate::detach(py, || core.nodes()), resources::node)
    }

    /// Membership and connection events from now on, to iterate over.
    fn events(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let core = self.check(py)?;
        let (events, closed) = gate::detach(py, || (core.events(), core.is_closed()));
        EventsBase::make(py, events, closed, &self.caller)
    }

    /// Counters and gauges by name over everything made from this client; durations as a tuple of count, and total and longest in
    /// seconds.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let core = self.check(py)?;
        let snapshot = gate::detach(py, || core.metrics());
        let values = PyDict::new(py);
        for (name, value) in snapshot.counters {
            values.set_item(name, value)?;
        }
        for (name, value) in snapshot.gauges {
            values.set_item(name, value)?;
        }
        for (name, took) in snapshot.durations {
            values.set_item(name, (took.count, took.total.as_secs_f64(), took.longest.as_secs_f64()))?;
        }
        Ok(values)
    }

    /// Whether `close` has finished.
    #[getter]
    fn is_closed(&self) -> bool {
        self.core.is_closed()
    }

    /// Closes in order: producers flush, consumers hand back their acks, then calls under way end as `ClosedError` and the
    /// connections go. Takes at most `timeout` seconds (`None`: without limit). May be called again.
    ///
    /// Raises `TimeoutError` when something did not finish in time, or the first error of what had to be flushed. The client is
    /// closed all the same.
    #[pyo3(signature = (timeout = Some(30.0)))]
    fn close<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        self.close_within(py, arguments::time_limit(timeout)?)
    }

    fn __repr__(&self) -> &'static str {
        if self.core.is_closed() { "<Client: closed>" } else { "<Client: open>" }
    }
}

#[pymethods]
impl Client {
    fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let (py, opened) = (slf.py(), slf.clone().unbind());
        slf.as_super().get().caller.call(py, async { Ok(()) }, move |_, ()| Ok(opened.into_any()))
    }

    #[pyo3(signature = (*_exception))]
    fn __aexit__<'py>(
        slf: Bound<'py, Self>,
        _exception: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        slf.as_super().get().close_within(slf.py(), CLOSE_WAIT)
    }
}

#[pymethods]
impl SyncClient {
    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.as_super().get().check(slf.py())?;
        Ok(slf)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__<'py>(slf: Bound<'py, Self>, _exception: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        slf.as_super().get().close_within(slf.py(), CLOSE_WAIT)
    }
}
