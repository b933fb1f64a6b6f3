//! What one node lets its peers take, so that no peer can take everything.

mod budget;
mod calls;
mod notice;
mod request;
mod response;

pub use budget::{Budget, Charge};
pub use calls::{CallLimits, Limited};
pub use notice::Notice;
pub use response::{FREE_ANSWER, charge_answer, hand_over};

use std::time::Duration;

/// The limits of a node. [`Default`] suits a machine of a few gigabytes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time, over all listeners; further ones are closed at once. Default 10,000.
    pub max_connections: u32,
    /// How long a new connection may take for its TLS handshake and its first HTTP/2 bytes. Default 10 s.
    pub opening: Duration,
    /// Calls at a time that end by themselves; further ones are refused. Default 8,192.
    pub max_short_calls: u32,
    /// Reads and consumers at a time; further ones are refused. Default 12,288.
    pub max_long_calls: u32,
    /// Reads by key at a time; further ones are refused. Each may hold one unpacked batch of up to 64 MiB and 4 MiB
    /// of packed ones while its client takes its time. Default 64.
    pub max_key_reads: u32,
    /// Bytes of requests that are incomplete or not answered yet, small ones aside. Default 256 MiB.
    pub request_memory: usize,
    /// Bytes of records on their way to readers; consumers have as much again, and so have lists. Default 128 MiB.
    pub response_memory: usize,
    /// Time for a request from its first to its last byte. Default 60 s.
    pub complete_within: Duration,
    /// How long an answer may lie unread while others wait for its memory; then its connection is closed.
    /// Default 60 s.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: 10_000,
            opening: Duration::from_secs(10),
            max_short_calls: 8192,
            max_long_calls: 12_288,
            max_key_reads: 64,
            request_memory: 256 * 1024 * 1024,
            response_memory: 128 * 1024 * 1024,
            complete_within: Duration::from_secs(60),
            stall: Duration::from_secs(60),
        }
    }
}
