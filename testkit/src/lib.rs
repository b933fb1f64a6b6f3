//! What tests of every crate share: real server processes on free ports, killed on drop, and waiting for a
//! condition with a deadline instead of sleeping.
#![warn(missing_docs)]

mod poll;
mod server;

pub use poll::eventually;
pub use server::{ServerOptions, ServerProcess, server_binary};
