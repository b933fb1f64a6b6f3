//! Subscriptions: who reads which stream from where, what is delivered to whom, what is acknowledged.
//!
//! | file | what |
//! | --- | --- |
//! | `registry` | which subscriptions exist: create, list, delete, attach a consumer |
//! | `entries` | all of them as this node knows them, following the store |
//! | `definition` | what is stored about one |
//! | `live` | one that has had consumers since this process started: its tasks and checkpoints |
//! | `lag`, `seek` | how far one is, and how to move it |
//! | `policy` | what one may ask for beyond the published protocol |
//! | `state` | every decision about delivery, without I/O |
//! | `shard` | how far one shard was read, delivered, acknowledged |
//! | `ack_window`, `open_records` | what one shard has in flight |
//! | `assignment` | which consumer owns which shard |
//! | `share` | how much of the window each consumer can count on |
//! | `agenda` | which shards have something to do |
//! | `outbox` | messages on their way to one consumer |
//! | `dispatch` | the task that delivers |
//! | `delivery` | a stored batch, or a part of it, as a message |
//! | `dead_letter` | records delivered too often, as batches of another stream |
//! | `fetch` | one consumer's call |

mod ack_window;
mod agenda;
mod assignment;
mod dead_letter;
mod definition;
mod delivery;
mod dispatch;
mod early_acks;
mod entries;
mod fetch;
mod lag;
mod live;
mod open_records;
mod outbox;
mod policy;
mod registry;
mod seek;
mod shard;
mod share;
mod state;

pub use definition::Definition;
pub use fetch::{Caller, Fetch};
pub use lag::ShardLag;
pub use policy::{DeadLetter, Policy, PolicyChange};
pub use registry::{Claiming, NewSubscription, NotServed, Serving, Subscriptions};
pub use seek::Position;

/// One attachment of a consumer to a subscription; grows with arrival, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConsumerId(u64);
