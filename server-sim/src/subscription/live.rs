//! A subscription that has had consumers since this process started.
//!
//! One task delivers (`dispatch`), one writes checkpoints; both end with the subscription. After the last consumer
//! left, everything stays as it is and the next consumer continues.
//!
//! All of it hangs on the claim: without a valid one nothing leaves, and no checkpoint is written that is not guarded by it.

use super::ConsumerId;
use super::definition::Definition;
use super::delivery;
use super::outbox::Outbox;
use super::policy::Policy;
use super::state::{Introduction, Progress, Rules, Start, State};
use crate::cluster::ownership::{Claim, Ownership};
use crate::error::{Class, Result, ServerError};
use crate::stats::SubscriptionStats;
use crate::store::{Expect, LogStore, Lsn, MetaStore, ShardId, StoreError};
use crate::stream::{StreamId, Streams};
use bytes::Bytes;
use hstreamdb_proto::api::{Consumer, RecordId, StreamingFetchResponse};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// Acknowledgements are collected for this long before their checkpoint is written.
const CHECKPOINT_DELAY: Duration = Duration::from_millis(100);
/// Pause after a checkpoint that could not be written.
const CHECKPOINT_RETRY: Duration = Duration::from_secs(1);
/// Longest wait for a checkpoint somebody needs to be durable.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Live {
    pub(super) definition: Arc<Definition>,
    pub(super) log: Arc<dyn LogStore>,
    meta: Arc<dyn MetaStore>,
    pub(super) streams: Arc<Streams>,
    state: Mutex<State>,
    /// Where records go that were delivered too often.
    dead_letter: Mutex<Option<StreamId>>,
    /// Something the dispatcher should look at.
    pub(super) wake: Notify,
    /// A checkpoint may have moved.
    pub(super) dirty: Notify,
    pub(super) stop: CancellationToken,
    stats: Arc<SubscriptionStats>,
    ownership: Arc<Ownership>,
    claim: Claim,
    /// Held while checkpoints are written, so that they never go back.
    writing: tokio::sync::Mutex<Writing>,
}

/// How checkpoints can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Freely,
    /// Whether the last write took effect, or will yet, is not known: it needs to be fenced off before the next one.
    InDoubt,
    /// Never again.
    Sealed,
}

/// What a subscription stands on.
pub(super) struct Foundation {
    pub(super) log: Arc<dyn LogStore>,
    pub(super) meta: Arc<dyn MetaStore>,
    pub(super) streams: Arc<Streams>,
    pub(super) ownership: Arc<Ownership>,
}

impl Live {
    /// Continues a subscription from its checkpoints, which are read after it was claimed: no earlier owner can move
    /// them any more.
    pub(super) async fn start(
        definition: Arc<Definition>,
        foundation: Foundation,
        claim: Claim,
        stats: Arc<SubscriptionStats>,
    ) -> Result<Arc<Self>> {
        let Foundation { log, meta, streams, ownership } = foundation;
        let checkpoints = read_checkpoints(&definition, &*meta).await?;
        let starts = definition.start.iter().map(|(&shard, &first)| {
            let checkpoint = checkpoints.get(&shard).copied();
            Start { shard, done: checkpoint.unwrap_or(0).max(first.saturating_sub(1)), checkpoint }
        });
        let rules = Rules {
            subscription: definition.id.clone(),
            ack_timeout: definition.ack_timeout(),
            max_unacked: definition.max_unacked(),
            redeliver_on_disconnect: definition.policy.redeliver_on_disconnect,
            max_deliveries: definition.policy.max_deliveries,
        };
        let state = State::new(rules, starts, Instant::now()).counted_by(stats.clone());
        let dead_letter = definition.policy.dead_letter.as_ref().map(|dead_letter| dead_letter.stream);
        let live = Arc::new(Live {
            definition,
            log,
            meta,
            streams,
            ownership,
            claim,
            state: Mutex::new(state),
            dead_letter: Mutex::new(dead_letter),
            wake: Notify::new(),
            dirty: Notify::new(),
            stop: CancellationToken::new(),
            stats,
            writing: tokio::sync::Mutex::new(Writing::Freely),
        });
        tokio::spawn(live.clone().deliver());
        tokio::spawn(live.clone().write_checkpoints());
        Ok(live)
    }

    /// Whether this node may deliver this very moment.
    pub(super) fn owned(&self) -> bool {
        self.claim.is_valid()
    }

    /// Sends all consumers to the node that owns the subscription now.
    pub(super) fn fenced(&self) {
        self.end(moved(&self.definition.id));
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a consumer.
    ///
    /// # Errors
    /// [`Class::ConsumerExists`]; [`Class::SubscriptionInvalidError`] when this subscription is ending.
    pub(super) fn attach(&self, introduction: Introduction) -> Result<(ConsumerId, Arc<Outbox>)> {
        let name = introduction.name.clone();
        let mut state = self.state();
        if state.ended().is_some() {
            return Err(ServerError::new(Class::SubscriptionInvalidError, self.definition.id.clone()));
        }
        let attached = state.attach(introduction, Instant::now());
        drop(state);
        let attached = attached.ok_or_else(|| ServerError::new(Class::ConsumerExists, name))?;
        self.wake.notify_one();
        Ok(attached)
    }

    /// Removes a consumer; fine if it is gone already.
    pub(super) fn detach(&self, id: ConsumerId) {
        self.state().detach(id, Instant::now());
        self.wake.notify_one();
        self.dirty.notify_one();
    }

    /// Takes the acknowledgements of one message, from any consumer.
    pub(super) fn ack(&self, ids: &[RecordId], informed: bool) {
        self.stats.request(ids.len());
        if !ids.is_empty() && self.state().ack(ids, informed) {
            self.wake.notify_one();
            self.dirty.notify_one();
        }
    }

    /// Notes a message that left.
    pub(super) fn sent(&self, message: &StreamingFetchResponse) {
        // Without a record it confirms checkpoints.
        let record = message.received_records.as_ref().and_then(|received| received.record.as_ref());
        match record {
            Some(record) => self.stats.sent(record.payload.len(), delivery::records(message)),
            None => self.stats.sent(0, 0),
        }
    }

    /// Tells the dispatcher that there is room again.
    pub(super) fn room(&self) {
        self.wake.notify_one();
    }

    pub(super) fn consumers(&self) -> Vec<Consumer> {
        self.state().consumers()
    }

    /// Durable checkpoints, 0 where there is none.
    pub(super) fn checkpoints(&self) -> Vec<(ShardId, Lsn)> {
        self.state().checkpoints()
    }

    /// How far every shard is.
    pub(super) fn progress(&self) -> Vec<Progress> {
        self.state().progress()
    }

    /// Tells the incarnation of the subscription that is running.
    pub(super) fn incarnation(&self) -> u64 {
        self.definition.incarnation
    }

    /// Follows another policy from now on.
    pub(super) fn set_policy(&self, policy: &Policy) {
        *self.dead_letter.lock().unwrap_or_else(PoisonError::into_inner) =
            policy.dead_letter.as_ref().map(|dead_letter| dead_letter.stream);
        self.state().set_policy(policy.redeliver_on_disconnect, policy.max_deliveries);
        self.wake.notify_one();
    }

    /// The stream for records that were delivered too often.
    pub(super) fn dead_letter(&self) -> Option<StreamId> {
        *self.dead_letter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ended(&self) -> bool {
        self.state().ended().is_some()
    }

    /// Ends every consumer's stream with `reason` and stops delivering.
    pub(super) fn end(&self, reason: ServerError) {
        self.state().end(reason);
        self.stop.cancel();
    }

    /// As [`Live::end`], but only if nobody is attached; false otherwise.
    pub(super) fn end_if_idle(&self, reason: ServerError) -> bool {
        let mut state = self.state();
        if state.has_consumers() {
            return false;
        }
        state.end(reason);
        self.stop.cancel();
        true
    }

    /// Makes the checkpoints of everything acknowledged so far durable.
    ///
    /// # Errors
    /// What the store reports, or UNAVAILABLE after [`FLUSH_TIMEOUT`]; the acknowledgements still count while
    /// this process lives, and the write is tried again. UNAVAILABLE if the subscription moved to another node, and the
    /// reason of its end if it ended before they were written: those acknowledgements are lost.
    pub(super) async fn flush(self: &Arc<Self>) -> Result<()> {
        // A task of its own: dropped half-way, the write could land after a later one.
        let written = tokio::spawn(self.clone().write_once());
        match tokio::time::timeout(FLUSH_TIMEOUT, written).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(ServerError::plain(Code::Internal, format!("checkpoint: {error}"))),
            Err(_) => Err(ServerError::plain(
                Code::Unavailable,
                format!(
                    "the checkpoint of subscription {:?} was not written within {FLUSH_TIMEOUT:?}; records \
                     acknowledged last may be delivered again",
                    self.definition.id
                ),
            )),
        }
    }

    /// Waits for a checkpoint being written and lets none follow.
    pub(super) async fn seal(&self) {
        *self.writing.lock().await = Writing::Sealed;
    }

    async fn write_once(self: Arc<Self>) -> Result<()> {
        let mut writing = self.writing.lock().await;
        let unsaved = self.state().unsaved();
        if unsaved.is_empty() {
            return Ok(());
        }
        if *writing == Writing::Sealed {
            let ended = self.state().ended().cloned();
            return Err(ended.unwrap_or_else(|| moved(&self.definition.id)));
        }
        let prefix = self.definition.checkpoints();
        let values = unsaved
            .iter()
            .map(|(shard, lsn)| (format!("{prefix}{shard}"), Bytes::from(lsn.to_string())))
            .collect();
        let written = async {
            if *writing == Writing::InDoubt {
                self.ownership.renew_guard(&self.claim).await?;
                *writing = Writing::Freely;
            }
            self.meta.put_many(values, self.claim.guard()).await
        };
        match written.await {
            Ok(()) => {}
            Err(StoreError::Conflict { .. }) => {
                *writing = Writing::Sealed;
                self.ownership.fenced(&self.claim);
                self.fenced();
                return Err(moved(&self.definition.id));
            }
            Err(error) => {
                *writing = Writing::InDoubt;
                return Err(error.into());
            }
        }
        let mut state = self.state();
        for (shard, lsn) in unsaved {
            state.saved(shard, lsn);
        }
        Ok(())
    }

    async fn write_checkpoints(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.claim.lost().cancelled() => return self.lost().await,
                () = self.dirty.notified() => {}
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.claim.lost().cancelled() => return self.lost().await,
                () = tokio::time::sleep(CHECKPOINT_DELAY) => {}
            }
            let flushed = tokio::select! {
                // A store that does not answer must not keep consumers from hearing of it; the write goes on by itself.
                () = self.claim.lost().cancelled() => return self.lost().await,
                flushed = self.flush() => flushed,
            };
            if let Err(error) = flushed {
                tracing::warn!(subscription = self.definition.id, %error, "checkpoint not written, trying again");
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = tokio::time::sleep(CHECKPOINT_RETRY) => self.dirty.notify_one(),
                }
            }
        }
    }

    /// The claim has ended.
    async fn lost(self: Arc<Self>) {
        self.fenced();
        // Nobody may have taken over yet; then what was acknowledged last is not delivered again.
        if let Err(error) = self.flush().await {
            tracing::debug!(subscription = self.definition.id, %error, "acknowledged last and not written");
        }
    }

    /// Removes the checkpoints of a definition that is gone; what remains is removed at the next start.
    pub(super) async fn forget_checkpoints(definition: &Definition, meta: &dyn MetaStore) {
        let keys = match meta.list(&definition.checkpoints()).await {
            Ok(entries) => entries.into_iter().map(|(key, _)| key).collect::<Vec<_>>(),
            Err(error) => {
                tracing::warn!(subscription = definition.id, %error, "checkpoints of a deleted subscription remain");
                return;
            }
        };
        // Together, so that the store can make them durable together.
        let deletions = keys.iter().map(|key| meta.delete(key, Expect::Any));
        for outcome in futures::future::join_all(deletions).await {
            if let Err(error) = outcome {
                tracing::warn!(subscription = definition.id, %error, "checkpoint of a deleted subscription remains");
            }
        }
    }
}

/// What consumers are told when the subscription is served by another node, or soon will be.
fn moved(id: &str) -> ServerError {
    let text = format!("subscription {id} moves to another node; look it up and attach again");
    ServerError::new(Class::ServerNotAvailable, text)
}

/// The durable checkpoints of a subscription.
///
/// # Errors
/// What the store reports; [`Code::DataLoss`] for one that cannot be read.
pub(super) async fn read_checkpoints(
    definition: &Definition,
    meta: &dyn MetaStore,
) -> Result<BTreeMap<ShardId, Lsn>> {
    let mut checkpoints = BTreeMap::new();
    for (key, value) in meta.list(&definition.checkpoints()).await? {
        let unreadable = || ServerError::plain(Code::DataLoss, format!("cannot read checkpoint {key:?}"));
        let (_, shard) = Definition::parse_checkpoint(&key).ok_or_else(unreadable)?;
        let text = std::str::from_utf8(&value.value).map_err(|_| unreadable())?;
        checkpoints.insert(shard, text.parse().map_err(|_| unreadable())?);
    }
    Ok(checkpoints)
}
