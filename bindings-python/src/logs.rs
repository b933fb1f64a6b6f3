//! Log lines of the core on their way to `logging`: through a bounded queue and a thread of their own, so that a slow handler of
//! the application holds up nothing but log lines.

use crate::{gate, listener};
use hstreamdb::{LogLevel, LogLine, LogQueue};
use pyo3::{prelude::*, sync::PyOnceLock};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

/// Lines that may wait; older ones are dropped and counted.
const CAPACITY: usize = 1000;
/// Lines handed over with one entry into Python.
const AT_ONCE: usize = 100;

static QUEUE: PyOnceLock<LogQueue> = PyOnceLock::new();
static INSTALLED: AtomicBool = AtomicBool::new(false);
/// The process that has the thread.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Begins to hand lines over, once per process.
pub fn start(py: Python<'_>) {
    let queue = QUEUE.get_or_init(py, || LogQueue::new(CAPACITY, LogLevel::Debug)).clone();
    if !INSTALLED.swap(true, SeqCst) && queue.install().is_err() {
        // Nothing else in this library takes lines.
        listener::log(py, "debug", "log lines of the core go elsewhere", None);
    }
    let process = std::process::id();
    if PROCESS.swap(process, SeqCst) != process {
        // Without the thread there are no lines; everything else works.
        let _ = std::thread::Builder::new().name("hstreamdb-logs".into()).spawn(move || hand_over(&queue));
    }
}

fn hand_over(queue: &LogQueue) {
    let mut dropped = 0;
    // A forked child has the queue, too, and this thread only if it starts its own.
    while let Some(first) = queue.wait_next() {
        let mut lines = vec![first];
        while lines.len() < AT_ONCE
            && let Some(line) = queue.try_next()
        {
            lines.push(line);
        }
        let lost = queue.dropped();
        let new = lost.saturating_sub(dropped);
        dropped = lost;
        if gate::attach(|py| tell(py, &lines, new)).is_none() {
            return;
        }
    }
}

fn tell(py: Python<'_>, lines: &[LogLine], dropped: u64) {
    if dropped > 0 {
        let text = format!("{dropped} log lines were dropped: logging is too slow");
        listener::log(py, "warning", &text, None);
    }
    for line in lines {
        if let Err(problem) = one(py, line) {
            problem.write_unraisable(py, None);
        }
    }
}

fn one(py: Python<'_>, line: &LogLine) -> PyResult<()> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let mut name = line.target.replace("::", ".");
    if !name.starts_with("hstreamdb") {
        name.insert_str(0, "hstreamdb.");
    }
    let logger = GET.import(py, "logging", "getLogger")?.call1((name,))?;
    let level = match line.level {
        LogLevel::Error => 40,
        LogLevel::Warn => 30,
        LogLevel::Info => 20,
        LogLevel::Debug => 10,
        LogLevel::Trace => 5,
    };
    logger.call_method1("log", (level, "%s", &line.message)).map(|_| ())
}

/// Nothing more is handed over.
pub fn stop(py: Python<'_>) {
    if let Some(queue) = QUEUE.get(py) {
        queue.close();
    }
}
