//! Every handle is two classes of Python over one base: what is not about waiting is written once.

use crate::caller::Caller;
use pyo3::{PyClass, PyClassInitializer, prelude::*};

/// An object of the class that fits the caller.
pub fn make<B, A, S>(
    py: Python<'_>,
    base: B,
    caller: &Caller,
    on_a_loop: A,
    with_the_thread: S,
) -> PyResult<Py<PyAny>>
where
    A: PyClass,
    S: PyClass,
    (A, B): Into<PyClassInitializer<A>>,
    (S, B): Into<PyClassInitializer<S>>,
{
    if caller.is_blocking() {
        Ok(Py::new(py, (with_the_thread, base))?.into_any())
    } else {
        Ok(Py::new(py, (on_a_loop, base))?.into_any())
    }
}
