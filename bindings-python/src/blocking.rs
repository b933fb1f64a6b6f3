//! Waiting of a thread of Python for the core: detached from the interpreter, and awake often enough for Ctrl-C.

use crate::gate;
use hstreamdb::{CancelToken, Runtime};
use pyo3::prelude::*;
use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a waiting thread does not look for signals.
const TICK: Duration = Duration::from_millis(100);

/// Where one value is left by the core and waited for by threads of Python.
pub struct Meeting<T> {
    value: Mutex<Option<T>>,
    arrived: Condvar,
}

impl<T> Default for Meeting<T> {
    fn default() -> Self {
        Meeting { value: Mutex::new(None), arrived: Condvar::new() }
    }
}

impl<T> fmt::Debug for Meeting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meeting")
    }
}

impl<T: Send> Meeting<T> {
    /// What is there, if anything is. Never held while the interpreter is entered.
    pub fn value(&self) -> MutexGuard<'_, Option<T>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the value.
    pub fn put(&self, value: T) {
        *self.value() = Some(value);
        self.arrived.notify_all();
    }

    /// Waits for it; `false` when the time is up. An error is what a signal handler raised, such as `KeyboardInterrupt`.
    pub fn wait(&self, py: Python<'_>, timeout: Option<Duration>) -> PyResult<bool> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let arrived = gate::detach(py, || {
                let slice = left.map_or(TICK, |left| left.min(TICK));
                let waited = self.arrived.wait_timeout_while(self.value(), slice, |value| value.is_none());
                let (value, _) = waited.unwrap_or_else(PoisonError::into_inner);
                value.is_some()
            });
            if arrived {
                return Ok(true);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            py.check_signals()?;
        }
    }
}

/// Runs a call of the core and waits for it. A signal that raises cancels the call.
pub fn run<T, F>(py: Python<'_>, runtime: &Runtime, future: F) -> PyResult<hstreamdb::Result<T>>
where
    T: Send + 'static,
    F: Future<Output = hstreamdb::Result<T>> + Send + 'static,
{
    let cancel = CancelToken::new();
    let meeting = Arc::new(Meeting::default());
    let done = meeting.clone();
    gate::detach(py, || runtime.spawn(&cancel, future, move |outcome| done.put(outcome)));
    let interrupted = loop {
        match meeting.wait(py, None) {
            Err(interrupt) => break interrupt,
            Ok(_) => {
                if let Some(outcome) = meeting.value().take() {
                    return Ok(outcome);
                }
            }
        }
    };
    gate::detach(py, || cancel.cancel());
    Err(interrupted)
}
