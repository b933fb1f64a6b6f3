//! A TCP proxy that is a bad network on purpose, byte by byte.
//!
//! It knows nothing of the protocol. Put an [`RpcProxy`](crate::RpcProxy) behind it and calls can go wrong as well as
//! connections:
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use hstream_testkit::{Fault, Flow, Link, RpcProxy, Way};
//! use std::time::Duration;
//!
//! let proxy = RpcProxy::start(6570).await?;
//! let link = Link::start(proxy.port(), 42).await?;
//! // A client of link.url() with `host_mapping` from the proxy's address to the link's.
//! link.set(Way::ToClient, Flow { latency: Duration::from_millis(80), ..Flow::default() });
//! proxy.set(Fault::LoseReplies(1));
//! link.freeze();
//! link.resume();
//! # Ok(())
//! # }
//! ```

mod connection;

use anyhow::Result;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// What the client sends.
    ToServer,
    /// What the server sends.
    ToClient,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// FIN, as from a process that closed its socket.
    Close,
    /// RST, as from a machine that knows nothing of the connection.
    Reset,
    /// Without a word: the server is told by RST, the client never, as when a machine or an address translation on the
    /// way is gone.
    Silence,
}

/// What one direction is like. The default is a good network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flow {
    /// How long every byte is under way.
    pub latency: Duration,
    /// Up to so much more, drawn anew for every piece; order is kept.
    pub jitter: Duration,
    /// Bytes a second of each connection; `None` is without limit.
    pub bytes_per_second: Option<u64>,
    /// Half-open: what is sent, the end included, is taken and never arrives. A connection that lost something this way
    /// is reset as soon as this is over.
    pub swallow: bool,
    /// Each connection ends so once it has carried this many more bytes.
    pub ends_after: Option<(u64, Ending)>,
}

/// What happens to all connections.
#[derive(Debug, Clone, Copy)]
struct Conditions {
    to_server: Flow,
    to_client: Flow,
    frozen: bool,
    refusing: bool,
    /// Grows with every cut.
    cuts: u64,
    cut: Ending,
    target: SocketAddr,
}

impl Conditions {
    fn flow(&self, way: Way) -> Flow {
        match way {
            Way::ToServer => self.to_server,
            Way::ToClient => self.to_client,
        }
    }
}

/// What a link has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that were ended by the link itself.
    pub broken: u64,
    /// Bytes that arrived at the server.
    pub to_server: u64,
    /// Bytes that arrived at the client.
    pub to_client: u64,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    broken: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

/// A running link, stopped on drop together with its connections. Buffers at most about 1 MiB a connection.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    conditions: watch::Sender<Conditions>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
    /// Bound and never listening: keeps the port while the link refuses connections.
    _keeper: TcpSocket,
}

impl Link {
    /// A link on a free port of the loopback interface to `target_port` of it. `seed` is that of its jitter.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start(target_port: u16, seed: u64) -> Result<Link> {
        let keeper = bind(local(0))?;
        let address = keeper.local_addr()?;
        let listener = bind(address)?.listen(BACKLOG)?;
        let conditions = watch::Sender::new(Conditions {
            to_server: Flow::default(),
            to_client: Flow::default(),
            frozen: false,
            refusing: false,
            cuts: 0,
            cut: Ending::Reset,
            target: local(target_port),
        });
        let counters = Arc::<Counters>::default();
        let task = tokio::spawn(accept(address, listener, conditions.subscribe(), counters.clone(), seed));
        Ok(Link { address, conditions, counters, task, _keeper: keeper })
    }

    /// Port clients connect to.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Address clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL for clients.
    pub fn url(&self) -> String {
        format!("hstream://{}", self.address)
    }

    /// What `way` is like from now on.
    pub fn set(&self, way: Way, flow: Flow) {
        self.conditions.send_modify(|now| match way {
            Way::ToServer => now.to_server = flow,
            Way::ToClient => now.to_client = flow,
        });
    }

    /// Black hole: open connections stand still without an end, new ones are accepted and nothing comes of them.
    pub fn freeze(&self) {
        self.conditions.send_modify(|now| now.frozen = true);
    }

    /// Refuses new connections; open ones stay.
    pub fn refuse(&self) {
        self.conditions.send_modify(|now| now.refusing = true);
    }

    /// Ends every connection that is open now; new ones work.
    pub fn cut(&self, ending: Ending) {
        self.conditions.send_modify(|now| {
            now.cuts += 1;
            now.cut = ending;
        });
    }

    /// A good network again. What stood still goes on; what has lost bytes is reset.
    pub fn resume(&self) {
        self.conditions.send_modify(|now| {
            (now.to_server, now.to_client) = (Flow::default(), Flow::default());
            (now.frozen, now.refusing) = (false, false);
        });
    }

    /// Leads new connections to another port from now on, as after a restart of the server.
    pub fn point_at(&self, target_port: u16) {
        self.conditions.send_modify(|now| now.target = local(target_port));
    }

    /// What it has done so far.
    pub fn stats(&self) -> LinkStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinkStats {
            accepted: get(&self.counters.accepted),
            broken: get(&self.counters.broken),
            to_server: get(&self.counters.to_server),
            to_client: get(&self.counters.to_client),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Sockets of one link share its port, so that one can listen while another keeps it.
fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Serves until the link is dropped; its connections go with it.
async fn accept(
    address: SocketAddr,
    listener: TcpListener,
    mut conditions: watch::Receiver<Conditions>,
    counters: Arc<Counters>,
    seed: u64,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let refusing = conditions.borrow_and_update().refusing;
        if refusing {
            listener = None;
        } else if listener.is_none() {
            listener = bind(address).and_then(|socket| socket.listen(BACKLOG)).ok();
        }
        tokio::select! {
            Some(accepted) = incoming(&listener) => if let Ok((client, _)) = accepted {
                let number = counters.accepted.fetch_add(1, Ordering::Relaxed);
                let seed = seed.wrapping_add(number.wrapping_mul(2));
                connections.spawn(connection::carry(client, conditions.clone(), counters.clone(), seed));
            },
            changed = conditions.changed() => if changed.is_err() {
                return;
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn incoming(
    listener: &Option<TcpListener>,
) -> Option<std::io::Result<(tokio::net::TcpStream, SocketAddr)>> {
    match listener {
        Some(listener) => Some(listener.accept().await),
        None => None,
    }
}

#[cfg(test)]
mod tests;
