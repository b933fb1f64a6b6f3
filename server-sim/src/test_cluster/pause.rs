//! Making a node stand still.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Holds the only worker thread of a runtime: nothing of it runs, no timer fires and no socket is looked at, while clocks
/// and everything outside run on. It is what SIGSTOP, a long garbage collection or a frozen virtual machine look like.
#[derive(Debug, Clone, Default)]
pub(super) struct Pause {
    inside: Arc<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    held: Mutex<bool>,
    released: Condvar,
}

impl Pause {
    /// Holds the runtime; the receiver hears when it stands still, which is when its worker is done with what it is at.
    pub(super) fn hold(&self, runtime: &Handle) -> oneshot::Receiver<()> {
        *self.inside.held.lock().unwrap_or_else(PoisonError::into_inner) = true;
        let (still, heard) = oneshot::channel();
        let inside = self.inside.clone();
        runtime.spawn(async move {
            // Fails when nobody waits any more.
            let _ = still.send(());
            let held = inside.held.lock().unwrap_or_else(PoisonError::into_inner);
            let _held = inside.released.wait_while(held, |held| *held);
        });
        heard
    }

    /// Lets it go on.
    pub(super) fn release(&self) {
        *self.inside.held.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.inside.released.notify_all();
    }
}
