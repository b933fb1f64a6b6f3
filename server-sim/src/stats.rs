//! Counters of this process. They start at 0 with every start of the server.

use crate::stream::StreamId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

/// Counters of one stream.
#[derive(Debug, Default)]
pub struct StreamCounters {
    /// Appends asked for.
    pub append_total: AtomicU64,
    /// Appends refused or failed.
    pub append_failed: AtomicU64,
    /// Bytes of the batches stored.
    pub append_in_bytes: AtomicU64,
    /// Records of the batches stored.
    pub append_in_records: AtomicU64,
}

impl StreamCounters {
    /// Counts one append: `stored` is its bytes and records, `None` when it failed.
    pub fn append(&self, stored: Option<(usize, u32)>) {
        self.append_total.fetch_add(1, Ordering::Relaxed);
        match stored {
            Some((bytes, records)) => {
                self.append_in_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                self.append_in_records.fetch_add(u64::from(records), Ordering::Relaxed);
            }
            None => {
                self.append_failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Counters of all streams; one entry per stream that exists, whatever names clients send.
#[derive(Debug, Default)]
pub struct Stats {
    streams: RwLock<HashMap<StreamId, Arc<StreamCounters>>>,
}

impl Stats {
    /// The counters of a stream.
    pub fn stream(&self, id: StreamId) -> Arc<StreamCounters> {
        if let Some(counters) = self.streams.read().unwrap_or_else(|p| p.into_inner()).get(&id) {
            return counters.clone();
        }
        self.streams.write().unwrap_or_else(|p| p.into_inner()).entry(id).or_default().clone()
    }

    /// Forgets a stream that was deleted.
    pub fn forget(&self, id: StreamId) {
        self.streams.write().unwrap_or_else(|p| p.into_inner()).remove(&id);
    }
}
