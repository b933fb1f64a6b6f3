//! Which subscriptions exist.
//!
//! Definitions are kept in memory and in the [`MetaStore`]. Whatever changes both runs in a task of its own,
//! so that a caller who goes away cannot leave them apart.

use super::definition::{CHECKPOINTS, DEFINITIONS, Definition};
use super::fetch::{Caller, Fetch};
use super::live::Live;
use super::policy::{Policy, PolicyChange};
use super::state::Introduction;
use crate::cluster::NodeId;
use crate::cluster::ownership::{Claim, ClaimError, Keeper, Kind, Ownership};
use crate::error::{Class, Result, ServerError};
use crate::stats::SubscriptionStats;
use crate::store::{Expect, LogStore, Lsn, MetaStore, ShardId, StoreError};
use crate::stream::{StreamId, Streams};
use async_trait::async_trait;
use futures::Stream;
use hstreamdb_proto::api::{Consumer, SpecialOffset, StreamingFetchRequest};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::{SystemTime, UNIX_EPOCH};
use tonic::{Code, Status};

/// Every subscription of this store.
#[derive(Debug)]
pub struct Subscriptions {
    pub(super) log: Arc<dyn LogStore>,
    pub(super) meta: Arc<dyn MetaStore>,
    pub(super) streams: Arc<Streams>,
    pub(super) ownership: Arc<Ownership>,
    entries: RwLock<BTreeMap<String, Arc<Entry>>>,
    closed: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Entry {
    definition: RwLock<Arc<Definition>>,
    /// Held while the subscription is started, changed or deleted.
    pub(super) turn: tokio::sync::Mutex<()>,
    phase: Mutex<Phase>,
    /// Goes with the subscription, so one created again starts at 0.
    stats: Arc<SubscriptionStats>,
}

/// Where a subscription stands on this node.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// No consumer since this process started, or delivery failed.
    Idle,
    Running(Arc<Live>),
    Deleting,
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
        let Caller { uri, user_agent, confirm, incarnation, memory } = caller;
        if incarnation.is_some_and(|known| known != live.incarnation()) {
            // It comes back once it has learned the new one.
            let text = format!("subscription {} was moved or created again", first.subscription_id);
            return Err(ServerError::new(Class::SubscriptionInvalidError, text));
        }
        let name = first.consumer_name.clone();
        let (consumer, outbox) = live.attach(Introduction { name, uri, user_agent, confirm, memory })?;
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

impl Entry {
    fn new(definition: Definition) -> Arc<Self> {
        let phase = Mutex::new(Phase::Idle);
        let definition = RwLock::new(Arc::new(definition));
        Arc::new(Entry { definition, turn: tokio::sync::Mutex::new(()), phase, stats: Arc::default() })
    }

    pub(super) fn definition(&self) -> Arc<Definition> {
        self.definition.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the definition once it is durable; the caller holds the entry's turn and the claim.
    pub(super) async fn redefine(
        &self,
        definition: Definition,
        meta: &dyn MetaStore,
        claim: &Claim,
    ) -> Result<Arc<Definition>> {
        let value = (Definition::key(&definition.id), definition.encode()?);
        match meta.put_many(vec![value], claim.guard()).await {
            Ok(()) => {}
            Err(StoreError::Conflict { .. }) => {
                let text =
                    format!("subscription {} has just moved to another node; try again", definition.id);
                return Err(ServerError::new(Class::ServerNotAvailable, text));
            }
            Err(error) => return Err(error.into()),
        }
        let definition = Arc::new(definition);
        *self.definition.write().unwrap_or_else(PoisonError::into_inner) = definition.clone();
        Ok(definition)
    }

    pub(super) fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn live(&self) -> Option<Arc<Live>> {
        match &*self.phase() {
            Phase::Running(live) => Some(live.clone()),
            Phase::Idle | Phase::Deleting => None,
        }
    }
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
        let mut entries = BTreeMap::new();
        let mut incarnations = HashSet::new();
        for (key, value) in meta.list(DEFINITIONS).await? {
            let definition = Definition::decode(&key, &value.value)?;
            incarnations.insert(definition.incarnation);
            entries.insert(definition.id.clone(), Entry::new(definition));
        }
        for (key, _) in meta.list(CHECKPOINTS).await? {
            let known = Definition::parse_checkpoint(&key)
                .is_none_or(|(incarnation, _)| incarnations.contains(&incarnation));
            if !known {
                meta.delete(&key, Expect::Any).await?;
            }
        }
        let subscriptions = Subscriptions {
            log,
            meta,
            streams,
            ownership,
            entries: RwLock::new(entries),
            closed: AtomicBool::new(false),
        };
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

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Entry>>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Arc<Entry>>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn entry(&self, id: &str) -> Result<Arc<Entry>> {
        let entry = self.read().get(id).cloned();
        entry.ok_or_else(|| ServerError::new(Class::SubscriptionNotFound, id))
    }

    /// Whether a subscription reads this stream.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn is_read(&self, stream: StreamId) -> Result<bool> {
        Ok(self.read().values().any(|entry| entry.definition().stream == stream))
    }

    /// True if there is a subscription of this name.
    pub fn exists(&self, id: &str) -> bool {
        self.read().contains_key(id)
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
        let entries = self.read();
        let from = entries.range(prefix.to_owned()..);
        from.take_while(|(id, _)| id.starts_with(prefix)).map(|(_, entry)| entry.definition()).collect()
    }

    /// Durable checkpoints by shard, 0 where nothing is committed; nothing at all before the first consumer
    /// of this process.
    ///
    /// # Errors
    /// [`Class::SubscriptionNotFound`].
    pub fn checkpoints(&self, id: &str) -> Result<Vec<(ShardId, Lsn)>> {
        Ok(self.entry(id)?.live().map(|live| live.checkpoints()).unwrap_or_default())
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
        self.read().iter().map(|(id, entry)| (id.clone(), entry.stats.clone())).collect()
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

    async fn create_now(&self, new: NewSubscription) -> Result<Arc<Definition>> {
        let Some(stream) = self.streams.find(&new.stream_name).await? else {
            return Err(ServerError::new(Class::NonExistentStream, new.stream_name));
        };
        let offset = SpecialOffset::try_from(new.offset)
            .map_err(|_| ServerError::new(Class::InvalidSubscriptionOffset, Value::Null))?;
        if self.exists(&new.id) {
            return Err(ServerError::new(Class::SubscriptionExists, new.id));
        }
        let policy = Policy::default().changed(new.policy, stream.id, &self.streams)?;
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
        match self.meta.put(&key, definition.encode()?, Expect::Absent).await {
            Ok(_) => {}
            Err(StoreError::Conflict { .. }) => {
                return Err(ServerError::new(Class::SubscriptionExists, definition.id));
            }
            Err(error) => return Err(error.into()),
        }
        let entry = Entry::new(definition);
        let definition = entry.definition();
        self.write().insert(definition.id.clone(), entry);
        // Whoever deletes the stream from here on sees the subscription; see `Streams` about who was first.
        if self.streams.confirm(&definition.stream_name, definition.stream).await? {
            return Ok(definition);
        }
        self.meta.delete(&key, Expect::Any).await?;
        self.write().remove(&definition.id);
        self.release(definition.stream).await?;
        Err(ServerError::new(Class::NonExistentStream, definition.stream_name.as_str()))
    }

    /// Deletes a subscription with its checkpoints, and the data of its stream if that was deleted before and
    /// this was its last reader. With `force` attached consumers are sent away, otherwise they are a reason
    /// to refuse.
    ///
    /// # Errors
    /// [`Class::SubscriptionNotFound`], [`Class::FoundActiveConsumers`], [`Class::SubscriptionIsDeleting`],
    /// [`Class::WrongServer`], what the stores report; in the last case the subscription may be gone after a restart.
    pub async fn delete(self: &Arc<Self>, id: &str, force: bool) -> Result<()> {
        let entry = self.entry(id)?;
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
        if let Err(error) = self.meta.delete(&Definition::key(id), Expect::Any).await {
            *entry.phase() = Phase::Idle;
            return Err(error.into());
        }
        self.write().remove(id);
        let definition = entry.definition();
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
        let entry = self.entry(id)?;
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
        let entry = self.entry(id)?;
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
    async fn start(&self, entry: &Entry, claim: Claim) -> Result<Arc<Live>> {
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
        let live = Live::start(entry.definition(), self, claim, entry.stats.clone()).await?;
        *entry.phase() = Phase::Running(live.clone());
        Ok(live)
    }

    /// Ends all consumers with UNAVAILABLE and makes every checkpoint durable; takes no consumers afterwards.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let entries: Vec<Arc<Entry>> = self.read().values().cloned().collect();
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
        for entry in self.read().values() {
            if let Some(live) = entry.live() {
                live.end(stopping());
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
