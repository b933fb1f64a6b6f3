//! When a session that says nothing is asked whether it is still one.
//!
//! A peer that vanished without a word, a frozen process or a proxy that lost its other side look like a quiet
//! subscription. HTTP/2 pings are off by default (servers of the original end connections for them) and TCP finds only
//! peers whose kernel is gone. Pure: the clock is passed in.

use std::time::Duration;
use tokio::time::Instant;

/// Questions in a row without an answer after which the session counts as lost.
const UNANSWERED_LIMIT: u32 = 2;
/// Every how manyth question of a silence asks whether the consumer is attached; the others are cheaper.
const ATTACHED_EVERY: u32 = 4;

/// What to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Whether the owner is there and still the owner.
    Subscription,
    /// Whether the owner lists this consumer.
    Attached,
    /// Whether the owner says anything at all.
    Alive,
}

/// How long nothing was heard, and what was done about it.
#[derive(Debug)]
pub(super) struct Quiet {
    interval: Option<Duration>,
    since: Instant,
    asked: u32,
    unanswered: u32,
}

impl Quiet {
    /// Zero never asks.
    pub fn new(interval: Duration, now: Instant) -> Self {
        Quiet { interval: (!interval.is_zero()).then_some(interval), since: now, asked: 0, unanswered: 0 }
    }

    /// Something came from the session itself.
    pub fn heard(&mut self, now: Instant) {
        self.since = now;
        self.asked = 0;
        self.unanswered = 0;
    }

    /// When to ask next.
    pub fn due(&self) -> Option<Instant> {
        // After a question without an answer the next one follows at once.
        self.interval.map(|interval| if self.unanswered > 0 { self.since } else { self.since + interval })
    }

    /// What to ask now. `opening` while the server has not begun to answer: then only the list of consumers tells
    /// whether it ever got to know of us.
    pub fn ask(&mut self, opening: bool) -> Question {
        self.asked = self.asked.wrapping_add(1);
        if opening || self.asked.is_multiple_of(ATTACHED_EVERY) {
            Question::Attached
        } else {
            Question::Subscription
        }
    }

    /// A question was answered.
    pub fn answered(&mut self, now: Instant) {
        self.since = now;
        self.unanswered = 0;
    }

    /// A question was not answered in time; true if that was one too many.
    pub fn unanswered(&mut self, now: Instant) -> bool {
        self.since = now;
        self.unanswered += 1;
        self.unanswered >= UNANSWERED_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(15);

    #[tokio::test(start_paused = true)]
    async fn silence_is_asked_about_once_per_interval() {
        let start = Instant::now();
        let mut quiet = Quiet::new(INTERVAL, start);
        assert_eq!(quiet.due(), Some(start + INTERVAL));
        quiet.heard(start + INTERVAL / 2);
        assert_eq!(quiet.due(), Some(start + INTERVAL / 2 + INTERVAL));
        quiet.answered(start + 2 * INTERVAL);
        assert_eq!(quiet.due(), Some(start + 3 * INTERVAL));
        assert_eq!(Quiet::new(Duration::ZERO, start).due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn two_questions_without_an_answer_are_a_lost_session() {
        let start = Instant::now();
        let mut quiet = Quiet::new(INTERVAL, start);
        let later = start + INTERVAL;
        assert!(!quiet.unanswered(later));
        assert_eq!(quiet.due(), Some(later), "the second follows at once");
        assert!(quiet.unanswered(later));
        quiet.answered(later);
        assert!(!quiet.unanswered(later), "an answer starts over");
    }

    #[tokio::test(start_paused = true)]
    async fn the_list_of_consumers_is_asked_for_now_and_then() {
        let mut quiet = Quiet::new(INTERVAL, Instant::now());
        let asked: Vec<_> = (0..8).map(|_| quiet.ask(false)).collect();
        let lists = asked.iter().filter(|question| **question == Question::Attached).count();
        assert_eq!((lists, asked[0], asked[3]), (2, Question::Subscription, Question::Attached));
        quiet.heard(Instant::now());
        assert_eq!(quiet.ask(true), Question::Attached, "a call that was never answered");
        assert_eq!(quiet.ask(false), Question::Subscription);
    }
}
