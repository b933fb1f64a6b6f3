//! Moving a subscription to another position, forward or back.

use super::definition::Definition;
use super::entries::{Entry, Phase};
use super::live::{Live, read_checkpoints};
use super::registry::{Claiming, Subscriptions, in_task};
use crate::cluster::ownership::Claim;
use crate::error::{Class, Result, ServerError};
use crate::store::{Lsn, ShardId, StoreError};
use hstreamdb_proto::api::RecordId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a subscription is to continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// At the oldest record that is still stored, on every shard.
    Earliest,
    /// Behind what is stored now, on every shard.
    Latest,
    /// At the first batch appended at or after this time, in milliseconds since 1970, on every shard.
    Time(u64),
    /// At the batch of this record; other shards stay where they are.
    Record(RecordId),
}

impl Subscriptions {
    /// Moves a subscription; durable on return. Checkpoints and acknowledgements given so far do not count any more.
    /// With `force` attached consumers are sent away with UNAVAILABLE, to come back and continue from there;
    /// otherwise they are a reason to refuse. Answers the first LSN to deliver per shard.
    ///
    /// # Errors
    /// [`Class::SubscriptionNotFound`], [`Class::SubscriptionIsDeleting`], [`Class::FoundActiveConsumers`],
    /// [`Class::ShardNotExists`] for a record of another stream, [`Class::WrongServer`], what the stores report; nothing
    /// has moved then.
    pub async fn seek(
        self: &Arc<Self>,
        id: &str,
        position: Position,
        force: bool,
    ) -> Result<BTreeMap<ShardId, Lsn>> {
        let entry = self.find(id).await?;
        let claim = self.claim(id, Claiming::IfPlacedHere).await?;
        let this = self.clone();
        in_task(async move { this.seek_now(&entry, &claim, position, force).await }).await
    }

    async fn seek_now(
        &self,
        entry: &Entry,
        claim: &Claim,
        position: Position,
        force: bool,
    ) -> Result<BTreeMap<ShardId, Lsn>> {
        let _turn = entry.turn.lock().await;
        let definition = entry.definition();
        let id = &definition.id;
        let live = match &*entry.phase() {
            Phase::Deleting => return Err(ServerError::new(Class::SubscriptionIsDeleting, id.clone())),
            Phase::Running(live) => Some(live.clone()),
            Phase::Idle => None,
        };
        if let Some(live) = live.as_ref().filter(|live| !live.owned()) {
            // From before it was another node's.
            live.fenced();
            live.seal().await;
        }
        let live = live.filter(|live| live.owned());
        // Before anybody is sent away, see that the position makes sense.
        self.starts(&definition, position).await?;
        if let Some(live) = &live {
            let moved = || {
                let text = format!("subscription {id} was moved to another position; attach again");
                ServerError::new(Class::ServerNotAvailable, text)
            };
            if force {
                live.end(moved());
            } else if !live.end_if_idle(moved()) {
                return Err(ServerError::new(Class::FoundActiveConsumers, id.clone()));
            }
            // What was acknowledged decides where the shards continue that do not move.
            live.flush().await?;
            live.seal().await;
        }
        let start = self.starts(&definition, position).await?;
        let moved = Definition { incarnation: rand::random(), start: start.clone(), ..(*definition).clone() };
        // One value changes, so a stop finds the subscription moved or not at all. The old checkpoints belong to
        // the old incarnation.
        let outcome = entry.redefine(moved, &*self.meta, claim).await;
        *entry.phase() = Phase::Idle;
        outcome?;
        Live::forget_checkpoints(&definition, &*self.meta).await;
        Ok(start)
    }

    async fn starts(&self, definition: &Definition, position: Position) -> Result<BTreeMap<ShardId, Lsn>> {
        if let Position::Record(id) = position
            && !definition.start.contains_key(&id.shard_id)
        {
            let text = format!("shard {} is none of subscription {}", id.shard_id, definition.id);
            return Err(ServerError::new(Class::ShardNotExists, text));
        }
        let checkpoints = read_checkpoints(definition, &*self.meta).await?;
        if matches!(position, Position::Earliest | Position::Latest) {
            self.log.catch_up(&definition.start.keys().copied().collect::<Vec<_>>()).await?;
        }
        let mut starts = BTreeMap::new();
        for (&shard, &first) in &definition.start {
            let at = match position {
                Position::Earliest => self.log.trim_point(shard),
                Position::Latest => self.log.tail(shard).map(|tail| tail.saturating_add(1)),
                Position::Time(ms) => self.log.find_time(shard, ms).await,
                Position::Record(id) if id.shard_id == shard => Ok(id.batch_id.max(1)),
                Position::Record(_) => Ok(checkpoints
                    .get(&shard)
                    .map_or(first, |checkpoint| first.max(checkpoint.saturating_add(1)))),
            };
            match at {
                Ok(at) => starts.insert(shard, at),
                // Deleted with its stream; it delivers nothing wherever it starts.
                Err(StoreError::ShardNotFound(_)) => starts.insert(shard, first),
                Err(error) => return Err(error.into()),
            };
        }
        Ok(starts)
    }
}
