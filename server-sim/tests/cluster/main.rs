//! What a cluster does, seen from outside: real nodes, real sockets, the real client.

#[path = "../support/mod.rs"]
mod wire;

mod lookups;
mod seen;
mod support;

mod faults;
