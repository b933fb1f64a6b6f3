//! Calls of the core as asyncio futures.
//!
//! Results reach an event loop through its [`LoopPort`]: the first result of a burst wakes the loop with one
//! `call_soon_threadsafe`, the others only join the queue, so that a thousand finished appends cost one entry
//! into the interpreter and not a thousand.

use crate::{errors, gate, runtime};
use hstreamdb::{CancelToken, Error, ErrorKind, Runtime};
use pyo3::{prelude::*, sync::PyOnceLock, types::PyWeakrefReference};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Turns a result into a Python value, on the loop's thread. Dropped unused when nobody waits any more.
type Landing = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;
/// Something else to be run on the loop's thread.
type Errand = Box<dyn FnOnce(Python<'_>) + Send>;

enum Arrival {
    Result(Py<PyAny>, Landing),
    Errand(Errand),
}

/// Where results for one event loop queue up. Never longer than the number of calls in flight.
#[pyclass(frozen, module = "hstreamdb._native")]
pub struct LoopPort {
    /// Weak, because the table of ports must not keep loops alive.
    event_loop: Py<PyWeakrefReference>,
    arrived: Mutex<Vec<Arrival>>,
}

impl fmt::Debug for LoopPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoopPort")
    }
}

#[pymethods]
impl LoopPort {
    /// Run by the event loop: resolves what arrived.
    fn __call__(&self, py: Python<'_>) {
        let _staying = gate::stay(py);
        let arrived = self.take_all();
        for arrival in arrived {
            match arrival {
                Arrival::Errand(errand) => errand(py),
                Arrival::Result(future, landing) => {
                    if let Err(problem) = settle(py, future.bind(py), landing) {
                        problem.write_unraisable(py, Some(future.bind(py)));
                    }
                }
            }
        }
    }
}

fn settle(py: Python<'_>, future: &Bound<'_, PyAny>, landing: Landing) -> PyResult<()> {
    // Cancelled meanwhile: dropping the landing hands back what must not be lost.
    if future.call_method0("done")?.is_truthy()? {
        return Ok(());
    }
    match landing(py) {
        Ok(value) => future.call_method1("set_result", (value,))?,
        Err(error) => future.call_method1("set_exception", (error.into_value(py),))?,
    };
    Ok(())
}

impl LoopPort {
    fn arrived(&self) -> MutexGuard<'_, Vec<Arrival>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What arrived. Dropped, it goes back to where it came from.
    fn take_all(&self) -> Vec<Arrival> {
        std::mem::take(&mut *self.arrived())
    }

    /// Runs something on the loop's thread, soon; never, when the loop is closed.
    pub fn post(port: &Py<LoopPort>, errand: Errand) {
        Self::bring(port, Arrival::Errand(errand));
    }

    fn bring(port: &Py<LoopPort>, arrival: Arrival) {
        let first = {
            let mut queue = port.get().arrived();
            queue.push(arrival);
            queue.len() == 1
        };
        if !first {
            return;
        }
        let woken = gate::attach(|py| {
            let event_loop = port.get().event_loop.bind(py).upgrade()?;
            event_loop.call_method1("call_soon_threadsafe", (port.clone_ref(py),)).ok().map(|_| ())
        });
        if !matches!(woken, Some(Some(()))) {
            // The loop is closed, or the interpreter leaves: nobody waits for these any more.
            drop(port.get().take_all());
        }
    }

    /// The port of the running loop; `RuntimeError` from asyncio when none runs in this thread.
    pub fn of_running_loop<'py>(py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Py<LoopPort>)> {
        static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static PORTS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let event_loop = RUNNING.import(py, "asyncio", "get_running_loop")?.call0()?;
        let ports = PORTS
            .get_or_try_init(py, || {
                py.import("weakref")?.call_method0("WeakKeyDictionary").map(Bound::unbind)
            })?
            .bind(py);
        let known = ports.call_method1("get", (&event_loop,))?;
        if let Ok(port) = known.cast_into::<LoopPort>() {
            return Ok((event_loop, port.unbind()));
        }
        // A loop that was closed with results on their way runs no more: the first call on another one sends them back.
        for item in ports.call_method0("items")?.try_iter()? {
            let (other, port): (Bound<'_, PyAny>, Py<LoopPort>) = item?.extract()?;
            if other.call_method0("is_closed")?.is_truthy()? {
                drop(port.get().take_all());
            }
        }
        let port = Py::new(
            py,
            LoopPort {
                event_loop: PyWeakrefReference::new(&event_loop)?.unbind(),
                arrived: Mutex::default(),
            },
        )?;
        ports.set_item(&event_loop, &port)?;
        Ok((event_loop, port))
    }
}

/// The right to resolve one asyncio future, from any thread, exactly once: dropped unused it resolves to
/// an error, so that no caller waits for ever.
pub struct Promise(Option<(Py<LoopPort>, Py<PyAny>)>);

impl fmt::Debug for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Promise")
    }
}

impl Promise {
    /// A promise and its future on the running loop.
    pub fn new(py: Python<'_>) -> PyResult<(Promise, Bound<'_, PyAny>)> {
        let (event_loop, port) = LoopPort::of_running_loop(py)?;
        let future = event_loop.call_method0("create_future")?;
        Ok((Promise(Some((port, future.clone().unbind()))), future))
    }

    /// Resolves with what `land` makes of an outcome, on the loop's thread.
    pub fn resolve(mut self, land: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send + 'static) {
        self.deliver(Box::new(land));
    }

    fn deliver(&mut self, landing: Landing) {
        if let Some((port, future)) = self.0.take() {
            LoopPort::bring(&port, Arrival::Result(future, landing));
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if self.0.is_some() {
            let error = Error::new(ErrorKind::Closed, "call").with_message("it was dropped at shutdown");
            self.deliver(Box::new(move |py| Err(errors::raise(py, &error))));
        }
    }
}

/// Done-callback of a future: cancelling the future cancels the call in the core.
#[pyclass(frozen, module = "hstreamdb._native")]
struct Canceller(CancelToken);

#[pymethods]
impl Canceller {
    fn __call__(&self, future: &Bound<'_, PyAny>) -> PyResult<()> {
        if future.call_method0("cancelled")?.is_truthy()? {
            self.0.cancel();
        }
        Ok(())
    }
}

/// Cancelling the future fires the token.
pub fn cancel_with(future: &Bound<'_, PyAny>, token: &CancelToken) -> PyResult<()> {
    future.call_method1("add_done_callback", (Canceller(token.clone()),)).map(|_| ())
}

/// Runs a call of the core and gives the asyncio future of its result.
pub fn call<'py, T, F>(
    py: Python<'py>,
    runtime: &Arc<Runtime>,
    future: F,
    convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>>
where
    T: Send + 'static,
    F: Future<Output = hstreamdb::Result<T>> + Send + 'static,
{
    runtime::check(py, runtime)?;
    let (promise, awaitable) = Promise::new(py)?;
    let token = CancelToken::new();
    cancel_with(&awaitable, &token)?;
    gate::detach(py, || {
        runtime.spawn(&token, future, move |outcome| {
            promise.resolve(move |py| match outcome {
                Ok(value) => convert(py, value),
                Err(error) => Err(errors::raise(py, &error)),
            });
        });
    });
    Ok(awaitable)
}
