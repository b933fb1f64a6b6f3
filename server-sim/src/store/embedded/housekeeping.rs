//! What is done in the background: removing dead segments, writing missing indexes, compacting, comparing
//! checksums. One thing at a time, in pieces; nothing of it is needed for what was acknowledged to be safe.

use super::compaction::{self, Cut};
use super::log::SegmentLog;
use super::scrub::Scrub;
use super::segment_index::{self, ShardEntries};
use super::segments::SegmentUse;
use super::writer::segment_start_len;
use super::{Shared, blocking};
use crate::store::ShardId;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Starts housekeeping for as long as the log is there.
pub fn start(log: &Arc<SegmentLog>, interval: Duration) {
    let shared = Arc::clone(&log.shared);
    tokio::spawn(keep_house(Arc::downgrade(log), shared, interval));
}

async fn keep_house(log: Weak<SegmentLog>, shared: Arc<Shared>, interval: Duration) {
    let mut house = House { shared, compacts: true, scrub: None };
    loop {
        let round = house.round().await;
        let Some(pause) = round else { return };
        tokio::select! {
            () = house.shared.housekeeping.notified() => {}
            () = tokio::time::sleep(pause.unwrap_or(interval)) => {}
        }
        if log.strong_count() == 0 {
            return;
        }
    }
}

struct House {
    shared: Arc<Shared>,
    /// False once a compaction left the disk in an unknown state.
    compacts: bool,
    scrub: Option<Scrub>,
}

impl House {
    /// Does what there is to do, of scrubbing a piece only; returns when to do more: `None` never, `Some(None)`
    /// when something happens.
    async fn round(&mut self) -> Option<Option<Duration>> {
        self.work(|shared| shared.remove_dead()).await?;
        self.write_indexes().await?;
        while self.compacts && self.compact().await? {}
        self.scrub().await
    }

    /// Runs what blocks, unless the store is closed.
    async fn work<T: Send + 'static>(&self, work: impl FnOnce(&Shared) -> T + Send + 'static) -> Option<T> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.open().map(|_open| work(&shared))).await.ok().flatten()
    }

    async fn write_indexes(&self) -> Option<()> {
        for segment in self.shared.segments.without_index() {
            self.work(move |shared| write_index(shared, &segment)).await?;
        }
        Some(())
    }

    /// One compaction, if one is worth it; false if nothing was done.
    async fn compact(&mut self) -> Option<bool> {
        let options = &self.shared.options;
        if options.compaction_bytes_per_sec == 0 {
            return Some(false);
        }
        let (plan, short) = self.work(plan).await?;
        let Some(plan) = plan else { return Some(false) };
        // Appends that are refused wait for this.
        let rate = (!short).then_some(options.compaction_bytes_per_sec);
        match compaction::run(&self.shared, plan, rate).await {
            Ok(bytes) => Some(bytes > 0),
            Err(Cut::Closed) => None,
            // The plan looks different with what was learned.
            Err(Cut::Damaged) => Some(true),
            Err(Cut::Full(why)) => {
                tracing::warn!("segments could not be compacted: {why}; it will be tried again");
                Some(false)
            }
            Err(Cut::Broken(why)) => {
                tracing::error!("segments are not compacted any more until the next start: {why}");
                self.compacts = false;
                Some(false)
            }
        }
    }

    /// Compares a piece of what was not read when the log was opened; returns when the next one is due.
    async fn scrub(&mut self) -> Option<Option<Duration>> {
        let rate = self.shared.options.scrub_bytes_per_sec;
        if rate == 0 {
            return Some(None);
        }
        let current = self.scrub.take();
        let (scrub, bytes) = self.work(move |shared| scrub_piece(shared, current)).await?;
        self.scrub = scrub;
        Some((bytes > 0).then(|| Duration::from_secs_f64(bytes as f64 / rate as f64)))
    }
}

/// What to compact, and whether the disk is so short of space that it is urgent.
fn plan(shared: &Shared) -> (Option<compaction::Plan>, bool) {
    let segments = shared.segments.in_order();
    let full = u64::from(shared.options.segment_bytes);
    // Half of the reserve stays for trims, checkpoints and the metadata.
    let free = shared.disk.free_space().unwrap_or(u64::MAX);
    let room = free.saturating_sub(shared.options.reserve_bytes / 2);
    let short = free < shared.options.reserve_bytes.saturating_add(full);
    // Cheap first: most of the time there is nothing to do.
    if compaction::plan(&segments, 0, full, room).is_none() {
        return (None, short);
    }
    let start = segment_start_len(&shared.encode_snapshot());
    (compaction::plan(&segments, start, full.max(start.saturating_mul(2)), room), short)
}

pub fn write_index(shared: &Shared, segment: &SegmentUse) {
    // A trim may have removed it since it was listed; an index without a segment would stay until the next start.
    if !shared.segments.has(segment) {
        return;
    }
    let number = segment.id.number;
    let mut batches = shared.entries_in(number..=number);
    // By shard; sorting keeps the order within one.
    batches.sort_by_key(|(shard, _)| *shard);
    let shards: Vec<ShardEntries> = batches
        .chunk_by(|(one, _), (other, _)| one == other)
        .map(|of_shard| {
            let shard: ShardId = of_shard.first().map_or(0, |(shard, _)| *shard);
            (shard, of_shard.iter().map(|(_, entry)| *entry).collect())
        })
        .collect();
    let reserve = shared.options.reserve_bytes / 2;
    if shared.disk.free_space().is_ok_and(|free| free < reserve) {
        return;
    }
    match segment_index::write(&*shared.disk, &segment.id, segment.len, &shards) {
        Ok(()) => shared.segments.mark_indexed(segment.slot),
        Err(error) => {
            tracing::warn!(%error, "the index of a segment could not be written; it will be tried again")
        }
    }
}

fn scrub_piece(shared: &Shared, current: Option<Scrub>) -> (Option<Scrub>, u64) {
    let next = || shared.segments.unverified().first().map(|segment| Scrub::new(shared, segment));
    let Some(mut scrub) = current.or_else(next) else { return (None, 0) };
    match scrub.piece(shared) {
        // The end of a segment: look for another one at once.
        Ok(0) => (None, 1),
        Ok(bytes) => (Some(scrub), bytes),
        Err(error) => {
            tracing::warn!(%error, "the log could not be checked; it will be tried again");
            (None, 0)
        }
    }
}
