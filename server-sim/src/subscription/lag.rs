//! How far a subscription is behind its stream.

use super::live::read_checkpoints;
use super::registry::Subscriptions;
use crate::error::Result;
use crate::store::{Lsn, ShardId, StoreError};
use std::collections::BTreeMap;

/// One shard of a subscription against the end of the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardLag {
    /// The shard.
    pub shard: ShardId,
    /// Everything up to this LSN is acknowledged.
    pub committed: Lsn,
    /// Everything up to this LSN was delivered since the subscription started on this node.
    pub delivered: Lsn,
    /// LSN of the last batch in the shard.
    pub tail: Lsn,
    /// Batches that are not acknowledged completely, delivered or not; those already trimmed do not count. An
    /// upper bound where LSNs of the store have gaps.
    pub batches: u64,
    /// Records delivered and not acknowledged.
    pub unacked_records: u64,
}

impl Subscriptions {
    /// Lag of every shard whose data is still there, in the order of their ids.
    ///
    /// # Errors
    /// [`Class::SubscriptionNotFound`](crate::error::Class::SubscriptionNotFound); what the stores report.
    pub async fn lag(&self, id: &str) -> Result<Vec<ShardLag>> {
        let entry = self.find(id).await?;
        let definition = entry.definition();
        let mut lags = BTreeMap::new();
        if let Some(live) = entry.live() {
            for progress in live.progress() {
                lags.insert(progress.shard, (progress.committed, progress.delivered, progress.unacked));
            }
        } else {
            let checkpoints = read_checkpoints(&definition, &*self.meta).await?;
            for (&shard, &first) in &definition.start {
                let committed = checkpoints.get(&shard).copied().unwrap_or(0).max(first.saturating_sub(1));
                lags.insert(shard, (committed, committed, 0));
            }
        }
        let mut found = Vec::with_capacity(lags.len());
        for (shard, (committed, delivered, unacked_records)) in lags {
            let (tail, readable) = match (self.log.tail(shard), self.log.trim_point(shard)) {
                (Ok(tail), Ok(readable)) => (tail, readable),
                (Err(StoreError::ShardNotFound(_)), _) | (_, Err(StoreError::ShardNotFound(_))) => continue,
                (Err(error), _) | (_, Err(error)) => return Err(error.into()),
            };
            let batches = tail.saturating_sub(committed.max(readable.saturating_sub(1)));
            found.push(ShardLag { shard, committed, delivered, tail, batches, unacked_records });
        }
        Ok(found)
    }
}
