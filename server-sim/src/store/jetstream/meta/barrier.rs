//! Seeing everything that was written before.
//!
//! Servers answer reads from what they have, which may be old: a follower lags, and one that led until a moment ago does not know
//! of its successor. So whoever has to see everything writes a mark, which a majority takes and which has a place in the
//! order of all changes, and waits until that comes out of the consumer. Those who ask at the same time share one.

use super::{Meta, message};
use crate::store::jetstream::failure::Lost;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Pauses before a mark is written again.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// A mark that does not come out of the consumer for so long says that something is wrong with that.
const REPLACE_AFTER: Duration = Duration::from_secs(1);

/// The turns of those who ask.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    asked: AtomicU64,
    /// Everybody up to this one is served.
    served: AtomicU64,
    turn: Mutex<()>,
}

impl Meta {
    /// Waits until the mirror has everything that was written before this call, by whomever.
    pub(super) async fn fresh(&self, deadline: Instant) -> Result<(), Lost> {
        let number = self.barrier.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let late = |why: &str| Lost { sent: false, why: why.to_owned() };
        let turn = timeout_at(deadline, self.barrier.turn.lock()).await;
        let _turn = turn.map_err(|_| late("the metadata do not come forward"))?;
        if self.barrier.served.load(Ordering::SeqCst) >= number {
            return Ok(());
        }
        let asked = self.barrier.asked.load(Ordering::SeqCst);
        let mark = self.write_mark(deadline).await?;
        // A consumer that is alive and brings nothing is replaced, mostly in time for a second try.
        let patience = (Instant::now() + REPLACE_AFTER.max(self.connection.timeout() / 3)).min(deadline);
        if !self.mirror.reached(mark, patience).await {
            // Only one that listens now: the next one must not be taken for it.
            self.again.notify_waiters();
            if !self.mirror.reached(mark, deadline).await {
                return Err(late("changes of the metadata do not come through"));
            }
        }
        self.barrier.served.fetch_max(asked, Ordering::SeqCst);
        Ok(())
    }

    /// Writes a mark and returns its place.
    pub(super) async fn write_mark(&self, deadline: Instant) -> Result<u64, Lost> {
        let mut pause = PAUSE;
        loop {
            let sent = self.send(self.mark.clone(), message::barrier(), bytes::Bytes::new(), deadline).await;
            let why = match sent {
                super::Sent::Stored(version) => return Ok(version),
                super::Sent::Lost(lost) => lost.why,
                super::Sent::Conflict(_) => "a mark was refused".to_owned(),
                super::Sent::Refused(error) => error.to_string(),
            };
            let next = Instant::now() + pause;
            if next >= deadline {
                return Err(Lost { sent: false, why });
            }
            sleep_until(next).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
