//! One batch on its way: tried until it is stored, refused, or out of time.

use super::transport::{Answer, Stamp, Transport};
use crate::{
    error::{Error, ErrorKind},
    retry::RetryPolicy,
};
use hstreamdb_proto::{
    api::{AppendRequest, ErrorCode},
    metadata::producer_error,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

/// Longest pause before a batch is sent again that arrived before its predecessor.
const GAP_PAUSE_MAX: Duration = Duration::from_millis(250);

/// How a batch ended.
#[derive(Debug)]
pub(super) enum Delivered {
    /// It is stored.
    Stored(Answer),
    /// The server has forgotten the producer and stored nothing: the batch may go again under a new epoch.
    Forgotten(Error),
    /// Every try was told that the shard does not exist.
    ShardMissing(Error),
    /// Refused, or out of tries or time.
    Failed(Error),
}

/// What one failed try means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nothing was stored; another try may succeed.
    NotStored,
    /// Nothing was stored; the batch before this one has to arrive first.
    Gap,
    /// Nobody knows whether it was stored; the connection or the node broke.
    Unclear,
    /// Nobody knows whether it was stored, and the failure may well last.
    Broken,
    /// Nothing was stored, the producer is unknown by now.
    Forgotten,
    /// Nothing was stored, the shard does not exist.
    ShardMissing,
    /// It is or may be stored, and nothing will tell its ids.
    Lost,
    /// Nothing was stored, nor would it be another time.
    Refused,
}

fn judge(error: &Error) -> Verdict {
    match error.message() {
        producer_error::SEQUENCE_GAP => return Verdict::Gap,
        producer_error::EXPIRED => return Verdict::Forgotten,
        producer_error::SEQUENCE_TOO_OLD => return Verdict::Lost,
        producer_error::TABLE_FULL => return Verdict::NotStored,
        _ => {}
    }
    if says_shard_is_missing(error) {
        return Verdict::ShardMissing;
    }
    match error.kind() {
        ErrorKind::Internal => Verdict::Broken,
        ErrorKind::Closed if error.may_have_been_applied() => Verdict::Lost,
        _ if error.may_have_been_applied() => Verdict::Unclear,
        _ if error.is_retryable() => Verdict::NotStored,
        _ => Verdict::Refused,
    }
}

/// Published servers say it as `UNAVAILABLE` with the words of their storage, ours with a code.
fn says_shard_is_missing(error: &Error) -> bool {
    let gone = [ErrorCode::StreamShardNotExists as i32, ErrorCode::StreamNotFound as i32];
    if error.code().is_some_and(|code| gone.contains(&code)) || error.kind() == ErrorKind::NotFound {
        return true;
    }
    // Only a server's words count: "not found" also comes from resolvers on the way.
    error.kind() == ErrorKind::Unavailable && error.status().is_some() && !error.is_transport() && {
        let words = error.message().to_ascii_lowercase();
        ["not found", "notfound", "does not exist", "not in server config"]
            .iter()
            .any(|phrase| words.contains(phrase))
    }
}

/// A batch to deliver.
pub(super) struct Delivery {
    pub transport: Arc<dyn Transport>,
    pub request: AppendRequest,
    /// Absent where the server does not honour stamps.
    pub stamp: Option<Stamp>,
    /// Without a stamp: try also what may have been stored.
    pub allow_duplicates: bool,
    pub retry: RetryPolicy,
    pub deadline: Instant,
    /// When the batch was opened.
    pub since: Instant,
    /// Set while a try is under way or has ended unclear; the pipeline reads it when it abandons the batch.
    pub maybe_stored: Arc<AtomicBool>,
    /// How many batches are settled.
    pub progress: watch::Receiver<u64>,
    /// How many are when all before this one are.
    pub turn: u64,
    /// Cleared when a node answers that ignores stamps: from then on a repeat could be stored twice.
    pub honoured: Arc<AtomicBool>,
}

impl Delivery {
    /// Tries until there is a verdict. Ends by itself at the deadline.
    pub async fn run(mut self) -> Delivered {
        let mut tries = 0u32;
        let mut missing = 0u32;
        let mut broken = 0u32;
        let mut gaps = 0u32;
        let mut pauses = self.retry.unlimited().backoff(rand::random::<f64>);
        let mut last: Option<Error> = None;
        loop {
            if Instant::now() >= self.deadline {
                return Delivered::Failed(self.out_of_time(last, tries));
            }
            tries = tries.saturating_add(1);
            if tries > 1 {
                self.transport.metrics().append_retries.add(1);
            }
            let unclear_before = self.maybe_stored.swap(true, Ordering::AcqRel);
            let attempt = self.transport.append(self.request.clone(), self.stamp);
            let error = match timeout_at(self.deadline, attempt).await {
                Ok(Ok(answer)) => return Delivered::Stored(answer),
                Ok(Err(error)) => error,
                Err(_) => return Delivered::Failed(self.out_of_time(last, tries)),
            };
            let verdict = match judge(&error) {
                // A producer whose first batch is still on its way is as unknown as a forgotten one.
                Verdict::Forgotten if *self.progress.borrow() < self.turn => Verdict::Gap,
                verdict => verdict,
            };
            let unclear = matches!(verdict, Verdict::Unclear | Verdict::Broken | Verdict::Lost);
            if !unclear && !unclear_before {
                self.maybe_stored.store(false, Ordering::Release);
            }
            let final_error = |error: Error| error.with_tries(tries, self.since.elapsed());
            match verdict {
                Verdict::Refused | Verdict::Lost => return Delivered::Failed(final_error(error)),
                Verdict::Forgotten if unclear_before => return Delivered::Failed(final_error(error)),
                Verdict::Forgotten => return Delivered::Forgotten(final_error(error)),
                Verdict::Gap => {
                    // Resent as soon as the one before is through; the pause is for a server that restarted.
                    let pause = Duration::from_millis(4 << gaps.min(6)).min(GAP_PAUSE_MAX);
                    gaps += 1;
                    last = Some(error);
                    tokio::select! {
                        changed = self.progress.changed() => {
                            if changed.is_err() {
                                sleep(pause).await;
                            }
                        }
                        () = sleep(pause) => {}
                    }
                    continue;
                }
                Verdict::ShardMissing => {
                    missing += 1;
                    if missing >= self.retry.max_attempts {
                        return Delivered::ShardMissing(final_error(error));
                    }
                }
                Verdict::Broken => {
                    broken += 1;
                    if broken >= self.retry.max_attempts {
                        return Delivered::Failed(final_error(error));
                    }
                }
                Verdict::NotStored | Verdict::Unclear => {}
            }
            let safe = self.stamp.is_some() && self.honoured.load(Ordering::Acquire);
            if unclear && !safe && !self.allow_duplicates {
                return Delivered::Failed(final_error(error));
            }
            // The first lost connection says something about one node only: the next node is tried at once.
            let at_once = tries == 1 && matches!(verdict, Verdict::NotStored | Verdict::Unclear);
            last = Some(error);
            let pause = pauses.next().unwrap_or(self.retry.max);
            if !at_once {
                let until_deadline = self.deadline.saturating_duration_since(Instant::now());
                sleep(pause.min(until_deadline)).await;
            }
        }
    }

    fn out_of_time(&self, last: Option<Error>, tries: u32) -> Error {
        let waited = self.since.elapsed();
        let cause = match last {
            Some(error) => format!("delivery_timeout_ms ran out; the last failure was {error}"),
            None if tries == 0 => "delivery_timeout_ms ran out before the batch could be sent".to_owned(),
            None => "delivery_timeout_ms ran out without an answer".to_owned(),
        };
        let error = Error::new(ErrorKind::Timeout, "append").with_message(cause);
        error.with_tries(tries.max(1), waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_what_may_have_been_stored() {
        let status = |code, message: &str| Error::from_status("append", &tonic::Status::new(code, message));
        let body =
            |code, class: &str| status(code, &format!(r#"{{"error":0,"message":"{class}","extra":null}}"#));
        use tonic::Code;
        for (error, verdict) in [
            (body(Code::Aborted, producer_error::SEQUENCE_GAP), Verdict::Gap),
            (body(Code::FailedPrecondition, producer_error::EXPIRED), Verdict::Forgotten),
            (body(Code::FailedPrecondition, producer_error::FENCED), Verdict::Refused),
            (body(Code::FailedPrecondition, producer_error::SEQUENCE_TOO_OLD), Verdict::Lost),
            (body(Code::ResourceExhausted, producer_error::TABLE_FULL), Verdict::NotStored),
            (status(Code::Unavailable, "broken pipe"), Verdict::Unclear),
            (status(Code::Unavailable, "log not found"), Verdict::ShardMissing),
            (status(Code::DeadlineExceeded, ""), Verdict::Unclear),
            (status(Code::Cancelled, ""), Verdict::Unclear),
            (status(Code::Internal, "disk"), Verdict::Broken),
            (status(Code::InvalidArgument, ""), Verdict::Refused),
            (status(Code::Unauthenticated, ""), Verdict::Refused),
            (Error::new(ErrorKind::Unavailable, "append"), Verdict::NotStored),
        ] {
            assert_eq!(judge(&error), verdict, "{error}");
        }
    }
}
