//! A log line that peers can provoke must not fill the log.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// At most one line in this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// Tells whether a line that may come often is due.
#[derive(Debug, Default)]
pub struct Notice {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    held_back: u64,
}

impl Notice {
    /// How many times it happened since the last line, this time included, if a line is due.
    pub fn due(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.held_back += 1;
        let now = Instant::now();
        if state.last.is_some_and(|last| now < last + INTERVAL) {
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_is_due_at_first_and_then_once_per_interval_with_the_count() {
        let notice = Notice::default();
        assert_eq!(notice.due(), Some(1));
        assert_eq!(notice.due(), None);
        assert_eq!(notice.due(), None);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(notice.due(), Some(3));
        assert_eq!(notice.due(), None);
    }
}
