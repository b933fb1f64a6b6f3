//! What is known of the connections to a node from the outside of their bytes: whether one is open, whether the node
//! has answered on it, and when it went.

use super::{
    address::NodeAddress,
    event::{ClientEvent, EventSender},
    hearing::Hearing,
};
use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Counts answered connections by node and tells when one comes or goes.
#[derive(Debug)]
pub(crate) struct Lines {
    answered: Mutex<HashMap<NodeAddress, usize>>,
    /// What is heard of each node over all its lines.
    nodes: Mutex<HashMap<NodeAddress, Weak<Hearing>>>,
    events: EventSender,
}

impl Lines {
    pub(crate) fn new(events: EventSender) -> Self {
        Lines { answered: Mutex::default(), nodes: Mutex::default(), events }
    }

    fn hearing_of(&self, address: &NodeAddress) -> Arc<Hearing> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = nodes.get(address).and_then(Weak::upgrade) {
            return known;
        }
        nodes.retain(|_, hearing| hearing.strong_count() > 0);
        let hearing = Arc::new(Hearing::new());
        nodes.insert(address.clone(), Arc::downgrade(&hearing));
        hearing
    }

    fn came(&self, address: &NodeAddress) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = answered.entry(address.clone()).or_default();
        *connections += 1;
        // Under the lock, so that the counts come in order; sending never waits.
        self.events.send(ClientEvent::Connected { address: address.clone(), connections: *connections });
    }

    fn went(&self, address: &NodeAddress) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let left = answered.get(address).map_or(0, |connections| connections.saturating_sub(1));
        if left == 0 {
            answered.remove(address);
        } else {
            answered.insert(address.clone(), left);
        }
        self.events.send(ClientEvent::Disconnected { address: address.clone(), connections: left });
    }
}

/// The sockets under one gRPC channel: one at a time, as the channel connects again when its socket is gone.
#[derive(Debug)]
pub(crate) struct Line {
    address: NodeAddress,
    lines: Arc<Lines>,
    open: AtomicUsize,
    opened: AtomicUsize,
    trusted: AtomicBool,
    hearing: Hearing,
    node: Arc<Hearing>,
    /// Least time an answer took, in microseconds: never less than a round trip.
    fastest: AtomicU64,
}

/// Until something was answered on a line.
const UNKNOWN: u64 = u64::MAX;

impl Line {
    /// `tls`: what the node says counts as an answer only after [`Line::trust`].
    pub(crate) fn new(address: NodeAddress, lines: Arc<Lines>, tls: bool) -> Arc<Self> {
        Arc::new(Line {
            hearing: Hearing::new(),
            node: lines.hearing_of(&address),
            fastest: AtomicU64::new(UNKNOWN),
            address,
            lines,
            open: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            trusted: AtomicBool::new(!tls),
        })
    }

    /// The TLS handshake is over: it is the node that speaks.
    pub(crate) fn trust(&self) {
        self.trusted.store(true, Ordering::Relaxed);
    }

    /// What is heard on this line.
    pub(crate) fn hearing(&self) -> &Hearing {
        &self.hearing
    }

    /// What is heard of its node, on whatever line.
    pub(crate) fn node_hearing(&self) -> &Arc<Hearing> {
        &self.node
    }

    /// Connecting, or an answer, took this long.
    pub(crate) fn took(&self, time: Duration) {
        self.fastest.fetch_min(u64::try_from(time.as_micros()).unwrap_or(UNKNOWN), Ordering::Relaxed);
    }

    /// What the network takes at most; zero while nothing is known.
    pub(crate) fn round_trip(&self) -> Duration {
        match self.fastest.load(Ordering::Relaxed) {
            UNKNOWN => Duration::ZERO,
            micros => Duration::from_micros(micros),
        }
    }

    /// Whether there was a socket and is none.
    pub(crate) fn is_broken(&self) -> bool {
        self.opened.load(Ordering::Acquire) > 0 && self.open.load(Ordering::Acquire) == 0
    }

    /// Watches a socket. Also tells whether it is the first one.
    pub(crate) fn watch<S>(self: &Arc<Self>, socket: S) -> (Watched<S>, bool) {
        self.open.fetch_add(1, Ordering::AcqRel);
        let first = self.opened.fetch_add(1, Ordering::AcqRel) == 0;
        (Watched { socket, line: self.clone(), answered: false }, first)
    }
}

/// A socket whose first answer and whose end are told.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    socket: S,
    line: Arc<Line>,
    answered: bool,
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        self.line.open.fetch_sub(1, Ordering::AcqRel);
        if self.answered {
            self.line.lines.went(&self.line.address);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.line.hearing.hear();
            self.line.node.hear();
            if !self.answered && self.line.trusted.load(Ordering::Relaxed) {
                self.answered = true;
                self.line.lines.came(&self.line.address);
            }
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn told(events: &mut super::super::event::Events) -> String {
        format!("{:?}", events.next().await.unwrap()).split(' ').next().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_connection_counts_from_the_first_answer_to_its_end() {
        let sender = EventSender::new();
        let mut events = sender.subscribe();
        let lines = Arc::new(Lines::new(sender));
        let line = Line::new(NodeAddress::new("a", 1), lines, false);
        assert!(!line.is_broken(), "nothing was there that could break");
        let (mut far, near) = tokio::io::duplex(64);
        let (mut near, first) = line.watch(near);
        assert!(first && !line.is_broken());
        far.write_all(b"hello").await.unwrap();
        near.read_u8().await.unwrap();
        near.read_u8().await.unwrap();
        drop(near);
        assert!(line.is_broken());
        assert_eq!(told(&mut events).await, "Connected");
        assert_eq!(told(&mut events).await, "Disconnected");
        let (silent, first) = line.watch(tokio::io::duplex(64).0);
        assert!(!first && !line.is_broken());
        drop((silent, line));
        assert!(events.next().await.is_none(), "what never answered is not told");
    }

    #[tokio::test]
    async fn bytes_before_the_end_of_a_tls_handshake_are_no_answer() {
        let sender = EventSender::new();
        let mut events = sender.subscribe();
        let line = Line::new(NodeAddress::new("a", 1), Arc::new(Lines::new(sender)), true);
        let (mut far, near) = tokio::io::duplex(64);
        let (mut near, _) = line.watch(near);
        far.write_all(b"hello").await.unwrap();
        near.read_u8().await.unwrap();
        drop((near, line));
        assert!(events.next().await.is_none());
    }
}
