//! One of the streams that hold the shards: many shards to a stream, because every stream is a Raft group.

use super::barrier::Barrier;
use super::front::{Front, HEADER};
use super::known::Known;
use super::shard::Shard;
use super::wire::{PublishError, Wire};
use crate::store::{Result, ShardId};
use async_nats::HeaderMap;
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;

/// Last part of the subject of a message that says nothing but that it was stored.
const BARRIER: &str = "barrier";
/// Last part of the subject of a shard's trim record.
const TRIM: &str = "trim";

/// A lane and what is known of its shards.
#[derive(Debug)]
pub struct Lane {
    /// Copies it has, and its number among those with as many.
    pub id: LaneId,
    /// Name of its stream.
    pub stream: String,
    /// What the subjects of its messages begin with.
    prefix: String,
    pub wire: Wire,
    /// Everything up to this sequence has come by.
    pub position: watch::Sender<u64>,
    pub barrier: Barrier,
    made: OnceCell<()>,
    /// Set once it is followed.
    pub followed: OnceCell<()>,
    heard: Mutex<HashMap<ShardId, Heard>>,
}

/// Copies and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId {
    /// Copies.
    pub replicas: u32,
    /// Number.
    pub number: u32,
}

/// Of whom messages came by.
#[derive(Debug)]
enum Heard {
    Shard(Arc<Shard>),
    /// Nobody we know, or not yet; since when.
    Stranger(Known, Instant),
}

/// What a subject is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Shard(ShardId),
    Barrier,
}

impl Lane {
    pub fn new(namespace: &str, id: LaneId, wire: Wire) -> Arc<Lane> {
        let LaneId { replicas, number } = id;
        Arc::new(Lane {
            id,
            stream: format!("{namespace}_log_r{replicas}_{number}"),
            prefix: format!("{namespace}.log.{replicas}.{number}."),
            wire,
            position: watch::Sender::new(0),
            barrier: Barrier::default(),
            made: OnceCell::new(),
            followed: OnceCell::new(),
            heard: Mutex::default(),
        })
    }

    /// Subject of a shard's messages.
    pub fn subject(&self, shard: ShardId) -> String {
        format!("{}{shard}", self.prefix)
    }

    /// Subject of its trim record.
    pub fn trim_subject(&self, shard: ShardId) -> String {
        format!("{}{shard}.{TRIM}", self.prefix)
    }

    /// Subject that matches all messages.
    pub fn all(&self) -> String {
        format!("{}>", self.prefix)
    }

    /// Makes the stream unless it is there.
    pub async fn make(&self) -> Result<()> {
        let made = self.made.get_or_try_init(|| async { self.wire.ensure_stream(&self.config()).await });
        made.await.map(|_| ())
    }

    fn config(&self) -> Value {
        json!({
            "name": self.stream,
            "subjects": [self.all()],
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "num_replicas": self.id.replicas,
            "allow_direct": true,
            "allow_msg_ttl": true,
            "allow_rollup_hdrs": true,
        })
    }

    fn heard_of(&self) -> MutexGuard<'_, HashMap<ShardId, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A shard is there from now on; it begins with what has come by. `make` is given that.
    pub fn enter(&self, id: ShardId, make: impl FnOnce(Known) -> Arc<Shard>) -> Arc<Shard> {
        let mut heard = self.heard_of();
        let known = match heard.get(&id) {
            Some(Heard::Shard(shard)) => return Arc::clone(shard),
            Some(Heard::Stranger(known, _)) => *known,
            None => Known::default(),
        };
        let shard = make(known);
        heard.insert(id, Heard::Shard(Arc::clone(&shard)));
        shard
    }

    /// A shard is gone.
    pub fn leave(&self, id: ShardId) {
        self.heard_of().remove(&id);
    }

    /// Shards of which messages have come by for at least so long, and of which nothing else is known.
    pub fn strangers(&self, before: Instant) -> Vec<ShardId> {
        let heard = self.heard_of();
        let old = |heard: &Heard| matches!(heard, Heard::Stranger(_, since) if *since <= before);
        heard.iter().filter(|(_, heard)| old(heard)).map(|(id, _)| *id).collect()
    }

    /// Takes in a message that came by.
    pub fn came(&self, subject: &str, seq: u64, front: Option<&str>) {
        if let Some(About::Shard(id)) = self.about(subject) {
            let front = front.and_then(|front| Front::decode(front, id));
            if front.is_none() {
                let stream = &self.stream;
                tracing::error!(stream, seq, "a message of the log is damaged, or of a newer version");
            }
            // An unreadable trim record says nothing.
            if front.is_some() || subject == self.subject(id) {
                self.take(id, seq, front.as_ref());
            }
        }
        self.position.send_if_modified(|position| {
            let moved = seq > *position;
            *position = seq.max(*position);
            moved
        });
    }

    fn take(&self, id: ShardId, seq: u64, front: Option<&Front>) {
        let shard = {
            let mut heard = self.heard_of();
            let stranger = || Heard::Stranger(Known::default(), Instant::now());
            match heard.entry(id).or_insert_with(stranger) {
                Heard::Shard(shard) => Arc::clone(shard),
                Heard::Stranger(known, _) => {
                    match front {
                        Some(front) => known.apply(seq, front),
                        None => known.apply_unreadable(seq),
                    };
                    return;
                }
            }
        };
        shard.apply(seq, front);
    }

    fn about(&self, subject: &str) -> Option<About> {
        let rest = subject.strip_prefix(&self.prefix)?;
        if rest == BARRIER {
            return Some(About::Barrier);
        }
        let id = rest.strip_suffix(TRIM).and_then(|rest| rest.strip_suffix('.')).unwrap_or(rest);
        id.parse().ok().map(About::Shard)
    }

    /// Waits until everything that was stored in this lane before this call has come by.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`](crate::store::StoreError::Unreachable) if that takes longer than a call may.
    pub async fn catch_up(&self) -> Result<()> {
        let position = self.position.subscribe();
        self.barrier.wait(self.wire.timeout(), position, || self.publish_barrier()).await
    }

    /// Stores a message that means nothing, and returns its sequence: everything that was stored before has a lower one.
    async fn publish_barrier(&self) -> Result<u64, PublishError> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-TTL", "1s");
        self.wire.publish(&format!("{}{BARRIER}", self.prefix), headers, Bytes::new()).await
    }

    /// Headers of a message with this front that is to land behind the message with sequence `after`.
    pub fn headers(front: &Front, shard: ShardId, after: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, front.encode(shard));
        headers.insert("Nats-Expected-Last-Subject-Sequence", after.to_string());
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::super::place;
    use super::*;

    async fn lane() -> Arc<Lane> {
        let wire = Wire::detached().await;
        Lane::new("n.1", LaneId { replicas: 3, number: 7 }, wire)
    }

    #[tokio::test]
    async fn subjects_name_shards_and_nothing_else_is_taken_for_one() {
        let lane = lane().await;
        assert_eq!(lane.about(&lane.subject(9)), Some(About::Shard(9)));
        assert_eq!(lane.about(&lane.trim_subject(9)), Some(About::Shard(9)));
        assert_eq!(lane.about("n.1.log.3.7.barrier"), Some(About::Barrier));
        for other in ["n.1.log.3.8.9", "n.1.log.3.7.", "n.1.log.3.7.x", "n.1.log.3.7.9.trims", "trim"] {
            assert_eq!(lane.about(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn a_shard_begins_with_what_came_by_before_it_was_known() {
        let lane = lane().await;
        let trim = Front::Trim(place::lsn(4, 0)).encode(9);
        lane.came(&lane.trim_subject(9), 12, Some(&trim));
        assert_eq!(*lane.position.borrow(), 12);
        assert_eq!(lane.strangers(Instant::now()), [9]);
        let spec = crate::store::ShardSpec { shard: 9, retention_secs: 0, replicas: 3 };
        let of = lane.clone();
        let shard = lane.enter(9, |known| Shard::new(spec, of, known));
        assert_eq!(shard.known().unwrap().trim_seq, 12);
        assert_eq!(lane.strangers(Instant::now()), [0; 0]);
    }
}
