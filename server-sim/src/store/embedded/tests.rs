//! The whole store against disks that fail.

mod compaction;
mod contract;
mod damage;
mod durability;
#[cfg(unix)]
mod kill;
mod meta;
mod opening;
mod producers;

use super::{EmbeddedOptions, EmbeddedStore};
use crate::store::disk::{Disk, FaultDisk};
use crate::store::{
    Appended, FIRST_LSN, Gap, LogStore, Lsn, NewBatch, ProducerStamp, ReadLimits, Result, ShardId, ShardSpec,
    StoreError, StoredBatch,
};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

const ALL: ReadLimits = ReadLimits { max_batches: 1000, max_bytes: 64 << 20 };

fn options() -> EmbeddedOptions {
    EmbeddedOptions { reserve_bytes: 0, ..EmbeddedOptions::default() }
}

async fn open(disk: &FaultDisk) -> EmbeddedStore {
    open_with(disk, options()).await.expect("the store opens")
}

async fn open_with(disk: &FaultDisk, options: EmbeddedOptions) -> Result<EmbeddedStore> {
    EmbeddedStore::open(Arc::new(disk.clone()) as Arc<dyn Disk>, options).await
}

fn spec(shard: ShardId) -> ShardSpec {
    ShardSpec { shard, retention_secs: 0, replicas: 1 }
}

fn batch(text: impl Into<Vec<u8>>) -> NewBatch {
    NewBatch { bytes: Bytes::from(text.into()), records: 1, producer: None }
}

fn stamped(text: &str, id: u128, sequence: u64) -> NewBatch {
    let producer = Some(ProducerStamp { id, epoch: 0, sequence });
    NewBatch { producer, records: 2, ..batch(text) }
}

/// Everything in a shard: gaps and batches.
async fn read_all(log: &Arc<dyn LogStore>, shard: ShardId) -> (Vec<Gap>, Vec<StoredBatch>) {
    let (mut gaps, mut batches, mut from) = (Vec::new(), Vec::new(), FIRST_LSN);
    loop {
        let chunk = log.read(shard, from, ALL).await.expect("reads");
        if chunk.next == from {
            return (gaps, batches);
        }
        from = chunk.next;
        gaps.extend(chunk.gap);
        batches.extend(chunk.batches);
    }
}

fn texts(batches: &[StoredBatch]) -> Vec<String> {
    batches.iter().map(|batch| String::from_utf8_lossy(&batch.bytes).into_owned()).collect()
}

/// Polls until `done`, for at most ten seconds.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("waited in vain until {what}");
}

fn newest_segment(disk: &FaultDisk) -> String {
    let names = disk.list().expect("lists");
    names.into_iter().rfind(|name| name.ends_with(".log")).expect("there is a segment")
}

fn lsn(n: u64) -> Lsn {
    FIRST_LSN + n
}
