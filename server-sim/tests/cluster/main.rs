//! What a cluster does, seen from outside: real nodes, real sockets, the real client.

#[path = "../support/mod.rs"]
mod wire;

mod catalogue;
mod faults;
mod lookups;
mod proxy;
mod seen;
mod serving;
mod subscriptions;
mod support;
