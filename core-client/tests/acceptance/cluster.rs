//! Points 7, 10, 11, 12 and 22: deadlines, errors, idle connections, discovery, options.

#[path = "../members/mod.rs"]
mod members;
#[path = "../relay/mod.rs"]
pub mod relay;
#[path = "../wire_peer/mod.rs"]
mod wire_peer;

mod addresses;
mod calls;
mod discovery;
mod errors;
mod idle;
mod options;
mod security;
