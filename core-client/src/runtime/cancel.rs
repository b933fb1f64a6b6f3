//! Stopping a call from outside.

use std::fmt;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Cancels the calls it was given to. All clones are one token; once cancelled it stays so.
#[derive(Clone, Default)]
pub struct CancelToken(CancellationToken);

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels; further calls do nothing. Never waits, and may be called from any thread.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves when it is cancelled.
    pub async fn cancelled(&self) {
        self.0.cancelled().await;
    }

    /// Cancels when the guard is dropped.
    pub(super) fn guard(&self) -> DropGuard {
        self.0.clone().drop_guard()
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish()
    }
}
