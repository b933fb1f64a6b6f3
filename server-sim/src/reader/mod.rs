//! Reading without subscriptions: offsets, cursors over shards, polled readers, reading by key.

pub mod by_key;
mod cursor;
mod delivery;
mod polled;
mod position;
mod range;

pub use cursor::{MAX_BATCHES_PER_MESSAGE, ReadPlan, Responses, run};
pub(crate) use delivery::timestamp;
pub use delivery::{ID_BYTES, MESSAGE_BYTES, received, received_bytes};
pub use polled::{NewReader, PolledReaders};
pub use range::{Offset, ShardRange};
