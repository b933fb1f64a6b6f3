//! A socket for datagrams.

use super::switch::Switch;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::UdpSocket;

/// A UDP socket of a node.
#[derive(Debug)]
pub struct Datagrams {
    /// Taken only by `drop`.
    socket: Option<UdpSocket>,
    switch: Arc<Switch>,
}

impl Datagrams {
    pub(super) fn open(address: SocketAddr, switch: &Arc<Switch>) -> io::Result<Datagrams> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(Datagrams { socket: Some(UdpSocket::from_std(socket)?), switch: switch.clone() })
    }

    fn socket(&self) -> io::Result<&UdpSocket> {
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Where it receives.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket()?.local_addr()
    }

    /// Sends a datagram. That it was sent says nothing about whether it arrives.
    ///
    /// # Errors
    /// What the operating system reports.
    pub async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        if !self.switch.loses(to) {
            self.socket()?.send_to(datagram, to).await?;
        }
        Ok(())
    }

    /// Receives a datagram; what does not fit into `buffer` is cut off. Cancellation loses nothing.
    ///
    /// # Errors
    /// What the operating system reports; the socket can be used on.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let (length, from) = self.socket()?.recv_from(buffer).await?;
            if !self.switch.loses(from) {
                return Ok((length, from));
            }
            if self.switch.is_dead() {
                pending::<()>().await;
            }
        }
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            self.switch.end_datagrams(socket);
        }
    }
}
