//! The task that delivers: does what [`State`](super::state::State) decides, one read at a time.

use super::dead_letter::{self, Burial};
use super::delivery;
use super::live::Live;
use super::state::Job;
use crate::error::{Class, ServerError};
use crate::store::{GapKind, Lsn, ReadLimits, ShardId, StoreError, StoredBatch, TailWatch};
use futures::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use std::ops::Range;
use std::sync::Arc;
use tokio::time::Instant;

impl Live {
    /// Delivers until the subscription ends.
    pub(super) async fn deliver(self: Arc<Self>) {
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
        let moved = |shard: ShardId, mut tail: TailWatch| async move {
            let open = tail.moved().await.is_ok();
            (shard, tail, open)
        };
        for &shard in self.definition.start.keys() {
            match self.log.watch_tail(shard) {
                Ok(mut tail) => {
                    self.state().tail(shard, tail.latest());
                    tails.push(moved(shard, tail));
                }
                Err(StoreError::ShardNotFound(_)) => self.lose_shard(shard),
                Err(error) => return error.into(),
            }
        }
        let note = |shard, mut tail: TailWatch, open: bool| {
            let last = tail.latest();
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
            let (job, passed_over) = {
                let mut state = self.state();
                (state.next_job(Instant::now()), state.passed_over())
            };
            if passed_over {
                self.dirty.notify_one();
            }
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
                Job::Bury { shard, lsn, open, deliveries } => {
                    if let Err(reason) = self.bury(shard, lsn, open, deliveries).await {
                        tracing::warn!(
                            subscription = self.definition.id,
                            shard,
                            lsn,
                            reason,
                            "records delivered too often cannot go to the dead-letter stream; trying again"
                        );
                        self.state().not_again(shard, lsn, Instant::now());
                    }
                }
                Job::Wait(until) => {
                    let timer = async {
                        match until {
                            Some(at) => tokio::time::sleep_until(at).await,
                            None => std::future::pending().await,
                        }
                    };
                    // With nobody to deliver to, appends need not wake anybody.
                    let listened_to = self.state().has_consumers();
                    tokio::select! {
                        () = self.wake.notified() => {}
                        Some((shard, tail, open)) = tails.next(), if listened_to => {
                            tails.extend(note(shard, tail, open));
                        }
                        () = timer => {}
                    }
                }
            }
            // Reads from memory never wait; give others a turn.
            tokio::task::yield_now().await;
        }
    }

    /// A batch that was delivered before; `None` when it is gone, which counts as acknowledged.
    async fn read_again(&self, shard: ShardId, lsn: Lsn) -> Result<Option<StoredBatch>, StoreError> {
        let limits = ReadLimits { max_batches: 1, max_bytes: 0 };
        let chunk = self.log.read(shard, lsn, limits).await?;
        let found = chunk.batches.into_iter().next().filter(|batch| batch.lsn == lsn);
        if found.is_none() {
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
        }
        Ok(found)
    }

    async fn redeliver(&self, shard: ShardId, lsn: Lsn, open: Vec<Range<u32>>) -> Result<(), StoreError> {
        let Some(batch) = self.read_again(shard, lsn).await? else { return Ok(()) };
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
                self.dirty.notify_one();
            }
            Err(error) => return Err(StoreError::Io(error.to_string())),
        }
        Ok(())
    }

    /// Puts the open records of a batch into the dead-letter stream; they count as acknowledged once that is
    /// durable. A stop in between, or a move to another node, puts them there twice.
    async fn bury(
        &self,
        shard: ShardId,
        lsn: Lsn,
        open: Vec<Range<u32>>,
        deliveries: u32,
    ) -> Result<(), String> {
        let target = self.dead_letter().and_then(|id| self.streams.by_id(id));
        let target = target.filter(|stream| !stream.archived).ok_or("the stream was deleted")?;
        let batch = self.read_again(shard, lsn).await.map_err(|error| error.to_string())?;
        let Some(batch) = batch else { return Ok(()) };
        let subscription = self.definition.id.clone();
        let apart = tokio::task::spawn_blocking(move || {
            let burial = Burial { subscription: &subscription, shard, open: &open, deliveries };
            dead_letter::batches(&batch, &burial, &target)
        });
        for (to, batch) in apart.await.map_err(|error| error.to_string())?? {
            // The next owner puts aside what it finds open.
            if !self.owned() {
                return Err("the subscription moves to another node".to_owned());
            }
            self.log.append(to, batch).await.map_err(|error| error.to_string())?;
        }
        tracing::warn!(
            subscription = self.definition.id,
            shard,
            lsn,
            deliveries,
            "records went to the dead-letter stream"
        );
        self.state().gone(shard, lsn);
        self.dirty.notify_one();
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
}

/// Consumers hear about it even if the dispatcher panics.
struct EndOnDrop<'a>(&'a Live);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end(ServerError::new(Class::SubscriptionInvalidError, self.0.definition.id.clone()));
    }
}
