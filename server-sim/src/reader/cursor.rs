//! Streaming reads: cursors over one or several shards, feeding one response stream.

use super::delivery::{ID_BYTES, MESSAGE_BYTES, gap_ids, received, received_bytes};
use super::range::ShardRange;
use crate::error::{Class, Result, ServerError};
use crate::limits::{Budget, Charge};
use crate::store::{Gap, GapKind, LogStore, Lsn, ReadLimits, ShardId, StoreError, StoredBatch, TailWatch};
use futures::future::select_all;
use hstreamdb_proto::api::{ReceivedRecord, RecordId};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Most batches in one response.
pub const MAX_BATCHES_PER_MESSAGE: usize = 10;

/// Most bytes of one read, the first batch aside; what a read is charged before it begins.
const READ_BYTES: usize = 1024 * 1024;

/// Where a call's responses go: messages, then `None` for a good end or an error. Nothing but the channel's
/// end without either means that the sending task failed.
pub type Responses<R> = mpsc::Sender<Result<Option<(R, Charge)>>>;

/// What one call reads.
#[derive(Debug)]
pub struct ReadPlan {
    /// Shards and their ranges.
    pub shards: Vec<(ShardId, ShardRange)>,
    /// Batches over the whole call; 0 is no limit.
    pub max_batches: u64,
    /// The client wants to know what is missing.
    pub tell_gaps: bool,
}

/// A place in one shard that moves forward.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) shard: ShardId,
    next: Lsn,
    end: Option<Lsn>,
    tail: TailWatch,
    /// What the last step passed over before its batches.
    gap: Option<Gap>,
}

/// What a cursor found.
#[derive(Debug)]
pub(super) enum Step {
    /// Batches, in order; possibly none although the cursor moved.
    Batches(Vec<StoredBatch>),
    /// Nothing now.
    AtTail,
    /// Nothing any more.
    Done,
}

impl Cursor {
    pub(super) fn open(log: &dyn LogStore, shard: ShardId, range: ShardRange) -> Result<Self> {
        Ok(Cursor { shard, next: range.start, end: range.end, tail: log.watch_tail(shard)?, gap: None })
    }

    /// First LSN it has not read.
    pub(super) fn next(&self) -> Lsn {
        self.next
    }

    /// Acknowledged records that the last step found unreadable.
    pub(super) fn lost(&self) -> Option<Gap> {
        self.gap.filter(|gap| gap.kind == GapKind::DataLoss)
    }

    /// What the last step passed over, as a message that tells so.
    pub(super) fn told_gap(&self) -> Option<[RecordId; 2]> {
        self.gap.map(|gap| gap_ids(self.shard, gap))
    }

    /// Goes back to a batch that was read and not used.
    pub(super) fn back_to(&mut self, lsn: Lsn) {
        self.next = self.next.min(lsn);
    }

    pub(super) async fn step(
        &mut self,
        log: &dyn LogStore,
        max_batches: usize,
        max_bytes: usize,
    ) -> Result<Step> {
        if self.end.is_some_and(|end| self.next > end) {
            return Ok(Step::Done);
        }
        // What is appended from here on wakes `wait`.
        let tail = self.tail.latest();
        let limits = ReadLimits { max_batches, max_bytes };
        let chunk = log.read(self.shard, self.next, limits).await?;
        // A gap that reaches beyond the end is none of this read's there.
        self.gap = chunk.gap.map(|gap| Gap { to: self.end.map_or(gap.to, |end| gap.to.min(end)), ..gap });
        if let Some(gap) = self.lost() {
            tracing::error!(shard = self.shard, from = gap.from, to = gap.to, "records are lost and skipped");
        }
        let moved = chunk.next > self.next;
        self.next = self.next.max(chunk.next);
        let mut batches = chunk.batches;
        if let Some(end) = self.end {
            batches.retain(|batch| batch.lsn <= end);
            if !moved && batches.is_empty() && tail >= end {
                return Ok(Step::Done);
            }
        }
        if !moved && batches.is_empty() { Ok(Step::AtTail) } else { Ok(Step::Batches(batches)) }
    }

    /// Resolves when the tail has moved since the last [`Cursor::step`], or the shard is gone.
    pub(super) async fn wait(&mut self) -> Result<()> {
        self.tail.moved().await.map_err(|_| StoreError::ShardNotFound(self.shard).into())
    }
}

/// Reads as planned and sends responses until the end, an error, the receiver's departure or `stop`.
pub async fn run<R: Send>(
    log: Arc<dyn LogStore>,
    plan: ReadPlan,
    memory: Arc<Budget>,
    stop: CancellationToken,
    responses: Responses<R>,
    respond: impl Fn(Vec<ReceivedRecord>) -> R + Send + Sync,
) {
    let outcome = tokio::select! {
        outcome = feed(&*log, plan, &memory, &responses, respond) => outcome,
        () = responses.closed() => return,
        () = stop.cancelled() => Err(stopping()),
    };
    finish(&responses, outcome).await;
}

/// Says how a call ended. Waits for room, at most as long as the client's connection lasts.
pub(super) async fn finish<R>(responses: &Responses<R>, outcome: Result<()>) {
    // A receiver that left needs no answer.
    let _ = responses.send(outcome.map(|()| None)).await;
}

/// The answer to calls that are open when the node stops.
pub(super) fn stopping() -> ServerError {
    ServerError::new(Class::ServerNotAvailable, "the server is stopping; go on with another node or later")
}

async fn feed<R: Send>(
    log: &dyn LogStore,
    plan: ReadPlan,
    memory: &Arc<Budget>,
    responses: &Responses<R>,
    respond: impl Fn(Vec<ReceivedRecord>) -> R + Send + Sync,
) -> Result<()> {
    let mut left = if plan.max_batches == 0 { u64::MAX } else { plan.max_batches };
    let mut cursors = Vec::with_capacity(plan.shards.len());
    for (shard, range) in plan.shards {
        cursors.push(Cursor::open(log, shard, range)?);
    }
    while !cursors.is_empty() && left > 0 {
        let mut idle = true;
        let mut position = 0;
        while let Some(cursor) = cursors.get_mut(position) {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(MAX_BATCHES_PER_MESSAGE);
            let charge = memory.reserve(READ_BYTES).await;
            match cursor.step(log, most, READ_BYTES).await? {
                Step::Done => {
                    cursors.swap_remove(position);
                    continue;
                }
                Step::AtTail => {}
                Step::Batches(batches) => {
                    idle = false;
                    if plan.tell_gaps
                        && let Some(ids) = cursor.told_gap()
                        && !tell(responses, memory, &respond, ids).await
                    {
                        return Ok(());
                    }
                    left = left.saturating_sub(batches.len() as u64);
                    let shard = cursor.shard;
                    if !send(responses, memory, charge, &respond, shard, batches).await {
                        return Ok(());
                    }
                    if left == 0 {
                        return Ok(());
                    }
                }
            }
            position += 1;
        }
        if idle && !cursors.is_empty() {
            let waits = cursors.iter_mut().map(|cursor| Box::pin(cursor.wait()));
            select_all(waits).await.0?;
        }
    }
    Ok(())
}

/// Sends ids without a batch: what lies between them is missing. False when nobody listens any more.
async fn tell<R: Send>(
    responses: &Responses<R>,
    memory: &Arc<Budget>,
    respond: &(impl Fn(Vec<ReceivedRecord>) -> R + Sync),
    ids: [RecordId; 2],
) -> bool {
    let message = respond(vec![ReceivedRecord { record_ids: ids.to_vec(), record: None }]);
    let charge = memory.reserve(ids.len() * ID_BYTES).await;
    responses.send(Ok(Some((message, charge)))).await.is_ok()
}

/// Sends batches in as many responses as their size asks for; false when nobody listens any more.
async fn send<R: Send>(
    responses: &Responses<R>,
    memory: &Arc<Budget>,
    charge: Charge,
    respond: &(impl Fn(Vec<ReceivedRecord>) -> R + Sync),
    shard: ShardId,
    batches: Vec<StoredBatch>,
) -> bool {
    let mut message = Vec::new();
    let mut size = 0;
    let mut charge = Some(charge);
    for batch in batches {
        let bytes = received_bytes(&batch);
        if !message.is_empty() && size + bytes > MESSAGE_BYTES {
            let charge = fit(memory, charge.take(), size).await;
            if responses.send(Ok(Some((respond(std::mem::take(&mut message)), charge)))).await.is_err() {
                return false;
            }
            size = 0;
        }
        size += bytes;
        message.extend(received(shard, batch));
    }
    if message.is_empty() {
        return true;
    }
    let charge = fit(memory, charge, size).await;
    responses.send(Ok(Some((respond(message), charge)))).await.is_ok()
}

/// A charge of `bytes`, out of one that was made before the size was known.
async fn fit(memory: &Arc<Budget>, charge: Option<Charge>, bytes: usize) -> Charge {
    match charge {
        Some(mut charge) if charge.bytes() >= bytes => {
            charge.shrink(bytes);
            charge
        }
        // Given back first: nobody holds a part while waiting for another.
        charge => {
            drop(charge);
            memory.reserve(bytes).await
        }
    }
}
