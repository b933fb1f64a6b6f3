//! A TCP relay that breaks connections in every way a network does, and reads along in HTTP/2 frames.
#![allow(dead_code)]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What happens to connections, those that are open included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Everything passes.
    Well,
    /// Connections open and nothing passes.
    Silent,
    /// The same, and the server learns that its connections are gone, as it does when its machine is.
    Dead,
    /// What the client sends passes, answers do not.
    HalfOpen,
    /// Connections are closed as soon as the client says something.
    Resetting,
}

/// Forwards connections until it is told otherwise.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    target: SocketAddr,
    network: watch::Sender<Network>,
    cuts: watch::Sender<u64>,
    burials: watch::Sender<u64>,
    frames: Arc<Frames>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

/// What was seen on its way from clients.
#[derive(Debug, Default)]
pub struct Frames {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// HTTP/2 pings that ask for an answer.
    pub pings: AtomicU64,
}

impl Relay {
    pub async fn to(target: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay {
            address: listener.local_addr().unwrap(),
            target,
            network: watch::channel(Network::Well).0,
            cuts: watch::channel(0).0,
            burials: watch::channel(0).0,
            frames: Arc::default(),
            accepting: Mutex::default(),
        };
        relay.accept_from(listener);
        relay
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// Ends every connection that is open now.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// From now on nothing passes on the connections that are open now, and none of them ends; new ones work.
    pub fn bury(&self) {
        self.burials.send_modify(|burials| *burials += 1);
    }

    /// Ends every connection and refuses new ones.
    pub async fn go_down(&self) {
        let accepting = self.accepting.lock().unwrap().take();
        if let Some(accepting) = accepting {
            accepting.abort();
            // The listener is closed when the task is gone.
            let _ = accepting.await;
        }
        self.cut();
    }

    /// Listens again where it did.
    pub async fn come_back(&self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        self.accept_from(socket.listen(128).unwrap());
    }

    fn accept_from(&self, listener: TcpListener) {
        let (target, network, cuts) = (self.target, self.network.subscribe(), self.cuts.subscribe());
        let (frames, burials) = (self.frames.clone(), self.burials.subscribe());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                frames.connections.fetch_add(1, Ordering::SeqCst);
                let (network, mut cuts, frames) = (network.clone(), cuts.clone(), frames.clone());
                cuts.mark_unchanged();
                let mut burials = burials.clone();
                burials.mark_unchanged();
                tokio::spawn(async move {
                    let mut forwarding = Box::pin(forward(client, target, network, frames));
                    tokio::select! {
                        () = &mut forwarding => return,
                        _ = cuts.changed() => return,
                        _ = burials.changed() => {}
                    }
                    // Its sockets stay open in what is no longer driven.
                    let _ = cuts.changed().await;
                });
            }
        });
        *self.accepting.lock().unwrap() = Some(task);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.lock().unwrap().take() {
            accepting.abort();
        }
        self.cut();
    }
}

async fn forward(
    mut client: TcpStream,
    target: SocketAddr,
    network: watch::Receiver<Network>,
    frames: Arc<Frames>,
) {
    let mut death = network.clone();
    tokio::select! {
        () = carry(&mut client, target, network, frames) => return,
        _ = death.wait_for(|network| *network == Network::Dead) => {}
    }
    // The server's side is gone, the client's stays.
    std::future::pending::<()>().await;
}

async fn carry(
    client: &mut TcpStream,
    target: SocketAddr,
    network: watch::Receiver<Network>,
    frames: Arc<Frames>,
) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut out = network.clone();
    let requests = async move {
        let mut reading = FrameReader::default();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            let bytes = &buffer[..length];
            reading.read(bytes, &frames);
            let now = *out.borrow();
            match now {
                Network::Resetting => return,
                Network::Silent => {
                    let _ = out.wait_for(|network| *network != Network::Silent).await;
                }
                Network::Well | Network::HalfOpen | Network::Dead => {}
            }
            if to_server.write_all(bytes).await.is_err() {
                return;
            }
        }
    };
    let mut back = network;
    let replies = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            let holds = |network: &Network| matches!(network, Network::Silent | Network::HalfOpen);
            if back.wait_for(|network| !holds(network)).await.is_err()
                || to_client.write_all(&buffer[..length]).await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        () = replies => {}
    }
}

/// Finds the frames in what a client sends in plain text.
#[derive(Default)]
struct FrameReader {
    pending: Vec<u8>,
    greeted: bool,
}

/// `PRI * HTTP/2.0 …`, with which every connection begins.
const PREFACE: usize = 24;
const HEADER: usize = 9;
const PING: u8 = 6;
const ACK: u8 = 1;

impl FrameReader {
    fn read(&mut self, bytes: &[u8], frames: &Frames) {
        self.pending.extend_from_slice(bytes);
        if !self.greeted {
            if self.pending.len() < PREFACE {
                return;
            }
            self.pending.drain(..PREFACE);
            self.greeted = true;
        }
        while let [a, b, c, kind, flags, ..] = self.pending[..] {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if self.pending.len() < HEADER + length {
                return;
            }
            if kind == PING && flags & ACK == 0 {
                frames.pings.fetch_add(1, Ordering::SeqCst);
            }
            self.pending.drain(..HEADER + length);
        }
    }
}
