//! Waiting for a condition with a deadline.

use std::{future::Future, time::Duration};
use tokio::time::{Instant, sleep};

/// Runs `check` until it returns a value, every few milliseconds, at most for `deadline`.
///
/// # Panics
/// When the deadline passes; the message says what was awaited.
pub async fn eventually<T, F, Fut>(what: &str, deadline: Duration, mut check: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < end, "{what} did not happen within {deadline:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_the_first_value() {
        let mut left = 3;
        let value = eventually("counting down", Duration::from_secs(5), || {
            left -= 1;
            let value = (left == 0).then_some("done");
            async move { value }
        })
        .await;
        assert_eq!(value, "done");
    }

    #[tokio::test]
    #[should_panic(expected = "the sun did not happen within 20ms")]
    async fn says_what_did_not_happen() {
        eventually("the sun", Duration::from_millis(20), || async { None::<()> }).await;
    }
}
