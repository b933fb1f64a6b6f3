//! HStreamDB-compatible server: the library behind the `hstream-server` binary.
#![warn(missing_docs)]

pub mod api;
pub mod auth;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod error;
pub mod limits;
pub mod listener;
pub mod log_output;
pub mod net;
pub mod node;
pub mod reader;
pub mod stats;
pub mod store;
pub mod stream;
pub mod subscription;
pub mod test_cluster;
pub mod tls;
