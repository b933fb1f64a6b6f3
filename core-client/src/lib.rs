//! Client of HStreamDB: batching, routing, flow control, acks and discovery, once for all languages.
#![warn(missing_docs)]

mod error;
mod options;

pub use error::{Error, ErrorKind, Result};
pub use options::{OptionKind, OptionScope, OptionSpec, OptionValue, option_table};

/// Version of this crate, as it appears in the user agent.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
