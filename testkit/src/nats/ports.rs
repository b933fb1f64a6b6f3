//! Where one server is reached.

use crate::port::free_port;

/// Ports of one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub client: u16,
    pub monitor: u16,
    /// For the other peers.
    pub route: u16,
}

impl Ports {
    pub(super) fn pick() -> Ports {
        Ports { client: free_port(), monitor: free_port(), route: free_port() }
    }
}
