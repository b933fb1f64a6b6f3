//! The one door through which our threads enter Python, and which `atexit` shuts.
//!
//! CPython aborts when a foreign thread is inside the interpreter while it is finalised. Counting who is
//! inside and letting nobody in any more before that moment is the whole cure.

use pyo3::prelude::*;
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

/// Threads inside, with the top bit saying that the gate is shut. An atomic and not a mutex: a lock that
/// another thread held at the moment of a fork would stay locked in the child for ever.
static STATE: AtomicUsize = AtomicUsize::new(0);
const SHUT: usize = 1 << (usize::BITS - 1);
/// Longer than any thread of ours stays inside; only a debugger or a stopped machine exceeds it.
const SHUT_WAIT: Duration = Duration::from_secs(10);

/// The thread that leaves; it alone may still run Python.
static LEAVING: OnceLock<ThreadId> = OnceLock::new();

struct Inside;

impl Drop for Inside {
    fn drop(&mut self) {
        STATE.fetch_sub(1, SeqCst);
    }
}

/// Runs `f` with the interpreter attached, or not at all once the interpreter is leaving.
pub fn attach<R>(f: impl for<'py> FnOnce(Python<'py>) -> R) -> Option<R> {
    let inside = Inside;
    if STATE.fetch_add(1, SeqCst) & SHUT != 0 {
        return None;
    }
    let result = Python::try_attach(f);
    drop(inside);
    result
}

/// Whether the interpreter is leaving.
pub fn is_shut() -> bool {
    STATE.load(SeqCst) & SHUT != 0
}

/// Runs `f` without the interpreter, as `Python::detach`, and comes back through the gate. Every thread of Python that lets go of
/// the interpreter does it here: one that came back while the interpreter is finalised would be ended by CPython in the middle of
/// our frames, which aborts the process.
pub fn detach<R: Send>(py: Python<'_>, f: impl FnOnce() -> R + Send) -> R {
    let (result, _inside) = py.detach(|| {
        let result = f();
        let inside = Inside;
        let shut = STATE.fetch_add(1, SeqCst) & SHUT != 0;
        if shut && LEAVING.get().is_some_and(|leaving| *leaving != thread::current().id()) {
            drop(inside);
            // Only daemon threads are left by then, and nobody waits for those.
            loop {
                thread::park();
            }
        }
        (result, inside)
    });
    result
}

/// For a thread of Python that is to run Python code below our frames: leaving waits until the guard is dropped.
pub fn stay(_py: Python<'_>) -> impl Drop {
    STATE.fetch_add(1, SeqCst);
    Inside
}

/// Lets nobody in any more and waits, bounded, until everybody is out.
pub fn shut(py: Python<'_>) {
    LEAVING.get_or_init(|| thread::current().id());
    STATE.fetch_or(SHUT, SeqCst);
    py.detach(|| {
        let deadline = Instant::now() + SHUT_WAIT;
        while STATE.load(SeqCst) != SHUT && Instant::now() < deadline {
            thread::sleep(Duration::from_micros(200));
        }
    });
}

/// In a forked child the threads that were inside do not exist.
pub fn after_fork() {
    STATE.store(0, SeqCst);
}
