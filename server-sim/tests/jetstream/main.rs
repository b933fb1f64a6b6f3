//! Nodes on JetStream, seen from outside: real NATS servers, real processes.

#[path = "../support/mod.rs"]
mod support;

mod deploy;
mod loss;
