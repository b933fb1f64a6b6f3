//! Everything that was acknowledged before, whoever asked for it.
//!
//! A message that means nothing is stored in a lane; what was stored before it has come by when it does. One message serves
//! all who asked before it was sent. Nothing less will do: an answer of a server that still takes itself for the leader is old.

use super::wire::{FIRST_PAUSE, PublishError, rest, unreachable};
use crate::store::{Result, StoreError};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// How long a message may take to come by before another one is sent: it may have gone by age before it was seen.
const COMES_BY: Duration = Duration::from_secs(2);

/// The barriers of one lane.
#[derive(Debug, Default)]
pub struct Barrier {
    /// How many were begun.
    begun: AtomicU64,
    /// The last one that was passed.
    passed: tokio::sync::Mutex<u64>,
}

impl Barrier {
    /// Waits until everything that was stored before this call has come by, which `position` tells. `publish` stores the
    /// message and returns its sequence.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] if that takes longer than `within`.
    pub async fn wait<F: Future<Output = Result<u64, PublishError>>>(
        &self,
        within: Duration,
        position: watch::Receiver<u64>,
        publish: impl Fn() -> F,
    ) -> Result<()> {
        let asked = self.begun.load(Ordering::Acquire);
        let deadline = Instant::now() + within;
        let passing = async {
            let mut passed = self.passed.lock().await;
            // Begun after this call, and passed while it waited for its turn.
            if *passed > asked {
                return Ok(());
            }
            let number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
            pass(deadline, position, publish).await?;
            *passed = number;
            Ok(())
        };
        let late = || unreachable("asking for what is new", "the log does not answer in time");
        timeout(within, passing).await.unwrap_or_else(|_| Err(late()))
    }
}

async fn pass<F: Future<Output = Result<u64, PublishError>>>(
    deadline: Instant,
    mut position: watch::Receiver<u64>,
    publish: impl Fn() -> F,
) -> Result<()> {
    let mut pause = FIRST_PAUSE;
    loop {
        let reason = match publish().await {
            Ok(seq) => match timeout(COMES_BY, position.wait_for(|position| *position >= seq)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(_)) => return Err(StoreError::Closed),
                Err(_) => "what was stored does not come by".to_owned(),
            },
            Err(
                PublishError::Unclear(reason)
                | PublishError::NotSent(reason)
                | PublishError::Full(reason)
                | PublishError::Refused(reason),
            ) => reason,
            Err(PublishError::Wrong(_)) => "an answer that was not asked for".to_owned(),
        };
        rest(&mut pause, deadline).await.map_err(|()| unreachable("asking for what is new", &reason))?;
    }
}
