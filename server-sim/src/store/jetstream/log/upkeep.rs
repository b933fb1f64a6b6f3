//! What shards lose: trims, age, deletion; and what has to be done about it in time.

use super::Engine;
use super::front::Front;
use super::lane::Lane;
use super::place;
use super::shard::Shard;
use super::stamps::QUIET;
use super::wire::{FIRST_PAUSE, PublishError, rest, unreachable};
use crate::store::{Lsn, Result, ShardId, StoreError};
use bytes::Bytes;
use futures::StreamExt as _;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Shards that are worked on side by side.
const AT_A_TIME: usize = 16;
/// How often quiet shards are looked for whose stamps are to be written down.
const STAMPS: Duration = Duration::from_secs(5);
/// How long messages of a shard that nobody knows are kept: it may be on its way.
const STRANGERS: Duration = Duration::from_secs(3600);
/// What a frame lives longer than its shard keeps records, in seconds: at least, at most, and as a part of that.
const LONGER: (u64, u64, u64) = (600, 3600, 8);

impl Engine {
    /// Seconds after which servers remove a frame by themselves. That is later than it may go: until then somebody has to put
    /// a mark in its place if it is the last one, and to write its stamps down.
    pub fn lifetime_secs(&self, shard: &Shard) -> Option<u64> {
        let retention = u64::from(shard.spec.retention_secs);
        let (least, most, part) = LONGER;
        (retention > 0).then(|| retention + (retention / part).clamp(least, most))
    }

    pub async fn trim(&self, shard: &Shard, up_to: Lsn) -> Result<()> {
        if up_to > shard.known()?.tail {
            shard.lane.catch_up().await?;
        }
        let up_to = up_to.min(shard.known()?.tail);
        if up_to <= shard.known()?.trimmed {
            return Ok(());
        }
        self.cover_stamps(shard).await?;
        let known = shard.known()?;
        if up_to >= known.tail && self.mark(shard, Some(known.tail), known.last).await? {
            return Ok(());
        }
        self.record_trim(shard, up_to).await?;
        // The frame that holds `up_to` stays; it may hold more.
        let purged = self.wire.purge(&shard.lane.stream, &shard.subject(), Some(place::seq(up_to))).await;
        if let Err(error) = purged {
            tracing::warn!(shard = shard.spec.shard, %error, "trimmed data takes room until the next trim");
        }
        Ok(())
    }

    async fn record_trim(&self, shard: &Shard, up_to: Lsn) -> Result<()> {
        let front = Front::Trim(up_to);
        let deadline = Instant::now() + self.settings.timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let known = shard.known()?;
            if known.trimmed >= up_to {
                return Ok(());
            }
            let mut headers = Lane::headers(&front, shard.spec.shard, known.trim_seq);
            headers.insert("Nats-Rollup", "sub");
            let subject = shard.lane.trim_subject(shard.spec.shard);
            let reason = match shard.lane.wire.publish(&subject, headers, Bytes::new()).await {
                Ok(seq) => {
                    shard.apply(seq, Some(&front));
                    return Ok(());
                }
                Err(PublishError::Wrong(_)) => {
                    shard.lane.catch_up().await?;
                    "others trim at the same time".to_owned()
                }
                Err(PublishError::Full(reason)) => return Err(StoreError::DiskFull(reason)),
                Err(PublishError::Refused(reason)) => return Err(StoreError::Io(reason)),
                Err(PublishError::Unclear(reason) | PublishError::NotSent(reason)) => reason,
            };
            rest(&mut pause, deadline).await.map_err(|()| unreachable("trimming", &reason))?;
        }
    }

    /// Puts the first message of a new shard in its place.
    pub async fn begin(&self, lane: &Lane, shard: ShardId) -> Result<()> {
        let mark =
            super::front::Mark { id: rand::random(), tail: Some(place::NOTHING), time_ms: 0, stamped: 0 };
        let (headers, subject) = (Lane::headers(&Front::Mark(mark), shard, 0), lane.subject(shard));
        let deadline = Instant::now() + self.settings.timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let reason = match lane.wire.publish(&subject, headers.clone(), Bytes::new()).await {
                // There already: an earlier try of this.
                Ok(_) | Err(PublishError::Wrong(_)) => return Ok(()),
                Err(PublishError::Full(reason)) => return Err(StoreError::DiskFull(reason)),
                Err(PublishError::Refused(reason)) => return Err(StoreError::Io(reason)),
                Err(PublishError::Unclear(reason) | PublishError::NotSent(reason)) => reason,
            };
            rest(&mut pause, deadline).await.map_err(|()| unreachable("creating shards", &reason))?;
        }
    }

    /// Removes the data of a shard that is gone.
    pub async fn purge(&self, lane: &Lane, shard: ShardId) -> Result<()> {
        self.wire.purge(&lane.stream, &lane.subject(shard), None).await?;
        self.wire.purge(&lane.stream, &lane.trim_subject(shard), None).await?;
        self.purge_snapshots(shard).await
    }

    /// Puts marks in the place of what went by age, whole shards at a time: what is left goes by itself.
    pub async fn enforce_retention(&self) {
        let old = |shard: &Arc<Shard>| {
            let known = shard.known();
            known
                .is_ok_and(|known| known.is_heard() && !known.marked && self.is_expired(shard, known.time_ms))
        };
        let old: Vec<Arc<Shard>> = self.directory.all().into_iter().filter(old).collect();
        let trims = futures::stream::iter(old).map(|shard| async move {
            let shard = &*shard;
            let trimmed = async {
                self.cover_stamps(shard).await?;
                let known = shard.known()?;
                if !known.marked && self.is_expired(shard, known.time_ms) {
                    self.mark(shard, Some(known.tail), known.last).await?;
                }
                Ok(())
            };
            let trimmed: Result<()> = trimmed.await;
            if let Err(error) = trimmed {
                tracing::debug!(shard = shard.spec.shard, %error, "old batches stay for now");
            }
        });
        trims.buffer_unordered(AT_A_TIME).collect::<()>().await;
    }

    /// Writes stamps down of shards that have been quiet for so long.
    pub async fn cover_quiet(&self, quiet: Duration) {
        let due = |shard: &Arc<Shard>| {
            let state = shard.state();
            let uncovered = state.writer.as_ref().map(|writer| writer.uncovered).unwrap_or_default();
            uncovered.frames > 0 && uncovered.since.is_none_or(|since| since.elapsed() >= quiet)
        };
        let due: Vec<Arc<Shard>> = self.directory.all().into_iter().filter(due).collect();
        let snapshots = futures::stream::iter(due).map(|shard| async move {
            if let Err(error) = self.cover_stamps(&shard).await {
                tracing::debug!(shard = shard.spec.shard, %error, "stamps of producers were not written down");
            }
        });
        snapshots.buffer_unordered(AT_A_TIME).collect::<()>().await;
    }

    /// Removes messages of shards that were never finished or are long gone.
    async fn remove_strangers(&self) -> Result<()> {
        let Some(before) = Instant::now().checked_sub(STRANGERS) else { return Ok(()) };
        for lane in self.directory.lanes.all() {
            let strangers = lane.strangers(before);
            if strangers.is_empty() {
                continue;
            }
            self.directory.fresh().await?;
            for shard in strangers.into_iter().filter(|shard| self.directory.find(*shard).is_none()) {
                self.purge(&lane, shard).await?;
                lane.leave(shard);
            }
        }
        Ok(())
    }
}

/// Looks after an engine until it is gone.
pub async fn look_after(engine: Weak<Engine>, interval: Duration, end: CancellationToken) {
    let mut next = Instant::now() + interval;
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(STAMPS.min(interval)) => {}
        }
        let Some(engine) = engine.upgrade() else { return };
        let work = async {
            engine.cover_quiet(QUIET).await;
            if Instant::now() >= next {
                next = Instant::now() + interval;
                engine.enforce_retention().await;
                if let Err(error) = engine.remove_strangers().await {
                    tracing::debug!(%error, "messages of unknown shards stay for now");
                }
            }
        };
        tokio::select! {
            () = end.cancelled() => return,
            () = work => {}
        }
    }
}
