//! Readers that the server keeps, by their ids.

use super::ClientBase;
use crate::{arguments, batch::ReceivedBatch};
use hstreamdb::PolledReaderBuilder;
use pyo3::{
    IntoPyObjectExt,
    prelude::*,
    types::{PyDict, PyList},
};

#[pymethods]
impl ClientBase {
    /// Creates a polled reader that stays on the server, for whoever knows its id, and gives the id; options as for
    /// `polled_reader`. It is read with `read_shard_reader` and deleted with `delete_shard_reader`.
    ///
    /// Raises `AlreadyExistsError` for an id that is taken, `NotFoundError` for an unknown shard, `InvalidArgumentError`,
    /// `OutcomeUnknownError` when it may be there now, `UnavailableError`, `TimeoutError`, `ClosedError`.
    #[pyo3(signature = (stream, shard_id, **options))]
    fn create_shard_reader<'py>(
        &self,
        py: Python<'py>,
        stream: &str,
        shard_id: u64,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let builder = self.core.polled_reader(stream, shard_id);
        let builder = arguments::apply(py, builder, options, PolledReaderBuilder::set)?;
        self.caller.call(py, async move { builder.create().await }, |py, id| id.into_py_any(py))
    }

    /// One poll of a reader that the server keeps, whoever created it: a list of up to `max_batches` batches, empty when nothing
    /// came within the reader's own wait, which is at most `wait` seconds.
    ///
    /// The poll moves the reader, so it is not repeated once it may have reached it: after an error that says
    /// `may_have_been_applied`, and after a cancellation, batches may have been passed over. A `polled_reader` loses none.
    ///
    /// Raises `NotFoundError`, `FailedPreconditionError` for a gap in the log, `UnavailableError`, `TimeoutError`, `ClosedError`.
    #[pyo3(signature = (reader_id, max_batches = 1, *, wait = 0.0))]
    fn read_shard_reader<'py>(
        &self,
        py: Python<'py>,
        reader_id: String,
        max_batches: u32,
        wait: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let wait = arguments::seconds("wait", wait)?;
        let core = self.core.clone();
        let read = async move { core.read_shard_reader(&reader_id, max_batches, wait).await };
        self.caller.call(py, read, |py, batches| {
            let batches: Vec<_> = batches
                .into_iter()
                .map(|batch| Py::new(py, ReceivedBatch::new(batch, None)))
                .collect::<PyResult<_>>()?;
            PyList::new(py, batches)?.into_py_any(py)
        })
    }

    /// A list of the ids of polled readers that servers keep, those of programs that were killed included.
    ///
    /// Raises `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn list_shard_readers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.list_shard_readers().await }, |py, ids| ids.into_py_any(py))
    }

    /// Deletes a polled reader that is left on a server.
    ///
    /// Raises `NotFoundError`, `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn delete_shard_reader<'py>(&self, py: Python<'py>, reader_id: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.delete_shard_reader(&reader_id).await })
    }
}
