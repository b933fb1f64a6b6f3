//! One batch on its way: tried until it is stored, refused, or out of time.

use super::{
    lookup::{Fetched, ShardLookup},
    transport::{Answer, Stamp, Transport},
};
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
        Arc, Mutex, PoisonError,
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
    /// The shard does not exist any more: the server said so, and the stream was asked.
    ShardGone(Error, Gone),
    /// Refused, or out of tries or time.
    Failed(Error),
}

/// What the stream has instead of a shard.
#[derive(Debug)]
pub(super) enum Gone {
    /// Other shards: it was deleted and created again.
    Shards(Fetched),
    /// Nothing: there is no such stream, as this error says.
    Stream(Error),
}

/// How far a batch has come, readable while it is on its way.
#[derive(Debug, Default)]
pub(super) struct Journey {
    /// Set while a try is under way or has ended unclear.
    maybe_stored: AtomicBool,
    /// Why the last try failed.
    last: Mutex<Option<Error>>,
}

impl Journey {
    /// Whether the batch may be stored.
    pub fn is_unclear(&self) -> bool {
        self.maybe_stored.load(Ordering::Acquire)
    }

    /// Why the last try failed, if one has.
    pub fn last_failure(&self) -> Option<Error> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn failed(&self, error: &Error) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
    }
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
    pub lookup: Arc<ShardLookup>,
    pub request: AppendRequest,
    /// Absent where the server does not honour stamps.
    pub stamp: Option<Stamp>,
    /// Without a stamp: try also what may have been stored.
    pub allow_duplicates: bool,
    pub retry: RetryPolicy,
    /// Tries altogether; without it the deadline decides, except about failures that may well last.
    pub max_tries: Option<u32>,
    pub deadline: Instant,
    /// When the batch was opened.
    pub since: Instant,
    /// The pipeline reads it when it abandons the batch.
    pub journey: Arc<Journey>,
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
        let mut tries = 0;
        let delivered = self.attempt(&mut tries).await;
        tracing::Span::current().record("tries", tries);
        delivered
    }

    async fn attempt(&mut self, tries: &mut u32) -> Delivered {
        let mut missing = 0u32;
        let mut broken = 0u32;
        let mut gaps = 0u32;
        let mut pauses = self.retry.unlimited().backoff(rand::random::<f64>);
        loop {
            if Instant::now() >= self.deadline {
                return Delivered::Failed(self.out_of_time(*tries));
            }
            *tries = tries.saturating_add(1);
            if *tries > 1 {
                self.transport.metrics().append_retries.add(1);
            }
            let unclear_before = self.journey.maybe_stored.swap(true, Ordering::AcqRel);
            let has_more = self.max_tries.is_none_or(|most| tries.saturating_sub(gaps) < most);
            let repeatable = has_more && (self.is_safe() || self.allow_duplicates);
            let attempt = self.transport.append(self.request.clone(), self.stamp, repeatable);
            let error = match timeout_at(self.deadline, attempt).await {
                Ok(Ok(answer)) => return Delivered::Stored(answer),
                Ok(Err(error)) => error,
                Err(_) => return Delivered::Failed(self.out_of_time(*tries)),
            };
            self.journey.failed(&error);
            let verdict = match judge(&error) {
                // A producer whose first batch is still on its way is as unknown as a forgotten one.
                Verdict::Forgotten if *self.progress.borrow() < self.turn => Verdict::Gap,
                verdict => verdict,
            };
            let unclear = matches!(verdict, Verdict::Unclear | Verdict::Broken | Verdict::Lost);
            if !unclear && !unclear_before {
                self.journey.maybe_stored.store(false, Ordering::Release);
            }
            let (so_far, since) = (*tries, self.since);
            let final_error = |error: Error| error.with_tries(so_far, since.elapsed());
            match verdict {
                Verdict::Refused | Verdict::Lost => return Delivered::Failed(final_error(error)),
                Verdict::Forgotten if unclear_before => return Delivered::Failed(final_error(error)),
                Verdict::Forgotten => return Delivered::Forgotten(final_error(error)),
                Verdict::Gap => {
                    // Resent as soon as the one before is through; the pause is for a server that restarted.
                    let pause = Duration::from_millis(4 << gaps.min(6)).min(GAP_PAUSE_MAX);
                    gaps += 1;
                    // The server has answered: what failed before is no reason to wait longer next time.
                    pauses = self.retry.unlimited().backoff(rand::random::<f64>);
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
                    // The same words may come from a node that does not know the shard yet, so the stream is asked.
                    if let Some(gone) = self.what_is_there_instead().await {
                        return Delivered::ShardGone(final_error(error), gone);
                    }
                    missing += 1;
                    if missing >= self.retry.max_attempts {
                        return Delivered::Failed(final_error(error));
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
            if self.max_tries.is_some_and(|most| tries.saturating_sub(gaps) >= most) {
                return Delivered::Failed(final_error(error));
            }
            if unclear && !self.is_safe() && !self.allow_duplicates {
                return Delivered::Failed(final_error(error));
            }
            // The first lost connection says something about one node only: the next node is tried at once.
            let at_once = *tries == 1 && matches!(verdict, Verdict::NotStored | Verdict::Unclear);
            let pause = pauses.next().unwrap_or(self.retry.max);
            if !at_once {
                let until_deadline = self.deadline.saturating_duration_since(Instant::now());
                sleep(pause.min(until_deadline)).await;
            }
        }
    }

    /// Whether sending it again stores it once.
    fn is_safe(&self) -> bool {
        self.stamp.is_some() && self.honoured.load(Ordering::Acquire)
    }

    /// What became of the shard, if it is certain that it is gone.
    async fn what_is_there_instead(&self) -> Option<Gone> {
        let fetched = timeout_at(self.deadline, self.lookup.after(Instant::now())).await.ok()?;
        match fetched {
            Ok(shards) if shards.map.has_shard(self.request.shard_id) => None,
            Ok(shards) => Some(Gone::Shards(shards)),
            Err(error) if error.kind() == ErrorKind::NotFound => Some(Gone::Stream(error)),
            Err(_) => None,
        }
    }

    fn out_of_time(&self, tries: u32) -> Error {
        let waited = self.since.elapsed();
        let cause = match self.journey.last_failure() {
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
