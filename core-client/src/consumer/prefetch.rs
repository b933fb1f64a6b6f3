//! The bounded buffer between the wire and the application.
//!
//! A lane per source (one for a consumer, one per shard for a stream reader) keeps a fast shard from pushing out a slow
//! one: lanes with something in them are served in turn. A source reads from the wire only while its lane has room, so a
//! slow application stops the HTTP/2 stream and, through it, the server.

use crate::error::{Error, Result};
use crate::record::ReceivedBatch;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bounded, cancel-safe queue of batches.
#[derive(Debug)]
pub(crate) struct Prefetch {
    state: Mutex<State>,
    items: Notify,
    lanes: Vec<Notify>,
    max_lane_batches: usize,
    max_lane_bytes: usize,
}

#[derive(Debug)]
struct State {
    queues: Vec<Lane>,
    /// Lanes that are not empty, next one first.
    ready: VecDeque<usize>,
    /// Lanes that may still push.
    open: usize,
    error: Option<Error>,
    closed: bool,
    /// How many batches may still be taken out.
    budget: Option<u64>,
}

#[derive(Debug, Default)]
struct Lane {
    batches: VecDeque<ReceivedBatch>,
    bytes: usize,
    finished: bool,
}

impl Prefetch {
    /// `max_batches` and `max_bytes` are shared evenly by the lanes; a lane takes batches until a limit is
    /// reached, so it may exceed the bytes by one batch. After `budget` batches the queue ends.
    pub fn new(lanes: usize, max_batches: usize, max_bytes: usize, budget: Option<u64>) -> Self {
        let count = lanes.max(1);
        Prefetch {
            state: Mutex::new(State {
                queues: (0..lanes).map(|_| Lane::default()).collect(),
                ready: VecDeque::new(),
                open: lanes,
                error: None,
                closed: budget == Some(0),
                budget,
            }),
            items: Notify::new(),
            lanes: (0..lanes).map(|_| Notify::new()).collect(),
            max_lane_batches: (max_batches / count).max(1),
            max_lane_bytes: (max_bytes / count).max(1),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here can panic halfway through a change, so a poisoned state is still a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is taken any more.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Whether the lane takes a batch now.
    pub fn has_room(&self, lane: usize) -> bool {
        let state = self.lock();
        !state.closed
            && state
                .queues
                .get(lane)
                .is_some_and(|l| l.batches.len() < self.max_lane_batches && l.bytes < self.max_lane_bytes)
    }

    /// Waits for room in the lane; false once the queue is closed. One waiter per lane.
    pub async fn room(&self, lane: usize) -> bool {
        let Some(notify) = self.lanes.get(lane) else { return false };
        loop {
            let notified = notify.notified();
            if self.is_closed() {
                return false;
            }
            if self.has_room(lane) {
                return true;
            }
            notified.await;
        }
    }

    /// Puts a batch in, whether or not there is room: it has been received already. Dropped after the close.
    pub fn push(&self, lane: usize, batch: ReceivedBatch) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        let Some(queue) = state.queues.get_mut(lane) else { return };
        queue.bytes += cost(&batch);
        queue.batches.push_back(batch);
        if queue.batches.len() == 1 {
            state.ready.push_back(lane);
        }
        drop(state);
        self.items.notify_one();
    }

    /// Whether a batch waits in the lane that has all records of this one.
    pub fn holds(&self, lane: usize, batch: &ReceivedBatch) -> bool {
        let Some(first) = batch.ids().first() else { return false };
        let state = self.lock();
        let Some(lane) = state.queues.get(lane) else { return false };
        let same = |waiting: &&ReceivedBatch| {
            waiting.shard_id() == first.shard_id
                && waiting.ids().first().is_some_and(|id| id.batch_id == first.batch_id)
        };
        lane.batches
            .iter()
            .filter(same)
            .any(|waiting| batch.ids().iter().all(|id| waiting.ids().binary_search(id).is_ok()))
    }

    /// The lane has come to its end; the queue ends with its last lane.
    pub fn finish(&self, lane: usize) {
        let mut state = self.lock();
        match state.queues.get_mut(lane) {
            Some(queue) if !queue.finished => queue.finished = true,
            _ => return,
        }
        state.open -= 1;
        let ended = state.open == 0;
        drop(state);
        if ended {
            self.items.notify_waiters();
        }
    }

    /// Ends the queue with an error, reported once, after what is buffered.
    pub fn fail(&self, error: Error) {
        let mut state = self.lock();
        if !state.closed && state.error.is_none() && state.open > 0 {
            state.error = Some(error);
            state.open = 0;
            for queue in &mut state.queues {
                queue.finished = true;
            }
        }
        drop(state);
        self.items.notify_waiters();
        self.wake_lanes();
    }

    /// Whether an error or the last lane's end has been announced.
    pub fn is_ending(&self) -> bool {
        let state = self.lock();
        state.closed || state.open == 0
    }

    /// Ends the queue at once and drops what is buffered.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.ready.clear();
        for queue in &mut state.queues {
            *queue = Lane { finished: true, ..Lane::default() };
        }
        state.open = 0;
        drop(state);
        self.items.notify_waiters();
        self.wake_lanes();
    }

    fn wake_lanes(&self) {
        for lane in &self.lanes {
            lane.notify_one();
        }
    }

    /// The error, if it has not been taken yet.
    pub fn error(&self) -> Option<Error> {
        self.lock().error.clone()
    }

    /// Takes the error without waiting for the buffered batches.
    pub fn take_error(&self) -> Option<Error> {
        self.lock().error.take()
    }

    /// Batches and bytes buffered.
    pub fn buffered(&self) -> (usize, usize) {
        let state = self.lock();
        (state.queues.iter().map(|l| l.batches.len()).sum(), state.queues.iter().map(|l| l.bytes).sum())
    }

    /// The next batch; `None` at the end. Dropping the future loses nothing.
    pub async fn next(&self) -> Result<Option<ReceivedBatch>> {
        loop {
            let notified = self.items.notified();
            tokio::pin!(notified);
            // Registered before looking, so that an end announced in between is not missed.
            notified.as_mut().enable();
            if let Some(result) = self.try_next() {
                return result;
            }
            notified.await;
        }
    }

    fn try_next(&self) -> Option<Result<Option<ReceivedBatch>>> {
        let mut state = self.lock();
        if let Some(lane) = state.ready.pop_front() {
            let queue = state.queues.get_mut(lane)?;
            let batch = queue.batches.pop_front();
            if let Some(batch) = batch {
                queue.bytes = queue.bytes.saturating_sub(cost(&batch));
                if !queue.batches.is_empty() {
                    state.ready.push_back(lane);
                }
                let spent = match &mut state.budget {
                    Some(left) => {
                        *left -= 1;
                        *left == 0
                    }
                    None => false,
                };
                let more = !state.ready.is_empty();
                drop(state);
                if let Some(notify) = self.lanes.get(lane) {
                    notify.notify_one();
                }
                if spent {
                    self.close();
                } else if more {
                    // Another taker may wait for what is left.
                    self.items.notify_one();
                }
                return Some(Ok(Some(batch)));
            }
        }
        if state.closed {
            return Some(Ok(None));
        }
        if state.open == 0 {
            return Some(match state.error.take() {
                Some(error) => {
                    state.closed = true;
                    Err(error)
                }
                None => Ok(None),
            });
        }
        None
    }
}

/// What a batch takes in memory before it is decoded: its bytes, its ids and the bookkeeping.
fn cost(batch: &ReceivedBatch) -> usize {
    batch.encoded_bytes() + std::mem::size_of_val(batch.ids()) + 128
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use futures::FutureExt as _;
    use hstreamdb_proto::api;

    fn batch(shard_id: u64, batch_id: u64, size: usize) -> ReceivedBatch {
        let received = api::ReceivedRecord {
            record_ids: vec![api::RecordId { shard_id, batch_id, batch_index: 0 }],
            record: Some(api::BatchedRecord {
                batch_size: 1,
                payload: vec![0; size].into(),
                ..Default::default()
            }),
        };
        ReceivedBatch::from_wire(received, 1 << 20).unwrap()
    }

    fn ids(batch: Result<Option<ReceivedBatch>>) -> (u64, u64) {
        let batch = batch.unwrap().unwrap();
        (batch.ids()[0].shard_id, batch.ids()[0].batch_id)
    }

    #[tokio::test]
    async fn lanes_are_served_in_turn() {
        let queue = Prefetch::new(2, 100, 1 << 20, None);
        for number in 0..3 {
            queue.push(0, batch(0, number, 1));
        }
        queue.push(1, batch(1, 0, 1));
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(ids(queue.next().await));
        }
        assert_eq!(order, [(0, 0), (1, 0), (0, 1), (0, 2)]);
    }

    #[tokio::test]
    async fn room_ends_at_either_limit_and_returns_with_a_take() {
        let queue = Prefetch::new(1, 2, 1000, None);
        queue.push(0, batch(0, 0, 1));
        assert!(queue.has_room(0));
        queue.push(0, batch(0, 1, 1));
        assert!(queue.room(0).now_or_never().is_none(), "two batches are the limit");
        queue.next().await.unwrap();
        assert!(queue.room(0).now_or_never().unwrap());
        queue.push(0, batch(0, 2, 5000));
        queue.next().await.unwrap();
        assert!(!queue.has_room(0), "a large batch fills the lane alone");
        queue.next().await.unwrap();
        assert!(queue.has_room(0));
        assert_eq!(queue.buffered(), (0, 0));
    }

    #[tokio::test]
    async fn an_error_comes_once_after_what_is_buffered() {
        let queue = Prefetch::new(1, 10, 10_000, None);
        queue.push(0, batch(0, 0, 1));
        queue.fail(Error::new(ErrorKind::NotFound, "read"));
        assert_eq!(ids(queue.next().await), (0, 0));
        assert_eq!(queue.next().await.unwrap_err().kind(), ErrorKind::NotFound);
        assert!(queue.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn waiting_takers_end_with_the_last_lane_and_with_close() {
        let queue = Prefetch::new(2, 10, 10_000, None);
        {
            let waiting = queue.next();
            tokio::pin!(waiting);
            assert!(waiting.as_mut().now_or_never().is_none());
            queue.finish(0);
            assert!(waiting.as_mut().now_or_never().is_none());
            queue.finish(1);
            assert!(waiting.await.unwrap().is_none());
        }
        let queue = Prefetch::new(1, 10, 10_000, None);
        queue.push(0, batch(0, 0, 1));
        queue.close();
        assert!(queue.next().await.unwrap().is_none());
        assert!(!queue.room(0).await);
    }

    #[tokio::test]
    async fn a_dropped_taker_loses_nothing() {
        let queue = Prefetch::new(1, 10, 10_000, None);
        let waiting = queue.next();
        {
            tokio::pin!(waiting);
            assert!(waiting.as_mut().now_or_never().is_none());
            queue.push(0, batch(0, 7, 1));
        }
        assert_eq!(ids(queue.next().await), (0, 7));
    }

    #[tokio::test]
    async fn a_batch_that_waits_is_known_by_its_records() {
        let queue = Prefetch::new(1, 10, 10_000, None);
        queue.push(0, batch(0, 7, 1));
        assert!(queue.holds(0, &batch(0, 7, 1)));
        assert!(!queue.holds(0, &batch(0, 8, 1)) && !queue.holds(0, &batch(1, 7, 1)));
        queue.next().await.unwrap();
        assert!(!queue.holds(0, &batch(0, 7, 1)));
    }

    #[tokio::test]
    async fn the_budget_ends_the_queue_exactly() {
        let queue = Prefetch::new(1, 10, 10_000, Some(2));
        for number in 0..3 {
            queue.push(0, batch(0, number, 1));
        }
        assert_eq!(ids(queue.next().await), (0, 0));
        assert_eq!(ids(queue.next().await), (0, 1));
        assert!(queue.next().await.unwrap().is_none());
        assert!(queue.is_closed());
    }
}
