//! Every socket of a node is opened here.
//!
//! A node has one [`Net`], and with it a switch by which tests take its network away: towards single peers, or all of it
//! as if the machine had lost its power. A node whose switch nobody touched pays one atomic load per read and per write.

mod connector;
mod datagrams;
mod listener;
mod socket;
mod switch;
#[cfg(test)]
mod tests;

pub use connector::Connector;
pub use datagrams::Datagrams;
pub use listener::Listener;
pub use socket::Socket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use switch::{Place, Switch};
use tokio::net::TcpStream;

/// How often a port is looked for that is free for TCP and for UDP.
const PAIR_TRIES: usize = 64;

/// The network as one node has it. Clones are the same network.
#[derive(Debug, Clone, Default)]
pub struct Net {
    switch: Arc<Switch>,
}

impl Net {
    /// A network that works, until somebody throws its switch.
    pub fn new() -> Net {
        Net::default()
    }

    /// Opens a listening socket; port 0 takes a free one.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        Listener::open(address, &self.switch)
    }

    /// Opens a socket for datagrams; port 0 takes a free one.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn datagrams(&self, address: SocketAddr) -> io::Result<Datagrams> {
        Datagrams::open(address, &self.switch)
    }

    /// A listening socket and one for datagrams on one port; port 0 takes one that is free for both.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn listen_both(&self, address: SocketAddr) -> io::Result<(Listener, Datagrams)> {
        let mut tries = if address.port() == 0 { PAIR_TRIES } else { 1 };
        loop {
            tries -= 1;
            let listener = self.listen(address)?;
            match self.datagrams(listener.local_addr()?) {
                Ok(datagrams) => return Ok((listener, datagrams)),
                Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Connects. Towards a peer that is blocked this waits, as it does where packets get lost; the caller has a deadline.
    ///
    /// # Errors
    /// What the operating system reports.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<Socket> {
        let place = Place::new(self.switch.clone());
        place.passable(to).await;
        let connected = TcpStream::connect(to).await;
        // What came of it is not heard of if the switch was thrown meanwhile.
        place.passable(to).await;
        let stream = connected?;
        stream.set_nodelay(true)?;
        Ok(Socket::new(stream, to, place))
    }

    /// Opens connections for gRPC clients.
    pub fn connector(&self) -> Connector {
        Connector::new(self.clone())
    }

    /// Loses every packet to and from these addresses: datagrams vanish, connections that this node has opened there
    /// stand still and open. A connection that a peer has opened stands still by the peer's switch: block both ends.
    pub fn block(&self, peers: impl IntoIterator<Item = SocketAddr>) {
        self.switch.block(peers);
    }

    /// Ends [`Net::block`] for these addresses; connections go on where they stood.
    pub fn unblock(&self, peers: impl IntoIterator<Item = SocketAddr>) {
        self.switch.unblock(&peers.into_iter().collect());
    }

    /// Takes the whole network away for good, as from a machine that lost its power: nothing arrives, nothing leaves. A
    /// socket that the node drops from now on is buried: it stays open and silent, so that nobody is told.
    pub fn kill(&self) {
        self.switch.kill();
    }

    /// Whether [`Net::kill`] was called.
    pub fn is_dead(&self) -> bool {
        self.switch.is_dead()
    }

    /// Closes what was buried, as the machine does when it has its power back: ports are free again, and whoever still
    /// sends on an old connection is told that it is no more.
    pub fn close_buried(&self) {
        self.switch.close_buried();
    }
}
