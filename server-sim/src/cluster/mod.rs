//! Several nodes over one store: who is there, and who serves what.
//!
//! Membership is a hint: it says where to look and when to look for somebody else. What must hold whatever the network
//! does (one owner at a time, checkpoints that never go back) rests on leases and epochs in the metadata store.

pub mod bootstrap;
mod config;
pub mod gossip;
mod member;
pub mod ownership;
mod peers;
mod seed;
pub mod swim;

pub use config::ClusterConfig;
pub use member::{Member, MemberState, Members, NodeId, Phase};
pub use peers::Peers;
pub(crate) use peers::{KEEPALIVE, KEEPALIVE_TIMEOUT};
pub use seed::Seed;
pub use swim::GossipSettings;
