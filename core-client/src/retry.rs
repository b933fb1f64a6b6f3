//! When a failed call is tried again, and how long after.

use crate::error::{Error, ErrorKind};
use std::time::Duration;

/// Shape of the pauses between tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    /// Tries altogether, at least 1.
    pub max_attempts: u32,
    /// Longest pause before the second try; doubles with each further one.
    pub base: Duration,
    /// Longest pause.
    pub max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy { max_attempts: 5, base: Duration::from_millis(100), max: Duration::from_secs(5) }
    }
}

impl RetryPolicy {
    /// The pauses; `random` gives numbers in `0.0..1.0`.
    pub(crate) fn backoff<R: FnMut() -> f64>(self, random: R) -> Backoff<R> {
        Backoff { policy: self, left: self.max_attempts.saturating_sub(1), next: self.base, random }
    }

    /// The same pauses without an end, for reconnecting.
    pub(crate) fn unlimited(self) -> Self {
        RetryPolicy { max_attempts: u32::MAX, ..self }
    }
}

/// Pauses between tries: each is random between half and all of its step, steps double up to a maximum, and the
/// iterator ends when no try is left. Pure: it neither sleeps nor reads a clock.
#[derive(Debug, Clone)]
pub(crate) struct Backoff<R> {
    policy: RetryPolicy,
    left: u32,
    next: Duration,
    random: R,
}

impl<R: FnMut() -> f64> Iterator for Backoff<R> {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.policy.max_attempts != u32::MAX {
            self.left = self.left.checked_sub(1)?;
        }
        let step = self.next.min(self.policy.max);
        self.next = step.saturating_mul(2);
        // Half fixed: pure full jitter now and then retries at once, into the same failure.
        let share = 0.5 + 0.5 * (self.random)().clamp(0.0, 1.0);
        Some(step.mul_f64(share))
    }
}

/// What repeating a call would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Changes nothing.
    Read,
    /// Changes something, but doing it twice is doing it once.
    Repeatable,
    /// Doing it twice is different from doing it once.
    Once,
}

/// A call's name in errors, what repeating it would do, and how long the server needs at least.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub name: &'static str,
    pub effect: Effect,
    /// A try is given this long where the request timeout is shorter.
    pub patience: Duration,
}

impl Operation {
    pub(crate) const fn read(name: &'static str) -> Self {
        Operation { name, effect: Effect::Read, patience: Duration::ZERO }
    }

    pub(crate) const fn repeatable(name: &'static str) -> Self {
        Operation { name, effect: Effect::Repeatable, patience: Duration::ZERO }
    }

    pub(crate) const fn once(name: &'static str) -> Self {
        Operation { name, effect: Effect::Once, patience: Duration::ZERO }
    }

    /// For calls behind which the server runs something that takes its time.
    pub(crate) const fn patient(self, patience: Duration) -> Self {
        Operation { patience, ..self }
    }
}

/// What to do about a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Try again, preferably elsewhere.
    Retry,
    /// Look the owner up again, then try again.
    RefreshRoute,
    /// Give the error to the caller.
    Fail,
}

/// The retry table.
pub(crate) fn decide(effect: Effect, error: &Error) -> Decision {
    if effect == Effect::Once && error.may_have_been_applied() {
        return Decision::Fail;
    }
    match error.kind() {
        ErrorKind::Routing => Decision::RefreshRoute,
        ErrorKind::Timeout => Decision::Retry,
        _ if error.is_retryable() => Decision::Retry,
        _ => Decision::Fail,
    }
}

/// The error as the caller sees it: reads cannot have been applied, and what is open about a call that must not
/// be repeated is said by its kind.
pub(crate) fn conclude(effect: Effect, error: Error) -> Error {
    match effect {
        Effect::Read => error.with_may_have_been_applied(false),
        Effect::Repeatable => error,
        // What a server said it failed with, and that the client was closed, stay what they are; the predicate says
        // that it is open.
        Effect::Once if matches!(error.kind(), ErrorKind::Internal | ErrorKind::Closed) => error,
        Effect::Once if error.may_have_been_applied() => error.with_kind(ErrorKind::OutcomeUnknown),
        Effect::Once => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { max_attempts: 5, base: Duration::from_millis(100), max: Duration::from_millis(500) };

    #[test]
    fn pauses_double_to_the_maximum_and_end() {
        let pauses: Vec<_> = POLICY.backoff(|| 1.0).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 500]);
    }

    #[test]
    fn jitter_stays_between_half_and_all() {
        let pauses: Vec<_> = POLICY.backoff(|| 0.0).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 250]);
        for wild in [f64::INFINITY, -3.0] {
            assert!(POLICY.backoff(move || wild).all(|pause| pause <= POLICY.max));
        }
    }

    #[test]
    fn one_attempt_never_pauses_and_unlimited_never_ends() {
        assert_eq!(RetryPolicy { max_attempts: 1, ..POLICY }.backoff(|| 0.5).next(), None);
        assert_eq!(POLICY.unlimited().backoff(|| 1.0).nth(100_000), Some(POLICY.max));
    }

    #[test]
    fn unclear_calls_are_repeated_only_when_that_is_harmless() {
        let unclear = Error::new(ErrorKind::Unavailable, "x").with_may_have_been_applied(true);
        assert_eq!(decide(Effect::Read, &unclear), Decision::Retry);
        assert_eq!(decide(Effect::Repeatable, &unclear), Decision::Retry);
        assert_eq!(decide(Effect::Once, &unclear), Decision::Fail);
        assert_eq!(decide(Effect::Once, &Error::new(ErrorKind::Unavailable, "x")), Decision::Retry);
        assert_eq!(conclude(Effect::Once, unclear.clone()).kind(), ErrorKind::OutcomeUnknown);
        assert!(!conclude(Effect::Read, unclear).may_have_been_applied());
    }

    #[test]
    fn refusals_are_final_and_wrong_nodes_are_looked_up_again() {
        for kind in [ErrorKind::NotFound, ErrorKind::InvalidArgument, ErrorKind::Unauthenticated] {
            assert_eq!(decide(Effect::Read, &Error::new(kind, "x")), Decision::Fail);
        }
        assert_eq!(decide(Effect::Once, &Error::new(ErrorKind::Routing, "x")), Decision::RefreshRoute);
    }
}
