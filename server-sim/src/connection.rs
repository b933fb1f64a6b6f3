//! Connections from the accept to the first HTTP/2 byte.
//!
//! A connection reaches the gRPC machinery only after it has shown the HTTP/2 preface (and has finished its TLS
//! handshake before, where the listener asks for one) within a deadline. Whoever sends anything else, or
//! nothing, costs a socket for that long and is gone. Each one is opened in a task of its own, so none waits for
//! another.

use crate::limits::{Limits, Notice};
use crate::listener::ListenerKey;
use crate::net::{Listener, Socket};
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// What every HTTP/2 client sends first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Where a call came from.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The other end of the connection.
    pub address: SocketAddr,
    /// Key of the listener it came in through; `None` is the main one.
    pub listener: Option<ListenerKey>,
    /// Closes the connection when cancelled.
    pub close: CancellationToken,
}

/// One socket to listen on and what connections have to do there.
pub struct Door {
    /// The socket.
    pub socket: Listener,
    /// Key of the listener; `None` is the main one.
    pub key: Option<ListenerKey>,
    /// Present when connections start with a TLS handshake.
    pub tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door")
            .field("key", &self.key)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

/// What all doors of a node share: how many connections there may be, and where opened ones go.
#[derive(Debug)]
pub struct Threshold {
    room: Arc<Semaphore>,
    most: u32,
    opening: Duration,
    full: Notice,
    refused: Notice,
    opened: mpsc::Sender<io::Result<Connection>>,
}

impl Threshold {
    /// Hands opened connections to `opened`.
    pub fn new(limits: &Limits, opened: mpsc::Sender<io::Result<Connection>>) -> Arc<Self> {
        Arc::new(Threshold {
            room: Arc::new(Semaphore::new(limits.max_connections as usize)),
            most: limits.max_connections,
            opening: limits.opening,
            full: Notice::default(),
            refused: Notice::default(),
            opened,
        })
    }
}

impl Door {
    /// Accepts connections until nobody takes them any more.
    pub async fn serve(self, threshold: Arc<Threshold>) {
        let closed = threshold.clone();
        tokio::select! {
            () = self.accept(threshold) => {}
            () = closed.opened.closed() => {}
        }
    }

    async fn accept(&self, threshold: Arc<Threshold>) {
        loop {
            let (socket, address) = self.socket.accept().await;
            let Ok(room) = threshold.room.clone().try_acquire_owned() else {
                // Dropping the socket tells the client at once; leaving it in the backlog would tell nobody.
                if let Some(times) = threshold.full.due() {
                    let most = threshold.most;
                    tracing::warn!(
                        "all {most} connections are taken: {times} more closed at once; raise --max-connections \
                         or look who holds them"
                    );
                }
                continue;
            };
            let peer = Peer { address, listener: self.key.clone(), close: CancellationToken::new() };
            tokio::spawn(open(socket, peer, self.tls.clone(), room, threshold.clone()));
        }
    }
}

async fn open(
    socket: Socket,
    peer: Peer,
    tls: Option<TlsAcceptor>,
    room: OwnedSemaphorePermit,
    threshold: Arc<Threshold>,
) {
    let address = peer.address;
    let handshake = async {
        let mut transport = match tls {
            None => Transport::Plain(socket),
            Some(acceptor) => Transport::Tls(Box::new(acceptor.accept(socket).await?)),
        };
        expect_preface(&mut transport).await?;
        Ok::<_, io::Error>(transport)
    };
    let refusal = tokio::select! {
        () = threshold.opened.closed() => return,
        outcome = tokio::time::timeout(threshold.opening, handshake) => match outcome {
            Ok(Ok(transport)) => {
                let closed = Box::pin(peer.close.clone().cancelled_owned());
                let connection = Connection { transport, replayed: 0, peer, closed, _room: room };
                // Fails when the node stops; then nobody needs it.
                let _ = threshold.opened.send(Ok(connection)).await;
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it was not open within {:?}", threshold.opening),
        },
    };
    if let Some(times) = threshold.refused.due() {
        tracing::info!("connection from {address} closed: {refusal} ({times} since the last such line)");
    }
}

/// Reads the preface byte by byte as it comes, so that anything else is noticed at its first wrong byte.
async fn expect_preface(transport: &mut Transport) -> io::Result<()> {
    let mut buffer = [0; PREFACE.len()];
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let read = transport.read(rest).await?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended before it spoke HTTP/2"));
        }
        filled += read;
        if buffer.get(..filled) != PREFACE.get(..filled) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak HTTP/2"));
        }
    }
    Ok(())
}

#[derive(Debug)]
enum Transport {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

macro_rules! on_transport {
    ($transport:expr, $stream:ident => $call:expr) => {
        match $transport {
            Transport::Plain($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Transport::Tls($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $call
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_transport!(self.get_mut(), stream => stream.poll_read(context, buffer))
    }
}

/// An open connection; the preface that was read off it is handed out once more.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    /// Bytes of the preface handed out so far.
    replayed: usize,
    peer: Peer,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    _room: OwnedSemaphorePermit,
}

impl Connection {
    /// An error once the connection is to be closed; wakes the caller when that happens.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.closed.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "answers were left unread"))
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(context)?;
        if let Some(rest) = PREFACE.get(this.replayed..).filter(|rest| !rest.is_empty()) {
            let length = rest.len().min(buffer.remaining());
            buffer.put_slice(rest.get(..length).unwrap_or_default());
            this.replayed += length;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.transport).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(context)?;
        on_transport!(&mut this.transport, stream => stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(context)?;
        on_transport!(&mut this.transport, stream => stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(context)?;
        on_transport!(&mut this.transport, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_transport!(&mut self.get_mut().transport, stream => stream.poll_shutdown(context))
    }
}
