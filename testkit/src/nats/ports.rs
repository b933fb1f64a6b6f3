//! Ports for servers that cannot be told to take any free one and to keep it.

use rand::Rng as _;
use std::{
    collections::HashSet,
    net::TcpListener,
    sync::{LazyLock, Mutex, PoisonError},
};

/// Below those that the kernel gives to outgoing connections (32768 to 60999 on Linux): a peer that is away for a while
/// finds its port free again.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// Of one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub client: u16,
    pub monitor: u16,
    /// For the other peers.
    pub route: u16,
}

impl Ports {
    pub(super) fn pick() -> Ports {
        Ports { client: pick(), monitor: pick(), route: pick() }
    }
}

/// One that nobody listens on now and that was given to nobody else in this process.
fn pick() -> u16 {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let port = rand::rng().random_range(RANGE);
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
}
