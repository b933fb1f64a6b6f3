//! What is due when.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use tokio::time::Instant;

/// Things that come due, the earliest first; of two for the same moment the one that was added first.
#[derive(Debug)]
pub(super) struct Timers<T> {
    queue: BinaryHeap<Reverse<Entry<T>>>,
    added: u64,
}

#[derive(Debug)]
struct Entry<T> {
    due: Instant,
    number: u64,
    what: T,
}

impl<T> Timers<T> {
    pub(super) fn new() -> Self {
        Timers { queue: BinaryHeap::new(), added: 0 }
    }

    pub(super) fn add(&mut self, due: Instant, what: T) {
        self.added += 1;
        self.queue.push(Reverse(Entry { due, number: self.added, what }));
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse(entry)| entry.due)
    }

    /// The next one, if it is due by now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<T> {
        self.next().filter(|due| *due <= now)?;
        self.queue.pop().map(|Reverse(entry)| entry.what)
    }
}

impl<T> Entry<T> {
    fn rank(&self) -> (Instant, u64) {
        (self.due, self.number)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn what_is_due_comes_in_order() {
        let (mut timers, now) = (Timers::new(), Instant::now());
        let at = |ms| now + Duration::from_millis(ms);
        for (ms, what) in [(20, "c"), (10, "a"), (10, "b"), (30, "d")] {
            timers.add(at(ms), what);
        }
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.take_due(at(9)), None);
        let due: Vec<_> = std::iter::from_fn(|| timers.take_due(at(20))).collect();
        assert_eq!(due, ["a", "b", "c"]);
        assert_eq!(timers.next(), Some(at(30)));
    }
}
