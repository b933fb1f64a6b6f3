//! Callbacks of the application for things that happen: never on a thread of the core, which may not wait for Python.
//!
//! A handle of an event loop has its callbacks run by that loop; one of `hstreamdb.sync`, by a thread that is there for nothing
//! else. What waits for a callback is bounded: it is dropped and counted when the application is too slow.

use crate::{bridge::LoopPort, caller::Caller, gate};
use pyo3::{prelude::*, types::PyDict};
use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, Sender, channel},
    },
};

/// Calls of one listener that may wait.
const CAPACITY: usize = 1024;

/// Something that enters Python, on the thread for that.
pub type Job = Box<dyn FnOnce() + Send>;

/// A callable of the application.
#[derive(Clone)]
pub struct Listener(Arc<Inner>);

struct Inner {
    callback: Py<PyAny>,
    /// What it is called for, in log lines.
    noun: &'static str,
    place: Place,
    /// How many calls may wait.
    capacity: usize,
    waiting: AtomicUsize,
    dropped: AtomicUsize,
}

enum Place {
    Loop(Py<LoopPort>),
    Thread(Sender<Job>),
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("noun", &self.0.noun).finish_non_exhaustive()
    }
}

impl Listener {
    /// For a handle of that caller, on the loop that runs now.
    pub fn new(
        py: Python<'_>,
        callback: Py<PyAny>,
        noun: &'static str,
        caller: &Caller,
    ) -> PyResult<Listener> {
        Listener::with_capacity(py, callback, noun, caller, CAPACITY)
    }

    /// The same for what must not be missed. On a loop nothing is dropped: while the loop is busy it makes nothing new happen,
    /// so what can wait is what was under way, which flow control bounds.
    pub fn lossless(
        py: Python<'_>,
        callback: Py<PyAny>,
        noun: &'static str,
        caller: &Caller,
    ) -> PyResult<Listener> {
        let capacity = if caller.is_blocking() { CAPACITY } else { usize::MAX };
        Listener::with_capacity(py, callback, noun, caller, capacity)
    }

    fn with_capacity(
        py: Python<'_>,
        callback: Py<PyAny>,
        noun: &'static str,
        caller: &Caller,
        capacity: usize,
    ) -> PyResult<Listener> {
        let place = if caller.is_blocking() {
            Place::Thread(thread(py))
        } else {
            Place::Loop(LoopPort::of_running_loop(py)?.1)
        };
        let (waiting, dropped) = Default::default();
        Ok(Listener(Arc::new(Inner { callback, noun, place, capacity, waiting, dropped })))
    }

    /// Calls it soon with what `make` makes. Never waits.
    pub fn tell(&self, make: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send + 'static) {
        if self.0.waiting.fetch_add(1, Relaxed) >= self.0.capacity {
            self.0.waiting.fetch_sub(1, Relaxed);
            self.0.dropped.fetch_add(1, Relaxed);
            return;
        }
        let listener = self.clone();
        let call = move |py: Python<'_>| {
            listener.0.waiting.fetch_sub(1, Relaxed);
            listener.call(py, make);
        };
        match &self.0.place {
            Place::Loop(port) => LoopPort::post(port, Box::new(call)),
            Place::Thread(jobs) => {
                // Nobody takes jobs any more when the interpreter has left.
                let _ = jobs.send(Box::new(move || {
                    gate::attach(call);
                }));
            }
        }
    }

    fn call(&self, py: Python<'_>, make: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>>) {
        let dropped = self.0.dropped.swap(0, Relaxed);
        if dropped > 0 {
            let text = format!("{dropped} calls of {} were dropped: it is too slow", self.0.noun);
            log(py, "warning", &text, None);
        }
        if let Err(error) = make(py).and_then(|argument| self.0.callback.call1(py, (argument,))) {
            log(py, "error", &format!("{} failed", self.0.noun), Some(error));
        }
    }
}

/// A line for the logger `hstreamdb`; where logging itself fails, for `sys.unraisablehook`.
pub fn log(py: Python<'_>, level: &str, text: &str, error: Option<PyErr>) {
    let logged = || -> PyResult<()> {
        let logger = py.import("logging")?.call_method1("getLogger", ("hstreamdb",))?;
        let extras = PyDict::new(py);
        if let Some(error) = &error {
            extras.set_item("exc_info", error.clone_ref(py).into_value(py))?;
        }
        logger.call_method(level, ("%s", text), Some(&extras)).map(|_| ())
    };
    if let Err(problem) = logged() {
        problem.write_unraisable(py, None);
    }
}

struct Thread {
    process: u32,
    jobs: Sender<Job>,
}

/// Touched with the interpreter attached only, as the runtime is.
static THREAD: Mutex<Option<Thread>> = Mutex::new(None);

/// The thread for callbacks of this process.
pub fn thread(_py: Python<'_>) -> Sender<Job> {
    let mut thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if let Some(thread) = &*thread
        && thread.process == process
    {
        return thread.jobs.clone();
    }
    let (jobs, received) = channel::<Job>();
    // Without a thread the callbacks are not called; everything else works.
    let _ = std::thread::Builder::new().name("hstreamdb-callbacks".into()).spawn(move || work(&received));
    *thread = Some(Thread { process, jobs: jobs.clone() });
    jobs
}

fn work(jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        job();
    }
}
