//! Which batch goes to a handler when.

use super::Job;
use super::attempt::Verdict;
use super::options::RunOptions;
use crate::consumer::shared::Shared;
use crate::error::{Error, Result};
use crate::record::ReceivedBatch;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Batches that wait for their shard, and the shards that are busy. Pure.
struct Queue {
    limit: usize,
    ordered: bool,
    waiting: VecDeque<ReceivedBatch>,
    busy: HashSet<u64>,
}

impl Queue {
    /// Whether another batch may be taken in.
    fn has_room(&self) -> bool {
        self.waiting.len() < self.limit
    }

    /// The first batch whose shard is free.
    fn start(&mut self) -> Option<ReceivedBatch> {
        let free = |batch: &ReceivedBatch| !self.ordered || !self.busy.contains(&batch.shard_id());
        let at = self.waiting.iter().position(free)?;
        let batch = self.waiting.remove(at)?;
        self.busy.insert(batch.shard_id());
        Some(batch)
    }
}

/// Runs jobs until the consumer ends, is stopped, or one of them says so: that one's error is returned as `Some`.
///
/// # Errors
/// What ended the consumer.
pub(super) async fn run(shared: &Arc<Shared>, options: &RunOptions, job: &Job) -> Result<Option<Error>> {
    let _run = shared.handlers.begin_run();
    let mut queue = Queue {
        limit: options.concurrency,
        ordered: options.ordered,
        waiting: VecDeque::new(),
        busy: HashSet::new(),
    };
    let mut tasks: JoinSet<(u64, Verdict)> = JoinSet::new();
    let mut end: Option<Result<Option<Error>>> = None;
    // Set when nobody else bounds how long handlers are waited for.
    let mut until: Option<Instant> = None;
    loop {
        if shared.handlers.stopping.is_cancelled() {
            // What has not begun is left to the next consumer.
            queue.waiting.clear();
        }
        while end.is_none()
            && tasks.len() < options.concurrency
            && let Some(batch) = queue.start()
        {
            let shard = batch.shard_id();
            let work = job(batch);
            tasks.spawn(async move { (shard, work.await) });
        }
        if tasks.is_empty()
            && let Some(end) = end.take()
        {
            return end;
        }
        let pull = end.is_none() && tasks.len() < options.concurrency && queue.has_room();
        let limit = until;
        let mut ending = |new: Result<Option<Error>>| {
            shared.handlers.stopping.cancel();
            until = Some(Instant::now() + options.stop_timeout);
            // The first reason counts.
            end.get_or_insert(new);
        };
        tokio::select! {
            biased;
            () = shared.handlers.given_up.cancelled() => return end.unwrap_or(Ok(None)),
            () = sleep_until(limit) => {
                shared.handlers.give_up();
                return end.unwrap_or(Ok(None));
            }
            Some(done) = tasks.join_next(), if !tasks.is_empty() => match done {
                Ok((shard, verdict)) => {
                    queue.busy.remove(&shard);
                    if let Verdict::Stop(error) = verdict {
                        ending(Ok(Some(error)));
                    }
                }
                // Handlers' panics are caught; only a runtime that ends does this.
                Err(_) => return end.unwrap_or(Ok(None)),
            },
            next = shared.next_batch(), if pull => match next {
                Ok(Some(batch)) => queue.waiting.push_back(batch),
                Ok(None) => end = end.or(Some(Ok(None))),
                Err(error) => ending(Err(error)),
            },
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hstreamdb_proto::api;

    fn batch(shard_id: u64, batch_id: u64) -> ReceivedBatch {
        let received = api::ReceivedRecord {
            record_ids: vec![api::RecordId { shard_id, batch_id, batch_index: 0 }],
            record: Some(api::BatchedRecord::default()),
        };
        ReceivedBatch::from_wire(received, 1000).unwrap()
    }

    fn queue(ordered: bool) -> Queue {
        let waiting = [batch(1, 1), batch(1, 2), batch(2, 1), batch(1, 3)].into();
        Queue { limit: 4, ordered, waiting, busy: HashSet::new() }
    }

    fn started(queue: &mut Queue) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| queue.start())
            .map(|batch| (batch.shard_id(), batch.ids()[0].batch_id))
            .collect()
    }

    #[test]
    fn a_busy_shard_makes_its_batches_wait_and_nobody_elses() {
        let mut queue = queue(true);
        assert!(!queue.has_room());
        assert_eq!(started(&mut queue), [(1, 1), (2, 1)]);
        assert!(queue.has_room());
        queue.busy.remove(&1);
        assert_eq!(started(&mut queue), [(1, 2)]);
        queue.busy.remove(&1);
        assert_eq!(started(&mut queue), [(1, 3)]);
    }

    #[test]
    fn without_order_nothing_waits() {
        assert_eq!(started(&mut queue(false)), [(1, 1), (1, 2), (2, 1), (1, 3)]);
    }
}
