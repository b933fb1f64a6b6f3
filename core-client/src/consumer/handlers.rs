//! Handlers at work, which stopping waits for.

use crate::runtime::CancelToken;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;
use tokio::time::Instant;

/// Counts what [`Consumer::run`](super::Consumer::run) has under way.
#[derive(Debug)]
pub(super) struct Handlers {
    /// Runs that have not come to their end; while there is one, acknowledgements may still come.
    runs: watch::Sender<usize>,
    /// Handlers at work.
    working: AtomicU64,
    /// Handlers given up on.
    unfinished: AtomicU64,
    /// Cancelled when the consumer is asked to stop.
    pub stopping: CancelToken,
    /// Cancelled when handlers are not waited for any longer.
    pub given_up: CancelToken,
}

impl Default for Handlers {
    fn default() -> Self {
        Handlers {
            runs: watch::Sender::new(0),
            working: AtomicU64::new(0),
            unfinished: AtomicU64::new(0),
            stopping: CancelToken::new(),
            given_up: CancelToken::new(),
        }
    }
}

impl Handlers {
    /// Begins a run, which lasts until the guard is dropped.
    pub fn begin_run(&self) -> impl Drop + '_ {
        self.runs.send_modify(|runs| *runs += 1);
        Guard(|| self.runs.send_modify(|runs| *runs -= 1))
    }

    /// Counts a handler until the guard is dropped.
    pub fn begin_work(&self) -> impl Drop + '_ {
        self.working.fetch_add(1, Ordering::Relaxed);
        Guard(|| {
            self.working.fetch_sub(1, Ordering::Relaxed);
        })
    }

    /// Handlers at work.
    pub fn working(&self) -> u64 {
        self.working.load(Ordering::Relaxed)
    }

    /// Handlers that were not finished when waiting for them ended.
    pub fn unfinished(&self) -> u64 {
        self.unfinished.load(Ordering::Relaxed)
    }

    /// Whether nothing more is waited for.
    pub fn settled(&self) -> bool {
        self.given_up.is_cancelled() || *self.runs.borrow() == 0
    }

    /// Waits until every run has ended, and gives up on the rest at `until`.
    pub async fn settle(&self, until: Instant) {
        let mut runs = self.runs.subscribe();
        tokio::select! {
            biased;
            _ = runs.wait_for(|runs| *runs == 0) => {}
            () = self.given_up.cancelled() => {}
            () = tokio::time::sleep_until(until) => self.give_up(),
        }
    }

    /// Waits for no handler any longer.
    pub fn give_up(&self) {
        if !self.given_up.is_cancelled() {
            self.unfinished.store(self.working(), Ordering::Relaxed);
            self.given_up.cancel();
        }
    }
}

struct Guard<F: FnMut()>(F);

impl<F: FnMut()> Drop for Guard<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn runs_are_waited_for_and_given_up_on_in_time() {
        let handlers = Handlers::default();
        let until = Instant::now() + Duration::from_secs(5);
        assert!(handlers.settled());
        handlers.settle(until).now_or_never().unwrap();

        let run = handlers.begin_run();
        assert!(!handlers.settled());
        assert!(handlers.settle(until).now_or_never().is_none());
        drop(run);
        handlers.settle(until).now_or_never().unwrap();
        assert!(!handlers.given_up.is_cancelled());

        let (_run, _work) = (handlers.begin_run(), handlers.begin_work());
        handlers.settle(until).await;
        assert!(Instant::now() >= until && handlers.settled());
        assert_eq!((handlers.unfinished(), handlers.working()), (1, 1));
    }
}
