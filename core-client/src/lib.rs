//! Client of HStreamDB: batching, routing, flow control, acks and discovery, once for all languages.
#![warn(missing_docs)]

mod codec;
mod error;
mod options;
mod record;
mod routing;

pub use error::{Error, ErrorKind, Result};
pub use options::{OptionKind, OptionScope, OptionSpec, OptionValue, option_table};
pub use record::{Offset, PayloadKind, ReceivedBatch, ReceivedRecord, Record, RecordBatch, RecordId};

/// Version of this crate, as it appears in the user agent.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
