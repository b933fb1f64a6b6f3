//! Subscriptions: who reads which stream from where, what is delivered to whom, what is acknowledged.
//!
//! | file | what |
//! | --- | --- |
//! | `registry` | which subscriptions exist: create, list, delete, attach a consumer |
//! | `definition` | what is stored about one |
//! | `live` | one that has had consumers since this process started: its tasks and checkpoints |
//! | `state` | every decision about delivery, without I/O |
//! | `ack_window` | what one shard has in flight |
//! | `assignment` | which consumer owns which shard |
//! | `outbox` | messages on their way to one consumer |
//! | `delivery` | a stored batch, or a part of it, as a message |
//! | `fetch` | one consumer's call |

mod ack_window;
mod assignment;
mod definition;
mod delivery;
mod fetch;
mod live;
mod outbox;
mod registry;
mod state;

pub use definition::Definition;
pub use fetch::Fetch;
pub use registry::{NewSubscription, Subscriptions};

/// One attachment of a consumer to a subscription; grows with arrival, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConsumerId(u64);
