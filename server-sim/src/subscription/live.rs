//! A subscription that has had consumers since this process started.
//!
//! One task delivers, one writes checkpoints; both end with the subscription. After the last consumer left,
//! everything stays as it is and the next consumer continues.

use super::ConsumerId;
use super::definition::Definition;
use super::delivery;
use super::fetch::Fetch;
use super::state::{Job, Start, State};
use crate::error::{Class, Result, ServerError};
use crate::store::{Expect, GapKind, LogStore, Lsn, MetaStore, ReadLimits, ShardId, StoreError};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use hstreamdb_proto::api::{Consumer, RecordId};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
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
    definition: Arc<Definition>,
    log: Arc<dyn LogStore>,
    meta: Arc<dyn MetaStore>,
    state: Mutex<State>,
    /// Something the dispatcher should look at.
    wake: Notify,
    /// A checkpoint may have moved.
    dirty: Notify,
    stop: CancellationToken,
    /// Held while checkpoints are written, so that they never go back; true once none may be written any more.
    writing: tokio::sync::Mutex<bool>,
}

impl Live {
    /// Continues a subscription from its checkpoints.
    pub(super) async fn start(
        definition: Arc<Definition>,
        log: Arc<dyn LogStore>,
        meta: Arc<dyn MetaStore>,
    ) -> Result<Arc<Self>> {
        let checkpoints = read_checkpoints(&definition, &*meta).await?;
        let starts = definition.start.iter().map(|(&shard, &first)| {
            let checkpoint = checkpoints.get(&shard).copied();
            Start { shard, done: checkpoint.unwrap_or(0).max(first.saturating_sub(1)), checkpoint }
        });
        let state =
            State::new(definition.id.clone(), definition.ack_timeout(), definition.max_unacked(), starts);
        let live = Arc::new(Live {
            definition,
            log,
            meta,
            state: Mutex::new(state),
            wake: Notify::new(),
            dirty: Notify::new(),
            stop: CancellationToken::new(),
            writing: tokio::sync::Mutex::new(false),
        });
        tokio::spawn(live.clone().deliver());
        tokio::spawn(live.clone().write_checkpoints());
        Ok(live)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds a consumer.
    ///
    /// # Errors
    /// [`Class::ConsumerExists`]; [`Class::SubscriptionInvalidError`] when this subscription is ending.
    pub(super) fn attach(self: &Arc<Self>, name: &str, uri: String, user_agent: String) -> Result<Fetch> {
        let mut state = self.state();
        if state.ended().is_some() {
            return Err(ServerError::new(Class::SubscriptionInvalidError, self.definition.id.clone()));
        }
        let Some((id, outbox)) = state.attach(name.to_owned(), uri, user_agent) else {
            return Err(ServerError::new(Class::ConsumerExists, name));
        };
        drop(state);
        self.wake.notify_one();
        Ok(Fetch::new(self.clone(), id, outbox))
    }

    /// Removes a consumer; fine if it is gone already.
    pub(super) fn detach(&self, id: ConsumerId) {
        self.state().detach(id, Instant::now());
        self.wake.notify_one();
        self.dirty.notify_one();
    }

    /// Takes acknowledgements, from any consumer.
    pub(super) fn ack(&self, ids: &[RecordId]) {
        if !ids.is_empty() && self.state().ack(ids) {
            self.wake.notify_one();
            self.dirty.notify_one();
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
    /// this process lives, and the write is tried again.
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
        *self.writing.lock().await = true;
    }

    async fn write_once(self: Arc<Self>) -> Result<()> {
        let sealed = self.writing.lock().await;
        if *sealed {
            return Ok(());
        }
        let unsaved = self.state().unsaved();
        if unsaved.is_empty() {
            return Ok(());
        }
        let prefix = self.definition.checkpoints();
        let values = unsaved
            .iter()
            .map(|(shard, lsn)| (format!("{prefix}{shard}"), Bytes::from(lsn.to_string())))
            .collect();
        self.meta.put_many(values).await?;
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
                () = self.dirty.notified() => {}
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(CHECKPOINT_DELAY) => {}
            }
            if let Err(error) = self.flush().await {
                tracing::warn!(subscription = self.definition.id, %error, "checkpoint not written, trying again");
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = tokio::time::sleep(CHECKPOINT_RETRY) => self.dirty.notify_one(),
                }
            }
        }
    }

    async fn deliver(self: Arc<Self>) {
        let _end = EndOnDrop(&self);
        tokio::select! {
            () = self.stop.cancelled() => {}
            error = self.dispatch() => {
                tracing::error!(subscription = self.definition.id, %error, "delivery ended");
                self.end(error);
            }
        }
    }

    /// Delivers until something makes that impossible.
    async fn dispatch(&self) -> ServerError {
        let mut tails = FuturesUnordered::new();
        let moved = |shard: ShardId, mut tail: tokio::sync::watch::Receiver<Lsn>| async move {
            let open = tail.changed().await.is_ok();
            (shard, tail, open)
        };
        for &shard in self.definition.start.keys() {
            match self.log.watch_tail(shard) {
                Ok(mut tail) => {
                    self.state().tail(shard, *tail.borrow_and_update());
                    tails.push(moved(shard, tail));
                }
                Err(StoreError::ShardNotFound(_)) => self.lose_shard(shard),
                Err(error) => return error.into(),
            }
        }
        let note = |shard, mut tail: tokio::sync::watch::Receiver<Lsn>, open: bool| {
            let last = *tail.borrow_and_update();
            self.state().tail(shard, last);
            if !open && matches!(self.log.tail(shard), Err(StoreError::ShardNotFound(_))) {
                self.lose_shard(shard);
            }
            open.then(|| moved(shard, tail))
        };
        loop {
            while let Some(Some((shard, tail, open))) = tails.next().now_or_never() {
                tails.extend(note(shard, tail, open));
            }
            let job = self.state().next_job(Instant::now());
            match job {
                Job::Read { shard, from, limits } => {
                    let chunk = self.log.read(shard, from, limits).await;
                    match chunk {
                        Ok(chunk) => self.state().arrived(shard, chunk, Instant::now()),
                        Err(error) => {
                            self.state().failed(shard, Instant::now());
                            if let Some(error) = self.read_failed(shard, error) {
                                return error;
                            }
                        }
                    }
                    // Skipped gaps move the checkpoint without any acknowledgement.
                    self.dirty.notify_one();
                }
                Job::Redeliver { shard, lsn, open } => {
                    if let Err(error) = self.redeliver(shard, lsn, open).await {
                        self.state().not_again(shard, lsn, Instant::now());
                        if let Some(error) = self.read_failed(shard, error) {
                            return error;
                        }
                    }
                }
                Job::Wait(until) => {
                    let timer = async {
                        match until {
                            Some(at) => tokio::time::sleep_until(at).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = self.wake.notified() => {}
                        Some((shard, tail, open)) = tails.next() => tails.extend(note(shard, tail, open)),
                        () = timer => {}
                    }
                }
            }
            // Reads from memory never wait; give others a turn.
            tokio::task::yield_now().await;
        }
    }

    async fn redeliver(&self, shard: ShardId, lsn: Lsn, open: Vec<Range<u32>>) -> Result<(), StoreError> {
        let limits = ReadLimits { max_batches: 1, max_bytes: 0 };
        let chunk = self.log.read(shard, lsn, limits).await?;
        let Some(batch) = chunk.batches.into_iter().next().filter(|batch| batch.lsn == lsn) else {
            if chunk.gap.is_some_and(|gap| gap.kind == GapKind::DataLoss) {
                tracing::error!(
                    subscription = self.definition.id,
                    shard,
                    lsn,
                    "a batch waiting to be delivered again is lost; it counts as acknowledged"
                );
            }
            self.state().gone(shard, lsn);
            self.dirty.notify_one();
            return Ok(());
        };
        // Taking a batch apart may mean compressing a megabyte.
        let part = tokio::task::spawn_blocking(move || delivery::part(shard, &batch, &open)).await;
        match part {
            Ok(Ok(outgoing)) => self.state().again(shard, lsn, outgoing, Instant::now()),
            Ok(Err(reason)) => {
                tracing::error!(
                    subscription = self.definition.id,
                    shard,
                    lsn,
                    reason,
                    "a batch cannot be delivered again; it counts as acknowledged"
                );
                self.state().gone(shard, lsn);
            }
            Err(error) => return Err(StoreError::Io(error.to_string())),
        }
        Ok(())
    }

    /// A shard that cannot be read is tried again later, without holding up the others; an error is returned
    /// when nothing can be read any more.
    fn read_failed(&self, shard: ShardId, error: StoreError) -> Option<ServerError> {
        match error {
            StoreError::Closed => Some(error.into()),
            StoreError::ShardNotFound(_) => {
                self.lose_shard(shard);
                None
            }
            error => {
                tracing::warn!(subscription = self.definition.id, shard, %error, "read failed, trying again");
                None
            }
        }
    }

    fn lose_shard(&self, shard: ShardId) {
        tracing::info!(subscription = self.definition.id, shard, "the shard is gone");
        self.state().remove_shard(shard);
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

async fn read_checkpoints(definition: &Definition, meta: &dyn MetaStore) -> Result<BTreeMap<ShardId, Lsn>> {
    let mut checkpoints = BTreeMap::new();
    for (key, value) in meta.list(&definition.checkpoints()).await? {
        let unreadable = || ServerError::plain(Code::DataLoss, format!("cannot read checkpoint {key:?}"));
        let (_, shard) = Definition::parse_checkpoint(&key).ok_or_else(unreadable)?;
        let text = std::str::from_utf8(&value.value).map_err(|_| unreadable())?;
        checkpoints.insert(shard, text.parse().map_err(|_| unreadable())?);
    }
    Ok(checkpoints)
}

/// Consumers hear about it even if the dispatcher panics.
struct EndOnDrop<'a>(&'a Live);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end(ServerError::new(Class::SubscriptionInvalidError, self.0.definition.id.clone()));
    }
}
