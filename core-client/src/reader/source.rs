//! What the sources of a reader have in common: going on after a failure, and saying so when they end.

use crate::cluster::{ApiClient, Cluster, NodeAddress, Resource};
use crate::consumer::prefetch::Prefetch;
use crate::error::{Error, ErrorKind, Result};
use crate::record::ReceivedBatch;
use hstreamdb_proto::api::ErrorCode;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Longest time without an answer before a reader gives up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
/// Tries without progress at what does not look like a matter of time, such as an internal error.
const TRIES_AT_ODD_ERRORS: u32 = 3;
/// The class with which a lookup reports a cluster that has no node to offer, in a NOT_FOUND status.
const NO_NODES: &str = "NodesNotFound";

/// The connections of one reader, shared by its sources. A reader that is not read fills the window of its
/// connection, so it must not be one that other calls use.
pub(super) struct Connections {
    cluster: Cluster,
    clients: Mutex<HashMap<NodeAddress, ApiClient>>,
}

impl Connections {
    pub fn new(cluster: Cluster) -> Self {
        Connections { cluster, clients: Mutex::default() }
    }

    /// A client at the node the shard's load is put on.
    pub async fn for_shard(&self, shard: u64) -> Result<(NodeAddress, ApiClient)> {
        let node = self.cluster.node_for_shard(shard).await?;
        // Held while connecting, so that all sources wait for the same connection.
        let mut clients = self.clients.lock().await;
        if let Some(client) = clients.get(&node) {
            return Ok((node, client.clone()));
        }
        let client = self.cluster.dedicated(&node).await?;
        clients.insert(node.clone(), client.clone());
        Ok((node, client))
    }

    /// After a failed call: the next one looks for a node afresh.
    pub async fn failed(&self, shard: u64, node: &NodeAddress, error: &Error) {
        self.cluster.forget_owner(&Resource::Shard(shard));
        if error.is_transport() {
            self.clients.lock().await.remove(node);
            self.cluster.mark_suspect(node, error);
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

/// How one call of a source ended.
pub(super) enum Step {
    /// Everything asked for was delivered, or nobody takes it any more.
    Done,
    /// The call failed or ended too early.
    Lost(Error),
}

/// One call after another until the source is done.
pub(super) trait Source: Send {
    /// Makes a call that continues behind what was delivered; sets `progress` when something was.
    fn read(&mut self, progress: &mut bool) -> impl Future<Output = Step> + Send;
    /// Whether contradicting bounds mean that nothing is left to read.
    fn conflict_is_end(&self) -> bool;
    /// What is read, for errors.
    fn resource(&self) -> String;
}

/// Runs a source to its end in lane `lane` of `queue`.
pub(super) async fn run(mut source: impl Source, cluster: Cluster, queue: Arc<Prefetch>, lane: usize) {
    // A task dropped with its runtime must not leave a reader waiting.
    let mut ending = Ending { queue, lane, resource: source.resource(), outcome: None };
    ending.outcome = Some(drive(&mut source, &cluster).await);
}

async fn drive(source: &mut impl Source, cluster: &Cluster) -> Result<()> {
    let policy = cluster.retry_policy().unlimited();
    let mut pauses = policy.backoff(rand::random::<f64>);
    let mut since = Instant::now();
    let mut tries = 0;
    loop {
        let mut progress = false;
        let error = match source.read(&mut progress).await {
            Step::Done => return Ok(()),
            Step::Lost(error) => error,
        };
        if error.code() == Some(ErrorCode::ShardReaderConflictOffset as i32) && source.conflict_is_end() {
            return Ok(());
        }
        if progress {
            pauses = policy.backoff(rand::random::<f64>);
            since = Instant::now();
            tries = 0;
        }
        tries += 1;
        let hopeless = match Verdict::of(&error) {
            Verdict::Final => true,
            Verdict::Odd => tries >= TRIES_AT_ODD_ERRORS,
            Verdict::Transient => since.elapsed() >= GIVE_UP_AFTER,
        };
        if hopeless {
            return Err(error.with_resource(source.resource()).with_tries(tries, since.elapsed()));
        }
        let pause = pauses.next().unwrap_or(policy.max);
        tracing::debug!(resource = %source.resource(), %error, ?pause, "reader resumes");
        cluster.metrics().reader_reconnects.add(1);
        tokio::time::sleep(pause).await;
    }
}

/// What an error says about trying again.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Final,
    Odd,
    Transient,
}

impl Verdict {
    fn of(error: &Error) -> Verdict {
        match error.kind() {
            ErrorKind::NotFound if error.message() == NO_NODES => Verdict::Transient,
            ErrorKind::NotFound
            | ErrorKind::InvalidArgument
            | ErrorKind::Unauthenticated
            | ErrorKind::PermissionDenied
            | ErrorKind::Unimplemented
            | ErrorKind::AlreadyExists
            | ErrorKind::Closed
            | ErrorKind::Codec => Verdict::Final,
            ErrorKind::FailedPrecondition if !error.is_retryable() => Verdict::Final,
            ErrorKind::Internal | ErrorKind::Overloaded => Verdict::Odd,
            _ => Verdict::Transient,
        }
    }
}

struct Ending {
    queue: Arc<Prefetch>,
    lane: usize,
    resource: String,
    outcome: Option<Result<()>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        match self.outcome.take() {
            Some(Ok(())) => self.queue.finish(self.lane),
            Some(Err(error)) => self.queue.fail(error),
            None => self.queue.fail(
                Error::new(ErrorKind::Closed, "read")
                    .with_resource(self.resource.clone())
                    .with_message("the client's runtime was shut down"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::{Code, Status};

    #[test]
    fn a_lost_connection_is_a_matter_of_time_and_a_missing_shard_is_not() {
        let verdict = |code| Verdict::of(&Error::from_status("read", &Status::new(code, "x")));
        for code in [Code::Unavailable, Code::Cancelled, Code::Aborted, Code::DeadlineExceeded] {
            assert_eq!(verdict(code), Verdict::Transient, "{code:?}");
        }
        for code in [Code::NotFound, Code::InvalidArgument, Code::Unauthenticated, Code::FailedPrecondition] {
            assert_eq!(verdict(code), Verdict::Final, "{code:?}");
        }
        assert_eq!(verdict(Code::Internal), Verdict::Odd);
    }
}
