//! What every [`LogStore`](super::LogStore) promises, as functions that run over any engine.
//!
//! An engine's tests call [`contract!`] with a function that opens a fresh log under a clock; each promise is a test then.

mod appends;
mod reads;
mod shards;
mod stamps;

pub use {appends::*, reads::*, shards::*, stamps::*};

use super::{
    Appended, FIRST_LSN, Gap, LogStore, Lsn, NewBatch, ProducerStamp, ReadLimits, Result, ShardId, ShardSpec,
    StoreError, StoredBatch,
};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A log without shards, and the clock that its append times come from.
pub struct Subject {
    pub log: Arc<dyn LogStore>,
    pub clock: Arc<AtomicU64>,
    /// What has to live as long.
    pub _keep: Box<dyn std::any::Any + Send + Sync>,
}

impl Subject {
    fn at(&self, ms: u64) {
        self.clock.store(ms, Ordering::Relaxed);
    }
}

/// Tests that an engine keeps every promise.
macro_rules! contract {
    ($open:path) => {
        $crate::store::contract::contract!(@ $open:
            batches_come_back_as_they_were_stored_and_in_order
            lsns_have_nineteen_digits_and_grow
            append_times_never_step_back
            futures_that_are_polled_first_are_stored_first
            a_dropped_future_does_not_take_the_batch_back
            many_appends_at_once_are_all_stored_once
            large_batches_are_stored
            reads_keep_to_their_limits
            a_read_can_begin_and_end_anywhere
            an_empty_shard_has_a_tail_below_the_first_lsn
            the_tail_is_told_as_it_moves
            trims_remove_what_they_name_and_never_move_back
            a_shard_that_was_trimmed_to_its_end_goes_on_behind_it
            trimmed_batches_are_a_gap_before_what_is_left
            times_are_found
            shards_are_created_all_or_none
            deleted_shards_end_what_waits_for_them
            shards_do_not_disturb_each_other
            a_repeat_answers_with_the_first_ids
            repeats_that_arrive_together_are_stored_once
            stamps_out_of_place_are_refused
            a_higher_epoch_fences_lower_ones
            stamps_outlive_their_batches
        );
    };
    (@ $open:path: $($promise:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                $crate::store::contract::$promise($open().await).await;
            }
        )*
    };
}
pub(crate) use contract;

/// As much as there is.
pub const ALL: ReadLimits = ReadLimits { max_batches: 1000, max_bytes: 64 << 20 };

pub fn spec(shard: ShardId) -> ShardSpec {
    ShardSpec { shard, retention_secs: 0, replicas: 1 }
}

pub fn batch(text: impl Into<Vec<u8>>) -> NewBatch {
    NewBatch { bytes: Bytes::from(text.into()), records: 1, producer: None }
}

pub fn stamped(text: impl Into<Vec<u8>>, id: u128, epoch: u32, sequence: u64) -> NewBatch {
    NewBatch { producer: Some(ProducerStamp { id, epoch, sequence }), records: 2, ..batch(text) }
}

/// Everything in a shard: gaps and batches.
pub async fn read_all(log: &dyn LogStore, shard: ShardId) -> (Vec<Gap>, Vec<StoredBatch>) {
    read_from(log, shard, FIRST_LSN, ALL).await
}

pub async fn read_from(
    log: &dyn LogStore,
    shard: ShardId,
    from: Lsn,
    limits: ReadLimits,
) -> (Vec<Gap>, Vec<StoredBatch>) {
    let (mut gaps, mut batches, mut from) = (Vec::new(), Vec::new(), from);
    loop {
        let chunk = log.read(shard, from, limits).await.expect("reads");
        if chunk.next == from {
            return (gaps, batches);
        }
        assert!(chunk.next > from, "a read goes forward: {} after {from}", chunk.next);
        from = chunk.next;
        gaps.extend(chunk.gap);
        batches.extend(chunk.batches);
    }
}

pub fn texts(batches: &[StoredBatch]) -> Vec<String> {
    batches.iter().map(|batch| String::from_utf8_lossy(&batch.bytes).into_owned()).collect()
}

async fn with_shard(subject: &Subject) -> Arc<dyn LogStore> {
    subject.log.create_shards(&[spec(1)]).await.expect("creates");
    Arc::clone(&subject.log)
}

/// Appends one after the other.
async fn append_all(log: &Arc<dyn LogStore>, texts: impl IntoIterator<Item = &'static str>) -> Vec<Appended> {
    let mut appended = Vec::new();
    for text in texts {
        appended.push(log.append(1, batch(text)).await.expect("appends"));
    }
    appended
}

fn not_found<T: std::fmt::Debug>(outcome: Result<T>) {
    assert!(matches!(outcome, Err(StoreError::ShardNotFound(1))), "{outcome:?}");
}
