//! When something was last heard of somebody, and when it was last asked for a word.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// One line, or one node over all its lines. Written for every piece that is read, so it takes no lock.
#[derive(Debug)]
pub(crate) struct Hearing {
    base: Instant,
    /// Microseconds after `base`.
    heard: AtomicU64,
    /// The same plus one; 0 is never.
    asked: AtomicU64,
}

impl Hearing {
    /// Counts as heard now.
    pub(crate) fn new() -> Self {
        Hearing { base: Instant::now(), heard: AtomicU64::new(0), asked: AtomicU64::new(0) }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_micros()).unwrap_or(u64::MAX - 1)
    }

    fn at(&self, micros: u64) -> Instant {
        self.base + Duration::from_micros(micros)
    }

    /// Something came.
    pub(crate) fn hear(&self) {
        self.heard.fetch_max(self.micros(), Ordering::AcqRel);
    }

    /// When something came last.
    pub(crate) fn heard(&self) -> Instant {
        self.at(self.heard.load(Ordering::Acquire))
    }

    /// Of all who want to ask after `since` one is told to do it; everybody is told when that was.
    pub(crate) fn ask_once(&self, since: Instant) -> (Instant, bool) {
        let mut known = self.asked.load(Ordering::Acquire);
        loop {
            if let Some(asked) = known.checked_sub(1)
                && self.at(asked) >= since
            {
                return (self.at(asked), false);
            }
            let now = self.micros();
            match self.asked.compare_exchange(known, now + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return (self.at(now), true),
                Err(other) => known = other,
            }
        }
    }

    /// When it was last heard or asked, whichever came later.
    pub(crate) fn heard_or_asked(&self) -> Instant {
        let asked = self.asked.load(Ordering::Acquire).saturating_sub(1);
        self.at(asked.max(self.heard.load(Ordering::Acquire)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn one_of_all_who_want_to_know_asks() {
        let hearing = Hearing::new();
        let start = Instant::now();
        assert_eq!(hearing.ask_once(start), (start, true));
        assert_eq!(hearing.ask_once(start), (start, false));
        advance(SECOND).await;
        assert_eq!(hearing.ask_once(start), (start, false), "asked since then");
        assert_eq!(hearing.ask_once(start + SECOND / 2), (start + SECOND, true));
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_last_counts() {
        let hearing = Hearing::new();
        let start = Instant::now();
        assert_eq!((hearing.heard(), hearing.heard_or_asked()), (start, start));
        advance(SECOND).await;
        hearing.ask_once(start);
        assert_eq!((hearing.heard(), hearing.heard_or_asked()), (start, start + SECOND));
        advance(SECOND).await;
        hearing.hear();
        assert_eq!((hearing.heard(), hearing.heard_or_asked()), (start + 2 * SECOND, start + 2 * SECOND));
    }
}
