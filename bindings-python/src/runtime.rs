//! The runtime of this process: started by the first connect, replaced in a forked child, stopped at exit.

use crate::{errors, gate};
use hstreamdb::{Error, ErrorKind, Runtime, RuntimeOptions};
use pyo3::prelude::*;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Touched only with the interpreter attached and never across a detach: the interpreter lock is held by the
/// thread that forks, so no other thread can be in here at that moment.
static RUNTIME: Mutex<Option<Arc<Runtime>>> = Mutex::new(None);
/// How long leaving the interpreter waits for the runtime's threads.
const EXIT_WAIT: Duration = Duration::from_secs(2);

fn current() -> MutexGuard<'static, Option<Arc<Runtime>>> {
    RUNTIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The runtime of this process.
pub fn get(py: Python<'_>) -> PyResult<Arc<Runtime>> {
    if gate::is_shut() {
        return Err(leaving(py));
    }
    let mut slot = current();
    if let Some(runtime) = &*slot {
        if runtime.check_process().is_ok() {
            return Ok(runtime.clone());
        }
        // We are a forked child: the threads of that runtime stayed in the parent, joining them would hang.
        if let Some(inherited) = slot.take() {
            std::mem::forget(inherited);
        }
    }
    let options = RuntimeOptions { name: "hstreamdb-python".into(), ..RuntimeOptions::default() };
    let runtime = Runtime::start(options).map_err(|error| errors::raise(py, &error))?;
    *slot = Some(runtime.clone());
    Ok(runtime)
}

/// Fails in a forked child and while the interpreter is leaving; every call passes here first.
pub fn check(py: Python<'_>, runtime: &Runtime) -> PyResult<()> {
    if gate::is_shut() {
        return Err(leaving(py));
    }
    runtime.check_process().map_err(|error| errors::raise(py, &error))
}

fn leaving(py: Python<'_>) -> PyErr {
    let error = Error::new(ErrorKind::Closed, "call").with_message("the interpreter is exiting");
    errors::raise(py, &error)
}

/// Ends the runtime and its threads; nothing is called any more.
pub fn stop(py: Python<'_>) {
    let runtime = current().take();
    if let Some(runtime) = runtime {
        gate::detach(py, || runtime.shutdown(EXIT_WAIT));
    }
}
