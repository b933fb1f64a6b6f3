//! Asking for a stream's shards anew, once for all who want to know at the same time.

use super::transport::Transport;
use crate::{error::Result, routing::ShardMap};
use std::sync::Arc;
use tokio::{sync::Mutex, time::Instant};

/// The shards of the stream at some moment.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    /// When they were asked for: what happened earlier shows in the answer.
    pub asked: Instant,
    pub map: Arc<ShardMap>,
}

/// Shared by all pipelines of a producer, so that a stream that went away costs one question, not one per shard.
pub(super) struct ShardLookup {
    transport: Arc<dyn Transport>,
    last: Mutex<Option<(Instant, Result<Fetched>)>>,
}

impl ShardLookup {
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        ShardLookup { transport, last: Mutex::new(None) }
    }

    /// The shards, asked for after this moment.
    ///
    /// # Errors
    /// `NotFound` when the stream does not exist; whatever else kept the answer away.
    pub async fn after(&self, moment: Instant) -> Result<Fetched> {
        let mut last = self.last.lock().await;
        if let Some((asked, answer)) = &*last
            && *asked > moment
        {
            return answer.clone();
        }
        let asked = Instant::now();
        let answer = self.transport.shards().await.map(|map| Fetched { asked, map: Arc::new(map) });
        *last = Some((asked, answer.clone()));
        answer
    }
}
