//! What one node lets its peers take, so that no peer can take everything.

mod notice;

pub use notice::Notice;

use std::time::Duration;

/// The limits of a node. [`Default`] suits a machine of a few gigabytes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time, over all listeners; further ones are closed at once. Default 10,000.
    pub max_connections: u32,
    /// How long a new connection may take for its TLS handshake and its first HTTP/2 bytes. Default 10 s.
    pub opening: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_connections: 10_000, opening: Duration::from_secs(10) }
    }
}
