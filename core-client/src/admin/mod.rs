//! Calls that manage: streams, subscriptions, trims, queries, views, schemas, connectors, lookups, statistics, the
//! cluster itself.

mod answer;
mod cluster;
mod connectors;
mod lookups;
mod names;
mod queries;
mod readers;
mod row;
mod schemas;
mod stats;
mod streams;
mod subscriptions;
mod trims;
mod views;

pub use answer::AdminAnswer;
pub use cluster::ClusterDescription;
pub use connectors::{ConnectorInfo, ConnectorKind, ConnectorState};
pub use lookups::ResourceKind;
pub use queries::{ParsedSql, QueryInfo, QueryKind, TaskState};
pub use row::{Row, plain_row};
pub use schemas::{Column, Schema};
pub use stats::{
    ClusterRates, ClusterStats, NodeFailure, NodeStats, Stat, StatRefusal, StatSubject, StatUnit, StatValues,
    StreamRate,
};
pub use streams::{DeleteStreamOptions, ShardInfo, StreamInfo, StreamOptions};
pub use subscriptions::{ConsumerInfo, StartFrom, SubscriptionInfo, SubscriptionOptions};
pub use views::ViewInfo;

use crate::{
    client::Client,
    cluster::{ApiClient, Target},
    error::Result,
    retry::Operation,
};
use prost_types::Timestamp;

impl Client {
    /// A unary call whose request is sent as it is in every try.
    async fn unary<Q, A, F, Fut>(
        &self,
        operation: Operation,
        resource: Option<&str>,
        target: Target<'_>,
        request: Q,
        call: F,
    ) -> Result<A>
    where
        Q: Clone,
        F: Fn(ApiClient, Q) -> Fut,
        Fut: Future<Output = Result<tonic::Response<A>, tonic::Status>>,
    {
        self.cluster.call(operation, resource, target, |client| call(client, request.clone())).await
    }
}

/// Milliseconds since 1970; `None` when the server sent no time.
fn timestamp_ms(time: Option<Timestamp>) -> Option<i64> {
    let time = time?;
    Some(time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000))
}

/// Milliseconds since 1970 out of seconds; `None` when the server sent none.
fn positive_secs_as_ms(seconds: i64) -> Option<i64> {
    (seconds > 0).then(|| seconds.saturating_mul(1000))
}
