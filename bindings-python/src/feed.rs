//! Keeps the order of calls between Python, which never waits, and a producer that may be full.
//!
//! Most calls go straight into the core. Once one has to wait for room, it and all that follow queue here and
//! one task hands them over in order, so that a later append never overtakes an earlier one.

use hstreamdb::{
    AppendOutcome, CancelToken, CloseReport, Completion, Error, ErrorKind, Producer, RecordBatch, Result,
    Runtime,
};
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Calls that may wait for room at a time. More than that is refused: whoever makes them does not await.
const MAX_WAITING_CALLS: usize = 100_000;
/// Payload bytes that may wait for room, beside what the producer itself holds. A single larger call is let in.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// One call of `append`.
struct Call {
    batch: RecordBatch,
    done: Completion,
    cancel: CancelToken,
    /// Told once the records are accepted, or none of them is.
    accepted: Option<oneshot::Sender<Result<()>>>,
}

impl Call {
    /// None of its records is accepted.
    fn refuse(mut self, error: Error) {
        self.tell(Err(error.clone()));
        (self.done)(failed(self.batch.len(), error));
    }

    fn tell(&mut self, accepted: Result<()>) {
        if let Some(waiting) = self.accepted.take() {
            // Whoever waited may be gone.
            let _ = waiting.send(accepted);
        }
    }
}

enum Waiting {
    Append(Call),
    /// Fires when everything before it was handed over.
    Marker(oneshot::Sender<()>),
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    calls: usize,
    bytes: usize,
    records: usize,
    /// A task is handing over.
    running: bool,
    closed: bool,
}

/// A producer with the queue before it.
pub struct Feed {
    producer: Producer,
    runtime: Arc<Runtime>,
    state: Mutex<State>,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Feed")
    }
}

impl Feed {
    /// Before a producer that was just opened.
    pub fn new(producer: Producer, runtime: Arc<Runtime>) -> Arc<Self> {
        Arc::new(Feed { producer, runtime, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends in the order of calls; `done` is called exactly once. Call it detached from the interpreter.
    /// Firing `cancel` takes the call back while it still waits here.
    pub fn append(self: &Arc<Self>, batch: RecordBatch, done: Completion, cancel: CancelToken) {
        self.take(Call { batch, done, cancel, accepted: None });
    }

    fn take(self: &Arc<Self>, call: Call) {
        let refused = {
            let mut state = self.state();
            if state.closed {
                let error = Error::new(ErrorKind::Closed, "append").with_message("the producer was closed");
                Some((call, error))
            } else if state.running {
                Self::queue(&mut state, call)
            } else {
                let Call { batch, done, cancel, accepted } = call;
                match self.producer.try_append_many(batch, done) {
                    Ok(()) => {
                        drop(state);
                        let _ = accepted.map(|waiting| waiting.send(Ok(())));
                        None
                    }
                    Err((error, batch, done)) => {
                        let call = Call { batch, done, cancel, accepted };
                        if error.kind() == ErrorKind::Overloaded {
                            let refused = Self::queue(&mut state, call);
                            if refused.is_none() {
                                state.running = true;
                                self.hand_over();
                            }
                            refused
                        } else {
                            Some((call, error))
                        }
                    }
                }
            }
        };
        // Outside the lock: a completion enters the interpreter.
        if let Some((call, error)) = refused {
            call.refuse(error);
        }
    }

    /// Appends now or not at all.
    pub fn append_now(
        &self,
        batch: RecordBatch,
        done: Completion,
    ) -> std::result::Result<(), (Error, Completion)> {
        let state = self.state();
        if state.running {
            let error = Error::new(ErrorKind::Overloaded, "append")
                .with_message("earlier appends wait for room; await them first");
            return Err((error, done));
        }
        self.producer.try_append_many(batch, done).map_err(|(error, _, done)| (error, done))
    }

    /// Queues a call, or gives it back with why not.
    fn queue(state: &mut State, call: Call) -> Option<(Call, Error)> {
        let bytes = call.batch.payload_bytes();
        let full = state.calls >= MAX_WAITING_CALLS
            || (state.calls > 0 && state.bytes.saturating_add(bytes) > MAX_WAITING_BYTES);
        if full {
            let message = format!(
                "{} appends with {} bytes wait for room already; await them before making more",
                state.calls, state.bytes
            );
            return Some((call, Error::new(ErrorKind::Overloaded, "append").with_message(message)));
        }
        state.calls += 1;
        state.bytes += bytes;
        state.records += call.batch.len();
        state.waiting.push_back(Waiting::Append(call));
        None
    }

    fn hand_over(self: &Arc<Self>) {
        let feed = self.clone();
        // The runtime stops only when the interpreter leaves: nobody waits for what is queued then.
        self.runtime.spawn(
            &CancelToken::new(),
            async move {
                feed.run().await;
                Ok(())
            },
            |_| {},
        );
    }

    async fn run(&self) {
        loop {
            let next = {
                let mut state = self.state();
                let next = state.waiting.pop_front();
                match &next {
                    Some(Waiting::Append(call)) => {
                        state.calls -= 1;
                        state.bytes -= call.batch.payload_bytes();
                        state.records -= call.batch.len();
                    }
                    Some(Waiting::Marker(_)) => {}
                    None => state.running = false,
                }
                next
            };
            match next {
                None => return,
                Some(Waiting::Marker(reached)) => {
                    let _ = reached.send(());
                }
                Some(Waiting::Append(call)) => self.hand_over_one(call).await,
            }
        }
    }

    async fn hand_over_one(&self, mut call: Call) {
        if call.cancel.is_cancelled() {
            call.refuse(Error::new(ErrorKind::Cancelled, "append"));
            return;
        }
        let records = call.batch.len();
        let batch = std::mem::take(&mut call.batch);
        match self.producer.append_many(batch).await {
            Err(error) => {
                call.tell(Err(error.clone()));
                (call.done)(failed(records, error));
            }
            Ok(receipt) => {
                call.tell(Ok(()));
                let done = call.done;
                self.runtime.spawn(&CancelToken::new(), async move { Ok(receipt.await) }, move |outcome| {
                    done(outcome.unwrap_or_else(|error| failed(records, error)))
                });
            }
        }
    }

    /// Whether appends wait for room.
    pub fn is_waiting(&self) -> bool {
        self.state().running
    }

    /// Resolves when everything appended before was handed over.
    pub async fn handed_over(&self) {
        let reached = {
            let mut state = self.state();
            if !state.running {
                return;
            }
            let (sender, reached) = oneshot::channel();
            state.waiting.push_back(Waiting::Marker(sender));
            reached
        };
        // An error means that the marker was dropped with the whole queue: nothing is left to wait for.
        let _ = reached.await;
    }

    /// Resolves when everything appended before is resolved.
    pub async fn flush(&self) -> Result<()> {
        self.handed_over().await;
        self.producer.flush().await
    }

    /// The same for the shard of one key.
    pub async fn flush_key(&self, key: &str) -> Result<()> {
        self.handed_over().await;
        self.producer.flush_key(key).await
    }

    /// The same for one shard.
    pub async fn flush_shard(&self, shard_id: u64) -> Result<()> {
        self.handed_over().await;
        self.producer.flush_shard(shard_id).await
    }

    /// Appends in the order of calls; what is returned resolves when the records are accepted, or refused altogether.
    pub fn post(
        self: &Arc<Self>,
        batch: RecordBatch,
        cancel: CancelToken,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let (accepted, acceptance) = oneshot::channel();
        self.take(Call { batch, done: Box::new(|_| {}), cancel, accepted: Some(accepted) });
        async move {
            acceptance.await.unwrap_or_else(|_| {
                let message = "the producer was closed before there was room";
                Err(Error::new(ErrorKind::Closed, "append").with_message(message))
            })
        }
    }

    /// Takes no more, waits within the time for what was taken, fails the rest.
    pub async fn close(&self, timeout: Duration) -> Result<CloseReport> {
        let start = Instant::now();
        self.state().closed = true;
        if tokio::time::timeout(timeout, self.handed_over()).await.is_err() {
            let left = {
                let mut state = self.state();
                (state.calls, state.bytes, state.records) = (0, 0, 0);
                std::mem::take(&mut state.waiting)
            };
            for waiting in left {
                if let Waiting::Append(call) = waiting {
                    let message = "the producer was closed before there was room to send it";
                    call.refuse(Error::new(ErrorKind::Closed, "append").with_message(message));
                }
            }
        }
        self.producer.close(timeout.saturating_sub(start.elapsed())).await
    }

    /// Records and bytes not resolved yet, with those that wait here.
    pub fn pending(&self) -> (usize, usize) {
        let core = self.producer.pending();
        let state = self.state();
        (core.records + state.records, core.bytes + state.bytes)
    }
}

/// The outcome of a call of which no record was sent.
fn failed(records: usize, error: Error) -> AppendOutcome {
    AppendOutcome { ids: vec![None; records], errors: vec![(0..records, error)] }
}
