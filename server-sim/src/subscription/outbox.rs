//! Messages on their way to one consumer.
//!
//! The dispatcher fills it as far as there is room, the response stream empties it; neither waits for the
//! other. A message counts as sent once the response stream took it, so what never left can go to somebody
//! else as soon as the consumer is gone.

use super::delivery::records;
use crate::error::ServerError;
use crate::limits::{Budget, Charge, hand_over};
use crate::store::{Lsn, ShardId};
use hstreamdb_proto::api::{ReceivedRecord, RecordId, StreamingFetchResponse};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// Most messages waiting for one consumer.
const MAX_MESSAGES: usize = 64;
/// No further message is added once this many bytes wait; one message may exceed it.
const MAX_BYTES: usize = 2 << 20;
/// A dispatcher reads for a consumer while so much of the node's memory for deliveries is free.
const LEAST_MEMORY: usize = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    inner: Mutex<Inner>,
    /// What waits is charged here until it has left the node; without it only the limits above hold.
    memory: Option<Arc<Budget>>,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<(StreamingFetchResponse, usize, Option<Charge>)>,
    /// Durable checkpoints the consumer has not been told of; the newest of a shard replaces the one before.
    confirmed: BTreeMap<ShardId, Lsn>,
    bytes: usize,
    /// Messages taken so far, which is the number of the first one in the queue.
    taken: u64,
    closed: bool,
    /// The dispatcher found no room and waits for some.
    wanted: bool,
    /// The dispatcher found no memory and has to look again.
    short: bool,
    end: Option<Result<(), ServerError>>,
    waker: Option<Waker>,
}

impl Inner {
    fn half_empty(&self) -> bool {
        self.queue.len() <= MAX_MESSAGES / 2 && self.bytes <= MAX_BYTES / 2
    }
}

impl Outbox {
    pub(super) fn new(memory: Option<Arc<Budget>>) -> Self {
        Outbox { inner: Mutex::default(), memory }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Messages and bytes that still fit; nothing fits into a closed one. Once full it takes more only when
    /// half empty, so that reads stay large.
    pub(super) fn room(&self) -> Option<(usize, usize)> {
        let mut inner = self.lock();
        let full = inner.queue.len() >= MAX_MESSAGES || inner.bytes >= MAX_BYTES;
        inner.wanted = full || inner.wanted && !inner.half_empty();
        // The first message may be larger than that; the next one then waits longer.
        inner.short = self.memory.as_ref().is_some_and(|memory| !memory.has_room(LEAST_MEMORY));
        let room = !inner.closed && !inner.wanted && !inner.short;
        room.then(|| (MAX_MESSAGES - inner.queue.len(), MAX_BYTES - inner.bytes))
    }

    /// True if memory was the reason why there was no room.
    pub(super) fn short_of_memory(&self) -> bool {
        self.lock().short
    }

    /// Adds a message of about `bytes` bytes and returns its number; the caller has checked [`Outbox::room`].
    pub(super) fn push(&self, message: StreamingFetchResponse, bytes: usize) -> Option<u64> {
        let mut inner = self.lock();
        if inner.closed {
            return None;
        }
        let number = inner.taken + inner.queue.len() as u64;
        let charge = self.memory.as_ref().and_then(|memory| memory.try_reserve(bytes));
        inner.queue.push_back((message, bytes, charge));
        inner.bytes += bytes;
        wake(inner);
        Some(number)
    }

    /// Tells the consumer, before anything else, that everything of a shard up to `checkpoint` is durably
    /// acknowledged.
    pub(super) fn confirm(&self, shard: ShardId, checkpoint: Lsn) {
        let mut inner = self.lock();
        if !inner.closed {
            inner.confirmed.insert(shard, checkpoint);
            wake(inner);
        }
    }

    /// Records that wait.
    pub(super) fn records(&self) -> usize {
        self.lock().queue.iter().map(|(message, ..)| records(message)).sum()
    }

    /// True once the response stream has taken the message of this number.
    pub(super) fn took(&self, number: u64) -> bool {
        number < self.lock().taken
    }

    /// Discards what waits and takes no more; returns the number of the first message that never left.
    pub(super) fn close(&self) -> u64 {
        let mut inner = self.lock();
        inner.closed = true;
        inner.queue.clear();
        inner.bytes = 0;
        inner.taken
    }

    /// Ends the response stream; only the first end counts.
    pub(super) fn end(&self, end: Result<(), ServerError>) {
        self.close();
        let mut inner = self.lock();
        inner.end.get_or_insert(end);
        wake(inner);
    }

    /// The next message, with whether the dispatcher waits for the room it leaves, or the end.
    pub(super) fn poll(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Result<(StreamingFetchResponse, bool), End>> {
        let mut inner = self.lock();
        if !inner.confirmed.is_empty() {
            let confirmed = std::mem::take(&mut inner.confirmed);
            return Poll::Ready(Ok((confirmation(confirmed), false)));
        }
        if let Some((message, bytes, charge)) = inner.queue.pop_front() {
            charge.into_iter().for_each(hand_over);
            inner.bytes -= bytes;
            inner.taken += 1;
            let wanted = inner.wanted && inner.half_empty();
            inner.wanted &= !wanted;
            return Poll::Ready(Ok((message, wanted)));
        }
        match &inner.end {
            Some(end) => Poll::Ready(Err(End(end.clone()))),
            None => {
                inner.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A message without a record: its ids are checkpoints. See `docs/protocol.md`.
fn confirmation(confirmed: BTreeMap<ShardId, Lsn>) -> StreamingFetchResponse {
    let id = |(shard_id, batch_id)| RecordId { shard_id, batch_id, batch_index: 0 };
    let record_ids = confirmed.into_iter().map(id).collect();
    StreamingFetchResponse { received_records: Some(ReceivedRecord { record_ids, record: None }) }
}

/// How a response stream ends.
#[derive(Debug)]
pub(super) struct End(pub(super) Result<(), ServerError>);

fn wake(mut inner: MutexGuard<'_, Inner>) {
    let waker = inner.waker.take();
    drop(inner);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(outbox: &Outbox) -> Poll<Result<(StreamingFetchResponse, bool), End>> {
        outbox.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn room_ends_with_messages_or_bytes() {
        let outbox = Outbox::default();
        for number in 0..MAX_MESSAGES as u64 {
            assert!(outbox.room().is_some());
            assert_eq!(outbox.push(StreamingFetchResponse::default(), 1), Some(number));
        }
        assert_eq!(outbox.room(), None);
        let half = MAX_MESSAGES / 2;
        for taken in 1..=half as u64 {
            assert_eq!(outbox.room(), None, "still more than half full");
            let last = taken == half as u64;
            assert!(matches!(poll(&outbox), Poll::Ready(Ok((_, wakes))) if wakes == last));
            assert!(outbox.took(taken - 1) && !outbox.took(taken));
        }
        assert_eq!(outbox.room(), Some((half, MAX_BYTES - half)));
        outbox.push(StreamingFetchResponse::default(), 2 * MAX_BYTES);
        assert!(matches!(poll(&outbox), Poll::Ready(Ok((_, false)))));
        assert_eq!(outbox.room(), None, "one message may exceed the bytes, a second one waits");
    }

    #[test]
    fn closing_tells_what_never_left_and_the_first_end_wins() {
        let outbox = Outbox::default();
        for _ in 0..3 {
            outbox.push(StreamingFetchResponse::default(), 1);
        }
        assert!(poll(&outbox).is_ready());
        assert_eq!(outbox.close(), 1);
        assert!(poll(&outbox).is_pending(), "a closed outbox sends nothing while its end is being prepared");
        assert_eq!(outbox.push(StreamingFetchResponse::default(), 1), None);
        outbox.end(Ok(()));
        outbox.end(Err(ServerError::plain(tonic::Code::Internal, "late")));
        assert!(matches!(poll(&outbox), Poll::Ready(Err(End(Ok(()))))));
    }
}
