//! By which a test takes the network from a node.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Everything passes.
const OPEN: u8 = 0;
/// Some peers are blocked.
const PARTED: u8 = 1;
/// Nothing passes, ever again.
const DEAD: u8 = 2;

#[derive(Debug, Default)]
pub(super) struct Switch {
    state: AtomicU8,
    next_place: AtomicU64,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    blocked: HashSet<SocketAddr>,
    /// Who wants to know when something is unblocked; by place, for reading and for writing.
    waiting: HashMap<u64, [Option<Waker>; 2]>,
    buried: Vec<Buried>,
}

/// What a socket waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Direction {
    In,
    Out,
}

/// A socket that is kept open although its owner dropped it.
#[derive(Debug)]
enum Buried {
    /// Towards this peer.
    Connection(std::net::TcpStream, SocketAddr),
    Listener(#[allow(dead_code, reason = "held open")] std::net::TcpListener),
    Datagrams(#[allow(dead_code, reason = "held open")] std::net::UdpSocket),
}

impl Drop for Buried {
    fn drop(&mut self) {
        if let Buried::Connection(stream, _) = self {
            // The peer gets a reset, as from a machine that knows nothing of the connection any more.
            let _ = socket2::SockRef::from(&*stream).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

impl Switch {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way of almost every read and write.
    pub(super) fn is_open(&self) -> bool {
        self.state.load(Ordering::Relaxed) == OPEN
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state.load(Ordering::Relaxed) == DEAD
    }

    /// Whether packets to and from this peer get lost.
    pub(super) fn loses(&self, peer: SocketAddr) -> bool {
        match self.state.load(Ordering::Relaxed) {
            OPEN => false,
            DEAD => true,
            _ => self.inside().blocked.contains(&peer),
        }
    }

    pub(super) fn block(&self, peers: impl IntoIterator<Item = SocketAddr>) {
        let mut inside = self.inside();
        inside.blocked.extend(peers);
        if !inside.blocked.is_empty() && !self.is_dead() {
            self.state.store(PARTED, Ordering::Relaxed);
        }
    }

    pub(super) fn unblock(&self, peers: &HashSet<SocketAddr>) {
        let mut inside = self.inside();
        inside.blocked.retain(|peer| !peers.contains(peer));
        if self.is_dead() {
            return;
        }
        if inside.blocked.is_empty() {
            self.state.store(OPEN, Ordering::Relaxed);
        }
        // Their owners dropped them while the peer could not be told; now it is.
        let told: Vec<Buried> = inside.buried.extract_if(.., |buried| buried.leads_to(peers)).collect();
        let waiting = std::mem::take(&mut inside.waiting);
        drop(inside);
        drop(told);
        waiting.into_values().flatten().flatten().for_each(Waker::wake);
    }

    pub(super) fn kill(&self) {
        let mut inside = self.inside();
        self.state.store(DEAD, Ordering::Relaxed);
        inside.waiting.clear();
    }

    #[cfg(test)]
    pub(super) fn nobody_waits(&self) -> bool {
        self.inside().waiting.is_empty()
    }

    pub(super) fn close_buried(&self) {
        let buried = std::mem::take(&mut self.inside().buried);
        drop(buried);
    }

    /// Closes a connection, or keeps it open where closing would tell the peer something.
    pub(super) fn end_connection(&self, stream: tokio::net::TcpStream, peer: SocketAddr) {
        if self.loses(peer)
            && let Ok(stream) = stream.into_std()
        {
            self.inside().buried.push(Buried::Connection(stream, peer));
        }
    }

    pub(super) fn end_listener(&self, listener: tokio::net::TcpListener) {
        if self.is_dead()
            && let Ok(listener) = listener.into_std()
        {
            self.inside().buried.push(Buried::Listener(listener));
        }
    }

    pub(super) fn end_datagrams(&self, socket: tokio::net::UdpSocket) {
        if self.is_dead()
            && let Ok(socket) = socket.into_std()
        {
            self.inside().buried.push(Buried::Datagrams(socket));
        }
    }
}

impl Buried {
    fn leads_to(&self, peers: &HashSet<SocketAddr>) -> bool {
        matches!(self, Buried::Connection(_, peer) if peers.contains(peer))
    }
}

/// Where a socket waits while it is blocked.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) switch: Arc<Switch>,
    number: u64,
}

impl Place {
    pub(super) fn new(switch: Arc<Switch>) -> Place {
        let number = switch.next_place.fetch_add(1, Ordering::Relaxed);
        Place { switch, number }
    }

    /// Ready if something may pass between this node and `peer`; else the caller is woken when that may have changed.
    pub(super) fn poll_passable(
        &self,
        peer: SocketAddr,
        direction: Direction,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        if self.switch.is_open() {
            return Poll::Ready(());
        }
        let mut inside = self.switch.inside();
        if self.switch.is_dead() {
            return Poll::Pending;
        }
        if !inside.blocked.contains(&peer) {
            return Poll::Ready(());
        }
        let wakers = inside.waiting.entry(self.number).or_default();
        let waker = match (wakers, direction) {
            ([waker, _], Direction::In) | ([_, waker], Direction::Out) => waker,
        };
        *waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Waits until something may pass between this node and `peer`.
    pub(super) async fn passable(&self, peer: SocketAddr) {
        poll_fn(|context| self.poll_passable(peer, Direction::Out, context)).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.switch.is_open() {
            self.switch.inside().waiting.remove(&self.number);
        }
    }
}
