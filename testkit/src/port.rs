//! Ports for servers that have to keep theirs while they are away.

use rand::Rng as _;
use std::{
    collections::HashSet,
    net::{TcpListener, UdpSocket},
    sync::{LazyLock, Mutex, PoisonError},
};

/// Below those that the kernel gives to outgoing connections (32768 to 60999 on Linux): a server that comes back finds its
/// port free again.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port of the loopback interface that nobody uses now, TCP and UDP, and that was given to nobody else in this process.
pub fn free_port() -> u16 {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let port = rand::rng().random_range(RANGE);
        let address = ("127.0.0.1", port);
        if !given.contains(&port) && TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            given.insert(port);
            return port;
        }
    }
}
