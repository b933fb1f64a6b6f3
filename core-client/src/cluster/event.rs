//! What a client tells the outside about its cluster.

use super::{
    address::NodeAddress,
    members::{Node, NodeState},
};
use crate::error::Error;
use futures::{Stream, StreamExt};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

/// Events kept for a reader that is behind; older ones are dropped and counted.
const CAPACITY: usize = 256;

/// Something happened in the client's view of the cluster.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub enum ClientEvent {
    /// The cluster has a new running node: one that was not there, or was not running.
    NodeAdded(Node),
    /// A node is no longer running, as the others see it.
    NodeRemoved(Node),
    /// The cluster sees a node in another state. Comes before `NodeAdded` or `NodeRemoved` where it is one of these, too.
    NodeStateChanged {
        /// The node as it is now.
        node: Node,
        /// Its state before.
        before: NodeState,
    },
    /// A call to a node failed on the way; others are preferred, and the node is probed in the background until
    /// it answers (`NodeTrusted`) or the cluster gives it up (`NodeRemoved`).
    NodeSuspect {
        /// The node.
        address: NodeAddress,
        /// What failed.
        error: Error,
    },
    /// A suspect node answered again.
    NodeTrusted {
        /// The node.
        address: NodeAddress,
    },
    /// A node answered on a new connection.
    Connected {
        /// The node.
        address: NodeAddress,
        /// Connections to it that are open now, those of consumers and readers included.
        connections: usize,
    },
    /// A connection on which a node had answered is gone, whoever ended it.
    Disconnected {
        /// The node.
        address: NodeAddress,
        /// Connections to it that are still open.
        connections: usize,
    },
    /// No node answered when the list of nodes was refreshed; the old list is kept.
    DiscoveryFailed(Error),
    /// The client was closed. What is left of its connections ends after it.
    Closed,
}

/// Sending side, in the client. Cheap to clone.
#[derive(Debug, Clone)]
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
        Events { received: BroadcastStream::new(self.0.subscribe()), dropped: 0 }
    }
}

/// Events from now on, one by one or as a [`Stream`]. Holds at most 256 unread ones: a slow reader loses the oldest, see
/// [`Events::dropped`].
#[derive(Debug)]
pub struct Events {
    received: BroadcastStream<ClientEvent>,
    dropped: u64,
}

impl Events {
    /// The next event; `None` when the client is gone. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<ClientEvent> {
        StreamExt::next(self).await
    }

    /// How many events were dropped because this reader was behind.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Stream for Events {
    type Item = ClientEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ClientEvent>> {
        loop {
            match ready!(self.received.poll_next_unpin(cx)) {
                Some(Ok(event)) => return Poll::Ready(Some(event)),
                Some(Err(BroadcastStreamRecvError::Lagged(count))) => {
                    self.dropped = self.dropped.saturating_add(count);
                }
                None => return Poll::Ready(None),
            }
        }
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

    #[tokio::test]
    async fn events_are_a_stream_that_ends_with_the_client() {
        let sender = EventSender::new();
        let events = sender.subscribe();
        sender.send(ClientEvent::Closed);
        sender.send(ClientEvent::Closed);
        drop(sender);
        assert_eq!(events.count().await, 2);
    }
}
