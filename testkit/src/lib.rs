//! What tests of every crate share: real server processes on free ports, killed on drop; real NATS servers ([`nats`]);
//! waiting for a condition with a deadline instead of sleeping; a bad network ([`Link`]) and a bad server ([`RpcProxy`]) on purpose; and a check of what
//! happened against the delivery contract ([`history`]).
#![warn(missing_docs)]

mod cutting;
mod faults;
pub mod history;
mod leash;
mod link;
mod messages;
pub mod nats;
mod poll;
mod port;
mod rpc_proxy;
mod server;
mod signal;
mod store;

pub use faults::Fault;
pub use leash::hold as end_with_this_process;
pub use link::{Ending, Flow, Link, LinkStats, Way};
pub use poll::eventually;
pub use port::free_port;
pub use rpc_proxy::RpcProxy;
pub use server::{ServerOptions, ServerProcess, announce_ready, server_binary};
pub use store::Store;
