//! What tests of every crate share: real server processes on free ports, killed on drop, and waiting for a
//! condition with a deadline instead of sleeping.
#![warn(missing_docs)]

mod cutting;
mod faults;
mod link;
mod messages;
mod poll;
mod rpc_proxy;
mod server;

pub use faults::Fault;
pub use link::{Ending, Flow, Link, LinkStats, Way};
pub use poll::eventually;
pub use rpc_proxy::RpcProxy;
pub use server::{ServerOptions, ServerProcess, server_binary};
