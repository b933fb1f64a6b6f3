//! The client: connecting, streams and subscriptions, and the handles made from it.

use crate::{
    arguments,
    bridge::{call, call_none},
    consumer::Consumer,
    errors,
    producer::Producer,
    reader::Reader,
    record::{RecordId, ids_argument},
    resources, runtime,
};
use hstreamdb::{
    ConsumerBuilder, DeleteStreamOptions, ProducerBuilder, ReaderBuilder, Runtime, StreamOptions,
    SubscriptionOptions,
};
use pyo3::{
    IntoPyObjectExt,
    prelude::*,
    types::{PyDict, PyTuple},
};
use std::{fmt, sync::Arc, time::Duration};

/// How long leaving `async with` waits for producers and consumers.
const CLOSE_WAIT: Duration = Duration::from_secs(30);

/// A connected client. Cheap to share between tasks and event loops of one process.
#[pyclass(frozen, module = "hstreamdb")]
pub struct Client {
    core: hstreamdb::Client,
    runtime: Arc<Runtime>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// Connects to a cluster; every option of the core may be given by name.
#[pyfunction]
#[pyo3(signature = (url, **options))]
pub fn connect<'py>(
    py: Python<'py>,
    url: &str,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let builder = hstreamdb::Client::builder()
        .url(url)
        .set("user_agent_lang", "python")
        .map_err(|error| errors::raise(py, &error))?;
    let builder = arguments::apply(py, builder, options, |builder, name, value| builder.set(name, value))?;
    let runtime = runtime::get(py)?;
    let held = runtime.clone();
    call(py, &runtime, async move { builder.connect().await }, move |py, core| {
        Client { core, runtime: held }.into_py_any(py)
    })
}

impl Client {
    fn close_within<'py>(&self, py: Python<'py>, timeout: Duration) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        call_none(py, &self.runtime, async move { core.close(timeout).await })
    }

    fn reader<'py>(
        &self,
        py: Python<'py>,
        stream: &str,
        builder: ReaderBuilder,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Reader> {
        let builder = arguments::apply(py, builder, options, ReaderBuilder::set)?;
        Ok(Reader::new(builder, self.runtime.clone(), stream.to_owned()))
    }
}

#[pymethods]
impl Client {
    /// Sends a text to a server and gives what comes back.
    fn echo<'py>(&self, py: Python<'py>, message: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        call(py, &self.runtime, async move { core.echo(&message).await }, |py, text| text.into_py_any(py))
    }

    /// Creates a stream.
    #[pyo3(signature = (name, **options))]
    fn create_stream<'py>(
        &self,
        py: Python<'py>,
        name: String,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options = arguments::apply(py, StreamOptions::default(), options, StreamOptions::set)?;
        let core = self.core.clone();
        call(py, &self.runtime, async move { core.create_stream(&name, options).await }, resources::stream)
    }

    /// Deletes a stream.
    #[pyo3(signature = (name, *, force = false, ignore_missing = false))]
    fn delete_stream<'py>(
        &self,
        py: Python<'py>,
        name: String,
        force: bool,
        ignore_missing: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let options = DeleteStreamOptions::new().force(force).ignore_missing(ignore_missing);
        call_none(py, &self.runtime, async move { core.delete_stream(&name, options).await })
    }

    /// One stream.
    fn get_stream<'py>(&self, py: Python<'py>, name: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        call(py, &self.runtime, async move { core.get_stream(&name).await }, resources::stream)
    }

    /// Whether there is a stream of that name.
    fn stream_exists<'py>(&self, py: Python<'py>, name: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        call(py, &self.runtime, async move { core.stream_exists(&name).await }, |py, yes| yes.into_py_any(py))
    }

    /// All streams, or those whose name begins with `prefix`.
    #[pyo3(signature = (*, prefix = None))]
    fn list_streams<'py>(&self, py: Python<'py>, prefix: Option<String>) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let list = async move {
            match prefix {
                Some(prefix) => core.list_streams_with_prefix(&prefix).await,
                None => core.list_streams().await,
            }
        };
        call(py, &self.runtime, list, |py, all| resources::list(py, all, resources::stream))
    }

    /// The shards of a stream.
    fn list_shards<'py>(&self, py: Python<'py>, stream: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let name = stream.clone();
        call(py, &self.runtime, async move { core.list_shards(&name).await }, move |py, all| {
            resources::list(py, all, |py, info| resources::shard(py, &stream, info))
        })
    }

    /// The id of the newest record of a shard; its batch is 0 when nothing was appended yet.
    fn tail_record_id<'py>(
        &self,
        py: Python<'py>,
        stream: String,
        shard_id: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let tail = async move { core.tail_record_id(&stream, shard_id).await };
        call(py, &self.runtime, tail, |py, id| RecordId(id).into_py_any(py))
    }

    /// Forgets the records of all shards before an offset.
    fn trim_stream<'py>(
        &self,
        py: Python<'py>,
        stream: String,
        before: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let before = arguments::offset(py, before)?;
        let core = self.core.clone();
        call_none(py, &self.runtime, async move { core.trim_stream(&stream, before).await })
    }

    /// Forgets the records of a shard before an offset.
    fn trim_shard<'py>(
        &self,
        py: Python<'py>,
        stream: String,
        shard_id: u64,
        before: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let before = arguments::offset(py, before)?;
        let core = self.core.clone();
        call_none(py, &self.runtime, async move { core.trim_shard(&stream, shard_id, before).await })
    }

    /// Forgets, shard by shard, the records before the earliest of the given ones; says where each was trimmed.
    fn trim_shards<'py>(
        &self,
        py: Python<'py>,
        stream: String,
        ids: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let ids = ids_argument(ids)?;
        let core = self.core.clone();
        call(py, &self.runtime, async move { core.trim_shards(&stream, &ids).await }, |py, points| {
            let found = PyDict::new(py);
            for (shard_id, id) in points {
                found.set_item(shard_id, RecordId(id))?;
            }
            found.into_py_any(py)
        })
    }

    /// Creates a subscription.
    #[pyo3(signature = (subscription, stream, **options))]
    fn create_subscription<'py>(
        &self,
        py: Python<'py>,
        subscription: String,
        stream: String,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options =
            arguments::apply(py, SubscriptionOptions::default(), options, SubscriptionOptions::set)?;
        let core = self.core.clone();
        let create = async move { core.create_subscription(&subscription, &stream, options).await };
        call(py, &self.runtime, create, resources::subscription)
    }

    /// Deletes a subscription; `force` also when it has consumers.
    #[pyo3(signature = (subscription, *, force = false))]
    fn delete_subscription<'py>(
        &self,
        py: Python<'py>,
        subscription: String,
        force: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        call_none(py, &self.runtime, async move { core.delete_subscription(&subscription, force).await })
    }

    /// Whether there is a subscription of that id.
    fn subscription_exists<'py>(&self, py: Python<'py>, subscription: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        call(py, &self.runtime, async move { core.subscription_exists(&subscription).await }, |py, yes| {
            yes.into_py_any(py)
        })
    }

    /// One subscription with its committed checkpoints: by shard, the last batch that is acknowledged with all before.
    fn get_subscription<'py>(&self, py: Python<'py>, subscription: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let get = async move { core.get_subscription(&subscription).await };
        call(py, &self.runtime, get, |py, (info, checkpoints)| {
            let by_shard = PyDict::new(py);
            for (shard_id, batch_id) in checkpoints {
                by_shard.set_item(shard_id, batch_id)?;
            }
            (resources::subscription(py, info)?, by_shard).into_py_any(py)
        })
    }

    /// All subscriptions, or those whose id begins with `prefix`.
    #[pyo3(signature = (*, prefix = None))]
    fn list_subscriptions<'py>(
        &self,
        py: Python<'py>,
        prefix: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let list = async move {
            match prefix {
                Some(prefix) => core.list_subscriptions_with_prefix(&prefix).await,
                None => core.list_subscriptions().await,
            }
        };
        call(py, &self.runtime, list, |py, all| resources::list(py, all, resources::subscription))
    }

    /// The consumers attached to a subscription now.
    fn list_consumers<'py>(&self, py: Python<'py>, subscription: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        call(py, &self.runtime, async move { core.list_consumers(&subscription).await }, |py, all| {
            resources::list(py, all, resources::consumer)
        })
    }

    /// A producer for a stream, opened by `async with` or `await`.
    #[pyo3(signature = (stream, **options))]
    fn producer(
        &self,
        py: Python<'_>,
        stream: &str,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Producer> {
        let builder = arguments::apply(py, self.core.producer(stream), options, ProducerBuilder::set)?;
        Ok(Producer::new(builder, self.runtime.clone(), stream.to_owned()))
    }

    /// A consumer of a subscription, started by `async with` or `await`.
    #[pyo3(signature = (subscription, **options))]
    fn consumer(
        &self,
        py: Python<'_>,
        subscription: &str,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Consumer> {
        let builder = arguments::apply(py, self.core.consumer(subscription), options, ConsumerBuilder::set)?;
        Ok(Consumer::new(builder, self.runtime.clone(), subscription.to_owned()))
    }

    /// A reader of one shard, opened by `async with` or `await`.
    #[pyo3(signature = (stream, shard_id, **options))]
    fn shard_reader(
        &self,
        py: Python<'_>,
        stream: &str,
        shard_id: u64,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Reader> {
        self.reader(py, stream, self.core.shard_reader(stream, shard_id), options)
    }

    /// A reader of all shards of a stream, opened by `async with` or `await`.
    #[pyo3(signature = (stream, **options))]
    fn stream_reader(
        &self,
        py: Python<'_>,
        stream: &str,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Reader> {
        self.reader(py, stream, self.core.stream_reader(stream), options)
    }

    /// A reader of a stream that has one shard only, opened by `async with` or `await`; the stream's name is enough.
    #[pyo3(signature = (stream, **options))]
    fn single_shard_reader(
        &self,
        py: Python<'_>,
        stream: &str,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Reader> {
        self.reader(py, stream, self.core.single_shard_reader(stream), options)
    }

    /// A reader of the records of one key, opened by `async with` or `await`.
    #[pyo3(signature = (stream, key, **options))]
    fn key_reader(
        &self,
        py: Python<'_>,
        stream: &str,
        key: &str,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Reader> {
        self.reader(py, stream, self.core.key_reader(stream, key), options)
    }

    /// Counters and gauges of this client by name.
    fn metrics(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let snapshot = py.detach(|| self.core.metrics());
        let values = PyDict::new(py);
        for (name, value) in snapshot.counters {
            values.set_item(name, value)?;
        }
        for (name, value) in snapshot.gauges {
            values.set_item(name, value)?;
        }
        values.into_py_any(py)
    }

    /// Closes the client with its producers, consumers and readers; waits at most `timeout` seconds for what is
    /// in flight. May be called again.
    #[pyo3(signature = (timeout = 30.0))]
    fn close<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Bound<'py, PyAny>> {
        self.close_within(py, arguments::seconds("timeout", timeout)?)
    }

    fn __aenter__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, handle) = (slf.py(), slf.clone().unbind());
        call(py, &slf.get().runtime, async { Ok(()) }, move |_, ()| Ok(handle.into_any()))
    }

    #[pyo3(signature = (*_exception))]
    fn __aexit__<'py>(
        &self,
        py: Python<'py>,
        _exception: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.close_within(py, CLOSE_WAIT)
    }
}
