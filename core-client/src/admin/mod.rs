//! Calls that manage: streams, subscriptions, trims, lookups, the cluster itself.

mod cluster;
mod lookups;
mod readers;
mod streams;
mod subscriptions;
mod trims;

pub use cluster::ClusterDescription;
pub use lookups::ResourceKind;
pub use streams::{DeleteStreamOptions, ShardInfo, StreamInfo, StreamOptions};
pub use subscriptions::{ConsumerInfo, StartFrom, SubscriptionInfo, SubscriptionOptions};

use prost_types::Timestamp;

/// Milliseconds since 1970; `None` when the server sent no time.
fn timestamp_ms(time: Option<Timestamp>) -> Option<i64> {
    let time = time?;
    Some(time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000))
}
