//! What older clients got wrong, one test or more for each point of `docs/acceptance.md`. A test is named after its
//! point (`p07_…`) and fails when the client shows the old behaviour again.

#[path = "../node_under_test/mod.rs"]
mod node_under_test;

mod cluster;
mod consumer;
mod faults;
mod observing;
mod producer;
mod reader;
mod writers;
