//! What every binding needs around the client: an owned runtime that survives neither a fork nor its owner, calls
//! that end by callback, waiting that lets signals through, and a bounded queue of log lines.

mod cancel;
mod log_queue;

pub use cancel::CancelToken;
pub use log_queue::{LogLevel, LogLine, LogQueue};

use crate::error::{Error, ErrorKind, Result};
use std::{
    fmt,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// How a [`Runtime`] is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// Threads that run the client; default 2, at least 1, at most 256.
    pub worker_threads: usize,
    /// Name of the threads; default `hstreamdb`.
    pub name: String,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        RuntimeOptions { worker_threads: 2, name: "hstreamdb".into() }
    }
}

/// Threads that a binding owns and runs the client on.
///
/// Dropping it ends the threads without waiting. In a forked child, where the threads do not exist, everything
/// fails as `Closed` and nothing is waited for.
pub struct Runtime {
    handle: Handle,
    /// Present until shutdown.
    threads: Mutex<Option<tokio::runtime::Runtime>>,
    /// Fires at shutdown: every spawned call ends as `Closed`.
    closed: CancellationToken,
    process: u32,
}

impl Runtime {
    /// Starts the threads.
    ///
    /// # Errors
    /// `InvalidArgument` for a number of threads out of range, `Internal` when the system gives no threads.
    pub fn start(options: RuntimeOptions) -> Result<Arc<Runtime>> {
        if !(1..=256).contains(&options.worker_threads) {
            return Err(Error::new(ErrorKind::InvalidArgument, "start runtime")
                .with_resource("worker_threads")
                .with_message(format!("{} is outside 1 to 256", options.worker_threads)));
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(options.worker_threads)
            // Name resolution is the only blocking work.
            .max_blocking_threads(8)
            .thread_name(options.name)
            .enable_all()
            .build()
            .map_err(|error| {
                Error::new(ErrorKind::Internal, "start runtime")
                    .with_message(error.to_string())
                    .with_source(error)
            })?;
        Ok(Arc::new(Runtime {
            handle: runtime.handle().clone(),
            threads: Mutex::new(Some(runtime)),
            closed: CancellationToken::new(),
            process: std::process::id(),
        }))
    }

    /// Whether this process is the one that started the runtime, and the runtime still runs. Call it on every entry.
    ///
    /// # Errors
    /// `Closed`: in a forked child, with both process ids, and after shutdown.
    pub fn check_process(&self) -> Result<()> {
        check_fork(self.process, std::process::id())?;
        if self.closed.is_cancelled() {
            return Err(closed("the runtime was shut down"));
        }
        Ok(())
    }

    /// Runs a future; `done` is called exactly once, usually from a runtime thread: with the result, with `Cancelled` when
    /// the token fires first, with `Closed` at shutdown. When the runtime cannot take it (see
    /// [`check_process`](Self::check_process)), `done` is called before this returns.
    ///
    /// A cancelled future is dropped where it stands; what it had sent may still be applied.
    pub fn spawn<T, F>(&self, cancel: &CancelToken, future: F, done: impl FnOnce(Result<T>) + Send + 'static)
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let done = Done::new(done);
        if let Err(error) = self.check_process() {
            done.call(Err(error));
            return;
        }
        let cancel = cancel.clone();
        let closed_token = self.closed.clone();
        self.handle.spawn(async move {
            let result = {
                let mut future = pin!(future);
                // A panic must not swallow the answer.
                let guarded = std::future::poll_fn(|context| {
                    catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))).unwrap_or_else(|_| {
                        std::task::Poll::Ready(Err(Error::new(ErrorKind::Internal, "run call")
                            .with_message("the call panicked; this is a defect of the client")))
                    })
                });
                tokio::select! {
                    biased;
                    // First: a result that is there is not thrown away.
                    result = guarded => result,
                    () = closed_token.cancelled() => Err(closed("the runtime was shut down")),
                    () = cancel.cancelled() => Err(cancelled()),
                }
            };
            done.call(result);
        });
    }

    /// Runs a future on the calling thread's time and returns its result. Every `tick` the thread wakes and calls `on_tick`,
    /// whose error ends the wait; that is where a language looks for signals. A tick below 1 ms counts as 1 ms.
    ///
    /// Must not be called from a runtime thread.
    ///
    /// # Errors
    /// The future's, `on_tick`'s, or `Closed` as for [`check_process`](Self::check_process) and at shutdown.
    pub fn block_on<T, F>(
        &self,
        future: F,
        tick: Duration,
        mut on_tick: impl FnMut() -> Result<()>,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let tick = tick.max(Duration::from_millis(1));
        let cancel = CancelToken::new();
        // Whatever ends the wait, also a panic in `on_tick`, ends the work.
        let _guard = cancel.guard();
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        self.spawn(&cancel, future, move |result| {
            // The receiver is gone when a tick ended the wait.
            let _ = send.send(result);
        });
        loop {
            match receive.recv_timeout(tick) {
                Ok(result) => return result,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    check_fork(self.process, std::process::id())?;
                    on_tick()?;
                }
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(closed("the runtime was shut down"));
                }
            }
        }
    }

    /// Starts work that nobody waits for, such as pumping events; it ends with the runtime.
    ///
    /// # Errors
    /// `Closed` as for [`check_process`](Self::check_process).
    pub fn spawn_detached(&self, future: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        self.check_process()?;
        let closed = self.closed.clone();
        self.handle.spawn(async move {
            tokio::select! {
                biased;
                () = closed.cancelled() => {}
                () = future => {}
            }
        });
        Ok(())
    }

    /// Ends every call as `Closed` and joins the threads, for at most `timeout`. Tells whether they ended in time; idempotent:
    /// later calls return true at once. In a forked child nothing is joined, because the threads are not there.
    ///
    /// Close clients first: this ends calls, it does not flush. Must not be called from a runtime thread.
    pub fn shutdown(&self, timeout: Duration) -> bool {
        // A lock may have been held by a thread that the child does not have; nothing is touched there.
        if self.process != std::process::id() {
            return true;
        }
        self.closed.cancel();
        let Some(runtime) = self.lock().take() else { return true };
        let started = Instant::now();
        runtime.shutdown_timeout(timeout);
        // tokio does not tell, but it returns early when all threads ended.
        started.elapsed() < timeout
    }

    fn lock(&self) -> MutexGuard<'_, Option<tokio::runtime::Runtime>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let runtime = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if self.process == std::process::id() {
            self.closed.cancel();
            if let Some(runtime) = runtime {
                // Joining could deadlock when the last owner is a runtime thread.
                runtime.shutdown_background();
            }
        } else {
            // In a child both may hold locks of threads that are not there.
            std::mem::forget(runtime);
            std::mem::forget(std::mem::take(&mut self.closed));
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("process", &self.process)
            .field("closed", &self.closed.is_cancelled())
            .finish_non_exhaustive()
    }
}

/// A callback that is called once whatever happens: the task it lives in may be dropped unpolled at shutdown.
struct Done<T, D: FnOnce(Result<T>)> {
    callback: Option<D>,
    result: PhantomData<fn(T)>,
}

impl<T, D: FnOnce(Result<T>)> Done<T, D> {
    fn new(callback: D) -> Self {
        Done { callback: Some(callback), result: PhantomData }
    }

    fn call(mut self, result: Result<T>) {
        if let Some(callback) = self.callback.take() {
            callback(result);
        }
    }
}

impl<T, D: FnOnce(Result<T>)> Drop for Done<T, D> {
    fn drop(&mut self) {
        if let Some(callback) = self.callback.take() {
            callback(Err(closed("the runtime was shut down")));
        }
    }
}

fn closed(message: &'static str) -> Error {
    Error::new(ErrorKind::Closed, "use client").with_message(message)
}

fn cancelled() -> Error {
    // Nobody knows how far it had come.
    Error::new(ErrorKind::Cancelled, "run call")
        .with_message("the caller cancelled it")
        .with_may_have_been_applied(true)
}

/// The fork check, apart from the clock of the operating system: process ids in, verdict out.
fn check_fork(started_in: u32, now: u32) -> Result<()> {
    if started_in == now {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Closed, "use client").with_message(format!(
        "this client was opened in process {started_in}, this is process {now}; open a new one after fork"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(20);

    fn runtime() -> Arc<Runtime> {
        Runtime::start(RuntimeOptions::default()).unwrap()
    }

    fn outcome<T: Send + 'static>(
        runtime: &Runtime,
        cancel: &CancelToken,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> mpsc::Receiver<Result<T>> {
        let (send, receive) = mpsc::channel();
        runtime.spawn(cancel, future, move |result| send.send(result).unwrap());
        receive
    }

    #[test]
    fn a_result_arrives_once() {
        let runtime = runtime();
        let receive = outcome(&runtime, &CancelToken::new(), async { Ok(5) });
        assert_eq!(receive.recv_timeout(LONG).unwrap().unwrap(), 5);
        assert!(receive.recv_timeout(LONG).is_err(), "the callback is gone after its one call");
    }

    #[test]
    fn cancelling_ends_a_call_that_would_never_end() {
        let runtime = runtime();
        let cancel = CancelToken::new();
        let receive = outcome(&runtime, &cancel, std::future::pending::<Result<()>>());
        cancel.cancel();
        let error = receive.recv_timeout(LONG).unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn shutdown_ends_calls_as_closed_and_is_idempotent() {
        let runtime = runtime();
        let receive = outcome(&runtime, &CancelToken::new(), std::future::pending::<Result<()>>());
        assert!(runtime.shutdown(LONG));
        assert!(runtime.shutdown(LONG));
        assert_eq!(receive.recv_timeout(LONG).unwrap().unwrap_err().kind(), ErrorKind::Closed);
        let receive = outcome(&runtime, &CancelToken::new(), async { Ok(()) });
        assert_eq!(receive.recv_timeout(LONG).unwrap().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(runtime.check_process().unwrap_err().kind(), ErrorKind::Closed);
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let runtime = runtime();
        let receive = outcome(&runtime, &CancelToken::new(), async {
            if std::hint::black_box(true) {
                panic!("on purpose");
            }
            Ok(())
        });
        assert_eq!(receive.recv_timeout(LONG).unwrap().unwrap_err().kind(), ErrorKind::Internal);
    }

    #[test]
    fn blocking_wakes_for_signals_and_their_error_ends_it() {
        let runtime = runtime();
        let mut ticks = 0;
        let result = runtime.block_on(std::future::pending::<Result<()>>(), Duration::from_millis(1), || {
            ticks += 1;
            if ticks == 3 { Err(Error::new(ErrorKind::Cancelled, "interrupt")) } else { Ok(()) }
        });
        assert_eq!((result.unwrap_err().kind(), ticks), (ErrorKind::Cancelled, 3));
        assert_eq!(runtime.block_on(async { Ok(7) }, LONG, || Ok(())).unwrap(), 7);
    }

    #[test]
    fn another_process_is_refused_with_both_numbers() {
        assert!(check_fork(10, 10).is_ok());
        let error = check_fork(10, 11).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(error.to_string().contains("opened in process 10, this is process 11"), "{error}");
    }

    #[test]
    fn a_child_neither_joins_nor_runs_anything() {
        // What a forked child sees: the same memory, another process id.
        let mut child = Arc::into_inner(runtime()).unwrap();
        child.process = child.process.wrapping_add(1);
        assert!(child.check_process().unwrap_err().message().contains("after fork"));
        let receive = outcome(&child, &CancelToken::new(), async { Ok(()) });
        assert_eq!(receive.recv_timeout(LONG).unwrap().unwrap_err().kind(), ErrorKind::Closed);
        assert!(child.shutdown(Duration::ZERO));
    }

    #[test]
    fn numbers_of_threads_out_of_range_are_refused() {
        for worker_threads in [0, 257] {
            let options = RuntimeOptions { worker_threads, ..RuntimeOptions::default() };
            assert_eq!(Runtime::start(options).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
    }
}
