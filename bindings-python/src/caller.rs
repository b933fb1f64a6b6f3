//! How the caller of a handle waits: on an event loop, or with the calling thread. The handles of `hstreamdb` and those of
//! `hstreamdb.sync` differ in nothing else.

use crate::{blocking, bridge, errors, gate, runtime};
use hstreamdb::Runtime;
use pyo3::prelude::*;
use std::{fmt, sync::Arc};

/// Goes from a client to everything made from it.
#[derive(Clone)]
pub struct Caller {
    runtime: Arc<Runtime>,
    blocking: bool,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("blocking", &self.blocking).finish_non_exhaustive()
    }
}

impl Caller {
    /// Of the runtime of this process.
    pub fn new(py: Python<'_>, blocking: bool) -> PyResult<Self> {
        Ok(Caller { runtime: runtime::get(py)?, blocking })
    }

    /// Whether the calling thread waits.
    pub fn is_blocking(&self) -> bool {
        self.blocking
    }

    /// The threads of the core.
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// Fails in a forked child and while the interpreter is leaving.
    pub fn check(&self, py: Python<'_>) -> PyResult<()> {
        runtime::check(py, &self.runtime)
    }

    /// Runs a call of the core: gives an awaitable of its converted result, or the result itself.
    pub fn call<'py, T, F>(
        &self,
        py: Python<'py>,
        future: F,
        convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>>
    where
        T: Send + 'static,
        F: Future<Output = hstreamdb::Result<T>> + Send + 'static,
    {
        if !self.blocking {
            return bridge::call(py, &self.runtime, future, convert);
        }
        self.check(py)?;
        let outcome = blocking::run(py, &self.runtime, future)?;
        let _staying = gate::stay(py);
        match outcome {
            Ok(value) => Ok(convert(py, value)?.into_bound(py)),
            Err(error) => Err(errors::raise(py, &error)),
        }
    }

    /// A call without a result.
    pub fn call_none<'py, F>(&self, py: Python<'py>, future: F) -> PyResult<Bound<'py, PyAny>>
    where
        F: Future<Output = hstreamdb::Result<()>> + Send + 'static,
    {
        self.call(py, future, |py, ()| Ok(py.None()))
    }
}
