//! What is done when the interpreter leaves, and in the child of a fork.

use crate::{gate, logs, runtime};
use pyo3::prelude::*;

/// Registered with `atexit`: after it no thread of ours enters Python.
#[pyfunction]
pub fn _at_exit(py: Python<'_>) {
    logs::stop(py);
    gate::shut(py);
    runtime::stop(py);
}

/// Registered with `os.register_at_fork` for the child.
#[pyfunction]
pub fn _after_fork() {
    gate::after_fork();
}
