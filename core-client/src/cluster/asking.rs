//! Asking several for the same thing without waiting for the slow ones.

use crate::error::{Error, Result};
use futures::{StreamExt as _, stream::FuturesUnordered};
use std::time::Duration;

/// Asks one after another until one answers; the next one's turn comes when one fails or nobody has answered for
/// `patience`. Those asked before go on meanwhile.
///
/// # Errors
/// What each failed with, in the order of failing, when all have. Empty when there was nobody to ask.
pub(super) async fn first_answer<A, T, F, Fut>(
    all: Vec<A>,
    patience: Duration,
    ask: F,
) -> Result<(A, T), Vec<(A, Error)>>
where
    A: Clone,
    F: Fn(A) -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let mut waiting = all.into_iter();
    let mut asked = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        match waiting.next() {
            Some(next) => {
                let answer = ask(next.clone());
                asked.push(async move { (next, answer.await) });
                if patience.is_zero() {
                    continue;
                }
            }
            None if asked.is_empty() => return Err(failures),
            None => {}
        }
        tokio::select! {
            biased;
            Some((one, answer)) = asked.next() => match answer {
                Ok(answer) => return Ok((one, answer)),
                Err(error) => failures.push((one, error)),
            },
            () = tokio::time::sleep(patience), if waiting.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use tokio::time::Instant;

    const PATIENCE: Duration = Duration::from_secs(1);

    /// Fails when even, answers when odd, after that many milliseconds.
    async fn ask(number: u64) -> Result<u64> {
        tokio::time::sleep(Duration::from_millis(number)).await;
        if number % 2 == 1 { Ok(number) } else { Err(Error::new(ErrorKind::Unavailable, "x")) }
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_is_asked_when_one_fails_or_is_silent() {
        let started = Instant::now();
        let (_, answer) = first_answer(vec![20, 9_001, 31], PATIENCE, ask).await.unwrap();
        assert_eq!(answer, 31);
        assert_eq!(started.elapsed().as_millis(), 20 + 1000 + 31);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_one_may_still_win() {
        let (_, answer) = first_answer(vec![1_501, 4_001], PATIENCE, ask).await.unwrap();
        assert_eq!(answer, 1_501);
    }

    #[tokio::test(start_paused = true)]
    async fn without_patience_all_are_asked_at_once() {
        let started = Instant::now();
        let all = (1..=100).map(|number| number * 2).chain([51]).collect();
        let (_, answer) = first_answer(all, Duration::ZERO, ask).await.unwrap();
        assert_eq!(answer, 51);
        assert_eq!(started.elapsed().as_millis(), 51);
    }

    #[tokio::test(start_paused = true)]
    async fn all_failures_come_back_when_nobody_answers() {
        let failures = first_answer(vec![40, 20], PATIENCE, ask).await.unwrap_err();
        assert_eq!(failures.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [40, 20]);
        assert!(first_answer(Vec::new(), PATIENCE, ask).await.unwrap_err().is_empty());
    }
}
