//! Calls that manage queries, views, schemas, connectors and statistics, against nodes that answer as published servers do
//! and against our own.

#[path = "../node_under_test/mod.rs"]
mod node_under_test;
mod published;

mod connectors;
mod every_rpc;
mod queries;
mod schemas;
mod stats;
mod unimplemented;
mod views;
