//! Streams, their shards, and trimming them.

use super::ClientBase;
use crate::{arguments, record_id, resources};
use hstreamdb::{DeleteStreamOptions, StreamOptions};
use pyo3::{IntoPyObjectExt, prelude::*, types::PyDict};

#[pymethods]
impl ClientBase {
    /// Creates a stream and gives its `Stream`. Options: `replication_factor` (1), `backlog_duration_secs` (86400; 0 keeps records
    /// for ever), `shard_count` (1).
    ///
    /// Raises `AlreadyExistsError`, `InvalidArgumentError` for a name or option that is none, `UnavailableError`, `TimeoutError`,
    /// `OutcomeUnknownError` when it may have been created, `ClosedError`.
    #[pyo3(signature = (name, **options))]
    fn create_stream<'py>(
        &self,
        py: Python<'py>,
        name: String,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options = arguments::apply(py, StreamOptions::default(), options, StreamOptions::set)?;
        let core = self.core.clone();
        self.caller.call(py, async move { core.create_stream(&name, options).await }, resources::stream)
    }

    /// Deletes a stream; `force` also when it has subscriptions.
    ///
    /// Raises `NotFoundError` unless `ignore_missing`, `FailedPreconditionError` when it has subscriptions, and as `create_stream`.
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
        self.caller.call_none(py, async move { core.delete_stream(&name, options).await })
    }

    /// One `Stream`.
    ///
    /// Raises `NotFoundError`, `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn get_stream<'py>(&self, py: Python<'py>, name: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.get_stream(&name).await }, resources::stream)
    }

    /// Whether there is a stream of that name.
    ///
    /// Raises `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn stream_exists<'py>(&self, py: Python<'py>, name: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.stream_exists(&name).await }, |py, yes| yes.into_py_any(py))
    }

    /// A list of all `Stream`, or of those whose name begins with `prefix`.
    ///
    /// Raises `UnavailableError`, `TimeoutError`, `ClosedError`.
    #[pyo3(signature = (*, prefix = None))]
    fn list_streams<'py>(&self, py: Python<'py>, prefix: Option<String>) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let list = async move {
            match prefix {
                Some(prefix) => core.list_streams_with_prefix(&prefix).await,
                None => core.list_streams().await,
            }
        };
        self.caller.call(py, list, |py, all| resources::list(py, all, resources::stream))
    }

    /// A list of the stream's `Shard`.
    ///
    /// Raises `NotFoundError`, `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn list_shards<'py>(&self, py: Python<'py>, stream: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let name = stream.clone();
        self.caller.call(py, async move { core.list_shards(&name).await }, move |py, all| {
            resources::list(py, all, |py, info| resources::shard(py, &stream, info))
        })
    }

    /// The `Shard` that takes a key.
    ///
    /// Raises `NotFoundError`, `RoutingError` when no shard takes it, `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn shard_for_key<'py>(
        &self,
        py: Python<'py>,
        stream: String,
        key: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let name = stream.clone();
        self.caller.call(py, async move { core.shard_for_key(&name, &key).await }, move |py, info| {
            resources::shard(py, &stream, info)
        })
    }

    /// The `RecordId` of the newest record of a shard; its `batch_id` is 0 when nothing was appended yet.
    ///
    /// Raises `NotFoundError`, `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn tail_record_id<'py>(
        &self,
        py: Python<'py>,
        stream: String,
        shard_id: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let tail = async move { core.tail_record_id(&stream, shard_id).await };
        self.caller.call(py, tail, record_id::make)
    }

    /// Forgets records of all shards: `"latest"` all there are; a `datetime` or milliseconds since 1970 those before that time and
    /// the first batch at or after it.
    ///
    /// Raises `InvalidArgumentError` for a record id, which belongs to `trim_shard`; `NotFoundError`, `UnavailableError`,
    /// `TimeoutError`, `ClosedError`.
    fn trim_stream<'py>(
        &self,
        py: Python<'py>,
        stream: String,
        before: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let before = arguments::offset(py, before)?;
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.trim_stream(&stream, before).await })
    }

    /// Forgets records of one shard up to and with the batch of a record; other offsets as for `trim_stream`.
    ///
    /// Raises as `trim_stream`.
    fn trim_shard<'py>(
        &self,
        py: Python<'py>,
        stream: String,
        shard_id: u64,
        before: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let before = arguments::offset(py, before)?;
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.trim_shard(&stream, shard_id, before).await })
    }

    /// Forgets what lies before the earliest given record of each shard (the batch of that record stays), and gives by shard the
    /// `RecordId` where it was trimmed.
    ///
    /// Raises `InvalidArgumentError` for a record of another stream or beyond the tail, and as `trim_stream`.
    fn trim_shards<'py>(
        &self,
        py: Python<'py>,
        stream: String,
        ids: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let ids = record_id::list_argument(ids)?;
        let core = self.core.clone();
        self.caller.call(py, async move { core.trim_shards(&stream, &ids).await }, |py, points| {
            let found = PyDict::new(py);
            for (shard_id, id) in points {
                found.set_item(shard_id, record_id::make(py, id)?)?;
            }
            found.into_py_any(py)
        })
    }
}
