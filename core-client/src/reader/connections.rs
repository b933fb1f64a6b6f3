//! The connections of one reader, and noticing that one of them died without a word.

use super::gap::Gaps;
use crate::cluster::{Cluster, Contact, NodeAddress, Patience, Resource};
use crate::consumer::prefetch::Prefetch;
use crate::error::{Error, ErrorKind, Result};
use crate::record::ReceivedBatch;
use hstreamdb_proto::api::EchoRequest;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Pause before a connection is looked at again on which silence says nothing now.
const UNREAD_PAUSE: Duration = Duration::from_secs(1);

/// Shared by the sources of one reader. A reader that is not read fills the window of its connection, so it must not
/// be one that other calls use.
pub(super) struct Connections {
    cluster: Cluster,
    probe_interval: Duration,
    lines: Mutex<HashMap<NodeAddress, Arc<Line>>>,
    pub gaps: Arc<Gaps>,
}

impl Connections {
    pub fn new(cluster: Cluster, probe_interval: Duration, gaps: Arc<Gaps>) -> Self {
        Connections { cluster, probe_interval, lines: Mutex::default(), gaps }
    }

    /// A line to the node the shard's load is put on.
    pub async fn for_shard(&self, shard: u64) -> Result<Arc<Line>> {
        let node = self.cluster.node_for_shard(shard).await?;
        // Held while connecting, so that all sources wait for the same connection.
        let mut lines = self.lines.lock().await;
        if let Some(line) = lines.get(&node) {
            return Ok(line.clone());
        }
        let contact = self.cluster.dedicated(&node).await?;
        let line = Arc::new(Line::new(node.clone(), contact, self.cluster.clone(), self.probe_interval));
        lines.insert(node, line.clone());
        Ok(line)
    }

    /// After a failed call: the next one looks for a node afresh.
    pub async fn failed(&self, shard: u64, line: &Arc<Line>, error: &Error) {
        self.cluster.forget_owner(&Resource::Shard(shard));
        if error.is_transport() {
            let mut lines = self.lines.lock().await;
            // Another source may have made a new one meanwhile.
            if lines.get(&line.node).is_some_and(|known| Arc::ptr_eq(known, line)) {
                lines.remove(&line.node);
                self.cluster.mark_suspect(&line.node, error);
            }
        }
    }

    /// Counts a delivered batch.
    pub fn count(&self, batch: &ReceivedBatch) {
        let metrics = self.cluster.metrics();
        metrics.reader_batches.add(1);
        metrics.reader_records.add(batch.len() as u64);
    }

    /// Most bytes a batch may take decompressed.
    pub fn decoded_limit(&self) -> usize {
        self.cluster.decoded_limit()
    }
}

/// A connection, and whether anything is heard on it.
///
/// Servers say nothing while there is nothing to read, and HTTP/2 pings would make some of them hang up, so a
/// connection that has been quiet is tried with an `Echo` of its own: one of some 60 bytes each way per interval and
/// connection, however many shards are read on it, and none while batches come.
pub(super) struct Line {
    pub node: NodeAddress,
    pub contact: Contact,
    cluster: Cluster,
    interval: Duration,
    heard: SyncMutex<Instant>,
    /// One question at a time for all sources.
    asking: Mutex<()>,
    dead: AtomicBool,
    /// Sources that wait for the application. What they do not take may fill the connection's window, and then not
    /// even an echo comes through: silence says nothing.
    unread: AtomicU64,
    /// How often a source began to wait for the application.
    stalls: AtomicU64,
}

impl Line {
    fn new(node: NodeAddress, contact: Contact, cluster: Cluster, interval: Duration) -> Self {
        Line {
            node,
            contact,
            cluster,
            interval,
            heard: SyncMutex::new(Instant::now()),
            asking: Mutex::default(),
            dead: AtomicBool::new(false),
            unread: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
        }
    }

    fn heard(&self) -> Instant {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something came.
    pub fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits for room in the lane; false once the queue is closed.
    pub async fn room(&self, queue: &Prefetch, lane: usize) -> bool {
        if queue.has_room(lane) {
            return true;
        }
        struct Unread<'a>(&'a AtomicU64);
        impl Drop for Unread<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.stalls.fetch_add(1, Ordering::Relaxed);
        self.unread.fetch_add(1, Ordering::Relaxed);
        let _unread = Unread(&self.unread);
        queue.room(lane).await
    }

    /// Resolves when the connection has died without a word; never while something is heard.
    pub async fn silence(&self) -> Error {
        loop {
            let since = Instant::now();
            tokio::select! {
                () = self.quiet() => {}
                () = self.cluster.owes_a_word(&self.node, &self.contact.line) => {}
            }
            let asking = self.asking.lock().await;
            if self.dead.load(Ordering::Relaxed) {
                return self.error();
            }
            // Another source may have asked, or been answered, meanwhile.
            if self.heard() > since {
                continue;
            }
            let stalls = self.stalls.load(Ordering::Relaxed);
            if self.unread.load(Ordering::Relaxed) > 0 {
                self.hear();
                drop(asking);
                tokio::time::sleep(UNREAD_PAUSE).await;
                continue;
            }
            if self.answers().await {
                self.hear();
                continue;
            }
            let unread = self.unread.load(Ordering::Relaxed) > 0;
            if unread || self.stalls.load(Ordering::Relaxed) != stalls {
                self.hear();
                continue;
            }
            self.dead.store(true, Ordering::Relaxed);
            return self.error();
        }
    }

    /// Resolves when nothing came for the interval.
    async fn quiet(&self) {
        if self.interval.is_zero() {
            return std::future::pending().await;
        }
        while self.heard().elapsed() < self.interval {
            tokio::time::sleep_until(self.heard() + self.interval).await;
        }
    }

    /// Whether the other side says anything at all, a refusal included.
    async fn answers(&self) -> bool {
        self.cluster.metrics().reader_probes.add(1);
        let mut client = self.contact.client.clone();
        let answer = client.echo(EchoRequest { msg: String::new() });
        let answer = self.cluster.answered(&self.node, &self.contact, Patience::Brief, answer);
        let is_there = match tokio::time::timeout(self.cluster.request_timeout(), answer).await {
            Ok(Ok(Ok(_))) => true,
            Ok(Ok(Err(status))) => !Error::from_status("echo", &status).is_transport(),
            Ok(Err(_)) | Err(_) => false,
        };
        if is_there {
            self.cluster.trust(&self.node);
        }
        is_there
    }

    fn error(&self) -> Error {
        let quiet = self.heard().elapsed();
        Error::new(ErrorKind::Unavailable, "read")
            .with_node(&self.node)
            .with_message(format!("nothing was heard for {quiet:.1?}, not even an echo"))
            .with_transport(true)
    }
}
