//! Handlers of the application under the core's `run`: the core says what is to be handled and what is done about failures; the
//! code of `hstreamdb._handlers` calls the handlers, on the event loop or in threads of Python.

use crate::{
    batch::ReceivedBatch,
    caller::Caller,
    errors::{self, Raised},
    gate,
    record::ReceivedRecord,
};
use hstreamdb::{
    CancelToken, Consumer as CoreConsumer, FailureAction, FailureReason, HandlerContext as CoreContext,
    OptionScope, Result, RunOptions,
};
use pyo3::{
    IntoPyObjectExt,
    exceptions::{PyTypeError, PyValueError},
    prelude::*,
    types::{PyDict, PyString},
};
use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// What a handler is given.
enum Work {
    Batch(hstreamdb::ReceivedBatch),
    Record(hstreamdb::ReceivedRecord),
}

/// What the core tells the side of Python. As many as there are handlers at a time, and the end.
enum Message {
    Call(Work, CoreContext, Arc<Reply>),
    /// The core does not wait for this call any more.
    Abandoned(Arc<Reply>),
    End(Result<()>),
}

type Outcome = std::result::Result<(), Raised>;

/// The way back of one call.
struct Reply {
    outcome: Mutex<Option<oneshot::Sender<Outcome>>>,
    abandoned: AtomicBool,
}

impl Reply {
    fn give(&self, outcome: Outcome) {
        let sender = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            let _ = sender.send(outcome);
        }
    }
}

/// Tells Python when the core lets go of a call that has not ended.
struct Waiting {
    reply: Arc<Reply>,
    messages: mpsc::UnboundedSender<Message>,
    ended: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.ended {
            self.reply.abandoned.store(true, Relaxed);
            let _ = self.messages.send(Message::Abandoned(self.reply.clone()));
        }
    }
}

async fn call(
    work: Work,
    context: CoreContext,
    messages: mpsc::UnboundedSender<Message>,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (sender, outcome) = oneshot::channel();
    let reply = Arc::new(Reply { outcome: Mutex::new(Some(sender)), abandoned: AtomicBool::new(false) });
    let mut waiting = Waiting { reply: reply.clone(), messages, ended: false };
    if waiting.messages.send(Message::Call(work, context, reply)).is_err() {
        waiting.ended = true;
        return Err("nobody runs handlers any more".into());
    }
    let outcome = outcome.await;
    waiting.ended = true;
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(raised)) => Err(raised.into()),
        Err(_) => Err("the handler was given up".into()),
    }
}

/// What is done about failures that the application is not asked about, though it is asked about those of its handlers.
#[derive(Debug, Clone, Copy)]
pub struct Unasked {
    on_error: FailureAction,
    on_unreadable: FailureAction,
}

impl Unasked {
    /// As the options say, which were checked.
    pub fn new(options: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let action = |name: &str| -> PyResult<FailureAction> {
            let given = options.map(|options| options.get_item(name)).transpose()?.flatten();
            let given: Option<String> =
                given.filter(|given| !given.is_none()).map(|given| given.extract()).transpose()?;
            let default = || {
                let mut rows = hstreamdb::option_table().iter();
                let row = rows.find(|row| row.scope == OptionScope::Handler && row.name == name);
                row.map(|row| row.default.to_owned())
            };
            let action = given.or_else(default).as_deref().and_then(FailureAction::from_name);
            Ok(action.unwrap_or(FailureAction::Stop))
        };
        Ok(Unasked { on_error: action("on_error")?, on_unreadable: action("on_unreadable")? })
    }
}

/// One run, as `hstreamdb._handlers` sees it.
#[pyclass(frozen, module = "hstreamdb._native")]
pub struct Run {
    messages: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Message>>>,
    consumer: CoreConsumer,
    cancel: CancelToken,
    caller: Caller,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Run")
    }
}

impl Run {
    /// Begins to run handlers of batches, or of records.
    pub fn start(
        py: Python<'_>,
        consumer: CoreConsumer,
        mut options: RunOptions,
        records: bool,
        asked: Option<Unasked>,
        caller: &Caller,
    ) -> PyResult<Run> {
        caller.check(py)?;
        if let Some(unasked) = asked {
            options = options.on_failure(move |failure| match Raised::of(failure.error()) {
                Some(Raised { action: Some(action), .. }) => *action,
                _ if failure.reason() == FailureReason::Unreadable => unasked.on_unreadable,
                _ => unasked.on_error,
            });
        }
        let (messages, received) = mpsc::unbounded_channel();
        let cancel = CancelToken::new();
        let (running, at_end, to_python) = (consumer.clone(), messages.clone(), messages);
        let run = async move {
            if records {
                let handler = move |record, context| call(Work::Record(record), context, to_python.clone());
                running.run_records_with(options, handler).await
            } else {
                let handler = move |batch, context| call(Work::Batch(batch), context, to_python.clone());
                running.run_with(options, handler).await
            }
        };
        gate::detach(py, || {
            caller.runtime().spawn(&cancel, run, move |end| {
                let _ = at_end.send(Message::End(end));
            });
        });
        let messages = Arc::new(tokio::sync::Mutex::new(received));
        Ok(Run { messages, consumer, cancel, caller: caller.clone() })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[pymethods]
impl Run {
    /// The next call to be made, the same object again when it is given up, `None` at the end; raises what ended the run.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (messages, consumer, caller) =
            (self.messages.clone(), self.consumer.clone(), self.caller.clone());
        let next = async move { Ok(messages.lock().await.recv().await) };
        self.caller.call(py, next, move |py, message| match message {
            None | Some(Message::End(Ok(()))) => Ok(py.None()),
            Some(Message::End(Err(error))) => Err(errors::raise(py, &error)),
            Some(Message::Abandoned(reply)) => {
                HandlerCall { reply, work: None, context: None }.into_py_any(py)
            }
            Some(Message::Call(work, context, reply)) => {
                let work = match work {
                    Work::Batch(batch) => ReceivedBatch::new(batch, Some(consumer)).into_py_any(py)?,
                    Work::Record(record) => ReceivedRecord::new(record, Some(consumer)).into_py_any(py)?,
                };
                let context = Py::new(py, HandlerContext { inner: context, caller })?;
                HandlerCall { reply, work: Some(work), context: Some(context) }.into_py_any(py)
            }
        })
    }

    /// Lets go of everything; handlers at work are given up.
    fn cancel(&self, py: Python<'_>) {
        gate::detach(py, || self.cancel.cancel());
    }
}

/// One call of a handler.
#[pyclass(frozen, module = "hstreamdb._native")]
pub struct HandlerCall {
    reply: Arc<Reply>,
    work: Option<Py<PyAny>>,
    context: Option<Py<HandlerContext>>,
}

impl fmt::Debug for HandlerCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandlerCall")
    }
}

#[pymethods]
impl HandlerCall {
    /// A number that calls have while they run.
    #[getter]
    fn number(&self) -> usize {
        Arc::as_ptr(&self.reply) as usize
    }

    /// Batch or record.
    #[getter]
    fn work(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.work.as_ref().map(|work| work.clone_ref(py))
    }

    #[getter]
    fn context(&self, py: Python<'_>) -> Option<Py<HandlerContext>> {
        self.context.as_ref().map(|context| context.clone_ref(py))
    }

    /// Whether the core does not wait for it any more.
    #[getter]
    fn abandoned(&self) -> bool {
        self.reply.abandoned.load(Relaxed)
    }

    fn succeed(&self) {
        self.reply.give(Ok(()));
    }

    /// It failed; `action` is what the application said about it.
    #[pyo3(signature = (exception, action = None))]
    fn fail(
        &self,
        py: Python<'_>,
        exception: Bound<'_, PyAny>,
        action: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let action = action.map(failure_action).transpose()?;
        self.reply.give(Err(Raised::new(py, PyErr::from_value(exception), action)));
        Ok(())
    }
}

/// What `on_failure` said: the name of an action, or seconds to wait before the next try.
fn failure_action(value: &Bound<'_, PyAny>) -> PyResult<FailureAction> {
    const WANTED: &str =
        "on_failure has to give \"skip\", \"acknowledge\", \"stop\" or seconds until the next try";
    if let Ok(text) = value.cast::<PyString>() {
        let name = text.to_cow()?;
        return FailureAction::from_name(&name)
            .ok_or_else(|| PyValueError::new_err(format!("{WANTED}, not {name:?}")));
    }
    let seconds: f64 = value.extract().map_err(|_| PyTypeError::new_err(WANTED))?;
    let pause = Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyValueError::new_err(format!("{WANTED}, not {seconds}")))?;
    Ok(FailureAction::Retry(pause))
}

/// What a handler is told beside its batch or record.
#[pyclass(frozen, module = "hstreamdb")]
pub struct HandlerContext {
    inner: CoreContext,
    caller: Caller,
}

impl fmt::Debug for HandlerContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerContext").field("tries", &self.inner.tries()).finish_non_exhaustive()
    }
}

#[pymethods]
impl HandlerContext {
    /// The how manyth try of this batch or record it is, from 1. Deliveries of the server are not counted.
    #[getter]
    fn tries(&self) -> u32 {
        self.inner.tries()
    }

    /// Whether the consumer was asked to stop: what can be left for the next consumer should be, by raising.
    #[getter]
    fn is_stopping(&self) -> bool {
        self.inner.is_stopping()
    }

    /// Waits until the consumer is asked to stop.
    fn stopping<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let token = self.inner.cancel_token();
        self.caller.call_none(py, async move {
            token.cancelled().await;
            Ok(())
        })
    }
}
