//! How handlers are run.

use super::failure::{Failure, FailureAction};
use crate::consumer::MAX_WAIT;
use crate::error::Result;
use crate::options::{OptionScope, OptionValue, Setting};
use crate::record::PayloadKind;
use crate::retry::RetryPolicy;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Decides what is done about each failed try.
pub type OnFailure = Arc<dyn Fn(&Failure) -> FailureAction + Send + Sync>;

/// How [`Consumer::run`](crate::Consumer::run) runs handlers. Defaults: one at a time, no retries, a failure is skipped
/// (delivered again after the ack timeout), a batch that nobody can decode is acknowledged with a warning and an event.
#[derive(Clone)]
#[must_use = "options do nothing until they are given to a run"]
pub struct RunOptions {
    pub(super) concurrency: usize,
    pub(super) ordered: bool,
    pub(super) retries: u32,
    pub(super) retry_base: Duration,
    pub(super) retry_max: Duration,
    pub(super) on_error: FailureAction,
    pub(super) on_unreadable: FailureAction,
    pub(super) on_failure: Option<OnFailure>,
    pub(super) expect: Option<PayloadKind>,
    pub(super) stop_timeout: Duration,
}

impl Default for RunOptions {
    fn default() -> Self {
        RunOptions {
            concurrency: 1,
            ordered: true,
            retries: 0,
            retry_base: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
            on_error: FailureAction::Skip,
            on_unreadable: FailureAction::Acknowledge,
            on_failure: None,
            expect: None,
            stop_timeout: Duration::from_secs(30),
        }
    }
}

impl RunOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets an option by its name in the table of options (scope `Handler`).
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown name, with the known ones, and for a value out of range.
    pub fn set(mut self, name: &str, value: impl Into<OptionValue>) -> Result<Self> {
        let setting = Setting::new(OptionScope::Handler, name, value)?;
        match setting.name() {
            "concurrency" => self.concurrency = setting.integer()?,
            "ordered" => self.ordered = setting.bool()?,
            "retries" => self.retries = setting.integer()?,
            "retry_base_ms" => self.retry_base = setting.millis()?,
            "retry_max_ms" => self.retry_max = setting.millis()?,
            "on_error" => self.on_error = action(setting)?,
            "on_unreadable" => self.on_unreadable = action(setting)?,
            "expect" => {
                self.expect = match &*setting.text()? {
                    "raw" => Some(PayloadKind::Raw),
                    "hrecord" => Some(PayloadKind::HRecord),
                    _ => None,
                }
            }
            "stop_timeout_ms" => self.stop_timeout = setting.millis()?,
            _ => return Err(setting.refuse("this version does not use the option")),
        }
        Ok(self)
    }

    /// Handlers at work at the same time; at least 1, default 1. As many batches may wait for a busy shard beside them.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.max(1);
        self
    }

    /// Whether a batch waits for those before it on its shard; default true.
    pub fn ordered(mut self, ordered: bool) -> Self {
        self.ordered = ordered;
        self
    }

    /// How often a batch or record is given to the handler again after an error or a panic, before
    /// [`on_error`](Self::on_error) counts; default 0.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries.min(u32::MAX - 2);
        self
    }

    /// Longest pause before the first retry, and before any; it doubles with each. Default 100 ms and 5 s.
    pub fn retry_pauses(mut self, base: Duration, max: Duration) -> Self {
        // Far beyond any use, but it can be doubled.
        (self.retry_base, self.retry_max) = (base.min(MAX_WAIT), max.max(base).min(MAX_WAIT));
        self
    }

    /// What is done when the handler failed or panicked and no retry is left, or a record is of another kind than
    /// expected; default [`FailureAction::Skip`]. `Retry` here retries without an end.
    pub fn on_error(mut self, action: FailureAction) -> Self {
        self.on_error = action;
        self
    }

    /// What is done with a batch that cannot be decoded (for [`run`](crate::Consumer::run): when the handler has failed on
    /// it); default [`FailureAction::Acknowledge`]: it is of no
    /// use to any consumer, and left open it would hold the checkpoint and its part of the window for ever. Its records
    /// stay in the stream, and the event names them.
    pub fn on_unreadable(mut self, action: FailureAction) -> Self {
        self.on_unreadable = action;
        self
    }

    /// Decides about every failed try in place of the settings above. Must not block; a panic in it counts as
    /// [`FailureAction::Stop`].
    pub fn on_failure(mut self, decide: impl Fn(&Failure) -> FailureAction + Send + Sync + 'static) -> Self {
        self.on_failure = Some(Arc::new(decide));
        self
    }

    /// The only kind of payload that `run_records` gives to the handler; a record of another kind is a failure. Default:
    /// the handler sees every kind.
    pub fn expect(mut self, kind: PayloadKind) -> Self {
        self.expect = Some(kind);
        self
    }

    /// How long stopping after a failure, and waiting for handlers after the consumer has ended by itself, may take;
    /// default 30 s.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout.min(MAX_WAIT);
        self
    }

    /// The pauses between the tries of one batch or record.
    pub(super) fn pauses(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        let policy =
            RetryPolicy { max_attempts: self.retries + 1, base: self.retry_base, max: self.retry_max };
        policy.backoff(rand::random::<f64>)
    }
}

impl fmt::Debug for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOptions")
            .field("concurrency", &self.concurrency)
            .field("ordered", &self.ordered)
            .field("retries", &self.retries)
            .field("retry_base", &self.retry_base)
            .field("retry_max", &self.retry_max)
            .field("on_error", &self.on_error)
            .field("on_unreadable", &self.on_unreadable)
            .field("on_failure", &self.on_failure.is_some())
            .field("expect", &self.expect)
            .field("stop_timeout", &self.stop_timeout)
            .finish()
    }
}

fn action(setting: Setting) -> Result<FailureAction> {
    let refused = setting.refuse("skip, acknowledge or stop is expected");
    FailureAction::from_name(&setting.text()?).ok_or(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{OptionKind, option_table};

    #[test]
    fn every_handler_option_of_the_table_does_something_and_defaults_agree() {
        let plain = format!("{:?}", RunOptions::default());
        let mut from_table = RunOptions::default();
        for row in option_table().iter().filter(|row| row.scope == OptionScope::Handler) {
            let other = match row.kind {
                OptionKind::Integer { max, .. } => OptionValue::Integer(max),
                OptionKind::Choice(words) => OptionValue::from(words[words.len() - 1]),
                _ => OptionValue::Bool(false),
            };
            let changed = RunOptions::default().set(row.name, other).unwrap();
            assert_ne!(format!("{changed:?}"), plain, "{} does nothing", row.name);
            from_table = from_table.set(row.name, row.default).unwrap();
        }
        assert_eq!(format!("{from_table:?}"), plain);
    }

    #[test]
    fn the_longest_pauses_can_be_doubled() {
        let options = RunOptions::new().retries(u32::MAX).retry_pauses(Duration::MAX, Duration::MAX);
        assert!(options.pauses().take(3).all(|pause| pause <= MAX_WAIT));
    }
}
