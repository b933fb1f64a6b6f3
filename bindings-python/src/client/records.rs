//! Appending now and then, without a producer of one's own.

use super::ClientBase;
use crate::{
    arguments,
    receipt::{all_ids, only_id},
};
use hstreamdb::{AppendOptions, AppendOutcome};
use pyo3::{
    prelude::*,
    types::{PyDict, PyString},
};

#[pymethods]
impl ClientBase {
    /// Appends one record and gives its id once it is stored. For a record now and then; a `producer` has options, and does not
    /// make each record wait for the one before.
    ///
    /// Options: `compression`, `compression_level`.
    ///
    /// Raises `NotFoundError` for an unknown stream, and as `Producer.append`.
    #[pyo3(signature = (stream, payload, key = None, attributes = None, **options))]
    fn append<'py>(
        &self,
        py: Python<'py>,
        stream: String,
        payload: &Bound<'py, PyAny>,
        key: Option<&Bound<'py, PyString>>,
        attributes: Option<&Bound<'py, PyAny>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let batch = arguments::single(payload, key, attributes)?;
        let options = arguments::apply(py, AppendOptions::new(), options, AppendOptions::set)?;
        let core = self.core.clone();
        let append = async move { core.append_batch_with(&stream, batch, options).await };
        self.caller.call(py, append, |py, outcome: AppendOutcome| only_id(py, outcome))
    }

    /// Appends many records in order and gives the list of their ids once all are stored; arguments as for
    /// `Producer.append_many`. Those of one shard are one batch, if it holds them. Options: `compression`, `compression_level`.
    ///
    /// Raises as `append`; the error of the first record that failed carries `ids` and `errors`.
    #[pyo3(signature = (stream, payloads, keys = None, attributes = None, **options))]
    fn append_many<'py>(
        &self,
        py: Python<'py>,
        stream: String,
        payloads: &Bound<'py, PyAny>,
        keys: Option<&Bound<'py, PyAny>>,
        attributes: Option<&Bound<'py, PyAny>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let batch = arguments::batch(payloads, keys, attributes)?;
        let options = arguments::apply(py, AppendOptions::new(), options, AppendOptions::set)?;
        let core = self.core.clone();
        let append = async move { core.append_batch_with(&stream, batch, options).await };
        self.caller.call(py, append, |py, outcome: AppendOutcome| all_ids(py, outcome))
    }
}
