//! A connection, whoever opened it.

use super::switch::{Direction, Place};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP connection of a node.
#[derive(Debug)]
pub struct Socket {
    /// Taken only by `drop`.
    stream: Option<TcpStream>,
    peer: SocketAddr,
    place: Place,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, place: Place) -> Socket {
        Socket { stream: Some(stream), peer, place }
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        self.stream.as_ref().map_or(Ok(()), |stream| stream.set_nodelay(true))
    }

    fn poll_stream(
        &mut self,
        direction: Direction,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Pin<&mut TcpStream>>> {
        ready!(self.place.poll_passable(self.peer, direction, context));
        Poll::Ready(match &mut self.stream {
            Some(stream) => Ok(Pin::new(stream)),
            None => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.get_mut().poll_stream(Direction::In, context))?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.get_mut().poll_stream(Direction::Out, context))?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.get_mut().poll_stream(Direction::Out, context))?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(TcpStream::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.get_mut().poll_stream(Direction::Out, context))?.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.get_mut().poll_stream(Direction::Out, context))?.poll_shutdown(context)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.place.switch.end_connection(stream, self.peer);
        }
    }
}
