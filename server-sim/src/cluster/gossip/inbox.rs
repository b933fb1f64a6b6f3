//! What the task that owns the membership is told and asked.

use super::refusal::Refusal;
use super::seal::Run;
use crate::cluster::{NodeId, Phase};
use bytes::Bytes;
use std::net::SocketAddr;
use tokio::sync::{mpsc, oneshot};

/// Messages that wait; who sends more waits, too.
const ROOM: usize = 64;

/// One of them.
#[derive(Debug)]
pub(super) enum Message {
    /// All we know, for that run of a node.
    Push { to: Run, reply: oneshot::Sender<Bytes> },
    /// All that a node knows to which we pushed.
    Pull { packet: Bytes, from: SocketAddr, reply: oneshot::Sender<Result<(), Refusal>> },
    /// All that another node knows; it gets all we know.
    Exchange { packet: Bytes, from: SocketAddr, reply: oneshot::Sender<Result<Bytes, Refusal>> },
    /// This node's phase has changed.
    Phase(Phase),
    /// This node has a later session in the metadata store.
    Generation(u64),
    /// The session of that run of a node is over.
    SessionOver(NodeId, u64),
    /// This node goes. Answered when others were told.
    Leave { reply: oneshot::Sender<()> },
}

/// Its way in. Clones lead to the same task.
#[derive(Debug, Clone)]
pub(super) struct Inbox(mpsc::Sender<Message>);

impl Inbox {
    /// An inbox and its other end.
    pub(super) fn new() -> (Inbox, mpsc::Receiver<Message>) {
        let (sender, receiver) = mpsc::channel(ROOM);
        (Inbox(sender), receiver)
    }

    /// Waits for room only.
    pub(super) async fn tell(&self, message: Message) {
        // A task that has ended has nobody to tell it to.
        let _ = self.0.send(message).await;
    }

    /// Waits for the answer; `None` when the task has ended.
    pub(super) async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(message(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Like [`Inbox::ask`], but does not wait for room: for those who can come again.
    ///
    /// # Errors
    /// Whether the task has ended; if not, it has no time.
    pub(super) async fn ask_now<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, Turned> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(message(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Turned::Away,
            mpsc::error::TrySendError::Closed(_) => Turned::Off,
        })?;
        answer.await.map_err(|_| Turned::Off)
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    /// Too many wait.
    Away,
    /// The task has ended.
    Off,
}
