//! What the pipeline needs from the cluster: one try of one append, and the shards of the stream.

use crate::{error::Result, metrics::Metrics, record::RecordId, routing::ShardMap};
use futures::future::BoxFuture;
use hstreamdb_proto::api::AppendRequest;

/// Identity and place of a batch among all batches of its producer on one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    /// Random identity of the producer, never 0.
    pub producer: u128,
    /// A higher epoch fences all lower ones.
    pub epoch: u32,
    /// From 0 in every epoch, growing by one.
    pub sequence: u64,
}

/// A batch is stored.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// One per record.
    pub ids: Vec<RecordId>,
    /// Whether the node that answered honours stamps.
    pub honours_stamps: bool,
}

/// The way to the cluster. One try each, with a deadline of its own; choosing another node after a failed one
/// is its business.
pub(super) trait Transport: Send + Sync + 'static {
    /// Sends a batch once. One that is `repeatable` need not be waited for when its node says nothing at all.
    fn append(
        &self,
        request: AppendRequest,
        stamp: Option<Stamp>,
        repeatable: bool,
    ) -> BoxFuture<'_, Result<Answer>>;

    /// The shards the stream has now, fetched anew.
    fn shards(&self) -> BoxFuture<'_, Result<ShardMap>>;

    /// Where to count.
    fn metrics(&self) -> &Metrics;
}
