//! Streams, shards and subscriptions as the named tuples of `hstreamdb.resources`.

use hstreamdb::{ConsumerInfo, ShardInfo, StreamInfo, SubscriptionInfo};
use pyo3::{
    prelude::*,
    types::{PyList, PyTuple},
};

fn make<'py, A>(py: Python<'py>, class: &str, fields: A) -> PyResult<Py<PyAny>>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
{
    let class = py.import("hstreamdb.resources")?.getattr(class)?;
    Ok(class.call1(fields.into_pyobject(py)?)?.unbind())
}

/// `Stream(name, replication_factor, backlog_duration_secs, shard_count, created_ms)`.
pub fn stream(py: Python<'_>, info: StreamInfo) -> PyResult<Py<PyAny>> {
    make(
        py,
        "Stream",
        (info.name, info.replication_factor, info.backlog_duration_secs, info.shard_count, info.created_ms),
    )
}

/// `Shard(id, stream_name, start, end, epoch)`.
pub fn shard(py: Python<'_>, stream: &str, info: ShardInfo) -> PyResult<Py<PyAny>> {
    make(py, "Shard", (info.id, stream, info.start, info.end, info.epoch))
}

/// `Subscription(subscription_id, stream_name, ack_timeout, max_unacks, offset, created_ms)`.
pub fn subscription(py: Python<'_>, info: SubscriptionInfo) -> PyResult<Py<PyAny>> {
    make(
        py,
        "Subscription",
        (
            info.id,
            info.stream,
            info.ack_timeout_secs,
            info.max_unacked_records,
            info.offset.name(),
            info.created_ms,
        ),
    )
}

/// `ConsumerInfo(name, uri, user_agent)`.
pub fn consumer(py: Python<'_>, info: ConsumerInfo) -> PyResult<Py<PyAny>> {
    make(py, "ConsumerInfo", (info.name, info.uri, info.user_agent))
}

/// A Python list of what `make_one` makes of each.
pub fn list<T>(
    py: Python<'_>,
    infos: Vec<T>,
    make_one: impl Fn(Python<'_>, T) -> PyResult<Py<PyAny>>,
) -> PyResult<Py<PyAny>> {
    let list = PyList::empty(py);
    for info in infos {
        list.append(make_one(py, info)?)?;
    }
    Ok(list.into_any().unbind())
}
