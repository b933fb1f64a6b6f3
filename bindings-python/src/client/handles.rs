//! What is made from a client: producers, consumers, readers. They are opened where Python can wait.

use super::ClientBase;
use crate::{
    arguments, consumer::ConsumerBase, polled_reader::PolledReaderBase, producer::ProducerBase,
    reader::ReaderBase,
};
use hstreamdb::{ConsumerBuilder, PolledReaderBuilder, ProducerBuilder, ReaderBuilder};
use pyo3::{prelude::*, types::PyDict};

impl ClientBase {
    fn reader(
        &self,
        py: Python<'_>,
        stream: &str,
        builder: ReaderBuilder,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        let builder = arguments::apply(py, builder, options, ReaderBuilder::set)?;
        ReaderBase::make(py, builder, &self.caller, stream)
    }
}

#[pymethods]
impl ClientBase {
    /// A producer for a stream. Options are those of scope `producer` in `option_table()`: `batch_max_records`,
    /// `batch_max_age_ms`, `compression`, `flow_control_bytes`, … `on_batch` is called with a `BatchReport` for every batch: on the
    /// event loop, or in a thread for callbacks with `hstreamdb.sync`.
    ///
    /// Raises `InvalidArgumentError` for an option that is none, with the known ones.
    #[pyo3(signature = (stream, *, on_batch = None, **options))]
    fn producer(
        &self,
        py: Python<'_>,
        stream: &str,
        on_batch: Option<Py<PyAny>>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        let builder = arguments::apply(py, self.core.producer(stream), options, ProducerBuilder::set)?;
        ProducerBase::make(py, builder, &self.caller, stream, on_batch)
    }

    /// A consumer of a subscription. Options are those of scope `consumer` in `option_table()`: `name`, `ack_max_records`,
    /// `prefetch_bytes`, … `on_event` is called with a `ConsumerEvent` for everything that happens to it: on the event loop, or in
    /// a thread for callbacks with `hstreamdb.sync`.
    ///
    /// Raises `InvalidArgumentError` for an option that is none, with the known ones.
    #[pyo3(signature = (subscription, *, on_event = None, **options))]
    fn consumer(
        &self,
        py: Python<'_>,
        subscription: &str,
        on_event: Option<Py<PyAny>>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        let builder = arguments::apply(py, self.core.consumer(subscription), options, ConsumerBuilder::set)?;
        ConsumerBase::make(py, builder, &self.caller, subscription, on_event)
    }

    /// A reader of one shard. Options are those of scope `reader` in `option_table()`: `from_` (`"earliest"`, `"latest"`, a
    /// `RecordId`, a `datetime` or milliseconds since 1970, or the `StreamPosition` of an earlier reader), `until`, `max_batches`, …
    ///
    /// Raises `InvalidArgumentError` for an option that is none, with the known ones; so for all readers.
    #[pyo3(signature = (stream, shard_id, **options))]
    fn shard_reader(
        &self,
        py: Python<'_>,
        stream: &str,
        shard_id: u64,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        self.reader(py, stream, self.core.shard_reader(stream, shard_id), options)
    }

    /// A reader of all shards of a stream, in order within each shard; options as for `shard_reader`.
    #[pyo3(signature = (stream, **options))]
    fn stream_reader(
        &self,
        py: Python<'_>,
        stream: &str,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        self.reader(py, stream, self.core.stream_reader(stream), options)
    }

    /// A reader of a stream that has one shard only: the stream's name is enough. Options as for `shard_reader`.
    #[pyo3(signature = (stream, **options))]
    fn single_shard_reader(
        &self,
        py: Python<'_>,
        stream: &str,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        self.reader(py, stream, self.core.single_shard_reader(stream), options)
    }

    /// A reader of the records of one key; it ends at what is the newest record when it is opened. Options as for
    /// `shard_reader`.
    #[pyo3(signature = (stream, key, **options))]
    fn key_reader(
        &self,
        py: Python<'_>,
        stream: &str,
        key: &str,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        self.reader(py, stream, self.core.key_reader(stream, key), options)
    }

    /// A reader of one shard that the server keeps and that is polled; options: `from_`, `timeout_ms` (how long a read waits),
    /// `reader_id`.
    #[pyo3(signature = (stream, shard_id, **options))]
    fn polled_reader(
        &self,
        py: Python<'_>,
        stream: &str,
        shard_id: u64,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        let builder = self.core.polled_reader(stream, shard_id);
        let builder = arguments::apply(py, builder, options, PolledReaderBuilder::set)?;
        PolledReaderBase::make(py, builder, &self.caller, stream, shard_id)
    }
}
