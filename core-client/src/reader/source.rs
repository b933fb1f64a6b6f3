//! What the sources of a reader have in common: going on after a failure, and saying so when they end.

use crate::cluster::Cluster;
use crate::consumer::prefetch::Prefetch;
use crate::error::{Error, ErrorKind, Result};
use hstreamdb_proto::api::ErrorCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument as _;

/// Longest time without an answer before a reader gives up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
/// Tries without progress at what does not look like a matter of time, such as an internal error.
const TRIES_AT_ODD_ERRORS: u32 = 3;
/// The class with which a lookup reports a cluster that has no node to offer, in a NOT_FOUND status.
const NO_NODES: &str = "NodesNotFound";

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
    /// The span of one call; `node` is filled in when it is known.
    fn span(&self) -> tracing::Span;
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
        let span = source.span();
        let error = match source.read(&mut progress).instrument(span).await {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stays as it is.
    Final,
    /// It does not look like a matter of time, but may be one.
    Odd,
    /// It is a matter of time.
    Transient,
}

impl Verdict {
    pub(super) fn of(error: &Error) -> Verdict {
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
