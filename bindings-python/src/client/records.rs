//! Appending now and then, without a producer of one's own.

use super::ClientBase;
use crate::{
    arguments,
    receipt::{all_ids, only_id},
};
use hstreamdb::AppendOutcome;
use pyo3::{prelude::*, types::PyString};

#[pymethods]
impl ClientBase {
    /// Appends one record and gives its id once it is stored. For a record now and then; a `producer` has options, and does not
    /// make each record wait for the one before.
    ///
    /// Raises `NotFoundError` for an unknown stream, and as `Producer.append`.
    #[pyo3(signature = (stream, payload, key = None, attributes = None))]
    fn append<'py>(
        &self,
        py: Python<'py>,
        stream: String,
        payload: &Bound<'py, PyAny>,
        key: Option<&Bound<'py, PyString>>,
        attributes: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let batch = arguments::single(payload, key, attributes)?;
        let core = self.core.clone();
        let append = async move { core.append_batch(&stream, batch).await };
        self.caller.call(py, append, |py, outcome: AppendOutcome| only_id(py, outcome))
    }

    /// Appends many records in order and gives the list of their ids once all are stored; arguments as for
    /// `Producer.append_many`.
    ///
    /// Raises as `append`; the error of the first record that failed carries `ids` and `errors`.
    #[pyo3(signature = (stream, payloads, keys = None, attributes = None))]
    fn append_many<'py>(
        &self,
        py: Python<'py>,
        stream: String,
        payloads: &Bound<'py, PyAny>,
        keys: Option<&Bound<'py, PyAny>>,
        attributes: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let batch = arguments::batch(payloads, keys, attributes)?;
        let core = self.core.clone();
        let append = async move { core.append_batch(&stream, batch).await };
        self.caller.call(py, append, |py, outcome: AppendOutcome| all_ids(py, outcome))
    }
}
