//! Bytes that all calls of a node share.

use super::Notice;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often somebody who waits looks for peers that have stalled.
const LOOK_AROUND: Duration = Duration::from_millis(500);

/// A number of bytes, handed out in the order in which they are asked for.
///
/// What lies in the transport is registered with its connection. While somebody waits, connections that have
/// left something lying for longer than `stall` are closed, so that nobody waits for ever.
#[derive(Debug)]
pub struct Budget {
    room: Arc<Semaphore>,
    total: usize,
    stall: Duration,
    lying: Mutex<Lying>,
    closed: Notice,
}

#[derive(Debug, Default)]
struct Lying {
    next: u64,
    /// In the order of age.
    entries: BTreeMap<u64, (Instant, CancellationToken)>,
}

/// A part of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Charge {
    permit: Option<OwnedSemaphorePermit>,
    budget: Arc<Budget>,
}

/// Something that lies in the transport until the peer takes it.
#[derive(Debug)]
pub(super) struct InTransport {
    number: u64,
    charge: Charge,
}

impl Budget {
    /// A budget of `total` bytes.
    pub fn new(total: usize, stall: Duration) -> Arc<Self> {
        let total = total.min(u32::MAX as usize);
        Arc::new(Budget {
            room: Arc::new(Semaphore::new(total)),
            total,
            stall,
            lying: Mutex::default(),
            closed: Notice::default(),
        })
    }

    fn lying(&self) -> MutexGuard<'_, Lying> {
        self.lying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn permits(&self, bytes: usize) -> u32 {
        // Whoever asks for more than there is gets all of it, once.
        u32::try_from(bytes.min(self.total)).unwrap_or(u32::MAX)
    }

    /// Waits for `bytes`.
    pub async fn reserve(self: &Arc<Self>, bytes: usize) -> Charge {
        let acquired = self.room.clone().acquire_many_owned(self.permits(bytes));
        tokio::pin!(acquired);
        loop {
            tokio::select! {
                // The semaphore is never closed.
                permit = &mut acquired => return Charge { permit: permit.ok(), budget: self.clone() },
                () = tokio::time::sleep(LOOK_AROUND) => self.close_stalled(),
            }
        }
    }

    /// Whether `bytes` are there now.
    pub fn has_room(&self, bytes: usize) -> bool {
        let room = self.room.available_permits() >= bytes.min(self.total);
        if !room {
            self.close_stalled();
        }
        room
    }

    /// `bytes`, if they are there and nobody waits for them.
    pub fn try_reserve(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        match self.room.clone().try_acquire_many_owned(self.permits(bytes)) {
            Ok(permit) => Some(Charge { permit: Some(permit), budget: self.clone() }),
            Err(_) => {
                self.close_stalled();
                None
            }
        }
    }

    /// Closes the connections of those who have not taken what lies there for them.
    fn close_stalled(&self) {
        let now = Instant::now();
        let lying = self.lying();
        let old = lying.entries.values().take_while(|(since, _)| now >= *since + self.stall);
        let stalled: Vec<CancellationToken> = old.map(|(_, connection)| connection.clone()).collect();
        drop(lying);
        let mut closed = 0_u32;
        for connection in stalled.into_iter().filter(|connection| !connection.is_cancelled()) {
            connection.cancel();
            closed += 1;
        }
        if closed > 0 && self.closed.due().is_some() {
            let stall = self.stall;
            tracing::warn!(
                "{closed} connections are closed: they left answers unread for {stall:?} while memory was short"
            );
        }
    }
}

impl Charge {
    /// Gives back what exceeds `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.permit {
            let surplus = permit.num_permits().saturating_sub(bytes);
            drop(permit.split(surplus));
        }
    }

    /// Bytes of this part.
    pub fn bytes(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    pub(super) fn in_transport(self, connection: CancellationToken) -> InTransport {
        let mut lying = self.budget.lying();
        let number = lying.next;
        lying.next += 1;
        lying.entries.insert(number, (Instant::now(), connection));
        drop(lying);
        InTransport { number, charge: self }
    }
}

impl Drop for InTransport {
    fn drop(&mut self) {
        self.charge.budget.lying().entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_dropped_or_shrunk_is_there_for_the_next_in_line() {
        let budget = Budget::new(100, Duration::from_secs(60));
        let mut first = budget.reserve(80).await;
        assert!(budget.try_reserve(30).is_none());
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(60).await.bytes() }
        });
        tokio::task::yield_now().await;
        assert!(budget.try_reserve(1).is_none(), "who waits comes first");
        first.shrink(40);
        assert_eq!(waiting.await.unwrap(), 60);
        drop(first);
        assert_eq!(budget.reserve(1000).await.bytes(), 100, "more than there is means all of it");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_answers_lying_is_closed_only_while_others_wait_and_only_after_the_time() {
        let budget = Budget::new(100, Duration::from_secs(60));
        let (old, new) = (CancellationToken::new(), CancellationToken::new());
        let lies = budget.reserve(60).await.in_transport(old.clone());
        tokio::time::advance(Duration::from_secs(600)).await;
        assert!(!old.is_cancelled(), "nobody needs the memory");
        let fresh = budget.reserve(40).await.in_transport(new.clone());
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(50).await.bytes() }
        });
        old.cancelled().await;
        drop(lies);
        assert_eq!(waiting.await.unwrap(), 50);
        assert!(!new.is_cancelled(), "it had no time yet");
        drop(fresh);
    }
}
