//! The network between the nodes: has the addresses by which they know each other, and passes on what comes there.

use crate::namespaces::{address, known_as};
use crate::node::PORT;
use crate::process::say;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

/// What happens to what one node says to another; the way back is another one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    pub delay_ms: u64,
    /// More or less than the delay by up to that.
    pub jitter_ms: u64,
    /// Part of the datagrams that is lost.
    pub loss: f64,
    pub blocked: bool,
}

impl Way {
    /// A network as it should be.
    pub const GOOD: Way = Way { delay_ms: 0, jitter_ms: 0, loss: 0.0, blocked: false };

    /// As a command to the relay.
    pub fn command(self, from: u32, to: u32) -> String {
        let Way { delay_ms, jitter_ms, loss, blocked } = self;
        format!("{from} {to} {delay_ms} {jitter_ms} {loss} {blocked}")
    }

    fn read(command: &str) -> ((u32, u32), Way) {
        let mut words = command.split(' ');
        let mut next = || words.next().unwrap();
        let pair = (next().parse().unwrap(), next().parse().unwrap());
        let (delay_ms, jitter_ms) = (next().parse().unwrap(), next().parse().unwrap());
        let (loss, blocked) = (next().parse().unwrap(), next().parse().unwrap());
        (pair, Way { delay_ms, jitter_ms, loss, blocked })
    }
}

#[derive(Debug)]
struct Ways {
    ways: HashMap<(u32, u32), Way>,
    rng: StdRng,
}

type Shared = Arc<Mutex<Ways>>;

/// What happens to a datagram: nothing, or it arrives after a while.
fn draw(ways: &Shared, pair: (u32, u32)) -> Option<Duration> {
    let mut ways = ways.lock().unwrap();
    let way = ways.ways[&pair];
    if way.blocked || ways.rng.random_bool(way.loss) {
        return None;
    }
    Some(delay(way, &mut ways.rng))
}

fn delay(way: Way, rng: &mut StdRng) -> Duration {
    let (least, most) = (way.delay_ms.saturating_sub(way.jitter_ms), way.delay_ms + way.jitter_ms);
    Duration::from_millis(rng.random_range(least..=most))
}

/// Passes on until its input ends. `TASK` is the number of nodes and the seed.
pub fn run() {
    let task = std::env::var("TASK").unwrap();
    let (nodes, seed) = task.split_once(' ').unwrap();
    let (nodes, seed): (u32, u64) = (nodes.parse().unwrap(), seed.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(relay(nodes, seed));
}

async fn relay(nodes: u32, seed: u64) {
    let pairs = (1..=nodes).flat_map(|from| (1..=nodes).map(move |to| (from, to)));
    let ways = pairs.map(|pair| (pair, Way::GOOD)).collect();
    let ways = Arc::new(Mutex::new(Ways { ways, rng: StdRng::seed_from_u64(seed) }));
    let mut sockets = HashMap::new();
    for node in 1..=nodes {
        sockets.insert(node, Arc::new(UdpSocket::bind((known_as(node), PORT)).await.unwrap()));
    }
    for to in 1..=nodes {
        tokio::spawn(pass_datagrams(to, sockets.clone(), ways.clone()));
        let listener = TcpListener::bind((known_as(to), PORT)).await.unwrap();
        tokio::spawn(pass_connections(to, nodes, listener, ways.clone()));
    }
    say("ready");
    let commands = tokio::task::spawn_blocking(move || {
        for command in std::io::stdin().lines() {
            let (pair, way) = Way::read(&command.unwrap());
            ways.lock().unwrap().ways.insert(pair, way);
            say("done");
        }
    });
    commands.await.unwrap();
}

fn node_at(address: SocketAddr, nodes: u32) -> u32 {
    (1..=nodes).find(|node| IpAddr::V4(self::address(*node)) == address.ip()).unwrap()
}

async fn pass_datagrams(to: u32, sockets: HashMap<u32, Arc<UdpSocket>>, ways: Shared) {
    let mut buffer = [0; 2048];
    loop {
        // An error is about an earlier datagram that nobody took.
        let Ok((length, from)) = sockets[&to].recv_from(&mut buffer).await else { continue };
        let from = node_at(from, sockets.len() as u32);
        let Some(delay) = draw(&ways, (from, to)) else { continue };
        let (datagram, socket) = (buffer[..length].to_vec(), sockets[&from].clone());
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let _ = socket.send_to(&datagram, (address(to), PORT)).await;
        });
    }
}

async fn pass_connections(to: u32, nodes: u32, listener: TcpListener, ways: Shared) {
    loop {
        let Ok((near, peer)) = listener.accept().await else { continue };
        let from = node_at(peer, nodes);
        let ways = ways.clone();
        tokio::spawn(async move {
            // As if its first packet were repeated until it comes through.
            wait_for(&ways, (from, to)).await;
            wait_for(&ways, (to, from)).await;
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((known_as(from), 0).into()).unwrap();
            let Ok(far) = socket.connect((address(to), PORT).into()).await else { return };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::join!(
                pump(near_in, far_out, &ways, (from, to)),
                pump(far_in, near_out, &ways, (to, from)),
            );
        });
    }
}

async fn wait_for(ways: &Shared, pair: (u32, u32)) {
    let pause = loop {
        let way = ways.lock().unwrap().ways[&pair];
        if !way.blocked {
            break delay(way, &mut ways.lock().unwrap().rng);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    tokio::time::sleep(pause).await;
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, ways: &Shared, pair: (u32, u32)) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        wait_for(ways, pair).await;
        if length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            // The end is passed on, too.
            let _ = to.shutdown().await;
            return;
        }
    }
}
