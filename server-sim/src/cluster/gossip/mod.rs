//! Membership on a real network: sealed packets, UDP, comparing everything over the internal port, joining, leaving.
//!
//! What is decided is decided in [`swim`](super::swim); here is what it needs of the world. One task owns the membership
//! (`owner`); packets are closed and opened by `seal`; visits to other nodes (`exchange`) begin with a hello
//! (`hello`) in which strangers part.

mod error;
mod exchange;
mod hello;
mod inbox;
mod joining;
mod key;
mod owner;
mod pause;
mod refusal;
mod replay;
mod runtime;
mod seal;
mod service;
mod stats;
#[cfg(test)]
mod tests;
mod timers;

pub use error::GossipError;
pub use joining::SeedStatus;
pub use key::{GossipKey, KeyError};
pub use refusal::Refusal;
pub use runtime::{Gossip, GossipStart};
pub use seal::MAX_DATAGRAM;
pub use service::{FetchForOthers, Fetched, InternalService};
pub use stats::GossipStats;
