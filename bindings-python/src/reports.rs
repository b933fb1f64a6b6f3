//! What producers and consumers tell about themselves, as the named tuples of `hstreamdb.reports`.

use crate::{errors, record_id};
use hstreamdb::{BatchReport, CloseReport, ConsumerEvent, ConsumerStats, Error, RecordId, StopReport};
use pyo3::{
    prelude::*,
    types::{PyList, PyTuple},
};
use std::time::Duration;

fn make<'py, A>(py: Python<'py>, class: &str, fields: A) -> PyResult<Py<PyAny>>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
{
    let class = py.import("hstreamdb.reports")?.getattr(class)?;
    Ok(class.call1(fields.into_pyobject(py)?)?.unbind())
}

fn exception(py: Python<'_>, error: Option<&Error>) -> Option<Py<PyAny>> {
    error.map(|error| errors::raise(py, error).into_value(py).into_any())
}

/// `Pending(records, bytes)`.
pub fn pending(py: Python<'_>, records: usize, bytes: usize) -> PyResult<Py<PyAny>> {
    make(py, "Pending", (records, bytes))
}

/// `CloseReport(acknowledged, failed, unresolved, shards)`.
pub fn close(py: Python<'_>, report: CloseReport) -> PyResult<Py<PyAny>> {
    let shards = PyList::empty(py);
    for shard in &report.shards {
        let cause = exception(py, shard.cause.as_ref());
        let fields = (shard.shard_id, shard.may_be_stored, shard.not_stored, cause);
        shards.append(make(py, "UnresolvedShard", fields)?)?;
    }
    make(py, "CloseReport", (report.acknowledged, report.failed, report.unresolved, shards))
}

/// `StopReport(unsent_acks, clean, unfinished_handlers)`.
pub fn stop(py: Python<'_>, report: StopReport) -> PyResult<Py<PyAny>> {
    make(py, "StopReport", (report.unsent_acks, report.clean, report.unfinished_handlers))
}

/// `ConsumerStats(...)`.
pub fn consumer_stats(py: Python<'_>, stats: ConsumerStats) -> PyResult<Py<PyAny>> {
    make(
        py,
        "ConsumerStats",
        (
            stats.buffered_batches,
            stats.buffered_bytes,
            stats.unsent_acks,
            stats.unconfirmed_acks,
            stats.forgotten_acks,
            stats.redelivered_records,
            stats.redelivered_acked_records,
            stats.unreadable_batches,
            stats.running_handlers,
            stats.handler_failures,
            stats.reconnects,
        ),
    )
}

/// What became of a batch, on its way to a callback.
pub struct Batch {
    stream: String,
    shard_id: u64,
    records: usize,
    bytes: usize,
    took: Duration,
    result: Result<Vec<RecordId>, Error>,
    parts: Vec<(u64, usize, usize)>,
}

impl Batch {
    /// A copy that may be kept.
    pub fn of(report: &BatchReport<'_>) -> Self {
        Batch {
            stream: report.stream.to_owned(),
            shard_id: report.shard_id,
            records: report.records,
            bytes: report.bytes,
            took: report.took,
            result: report.result.map(<[_]>::to_vec).map_err(Clone::clone),
            parts: report
                .parts
                .iter()
                .map(|part| (part.tag, part.positions.start, part.positions.end))
                .collect(),
        }
    }

    /// `BatchReport(stream, shard_id, records, bytes, seconds, ids, error, parts)`.
    pub fn to_python(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let (ids, error) = match &self.result {
            Ok(ids) => (Some(record_id::tuple(py, ids)?), None),
            Err(error) => (None, exception(py, Some(error))),
        };
        let took = self.took.as_secs_f64();
        make(
            py,
            "BatchReport",
            (&self.stream, self.shard_id, self.records, self.bytes, took, ids, error, self.parts.clone()),
        )
    }
}

/// `ConsumerEvent(kind, name, node, delay, records, acked, first, report, error)`; what does not belong to the kind is `None`.
pub fn consumer_event(py: Python<'_>, event: &ConsumerEvent) -> PyResult<Py<PyAny>> {
    let (mut name, mut node, mut delay, mut records, mut acked) = (None, None, None, None, None);
    let (mut first, mut report, mut error) = (None, None, None);
    match event {
        ConsumerEvent::Connected { name: its, node: at } => (name, node) = (Some(its), Some(at)),
        ConsumerEvent::Reconnecting { error: why, delay: pause } => {
            (error, delay) = (exception(py, Some(why)), Some(pause.as_secs_f64()));
        }
        ConsumerEvent::Renamed { name: new } => name = Some(new),
        ConsumerEvent::Redelivered { records: all, acked: known } => {
            (records, acked) = (Some(*all), Some(*known));
        }
        ConsumerEvent::Unreadable { first: id, records: all, error: why } => {
            first = id.map(|id| record_id::make(py, id)).transpose()?;
            (records, error) = (Some(*all), exception(py, Some(why)));
        }
        ConsumerEvent::Closed { report: end, error: why } => {
            (report, error) = (Some(stop(py, *end)?), exception(py, why.as_ref()));
        }
        _ => {}
    }
    make(py, "ConsumerEvent", (event.name(), name, node, delay, records, acked, first, report, error))
}
