//! The core client as an Erlang NIF: conversion only.
//!
//! Every function returns at once. What takes time runs on the core's runtime and answers the calling process
//! with `{hstreamdb, Reference, Reply}`.

mod admin;
mod client;
mod consumer;
mod errors;
mod options;
mod producer;
mod reader;
mod records;
mod reply;

/// Version of the core client.
#[rustler::nif]
fn version() -> &'static str {
    hstreamdb::VERSION
}

rustler::init!("hstreamdb_nif");
