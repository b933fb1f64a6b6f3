//! Which subscriptions exist.
//!
//! Definitions stand in the [`MetaStore`], and every node follows them. What changes several things runs in a task of its
//! own, so that a caller who goes away cannot leave them apart. How creating one goes together with the deletion of its
//! stream on another node is told in [`Streams`]'s module.

use super::definition::{CHECKPOINTS, DEFINITIONS, Definition};
use super::entries::{Entries, Entry, Phase};
use super::fetch::{Caller, Fetch};
use super::live::{Foundation, Live, read_checkpoints};
use super::policy::{Policy, PolicyChange};
use super::state::Introduction;
use crate::cluster::NodeId;
use crate::cluster::ownership::{Claim, ClaimError, Keeper, Kind, Ownership};
use crate::error::{Class, Result, ServerError};
use crate::stats::SubscriptionStats;
use crate::store::{Expect, Follower, LogStore, Lsn, MetaStore, ShardId, StoreError, View};
use crate::stream::{StreamId, Streams};
use async_trait::async_trait;
use futures::Stream;
use hstreamdb_proto::api::{Consumer, SpecialOffset, StreamingFetchRequest};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::{Code, Status};

/// Times that the removal of a definition is begun anew because it was changed.
const REMOVALS: usize = 32;
/// Pause between attempts to find out whether the stream of a new subscription is still there.
const SETTLE_AGAIN: Duration = Duration::from_secs(1);

/// Every subscription of this store.
#[derive(Debug)]
pub struct Subscriptions {
    pub(super) log: Arc<dyn LogStore>,
    pub(super) meta: Arc<dyn MetaStore>,
    pub(super) streams: Arc<Streams>,
    pub(super) ownership: Arc<Ownership>,
    entries: Arc<Follower<Entries>>,
    closed: AtomicBool,
}

/// Whether a subscription that nobody has is taken although it would be placed on another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claiming {
    /// No: for calls of clients.
    IfPlacedHere,
    /// Yes: for calls that another node passed on.
    Anyhow,
}

/// Why a subscription cannot be fetched from here.
#[derive(Debug, Clone, PartialEq)]
pub enum NotServed {
    /// Another node serves it, or is to.
    Elsewhere(NodeId),
    /// It cannot be.
    Refused(ServerError),
}

impl From<ClaimError> for NotServed {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Elsewhere(node) => NotServed::Elsewhere(node),
            error => NotServed::Refused(error.into()),
        }
    }
}

impl From<ServerError> for NotServed {
    fn from(error: ServerError) -> Self {
        NotServed::Refused(error)
    }
}

impl From<NotServed> for ServerError {
    fn from(not_served: NotServed) -> Self {
        match not_served {
            NotServed::Elsewhere(node) => ClaimError::Elsewhere(node).into(),
            NotServed::Refused(error) => error,
        }
    }
}

/// A subscription that this node serves.
#[derive(Debug)]
pub struct Serving(Arc<Live>);

impl Serving {
    /// Attaches the consumer that `first` names; the rest of `requests` are its acknowledgements.
    ///
    /// # Errors
    /// [`Class::SubscriptionInvalidError`], [`Class::ConsumerExists`].
    pub fn attach<S>(self, first: &StreamingFetchRequest, requests: S, caller: Caller) -> Result<Fetch>
    where
        S: Stream<Item = Result<StreamingFetchRequest, Status>> + Send + Unpin + 'static,
    {
        let live = self.0;
        let Caller { uri, user_agent, confirm, incarnation, instance, memory } = caller;
        if incarnation.is_some_and(|known| known != live.incarnation()) {
            // It comes back once it has learned the new one.
            let text = format!("subscription {} was moved or created again", first.subscription_id);
            return Err(ServerError::new(Class::SubscriptionInvalidError, text));
        }
        let name = first.consumer_name.clone();
        let (consumer, outbox) =
            live.attach(Introduction { name, uri, user_agent, confirm, instance, memory })?;
        let fetch = Fetch::new(live, consumer, outbox, incarnation.is_some());
        Ok(fetch.read(first, requests))
    }
}

/// What a creator asks for; names and offset already validated.
#[derive(Debug, Clone)]
pub struct NewSubscription {
    /// Name of the subscription.
    pub id: String,
    /// Name of the stream to read.
    pub stream_name: String,
    /// Seconds until a delivered record is delivered again.
    pub ack_timeout_secs: i32,
    /// Most records in flight; 0 delivers nothing.
    pub max_unacked: i32,
    /// `SpecialOffset` as sent.
    pub offset: i32,
    /// What it asks for beyond the published protocol.
    pub policy: PolicyChange,
}

impl Subscriptions {
    /// Reads all definitions and finishes what a stop left half done.
    ///
    /// # Errors
    /// What the stores report, and definitions that cannot be read.
    pub async fn open(
        log: Arc<dyn LogStore>,
        meta: Arc<dyn MetaStore>,
        streams: Arc<Streams>,
        ownership: Arc<Ownership>,
    ) -> Result<Arc<Self>> {
        // Before the definitions: a definition is written before its checkpoints.
        let checkpoints = meta.list(CHECKPOINTS).await?;
        let entries = Follower::open(meta.clone(), &[DEFINITIONS], Entries::default()).await?;
        let incarnations: HashSet<u64> =
            entries.read().iter().map(|entry| entry.definition().incarnation).collect();
        for (key, _) in checkpoints {
            let known = Definition::parse_checkpoint(&key)
                .is_none_or(|(incarnation, _)| incarnations.contains(&incarnation));
            if !known {
                meta.delete(&key, Expect::Any).await?;
            }
        }
        let closed = AtomicBool::new(false);
        let subscriptions = Subscriptions { log, meta, streams, ownership, entries, closed };
        subscriptions.withdraw_orphans().await?;
        for stream in subscriptions.streams.archived() {
            subscriptions.release(stream.id).await?;
        }
        let subscriptions = Arc::new(subscriptions);
        let keeper: Weak<Subscriptions> = Arc::downgrade(&subscriptions);
        subscriptions.ownership.keep(Kind::Subscription, keeper);
        Ok(subscriptions)
    }

    /// The right to serve a subscription, if this node is to have it.
    pub(super) async fn claim(&self, id: &str, how: Claiming) -> Result<Claim, ClaimError> {
        match how {
            Claiming::IfPlacedHere => self.ownership.claim(Kind::Subscription, id).await,
            Claiming::Anyhow => self.ownership.claim_here(Kind::Subscription, id).await,
        }
    }

    fn read(&self) -> View<'_, Entries> {
        self.entries.read()
    }

    pub(super) fn entry(&self, id: &str) -> Result<Arc<Entry>> {
        let entry = self.read().get(id).cloned();
        entry.ok_or_else(|| ServerError::new(Class::SubscriptionNotFound, id))
    }

    /// The same, but the store is asked before it is said that there is none.
    pub(super) async fn find(&self, id: &str) -> Result<Arc<Entry>> {
        if let Ok(entry) = self.entry(id) {
            return Ok(entry);
        }
        self.entries.fetch(&Definition::key(id)).await?;
        self.entry(id)
    }

    /// Whether a subscription reads this stream, with everything that was written before this call, by whatever node.
    ///
    /// # Errors
    /// What the store reports: then it is not known.
    pub async fn is_read(&self, stream: StreamId) -> Result<bool> {
        self.entries.fresh().await?;
        Ok(self.read().is_read(stream))
    }

    /// True if there is a subscription of this name.
    pub fn exists(&self, id: &str) -> bool {
        self.read().get(id).is_some()
    }

    /// The subscription of this name.
    ///
    /// # Errors
    /// [`Class::SubscriptionNotFound`].
    pub fn get(&self, id: &str) -> Result<Arc<Definition>> {
        Ok(self.entry(id)?.definition())
    }

    /// All subscriptions whose name starts with `prefix`, in name order.
    pub fn with_prefix(&self, prefix: &str) -> Vec<Arc<Definition>> {
        self.read().with_prefix(prefix).map(|entry| entry.definition()).collect()
    }

    /// Durable checkpoints by shard, 0 where nothing is committed; nothing at all before the first consumer
    /// of this process.
    ///
    /// # Errors
    /// [`Class::SubscriptionNotFound`]; what the store reports.
    pub async fn checkpoints(&self, id: &str) -> Result<Vec<(ShardId, Lsn)>> {
        let entry = self.entry(id)?;
        let Some(live) = entry.live() else { return Ok(Vec::new()) };
        if live.owned() {
            return Ok(live.checkpoints());
        }
        // It stood still or was cut off: another node may have moved them since.
        Ok(read_checkpoints(&entry.definition(), &*self.meta).await?.into_iter().collect())
    }

    /// Attached consumers.
    ///
    /// # Errors
    /// [`Class::SubscriptionNotFound`].
    pub fn consumers(&self, id: &str) -> Result<Vec<Consumer>> {
        Ok(self.entry(id)?.live().map(|live| live.consumers()).unwrap_or_default())
    }

    /// What is counted about every subscription, in name order.
    pub fn stats(&self) -> Vec<(String, Arc<SubscriptionStats>)> {
        self.read().iter().map(|entry| (entry.definition().id.clone(), entry.stats.clone())).collect()
    }

    /// The name under which lists show the stream of a subscription.
    pub fn stream_name(&self, definition: &Definition) -> String {
        match self.streams.by_id(definition.stream) {
            Some(stream) if !stream.archived => stream.name.clone(),
            _ => "__deleted_stream__".to_owned(),
        }
    }

    /// The name under which a subscription itself shows its stream: of an archived one the internal name.
    pub fn stream_name_inside(&self, definition: &Definition) -> String {
        match self.streams.by_id(definition.stream) {
            Some(stream) if !stream.archived => stream.name.clone(),
            _ => format!("__archive__{}_{}", definition.stream_name, definition.stream),
        }
    }

    /// Creates a subscription; durable on return. What is appended afterwards is delivered even to LATEST.
    ///
    /// # Errors
    /// [`Class::NonExistentStream`], [`Class::InvalidSubscriptionOffset`], [`Class::SubscriptionExists`], those of
    /// a [`PolicyChange`], what the stores report.
    pub async fn create(self: &Arc<Self>, new: NewSubscription) -> Result<Arc<Definition>> {
        let this = self.clone();
        in_task(async move { this.create_now(new).await }).await
    }

    async fn create_now(self: &Arc<Self>, new: NewSubscription) -> Result<Arc<Definition>> {
        let Some(stream) = self.streams.find(&new.stream_name).await? else {
            return Err(ServerError::new(Class::NonExistentStream, new.stream_name));
        };
        let offset = SpecialOffset::try_from(new.offset)
            .map_err(|_| ServerError::new(Class::InvalidSubscriptionOffset, Value::Null))?;
        if self.exists(&new.id) {
            return Err(ServerError::new(Class::SubscriptionExists, new.id));
        }
        let policy = Policy::default().changed(new.policy, stream.id, &self.streams)?;
        let shards: Vec<ShardId> = stream.shards.iter().map(|shard| shard.id).collect();
        self.log.catch_up(&shards).await?;
        let mut start = BTreeMap::new();
        for shard in &stream.shards {
            let first = match offset {
                SpecialOffset::Earliest => self.log.trim_point(shard.id)?,
                SpecialOffset::Latest => self.log.tail(shard.id)?.saturating_add(1),
            };
            start.insert(shard.id, first);
        }
        let definition = Definition {
            id: new.id,
            incarnation: rand::random(),
            stream: stream.id,
            stream_name: new.stream_name,
            ack_timeout_secs: new.ack_timeout_secs,
            max_unacked: new.max_unacked,
            offset: new.offset,
            created_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            start,
            policy,
        };
        let key = Definition::key(&definition.id);
        let written = self.entries.put(&key, definition.encode()?, Expect::Absent).await;
        let stays = match written {
            Ok(_) => self.streams.confirm(&definition.stream_name, definition.stream).await,
            Err(StoreError::Conflict { .. }) => {
                return Err(ServerError::new(Class::SubscriptionExists, definition.id));
            }
            Err(error @ StoreError::Unreachable(_)) => Err(error.into()),
            Err(error) => return Err(error.into()),
        };
        match stays {
            Ok(true) => Ok(Arc::new(definition)),
            Ok(false) => {
                self.withdraw(&definition).await?;
                Err(ServerError::new(Class::NonExistentStream, definition.stream_name))
            }
            Err(error) => {
                tokio::spawn(settle(Arc::downgrade(self), definition));
                Err(error)
            }
        }
    }

    /// Takes a subscription back whose stream was deleted while it was created, and lets the data go that were kept
    /// for it.
    async fn withdraw(&self, definition: &Definition) -> Result<()> {
        self.remove(definition).await?;
        self.release(definition.stream).await
    }

    /// Takes back what a node that stopped could not. What still has data is left alone: its stream may be what is lost.
    async fn withdraw_orphans(&self) -> Result<()> {
        self.streams.fresh().await?;
        let definitions: Vec<Arc<Definition>> = self.read().iter().map(|entry| entry.definition()).collect();
        for definition in definitions {
            let gone = |shard: &ShardId| matches!(self.log.tail(*shard), Err(StoreError::ShardNotFound(_)));
            if self.streams.by_id(definition.stream).is_none() && definition.start.keys().all(gone) {
                let subscription = &definition.id;
                tracing::warn!(subscription, "its stream was deleted while it was created; it is removed");
                self.remove(&definition).await?;
            }
        }
        Ok(())
    }

    /// Removes a definition, unless another subscription has its name by now.
    async fn remove(&self, definition: &Definition) -> Result<()> {
        let key = Definition::key(&definition.id);
        for _ in 0..REMOVALS {
            let Some(found) = self.entries.fetch(&key).await? else { return Ok(()) };
            if Definition::decode(&key, &found.value)?.incarnation != definition.incarnation {
                return Ok(());
            }
            match self.entries.delete(&key, Expect::Version(found.version)).await {
                Ok(()) => return Ok(()),
                // Its policy was changed.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let text = format!("subscription {} is changed by others at the same time; try again", definition.id);
        Err(ServerError::plain(Code::Aborted, text))
    }

    /// Deletes a subscription with its checkpoints, and the data of its stream if that was deleted before and
    /// this was its last reader. With `force` attached consumers are sent away, otherwise they are a reason
    /// to refuse.
    ///
    /// # Errors
    /// [`Class::SubscriptionNotFound`], [`Class::FoundActiveConsumers`], [`Class::SubscriptionIsDeleting`],
    /// [`Class::WrongServer`], what the stores report; in the last case the subscription may be gone after a restart.
    pub async fn delete(self: &Arc<Self>, id: &str, force: bool) -> Result<()> {
        let entry = self.find(id).await?;
        let claim = self.claim(id, Claiming::IfPlacedHere).await?;
        let this = self.clone();
        in_task(async move {
            this.delete_now(&entry, force).await?;
            if let Err(error) = this.ownership.forget(&claim).await {
                let subscription = &entry.definition().id;
                tracing::warn!(subscription, %error, "who owned a deleted subscription is still written");
            }
            Ok(())
        })
        .await
    }

    async fn delete_now(&self, entry: &Entry, force: bool) -> Result<()> {
        let id = &entry.definition().id;
        let deleting = || ServerError::new(Class::SubscriptionIsDeleting, id.clone());
        if matches!(*entry.phase(), Phase::Deleting) {
            return Err(deleting());
        }
        let _turn = entry.turn.lock().await;
        let live = {
            let mut phase = entry.phase();
            let live = match &*phase {
                Phase::Deleting => return Err(deleting()),
                Phase::Running(live) => Some(live.clone()),
                Phase::Idle => None,
            };
            if let Some(live) = &live {
                if force {
                    live.end(deleting());
                } else if !live.end_if_idle(deleting()) {
                    return Err(ServerError::new(Class::FoundActiveConsumers, id.clone()));
                }
            }
            *phase = Phase::Deleting;
            live
        };
        if let Some(live) = live {
            // Until it is certain that the subscription goes, its checkpoints are worth keeping.
            if let Err(error) = live.flush().await {
                tracing::warn!(subscription = id, %error, "last checkpoint not written");
            }
            live.seal().await;
        }
        let definition = entry.definition();
        if let Err(error) = self.remove(&definition).await {
            *entry.phase() = Phase::Idle;
            return Err(error);
        }
        Live::forget_checkpoints(&definition, &*self.meta).await;
        if let Err(error) = self.release(definition.stream).await {
            tracing::warn!(subscription = id, %error, "data of its deleted stream remains until the next start");
        }
        Ok(())
    }

    /// Changes what a subscription asks for beyond the published protocol; durable on return, and followed at once.
    ///
    /// # Errors
    /// [`Class::SubscriptionNotFound`], [`Class::SubscriptionIsDeleting`], [`Class::WrongServer`], those of a
    /// [`PolicyChange`], what the stores report.
    pub async fn set_policy(self: &Arc<Self>, id: &str, change: PolicyChange) -> Result<Policy> {
        let entry = self.find(id).await?;
        let claim = self.claim(id, Claiming::IfPlacedHere).await?;
        let this = self.clone();
        in_task(async move {
            let _turn = entry.turn.lock().await;
            let definition = entry.definition();
            if matches!(*entry.phase(), Phase::Deleting) {
                return Err(ServerError::new(Class::SubscriptionIsDeleting, definition.id.clone()));
            }
            let policy = definition.policy.changed(change, definition.stream, &this.streams)?;
            entry
                .redefine(Definition { policy: policy.clone(), ..(*definition).clone() }, &*this.meta, &claim)
                .await?;
            if let Some(live) = entry.live() {
                live.set_policy(&policy);
            }
            Ok(policy)
        })
        .await
    }

    /// Lets the data of an archived stream go if nothing reads it.
    async fn release(&self, stream: StreamId) -> Result<()> {
        if self.is_read(stream).await? { Ok(()) } else { self.streams.drop_archived(stream).await }
    }

    /// The subscription, served from here.
    ///
    /// # Errors
    /// [`NotServed::Elsewhere`] if another node serves it; [`Class::SubscriptionNotFound`],
    /// [`Class::SubscriptionInvalidError`], [`Class::ServerNotAvailable`], what the stores report.
    pub async fn serve(self: &Arc<Self>, id: &str, how: Claiming) -> Result<Serving, NotServed> {
        let entry = self.find(id).await?;
        let claim = self.claim(id, how).await?;
        let this = self.clone();
        Ok(Serving(in_task(async move { this.start(&entry, claim).await }).await?))
    }

    /// Attaches the consumer that `first` names; the rest of `requests` are its acknowledgements.
    ///
    /// # Errors
    /// Those of [`Subscriptions::serve`], with [`Class::WrongServer`] if another node serves it, and those of
    /// [`Serving::attach`].
    pub async fn fetch<S>(
        self: &Arc<Self>,
        first: StreamingFetchRequest,
        requests: S,
        caller: Caller,
    ) -> Result<Fetch>
    where
        S: Stream<Item = Result<StreamingFetchRequest, Status>> + Send + Unpin + 'static,
    {
        self.serve(&first.subscription_id, Claiming::IfPlacedHere).await?.attach(&first, requests, caller)
    }

    /// The running subscription, started if need be.
    async fn start(&self, entry: &Arc<Entry>, claim: Claim) -> Result<Arc<Live>> {
        let _turn = entry.turn.lock().await;
        if self.closed.load(Ordering::SeqCst) {
            return Err(stopping());
        }
        let current = entry.phase().clone();
        match current {
            Phase::Deleting => {
                return Err(ServerError::new(Class::SubscriptionInvalidError, entry.definition().id.clone()));
            }
            Phase::Running(live) if !live.ended() && live.owned() => return Ok(live),
            Phase::Running(live) if live.owned() => {
                // Delivery failed: begin again from what was acknowledged.
                live.flush().await?;
                live.seal().await;
            }
            Phase::Running(live) => {
                // It was another node's meanwhile, or may have been.
                live.fenced();
                live.seal().await;
            }
            Phase::Idle => {}
        }
        // Whoever served it before may have moved or deleted it.
        self.entries.fresh().await?;
        let definition = entry.definition();
        if !self.read().get(&definition.id).is_some_and(|now| Arc::ptr_eq(now, entry)) {
            *entry.phase() = Phase::Idle;
            return Err(ServerError::new(Class::SubscriptionInvalidError, definition.id.clone()));
        }
        let foundation = Foundation {
            log: self.log.clone(),
            meta: self.meta.clone(),
            streams: self.streams.clone(),
            ownership: self.ownership.clone(),
        };
        let live = Live::start(definition, foundation, claim, entry.stats.clone()).await?;
        *entry.phase() = Phase::Running(live.clone());
        Ok(live)
    }

    /// Ends all consumers with UNAVAILABLE and makes every checkpoint durable; takes no consumers afterwards.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let entries: Vec<Arc<Entry>> = self.read().iter().cloned().collect();
        for entry in &entries {
            if let Some(live) = entry.live() {
                live.end(stopping());
            }
        }
        for entry in entries {
            // One that was starting meanwhile has its status by now.
            let _turn = entry.turn.lock().await;
            let Some(live) = entry.live() else { continue };
            live.end(stopping());
            if let Err(error) = live.flush().await {
                tracing::warn!(subscription = entry.definition().id, %error, "last checkpoint not written");
            }
            live.seal().await;
        }
    }
}

#[async_trait]
impl Keeper for Subscriptions {
    fn is_idle(&self, id: &str) -> bool {
        let live = self.entry(id).ok().and_then(|entry| entry.live());
        live.is_none_or(|live| live.consumers().is_empty())
    }

    async fn let_go(&self, id: &str) {
        let Ok(entry) = self.entry(id) else { return };
        let _turn = entry.turn.lock().await;
        let Some(live) = entry.live().filter(|live| !live.owned()) else { return };
        live.fenced();
        if let Err(error) = live.flush().await {
            tracing::warn!(subscription = id, %error, "acknowledged last before it moves and not written");
        }
        live.seal().await;
        *entry.phase() = Phase::Idle;
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        for entry in self.read().iter() {
            if let Some(live) = entry.live() {
                live.end(stopping());
            }
        }
    }
}

/// Finds out whether a stream is still there to which a subscription was written, or may have been, and takes that back
/// if not.
async fn settle(subscriptions: Weak<Subscriptions>, definition: Definition) {
    loop {
        tokio::time::sleep(SETTLE_AGAIN).await;
        let Some(subscriptions) = subscriptions.upgrade() else { return };
        if subscriptions.closed.load(Ordering::SeqCst) {
            return;
        }
        let settled = match subscriptions.streams.confirm(&definition.stream_name, definition.stream).await {
            Ok(true) => Ok(()),
            Ok(false) => subscriptions.withdraw(&definition).await,
            Err(error) => Err(error),
        };
        match settled {
            Ok(()) => return,
            Err(error) => {
                let subscription = &definition.id;
                tracing::debug!(subscription, %error, "it is not known whether its stream is still there");
            }
        }
    }
}

fn stopping() -> ServerError {
    ServerError::new(Class::ServerNotAvailable, "the server is stopping")
}

pub(super) async fn in_task<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        Err(ServerError::plain(Code::Internal, format!("a subscription task ended early: {error}")))
    })
}

#[cfg(test)]
mod tests;
