//! Whether a session is on the subscription that our acknowledgements are for.
//!
//! What the owner said before the call was made need not hold for the call: the subscription may have been deleted and
//! made anew in between. Servers that announce incarnations refuse such a call. Of others the owner is asked once the
//! consumer is attached: what it says then is what the call is on, or newer. Pure: the clock is passed in.

use super::quiet::Question;
use std::time::Duration;
use tokio::time::Instant;

/// Pause before asking again whether the consumer is attached.
const NOT_YET_PAUSE: Duration = Duration::from_millis(100);
/// How often it may be found not attached, which takes ten seconds and more.
const NOT_YET_LIMIT: u32 = 100;

/// What is left to ask.
#[derive(Debug)]
pub(super) struct Doubt {
    next: Option<(Question, Instant)>,
    not_yet: u32,
}

impl Doubt {
    /// There is no doubt.
    pub fn none() -> Self {
        Doubt { next: None, not_yet: 0 }
    }

    /// To be settled from now on.
    pub fn from(now: Instant) -> Self {
        Doubt { next: Some((Question::Attached, now)), not_yet: 0 }
    }

    /// Whether it is still open: no acknowledgement may go out, no batch be taken in.
    pub fn is_open(&self) -> bool {
        self.next.is_some()
    }

    /// When to ask next.
    pub fn due(&self) -> Option<Instant> {
        self.next.map(|(_, at)| at)
    }

    /// What to ask.
    pub fn ask(&self) -> Question {
        self.next.map_or(Question::Subscription, |(question, _)| question)
    }

    /// The consumer is not attached; true if that may still come.
    pub fn not_yet(&mut self, now: Instant) -> bool {
        self.not_yet += 1;
        match &mut self.next {
            Some((Question::Attached, at)) if self.not_yet < NOT_YET_LIMIT => {
                *at = now + NOT_YET_PAUSE;
                true
            }
            _ => false,
        }
    }

    /// Anything else was answered, also that the server does not know the question.
    pub fn answered(&mut self, now: Instant) {
        self.next = match self.next {
            Some((Question::Attached, _)) => Some((Question::Subscription, now)),
            Some((Question::Subscription | Question::Alive, _)) | None => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_subscription_is_asked_for_after_the_consumer_is_attached() {
        let now = Instant::now();
        let mut doubt = Doubt::from(now);
        assert_eq!((doubt.ask(), doubt.due()), (Question::Attached, Some(now)));
        assert!(doubt.not_yet(now));
        assert_eq!((doubt.ask(), doubt.due()), (Question::Attached, Some(now + NOT_YET_PAUSE)));
        doubt.answered(now);
        assert_eq!((doubt.ask(), doubt.is_open()), (Question::Subscription, true));
        assert!(!doubt.not_yet(now), "attached it was");
        doubt.answered(now);
        assert!(!doubt.is_open() && doubt.due().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_consumer_that_never_gets_attached_is_not_waited_for_for_ever() {
        let now = Instant::now();
        let mut doubt = Doubt::from(now);
        let waits = (0..1000).take_while(|_| doubt.not_yet(now)).count();
        assert_eq!(waits, NOT_YET_LIMIT as usize - 1);
        assert!(!Doubt::none().not_yet(now));
    }
}
