//! Following the tail of a shard.

use super::Lsn;
use super::gate::GateWatch;
use tokio::sync::watch;

/// The tail of a shard as it moves.
#[derive(Debug)]
pub struct TailWatch {
    tail: watch::Receiver<Lsn>,
    seen: Lsn,
    gate: Option<GateWatch>,
}

/// The shard is gone, or its store is closed: the tail will not move any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailClosed;

impl From<watch::Receiver<Lsn>> for TailWatch {
    fn from(tail: watch::Receiver<Lsn>) -> Self {
        let seen = *tail.borrow();
        TailWatch { tail, seen, gate: None }
    }
}

impl TailWatch {
    /// The same watch behind a switch: the tail stands still while that is off.
    pub(super) fn behind(self, gate: GateWatch) -> Self {
        TailWatch { gate: Some(gate), ..self }
    }

    /// The tail as it is now.
    pub fn latest(&mut self) -> Lsn {
        if self.gate.as_ref().is_none_or(GateWatch::is_open) {
            self.seen = *self.tail.borrow_and_update();
        }
        self.seen
    }

    /// Waits until the tail has moved since [`TailWatch::latest`]. Cancellation loses nothing.
    ///
    /// # Errors
    /// [`TailClosed`].
    pub async fn moved(&mut self) -> Result<(), TailClosed> {
        let Some(gate) = &mut self.gate else { return self.tail.changed().await.map_err(|_| TailClosed) };
        loop {
            gate.opened().await;
            gate.was_cut();
            // It may have moved, and been told so, at a moment at which nobody could see it.
            if *self.tail.borrow() != self.seen {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = gate.turned() => {}
                moved = self.tail.changed() => return moved.map_err(|_| TailClosed),
            }
        }
    }
}
