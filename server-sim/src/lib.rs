//! HStreamDB-compatible server: the library behind the `hstream-server` binary.
#![warn(missing_docs)]

pub mod error;
pub mod store;
pub mod stream;
