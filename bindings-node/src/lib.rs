//! Native half of the Node package `hstreamdb`.
//!
//! Only converts: arguments in, results out, errors into JSON. Retries, batching, routing and acks live in the
//! core client. The public surface is the TypeScript beside this crate (`ts/`); nothing here is public API.

// What napi wraps is seen from JavaScript only.
#![allow(missing_debug_implementations)]

mod batch;
mod client;
mod consumer;
mod errors;
mod options;
mod producer;
mod promise;
mod reader;
mod runtime;

use napi::bindgen_prelude::{Env, Object, Result};
use napi_derive::napi;

/// Runs once in the main thread and once in each worker thread that loads the module.
#[napi(module_exports)]
pub fn init(_exports: Object<'_>, env: Env) -> Result<()> {
    runtime::enter_environment(&env)
}

/// Version of the core client.
#[napi]
pub fn core_version() -> &'static str {
    hstreamdb::VERSION
}
