//! The switch between a node and its store.

use super::{Result, StoreError};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

/// A switch that calls go through. While it is off, calls wait; those under way when it was turned off lose their
/// answers.
#[derive(Debug)]
pub(super) struct Gate {
    /// What is behind it, as errors call it.
    name: &'static str,
    timeout: Duration,
    /// Times it was turned: even is open.
    turns: AtomicU64,
    turned: watch::Sender<u64>,
}

fn open(turns: u64) -> bool {
    turns.is_multiple_of(2)
}

impl Gate {
    pub(super) fn new(name: &'static str, timeout: Duration) -> Arc<Self> {
        Arc::new(Gate { name, timeout, turns: AtomicU64::new(0), turned: watch::Sender::new(0) })
    }

    pub(super) fn is_open(&self) -> bool {
        open(self.turns.load(Ordering::Acquire))
    }

    /// Opens or cuts; fine if it is so already.
    pub(super) fn turn(&self, to_open: bool) {
        self.turned.send_if_modified(|turns| {
            let turn = open(*turns) != to_open;
            if turn {
                *turns += 1;
                self.turns.store(*turns, Ordering::Release);
            }
            turn
        });
    }

    /// Makes a call, which is first polled when this is, if the switch is on.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when the timeout is over; what the call answers.
    pub(super) async fn through<T>(&self, what: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let deadline = Instant::now() + self.timeout;
        let mut turned = self.turned.subscribe();
        let mut now = *turned.borrow_and_update();
        if !open(now) {
            now = match timeout_at(deadline, turned.wait_for(|turns| open(*turns))).await {
                Ok(Ok(turns)) => *turns,
                _ => return Err(self.unreachable(what, "nothing of it was sent")),
            };
        }
        tokio::select! {
            biased;
            _ = turned.wait_for(|turns| *turns != now) => {}
            answer = call => return answer,
        }
        sleep_until(deadline).await;
        Err(self.unreachable(what, "whether it took effect is not known"))
    }

    /// The same for what has to answer at once.
    pub(super) fn through_now<T>(&self, what: &str, call: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_open() { call() } else { Err(self.unreachable(what, "nothing of it was sent")) }
    }

    fn unreachable(&self, what: &str, outcome: &str) -> StoreError {
        let Gate { name, timeout, .. } = self;
        StoreError::Unreachable(format!("{what}: no answer from {name} within {timeout:?}; {outcome}"))
    }
}

/// A switch as those see it who watch through it.
#[derive(Debug)]
pub(super) struct GateWatch {
    gate: Arc<Gate>,
    turned: watch::Receiver<u64>,
    /// Turns at the last look.
    turns: u64,
}

impl GateWatch {
    pub(super) fn new(gate: &Arc<Gate>) -> Self {
        let mut turned = gate.turned.subscribe();
        let turns = *turned.borrow_and_update();
        GateWatch { gate: Arc::clone(gate), turned, turns }
    }

    pub(super) fn is_open(&self) -> bool {
        self.gate.is_open()
    }

    /// Whether it was turned since the last look.
    pub(super) fn has_turned(&self) -> bool {
        self.gate.turns.load(Ordering::Acquire) != self.turns
    }

    /// Looks: true if it was cut at some time since the last look.
    pub(super) fn was_cut(&mut self) -> bool {
        let now = self.gate.turns.load(Ordering::Acquire);
        std::mem::replace(&mut self.turns, now) != now
    }

    /// Waits until it is open. Cancellation loses nothing.
    pub(super) async fn opened(&mut self) {
        // The sender is in `gate`.
        let _ = self.turned.wait_for(|turns| open(*turns)).await;
    }

    /// Waits until it is turned after the last look. Cancellation loses nothing.
    pub(super) async fn turned(&mut self) {
        let last = self.turns;
        let _ = self.turned.wait_for(|turns| *turns != last).await;
    }
}
