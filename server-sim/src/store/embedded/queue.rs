//! The way from the callers to the writer.

use super::shard::Shard;
use crate::store::{Lsn, ProducerStamp, Result, ShardId, ShardSpec, StoreError};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, oneshot};

/// One thing to write.
#[derive(Debug)]
pub enum Item {
    /// A batch; its waiters are with the shard.
    Batch(BatchItem),
    /// A change of the shards themselves.
    Control(ControlItem),
}

/// A batch that has its place.
#[derive(Debug)]
pub struct BatchItem {
    pub shard: Arc<Shard>,
    pub generation: u64,
    pub lsn: Lsn,
    pub time_ms: u64,
    pub records: u32,
    pub producer: Option<ProducerStamp>,
    pub bytes: Bytes,
    pub body_crc: u32,
    /// Room in the queue, given back when the batch is durable or refused.
    pub _room: OwnedSemaphorePermit,
}

/// A change of the shards.
#[derive(Debug)]
pub struct ControlItem {
    pub control: Control,
    pub done: oneshot::Sender<Result<()>>,
    pub _room: OwnedSemaphorePermit,
    /// Keeps other creations and deletions out, also if the caller is gone.
    pub _exclusive: Option<OwnedMutexGuard<()>>,
}

/// Which change.
#[derive(Debug)]
pub enum Control {
    Create(Vec<ShardSpec>),
    Delete(Vec<Arc<Shard>>),
    /// Last removed LSN of each shard.
    Trim(Vec<(ShardId, Lsn)>),
}

impl Item {
    /// Bytes it occupies on disk, about.
    pub fn bytes(&self) -> usize {
        super::frame::HEADER_LEN
            + match self {
                Item::Batch(batch) => batch.bytes.len(),
                Item::Control(item) => match &item.control {
                    Control::Create(specs) => specs.len() * 12,
                    Control::Delete(shards) => shards.len() * 8,
                    Control::Trim(trims) => trims.len() * 16,
                },
            }
    }
}

/// A queue that ends. Its length is bounded by the room its items hold.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<QueueState>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    items: VecDeque<Item>,
    closing: bool,
    stopped: Option<StoreError>,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item, unless the queue has ended.
    pub fn push(&self, item: Item) -> Result<()> {
        let mut state = self.state();
        if let Some(error) = &state.stopped {
            return Err(error.clone());
        }
        if state.closing {
            return Err(StoreError::Closed);
        }
        state.items.push_back(item);
        self.wake.notify_one();
        Ok(())
    }

    /// Why nothing is taken any more, if so.
    pub fn stopped(&self) -> Option<StoreError> {
        self.state().stopped.clone()
    }

    /// Takes nothing new; what is in the queue is still written.
    pub fn close(&self) {
        self.state().closing = true;
        self.wake.notify_all();
    }

    /// Ends the queue at once; the first reason stays. Returns what was in it.
    pub fn stop(&self, error: StoreError) -> VecDeque<Item> {
        let mut state = self.state();
        state.stopped.get_or_insert(error);
        std::mem::take(&mut state.items)
    }

    /// Waits for items and takes some, at most `max_bytes` unless the first one alone is larger; `None` when
    /// closed and empty.
    pub fn take(&self, max_bytes: usize) -> Option<Vec<Item>> {
        let mut state = self.state();
        while state.items.is_empty() {
            if state.closing || state.stopped.is_some() {
                return None;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(item) = state.items.front() {
            bytes += item.bytes();
            if !taken.is_empty() && bytes > max_bytes {
                break;
            }
            taken.extend(state.items.pop_front());
        }
        Some(taken)
    }
}
