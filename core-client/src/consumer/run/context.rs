//! What a handler is told beside its batch.

use crate::consumer::acker::Acker;
use crate::runtime::CancelToken;

/// Goes with every call of a handler. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HandlerContext {
    pub(super) acker: Acker,
    pub(super) stopping: CancelToken,
    pub(super) tries: u32,
}

impl HandlerContext {
    /// Resolves when the consumer is asked to stop: what can be left for the next consumer should be, by returning an
    /// error. Handlers that go on are waited for as long as the timeout of the stop allows, then dropped.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Whether the consumer was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// The token behind [`stopping`](Self::stopping), to be handed on.
    pub fn cancel_token(&self) -> CancelToken {
        self.stopping.clone()
    }

    /// Acknowledges before the handler returns, for handlers that work through a large batch; repeating it is harmless.
    pub fn acker(&self) -> &Acker {
        &self.acker
    }

    /// The how manyth try of this batch or record it is, from 1. Deliveries of the server are not counted, see
    /// [`ReceivedBatch::is_redelivered`](crate::ReceivedBatch::is_redelivered).
    pub fn tries(&self) -> u32 {
        self.tries
    }
}
