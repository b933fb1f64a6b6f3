//! [`LogStore`] on the segment log.

use super::frame::{HEADER_LEN, Header};
use super::queue::{BatchItem, Control, ControlItem, Item};
use super::segments::frame_len;
use super::shard::{Accepted, Entry, Shard};
use super::{Shared, blocking};
use crate::store::{
    Appended, LogStore, Lsn, NewBatch, ReadChunk, ReadLimits, Result, ShardId, ShardSpec, StoreError,
    StoredBatch, TailWatch,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, oneshot};

/// Longest batch in bytes: offsets in a segment have 32 bits.
const MAX_BATCH_BYTES: usize = 512 << 20;
/// Trims of one write. Each is a short visit to its shard, between which nothing is written.
const TRIMS_AT_ONCE: usize = 4096;
/// Frames that lie side by side are read at once up to this many bytes.
const READ_AT_ONCE: u64 = 1 << 20;

/// The log as its users see it. The writer ends when the last handle is dropped.
#[derive(Debug)]
pub struct SegmentLog {
    pub(super) shared: Arc<Shared>,
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        self.shared.queue.close();
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.housekeeping.notify_one();
    }
}

impl SegmentLog {
    fn shard(&self, id: ShardId) -> Result<Arc<Shard>> {
        if let Some(StoreError::Closed) = self.shared.queue.stopped() {
            return Err(StoreError::Closed);
        }
        self.shared.find(id).ok_or(StoreError::ShardNotFound(id))
    }

    /// Waits for room in the queue.
    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        // What is larger than the queue gets all of it.
        let wanted = bytes.saturating_add(HEADER_LEN).min(self.shared.options.queue_bytes);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.shared.room).acquire_many_owned(wanted).await;
        room.map_err(|_| self.shared.stop_reason())
    }

    async fn reply<T>(&self, reply: oneshot::Receiver<Result<T>>) -> Result<T> {
        reply.await.unwrap_or_else(|_| Err(self.shared.stop_reason()))
    }

    async fn control(
        &self,
        control: Control,
        exclusive: Option<OwnedMutexGuard<()>>,
        bytes: usize,
    ) -> Result<()> {
        let room = self.room(bytes).await?;
        self.submit(control, exclusive, room)?.await.unwrap_or_else(|_| Err(self.shared.stop_reason()))
    }

    fn submit(
        &self,
        control: Control,
        exclusive: Option<OwnedMutexGuard<()>>,
        room: OwnedSemaphorePermit,
    ) -> Result<oneshot::Receiver<Result<()>>> {
        let (done, reply) = oneshot::channel();
        self.shared.queue.push(Item::Control(ControlItem {
            control,
            done,
            _room: room,
            _exclusive: exclusive,
        }))?;
        Ok(reply)
    }

    /// Trims what is older than its shard's retention: all shards together, a few thousand to a write.
    pub(super) async fn enforce_retention(&self) -> Result<()> {
        let now = (self.shared.options.clock)();
        let mut trims = Vec::new();
        for shard in self.shared.sorted_shards() {
            if shard.spec.retention_secs == 0 {
                continue;
            }
            let cutoff = now.saturating_sub(u64::from(shard.spec.retention_secs) * 1000);
            // An error means that it was deleted meanwhile.
            if let (Ok(keep), Ok(trimmed)) = (shard.find_time(cutoff), shard.trimmed())
                && keep - 1 > trimmed
            {
                trims.push((shard.spec.shard, keep - 1));
            }
        }
        for trims in trims.chunks(TRIMS_AT_ONCE) {
            self.control(Control::Trim(trims.to_vec()), None, trims.len() * 16).await?;
        }
        if trims.is_empty() { Ok(()) } else { self.remove_dead().await }
    }

    /// Removes the files nobody wants any more, so that whoever trims or deletes finds the space free.
    async fn remove_dead(&self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            if let Some(_open) = shared.open() {
                shared.remove_dead();
            }
            // What is left may be worth a compaction.
            shared.housekeeping.notify_one();
        })
        .await
    }
}

#[async_trait]
impl LogStore for SegmentLog {
    async fn create_shards(&self, shards: &[ShardSpec]) -> Result<()> {
        if shards.is_empty() {
            return Ok(());
        }
        let bytes = shards.len() * 12;
        let exclusive = Arc::clone(&self.shared.exclusive).lock_owned().await;
        for (at, spec) in shards.iter().enumerate() {
            let twice = shards.iter().take(at).any(|other| other.shard == spec.shard);
            if twice || self.shared.find(spec.shard).is_some() {
                return Err(StoreError::ShardExists(spec.shard));
            }
        }
        self.control(Control::Create(shards.to_vec()), Some(exclusive), bytes).await
    }

    async fn delete_shards(&self, shards: &[ShardId]) -> Result<()> {
        let exclusive = Arc::clone(&self.shared.exclusive).lock_owned().await;
        let mut doomed: Vec<Arc<Shard>> = shards.iter().filter_map(|id| self.shared.find(*id)).collect();
        doomed.sort_by_key(|shard| shard.spec.shard);
        doomed.dedup_by_key(|shard| shard.spec.shard);
        if doomed.is_empty() {
            return Ok(());
        }
        let room = self.room(doomed.len() * 8).await?;
        // From here to the queue nothing waits: no batch gets behind the deletion, and nobody can drop this
        // future between the mark and the queue.
        doomed.iter().for_each(|shard| shard.state().deleting = true);
        let reply = self.submit(Control::Delete(doomed), Some(exclusive), room)?;
        self.reply(reply).await?;
        self.remove_dead().await
    }

    fn shards(&self) -> Vec<ShardSpec> {
        self.shared.sorted_shards().iter().map(|shard| shard.spec.clone()).collect()
    }

    async fn append(&self, shard: ShardId, batch: NewBatch) -> Result<Appended> {
        let shard = self.shard(shard)?;
        if batch.bytes.len() > MAX_BATCH_BYTES {
            return Err(StoreError::Io(format!(
                "a batch of {} bytes cannot be stored; the limit is {MAX_BATCH_BYTES}",
                batch.bytes.len()
            )));
        }
        // Whoever polls first is first in line, also if the scheduler's budget is used up.
        let turn = match shard.turn.try_lock() {
            Ok(turn) => turn,
            Err(_) => tokio::task::unconstrained(shard.turn.lock()).await,
        };
        let room = self.room(batch.bytes.len()).await?;
        let body_crc = crc32c::crc32c(&batch.bytes);
        let NewBatch { bytes, records, producer } = batch;
        let enqueue = |lsn, time_ms, generation| {
            let shard = Arc::clone(&shard);
            let item = BatchItem {
                shard,
                generation,
                lsn,
                time_ms,
                records,
                producer,
                bytes,
                body_crc,
                _room: room,
            };
            self.shared.queue.push(Item::Batch(item))
        };
        let now = (self.shared.options.clock)();
        let accepted =
            shard.accept(records, producer.as_ref(), &self.shared.options.producers, now, enqueue)?;
        drop(turn);
        match accepted {
            Accepted::Known(appended) => Ok(appended),
            Accepted::Write(reply) | Accepted::Wait(reply) => self.reply(reply).await,
        }
    }

    async fn read(&self, shard: ShardId, from: Lsn, limits: ReadLimits) -> Result<ReadChunk> {
        let shard = self.shard(shard)?;
        loop {
            let plan = shard.plan(from, limits)?;
            let mut chunk = ReadChunk { gap: plan.gap, batches: Vec::new(), next: plan.next };
            if plan.entries.is_empty() {
                return Ok(chunk);
            }
            let wanted = plan.entries.len();
            let first = plan.entries.first().map_or(from, |entry| entry.lsn);
            let shared = Arc::clone(&self.shared);
            let source = Arc::clone(&shard);
            chunk.batches = blocking(move || load(&shared, &source, &plan.entries)).await??;
            if chunk.batches.len() < wanted {
                // The rest went away while we read: trimmed, or found damaged.
                if chunk.batches.is_empty() && chunk.gap.is_none() {
                    continue;
                }
                chunk.next = chunk.batches.last().map_or(first, |batch| batch.lsn + 1);
            }
            return Ok(chunk);
        }
    }

    fn tail(&self, shard: ShardId) -> Result<Lsn> {
        self.shard(shard)?.tail()
    }

    fn watch_tail(&self, shard: ShardId) -> Result<TailWatch> {
        self.shard(shard)?.watch().map(TailWatch::from)
    }

    fn trim_point(&self, shard: ShardId) -> Result<Lsn> {
        Ok(self.shard(shard)?.trimmed()? + 1)
    }

    async fn trim(&self, shard: ShardId, up_to: Lsn) -> Result<()> {
        let found = self.shard(shard)?;
        let up_to = up_to.min(found.tail()?);
        if up_to <= found.trimmed()? {
            return Ok(());
        }
        self.control(Control::Trim(vec![(shard, up_to)]), None, 0).await?;
        self.remove_dead().await
    }

    async fn find_time(&self, shard: ShardId, time_ms: u64) -> Result<Lsn> {
        self.shard(shard)?.find_time(time_ms)
    }
}

/// Reads batches from disk. Ends early at one that is gone or somewhere else by now; fewer than asked for means
/// look again.
fn load(shared: &Shared, shard: &Shard, entries: &[Entry]) -> Result<Vec<StoredBatch>> {
    let mut batches = Vec::with_capacity(entries.len());
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let run = side_by_side(rest);
        let found = shared.segments.get(&*shared.disk, first.segment);
        let found = found.map_err(|error| StoreError::Io(format!("opening a segment failed: {error}")))?;
        let Some(segment) = found else {
            // Removed because it was trimmed, deleted or copied elsewhere; the next plan knows.
            shared.lose(shard, first, "its segment is missing");
            return Ok(batches);
        };
        let (together, after) = rest.split_at(run);
        let len = together.last().map_or(0, |last| end_of(last) - u64::from(first.offset));
        let mut bytes = vec![0; usize::try_from(len).map_err(|error| StoreError::Io(error.to_string()))?];
        match segment.file.read_at(u64::from(first.offset), &mut bytes) {
            Ok(()) => {}
            // The file was cut behind our back; find out which of the frames is affected.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                if together.len() == 1 {
                    shared.lose(shard, first, "the file ends before it");
                    return Ok(batches);
                }
                let Some(single) = rest.get(..1) else { return Ok(batches) };
                batches.extend(load(shared, shard, single)?);
                return Ok(batches);
            }
            Err(error) => {
                return Err(StoreError::Io(format!("reading {} failed: {error}", segment.id.name())));
            }
        }
        let bytes = Bytes::from(bytes);
        for entry in together {
            let at = (entry.offset - first.offset) as usize;
            let frame = bytes.slice(at..at + frame_len(entry) as usize);
            let place = segment.place(entry.offset);
            let Some(header) = Header::of_batch(&frame, place, shard.spec.shard, entry.lsn) else {
                shared.lose(shard, entry, "it does not match its checksum");
                return Ok(batches);
            };
            // All of it from the frame: an index beside the segment only says where to look.
            let Header { lsn, time_ms, records, .. } = header;
            batches.push(StoredBatch { lsn, time_ms, records, bytes: frame.slice(HEADER_LEN..) });
        }
        rest = after;
    }
    Ok(batches)
}

/// Where the frame of a batch ends.
pub(super) fn end_of(entry: &Entry) -> u64 {
    u64::from(entry.offset) + frame_len(entry)
}

/// How many of `entries`, at least one, follow each other without a gap and are not too much at once.
fn side_by_side(entries: &[Entry]) -> usize {
    let start = entries.first().map_or(0, |entry| u64::from(entry.offset));
    let follows = |pair: &&[Entry]| match pair {
        [before, after] => {
            before.segment == after.segment
                && end_of(before) == u64::from(after.offset)
                && end_of(after) - start <= READ_AT_ONCE
        }
        _ => false,
    };
    1 + entries.windows(2).take_while(follows).count()
}
