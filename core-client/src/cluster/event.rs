//! What a client tells the outside about its cluster.

use crate::{
    cluster::{Node, NodeAddress},
    error::Error,
};
use tokio::sync::broadcast;

/// Events kept for a reader that is behind; older ones are dropped and counted.
const CAPACITY: usize = 256;

/// Something happened in the client's view of the cluster.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub enum ClientEvent {
    /// The cluster has a new running node.
    NodeAdded(Node),
    /// A node is no longer running, as the others see it.
    NodeRemoved(Node),
    /// A call to a node failed on the way; other nodes are preferred for a while.
    NodeSuspect {
        /// The node.
        address: NodeAddress,
        /// What failed.
        error: Error,
    },
    /// No node answered when the list of nodes was refreshed; the old list is kept.
    DiscoveryFailed(Error),
    /// The client was closed.
    Closed,
}

/// Sending side, in the client.
#[derive(Debug)]
pub(crate) struct EventSender(broadcast::Sender<ClientEvent>);

impl EventSender {
    pub(crate) fn new() -> Self {
        EventSender(broadcast::channel(CAPACITY).0)
    }

    /// Never waits; nobody listening is fine.
    pub(crate) fn send(&self, event: ClientEvent) {
        let _ = self.0.send(event);
    }

    pub(crate) fn subscribe(&self) -> Events {
        Events { receiver: self.0.subscribe(), dropped: 0 }
    }
}

/// Events from now on. Holds at most 256 unread ones: a slow reader loses the oldest, see [`Events::dropped`].
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<ClientEvent>,
    dropped: u64,
}

impl Events {
    /// The next event; `None` when the client is gone. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<ClientEvent> {
        loop {
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    self.dropped = self.dropped.saturating_add(count);
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// How many events were dropped because this reader was behind.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slow_readers_lose_the_oldest_and_know_how_many() {
        let sender = EventSender::new();
        let mut events = sender.subscribe();
        for _ in 0..CAPACITY + 44 {
            sender.send(ClientEvent::Closed);
        }
        drop(sender);
        let mut seen = 0;
        while events.next().await.is_some() {
            seen += 1;
        }
        assert_eq!((seen, events.dropped()), (CAPACITY, 44));
    }
}
