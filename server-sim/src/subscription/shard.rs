//! One shard of a subscription: how far it was read, delivered and acknowledged.

use super::ack_window::AckWindow;
use crate::store::{Lsn, StoredBatch};
use std::collections::VecDeque;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) window: AckWindow,
    /// Where the next read begins.
    pub(super) next: Lsn,
    pub(super) tail: Lsn,
    /// Read, but not delivered yet.
    ahead: VecDeque<StoredBatch>,
    ahead_bytes: usize,
    /// Left alone until then, after something failed.
    pub(super) retry_at: Option<Instant>,
    /// The last checkpoint known to be durable; `None` before the first.
    pub(super) persisted: Option<Lsn>,
    /// Where delivery began; a checkpoint below says nothing new.
    started_after: Lsn,
}

impl Shard {
    /// A shard of which everything up to and including `done` is acknowledged.
    pub(super) fn new(done: Lsn, checkpoint: Option<Lsn>, now: Instant) -> Self {
        Shard {
            window: AckWindow::new(done, now),
            next: done.saturating_add(1),
            tail: 0,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            retry_at: None,
            persisted: checkpoint,
            started_after: done,
        }
    }

    /// True if there is something behind what was delivered.
    pub(super) fn has_data(&self) -> bool {
        !self.ahead.is_empty() || self.next <= self.tail
    }

    /// When it has to be looked at although nothing new comes.
    pub(super) fn timer(&mut self) -> Option<Instant> {
        self.retry_at.or_else(|| self.window.next_deadline())
    }

    /// A checkpoint that is ahead of the durable one.
    pub(super) fn unsaved(&self) -> Option<Lsn> {
        let committed = self.window.committed();
        (committed > self.persisted.unwrap_or(self.started_after)).then_some(committed)
    }

    /// Keeps what a read brought until it can be delivered.
    pub(super) fn read_ahead(&mut self, batches: Vec<StoredBatch>) {
        self.ahead_bytes += batches.iter().map(|batch| batch.bytes.len()).sum::<usize>();
        self.ahead.extend(batches);
    }

    /// The next batch to deliver, if it was read already.
    pub(super) fn first_ahead(&self) -> Option<&StoredBatch> {
        self.ahead.front()
    }

    /// Takes the next batch to deliver.
    pub(super) fn take_ahead(&mut self) -> Option<StoredBatch> {
        let batch = self.ahead.pop_front()?;
        self.ahead_bytes -= batch.bytes.len();
        Some(batch)
    }

    /// Gives back what was read ahead; it is read again later.
    pub(super) fn drop_ahead(&mut self) {
        if let Some(first) = self.ahead.front() {
            self.next = first.lsn;
        }
        self.ahead = VecDeque::new();
        self.ahead_bytes = 0;
    }

    /// Bytes that were read and are not delivered.
    pub(super) fn ahead_bytes(&self) -> usize {
        self.ahead_bytes
    }
}
