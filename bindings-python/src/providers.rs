//! Functions of the application that the core asks: for tokens, and for the addresses of hosts.
//!
//! They may be coroutine functions or plain ones. How either is run is `hstreamdb._providers`: on the event loop that connected,
//! or in a thread of its own, so that a slow one holds up nothing.

use crate::{
    errors::Raised,
    gate,
    listener::{self, Job},
};
use hstreamdb::{AuthToken, ClientBuilder, Error, ErrorKind};
use pyo3::{exceptions::PyTypeError, prelude::*};
use std::{
    fmt, io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, mpsc::Sender},
};

type Reply = Box<dyn FnOnce(Python<'_>, PyResult<Py<PyAny>>) + Send>;

/// Where the answer of the application goes; called once with it, or with the exception.
#[pyclass(frozen, module = "hstreamdb._native")]
pub struct Answer(Mutex<Option<Reply>>);

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

#[pymethods]
impl Answer {
    fn give(&self, py: Python<'_>, value: Py<PyAny>) {
        self.reply(py, Ok(value));
    }

    fn fail(&self, py: Python<'_>, exception: Bound<'_, PyAny>) {
        self.reply(py, Err(PyErr::from_value(exception)));
    }
}

impl Answer {
    fn reply(&self, py: Python<'_>, answer: PyResult<Py<PyAny>>) {
        let reply = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reply) = reply {
            reply(py, answer);
        }
    }
}

/// A function with the loop it belongs to.
struct Provider {
    function: Py<PyAny>,
    event_loop: Py<PyAny>,
    jobs: Sender<Job>,
}

impl Provider {
    fn new(py: Python<'_>, function: &Bound<'_, PyAny>, option: &str) -> PyResult<Arc<Provider>> {
        if !function.is_callable() {
            return Err(PyTypeError::new_err(format!("option {option}: expected a function")));
        }
        let event_loop = match py.import("asyncio")?.call_method0("get_running_loop") {
            Ok(event_loop) => event_loop.unbind(),
            Err(_) => py.None(),
        };
        let jobs = listener::thread(py);
        Ok(Arc::new(Provider { function: function.clone().unbind(), event_loop, jobs }))
    }

    /// Asks it, and converts what it gives.
    async fn ask<T: Send + 'static>(
        self: Arc<Self>,
        arguments: Vec<String>,
        operation: &'static str,
        convert: fn(Python<'_>, Py<PyAny>) -> PyResult<T>,
    ) -> hstreamdb::Result<T> {
        let (send, answered) = tokio::sync::oneshot::channel();
        let reply: Reply = Box::new(move |py, given| {
            let converted = given.and_then(|value| convert(py, value));
            // The call that asked may be over.
            let _ = send.send(converted.map_err(|error| failed(py, operation, error)));
        });
        let provider = self.clone();
        let job: Job = Box::new(move || {
            gate::attach(|py| {
                if let Err(error) = provider.run(py, arguments, reply) {
                    listener::log(
                        py,
                        "error",
                        "a function of the application could not be asked",
                        Some(error),
                    );
                }
            });
        });
        let _ = self.jobs.send(job);
        answered.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Closed, operation).with_message("the function gave no answer"))
        })
    }

    fn run(&self, py: Python<'_>, arguments: Vec<String>, reply: Reply) -> PyResult<()> {
        let answer = Py::new(py, Answer(Mutex::new(Some(reply))))?;
        let run = py.import("hstreamdb._providers")?.getattr("run")?;
        run.call1((self.function.clone_ref(py), arguments, self.event_loop.clone_ref(py), answer))?;
        Ok(())
    }
}

fn failed(py: Python<'_>, operation: &'static str, error: PyErr) -> Error {
    let raised = Raised::new(py, error, None);
    Error::new(ErrorKind::Unauthenticated, operation).with_message(raised.to_string()).with_source(raised)
}

/// Sets `token_provider`: it gives a `str`, or a `str` and for how many seconds it is good.
pub fn token_provider(
    py: Python<'_>,
    builder: ClientBuilder,
    function: &Bound<'_, PyAny>,
) -> PyResult<ClientBuilder> {
    let provider = Provider::new(py, function, "token_provider")?;
    Ok(builder.token_provider(move || provider.clone().ask(Vec::new(), "ask for a token", token)))
}

fn token(py: Python<'_>, value: Py<PyAny>) -> PyResult<AuthToken> {
    if let Ok((text, seconds)) = value.extract::<(String, f64)>(py) {
        let valid_for = crate::arguments::seconds("token_provider", seconds)?;
        return Ok(AuthToken::new(text).valid_for(valid_for));
    }
    let text: String = value.extract(py).map_err(|_| {
        PyTypeError::new_err("the token_provider has to give a str, or a tuple of a str and seconds")
    })?;
    Ok(AuthToken::new(text))
}

/// Sets `name_resolver`: given a host it gives addresses as text.
pub fn name_resolver(
    py: Python<'_>,
    builder: ClientBuilder,
    function: &Bound<'_, PyAny>,
) -> PyResult<ClientBuilder> {
    let provider = Provider::new(py, function, "name_resolver")?;
    Ok(builder.name_resolver(move |host| {
        let asked = provider.clone().ask(vec![host], "resolve host", addresses);
        async move { asked.await.map_err(io::Error::other) }
    }))
}

fn addresses(py: Python<'_>, value: Py<PyAny>) -> PyResult<Vec<IpAddr>> {
    let mut found = Vec::new();
    for address in value.bind(py).try_iter()? {
        let text: String = address?.str()?.extract()?;
        let address = text.parse().map_err(|_| {
            pyo3::exceptions::PyValueError::new_err(format!(
                "the name_resolver gave {text:?}, which is no address"
            ))
        })?;
        found.push(address);
    }
    Ok(found)
}
