//! One set of scenarios every language must pass.
//!
//! A scenario is data (`scenarios/*.json`). The runner owns the server process, the fault proxy and the check of
//! what happened; each language has one adapter process over its public API that speaks JSON lines.
#![warn(missing_docs)]

pub mod adapter;
pub mod broken;
pub mod expect;
pub mod failover;
pub mod history;
pub mod language;
pub mod runner;
pub mod scenario;
pub mod vectors;
