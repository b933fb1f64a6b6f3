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

enum Waiting {
    Append {
        batch: RecordBatch,
        done: Completion,
        cancel: CancelToken,
    },
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
        let records = batch.len();
        let refused = {
            let mut state = self.state();
            if state.closed {
                Some((done, Error::new(ErrorKind::Closed, "append").with_message("the producer was closed")))
            } else if state.running {
                self.queue(&mut state, batch, done, cancel)
            } else {
                match self.producer.try_append_many(batch, done) {
                    Ok(()) => None,
                    Err((error, batch, done)) if error.kind() == ErrorKind::Overloaded => {
                        let refused = self.queue(&mut state, batch, done, cancel);
                        if refused.is_none() {
                            state.running = true;
                            self.hand_over();
                        }
                        refused
                    }
                    Err((error, _, done)) => Some((done, error)),
                }
            }
        };
        // Outside the lock: a completion enters the interpreter.
        if let Some((done, error)) = refused {
            done(failed(records, error));
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

    fn queue(
        &self,
        state: &mut State,
        batch: RecordBatch,
        done: Completion,
        cancel: CancelToken,
    ) -> Option<(Completion, Error)> {
        let bytes = batch.payload_bytes();
        let full = state.calls >= MAX_WAITING_CALLS
            || (state.calls > 0 && state.bytes.saturating_add(bytes) > MAX_WAITING_BYTES);
        if full {
            let message = format!(
                "{} appends with {} bytes wait for room already; await them before making more",
                state.calls, state.bytes
            );
            return Some((done, Error::new(ErrorKind::Overloaded, "append").with_message(message)));
        }
        state.calls += 1;
        state.bytes += bytes;
        state.records += batch.len();
        state.waiting.push_back(Waiting::Append { batch, done, cancel });
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
                    Some(Waiting::Append { batch, .. }) => {
                        state.calls -= 1;
                        state.bytes -= batch.payload_bytes();
                        state.records -= batch.len();
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
                Some(Waiting::Append { batch, done, cancel }) => {
                    let records = batch.len();
                    if cancel.is_cancelled() {
                        done(failed(records, Error::new(ErrorKind::Cancelled, "append")));
                        continue;
                    }
                    match self.producer.append_many(batch).await {
                        Err(error) => done(failed(records, error)),
                        Ok(receipt) => self.runtime.spawn(
                            &CancelToken::new(),
                            async move { Ok(receipt.await) },
                            move |outcome| done(outcome.unwrap_or_else(|error| failed(records, error))),
                        ),
                    }
                }
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
                if let Waiting::Append { batch, done, .. } = waiting {
                    let message = "the producer was closed before there was room to send it";
                    done(failed(batch.len(), Error::new(ErrorKind::Closed, "append").with_message(message)));
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
