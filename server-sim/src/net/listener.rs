//! A listening socket.

use super::socket::Socket;
use super::switch::{Place, Switch};
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Pause after a failed accept, which usually means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening TCP socket of a node.
#[derive(Debug)]
pub struct Listener {
    /// Taken only by `drop`.
    socket: Option<TcpListener>,
    switch: Arc<Switch>,
}

impl Listener {
    pub(super) fn open(address: SocketAddr, switch: &Arc<Switch>) -> io::Result<Listener> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        // A restarted server must not wait for connections of its predecessor to leave TIME_WAIT.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Listener { socket: Some(TcpListener::from_std(socket.into())?), switch: switch.clone() })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket()?.local_addr()
    }

    fn socket(&self) -> io::Result<&TcpListener> {
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The next connection; a failing accept is logged and tried again.
    pub async fn accept(&self) -> (Socket, SocketAddr) {
        loop {
            match self.accept_once().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn accept_once(&self) -> io::Result<(Socket, SocketAddr)> {
        loop {
            if self.switch.is_dead() {
                pending::<()>().await;
            }
            let (stream, peer) = self.socket()?.accept().await?;
            // Dropped at the end of this turn it is buried if the switch was thrown meanwhile.
            let socket = Socket::new(stream, peer, Place::new(self.switch.clone()));
            if self.switch.is_dead() {
                continue;
            }
            // Small answers must not wait for the next ones.
            match socket.set_nodelay() {
                Ok(()) => return Ok((socket, peer)),
                Err(error) => tracing::debug!(%error, "a connection ended before it was used"),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            self.switch.end_listener(socket);
        }
    }
}
