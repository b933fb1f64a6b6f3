//! Flow control: how many records and bytes may wait for their acknowledgement.

use crate::error::{Error, ErrorKind, Result};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::{Mutex, MutexGuard, Semaphore, TryAcquireError};

/// Two fair semaphores behind a fair door, so that whoever came first is served first also when the two run
/// out at different times.
#[derive(Debug)]
pub(super) struct FlowControl {
    bytes: Semaphore,
    records: Semaphore,
    max_bytes: usize,
    max_records: usize,
    held_bytes: AtomicUsize,
    held_records: AtomicUsize,
    door: Mutex<()>,
}

/// Room taken by records. Travels with them and is given back on drop.
#[derive(Debug)]
pub(super) struct Permit {
    flow: Arc<FlowControl>,
    bytes: usize,
    records: usize,
}

/// Held by an append from taking room to handing its records over; appends pass in the order of their calls.
#[derive(Debug)]
pub(super) struct Turn<'a>(#[allow(dead_code, reason = "held, not read")] MutexGuard<'a, ()>);

impl FlowControl {
    pub fn new(max_bytes: usize, max_records: usize) -> Arc<Self> {
        let max_bytes = max_bytes.min(Semaphore::MAX_PERMITS);
        let max_records = max_records.min(Semaphore::MAX_PERMITS);
        Arc::new(FlowControl {
            bytes: Semaphore::new(max_bytes),
            records: Semaphore::new(max_records),
            max_bytes,
            max_records,
            held_bytes: AtomicUsize::new(0),
            held_records: AtomicUsize::new(0),
            door: Mutex::new(()),
        })
    }

    /// Waits for room. Dropping the future gives back what it had taken.
    ///
    /// # Errors
    /// `InvalidArgument` when there can never be room, `Closed` after [`close`](Self::close).
    pub async fn acquire(self: &Arc<Self>, records: usize, bytes: usize) -> Result<(Turn<'_>, Permit)> {
        let (record_permits, byte_permits) = self.check(records, bytes)?;
        let turn = Turn(self.door.lock().await);
        let taken_bytes = self.bytes.acquire_many(byte_permits).await.map_err(|_| closed())?;
        let taken_records = self.records.acquire_many(record_permits).await.map_err(|_| closed())?;
        taken_bytes.forget();
        taken_records.forget();
        Ok((turn, self.permit(records, bytes)))
    }

    /// Takes room if there is some and nobody waits for it.
    ///
    /// # Errors
    /// `Overloaded` when there is no room now, otherwise as [`acquire`](Self::acquire).
    pub fn try_acquire(self: &Arc<Self>, records: usize, bytes: usize) -> Result<Permit> {
        let (record_permits, byte_permits) = self.check(records, bytes)?;
        let refuse = |error: TryAcquireError| match error {
            TryAcquireError::Closed => closed(),
            TryAcquireError::NoPermits => self.full(),
        };
        // Somebody who waits at a semaphore has taken what is left of it, so the newcomer finds nothing.
        let taken_bytes = self.bytes.try_acquire_many(byte_permits).map_err(refuse)?;
        let taken_records = self.records.try_acquire_many(record_permits).map_err(refuse)?;
        taken_bytes.forget();
        taken_records.forget();
        Ok(self.permit(records, bytes))
    }

    fn permit(self: &Arc<Self>, records: usize, bytes: usize) -> Permit {
        self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.held_records.fetch_add(records, Ordering::Relaxed);
        Permit { flow: self.clone(), bytes, records }
    }

    fn check(&self, records: usize, bytes: usize) -> Result<(u32, u32)> {
        let limits = [("records", records, self.max_records), ("bytes", bytes, self.max_bytes)];
        for (what, wanted, limit) in limits {
            if wanted > limit || u32::try_from(wanted).is_err() {
                return Err(Error::new(ErrorKind::InvalidArgument, "append").with_message(format!(
                    "{wanted} {what} at once can never pass flow control of {limit} {what}: split them, or raise \
                     flow_control_{what}"
                )));
            }
        }
        Ok((records as u32, bytes as u32))
    }

    /// The error of an append that finds no room.
    pub fn full(&self) -> Error {
        let (records, bytes) = self.held();
        Error::new(ErrorKind::Overloaded, "append").with_message(format!(
            "{records} records ({bytes} bytes) wait for their acknowledgement, flow control allows {} ({} bytes)",
            self.max_records, self.max_bytes
        ))
    }

    /// Records and bytes that hold room now.
    pub fn held(&self) -> (usize, usize) {
        (self.held_records.load(Ordering::Relaxed), self.held_bytes.load(Ordering::Relaxed))
    }

    /// Fails everybody who waits, now and later.
    pub fn close(&self) {
        self.bytes.close();
        self.records.close();
    }
}

impl Permit {
    /// Cuts off a part for some of the records.
    pub fn split(&mut self, records: usize, bytes: usize) -> Permit {
        let records = records.min(self.records);
        let bytes = bytes.min(self.bytes);
        self.records -= records;
        self.bytes -= bytes;
        Permit { flow: self.flow.clone(), bytes, records }
    }

    /// Gives everything back at once.
    pub fn release(&mut self) {
        let (records, bytes) = (std::mem::take(&mut self.records), std::mem::take(&mut self.bytes));
        self.flow.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.flow.held_records.fetch_sub(records, Ordering::Relaxed);
        self.flow.bytes.add_permits(bytes);
        self.flow.records.add_permits(records);
    }

    /// Moves a part of another permit of the same producer into this one.
    pub fn absorb(&mut self, other: &mut Permit, records: usize, bytes: usize) {
        debug_assert!(Arc::ptr_eq(&self.flow, &other.flow));
        let records = records.min(other.records);
        let bytes = bytes.min(other.bytes);
        other.records -= records;
        other.bytes -= bytes;
        self.records += records;
        self.bytes += bytes;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release();
    }
}

/// The error of everything that comes after the end of a producer.
pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "append").with_message("the producer is closed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt as _, future::BoxFuture, poll};
    use proptest::prelude::*;
    use std::{
        collections::VecDeque,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    #[tokio::test]
    async fn room_comes_back_when_a_permit_is_dropped_in_parts() {
        let flow = FlowControl::new(100, 10);
        let mut permit = flow.try_acquire(10, 100).unwrap();
        assert_eq!(flow.held(), (10, 100));
        assert_eq!(flow.try_acquire(1, 1).unwrap_err().kind(), ErrorKind::Overloaded);
        let mut part = permit.split(4, 30);
        drop(permit);
        assert_eq!(flow.held(), (4, 30));
        let mut other = flow.try_acquire(1, 1).unwrap();
        other.absorb(&mut part, 4, 30);
        drop(part);
        assert_eq!(flow.held(), (5, 31));
        drop(other);
        assert_eq!(flow.held(), (0, 0));
        assert!(flow.try_acquire(10, 100).is_ok());
    }

    #[tokio::test]
    async fn a_large_append_is_not_overtaken_by_small_ones() {
        let flow = FlowControl::new(100, 100);
        let held = flow.try_acquire(1, 60).unwrap();
        let mut large = pin!(flow.acquire(1, 80));
        let mut small = pin!(flow.acquire(1, 1));
        assert!(poll!(&mut large).is_pending());
        assert!(poll!(&mut small).is_pending());
        assert_eq!(flow.try_acquire(1, 1).unwrap_err().kind(), ErrorKind::Overloaded);
        drop(held);
        let granted = large.now_or_never().unwrap().unwrap();
        drop(granted);
        assert!(small.now_or_never().unwrap().is_ok());
    }

    #[tokio::test]
    async fn giving_up_while_waiting_leaks_nothing() {
        let flow = FlowControl::new(10, 10);
        let held = flow.try_acquire(10, 1).unwrap();
        {
            // Has its bytes and waits for records.
            let mut waiting = pin!(flow.acquire(1, 9));
            assert!(poll!(&mut waiting).is_pending());
        }
        drop(held);
        assert!(flow.try_acquire(10, 10).is_ok());
    }

    #[tokio::test]
    async fn what_can_never_fit_is_refused_at_once() {
        let flow = FlowControl::new(10, 10);
        assert_eq!(flow.try_acquire(1, 11).unwrap_err().kind(), ErrorKind::InvalidArgument);
        let error = flow.acquire(11, 1).await.unwrap_err();
        assert!(error.to_string().contains("flow_control_records"), "{error}");
    }

    #[tokio::test]
    async fn closing_fails_those_who_wait() {
        let flow = FlowControl::new(10, 10);
        let _held = flow.try_acquire(1, 10).unwrap();
        let mut waiting = pin!(flow.acquire(1, 1));
        assert!(poll!(&mut waiting).is_pending());
        flow.close();
        assert_eq!(waiting.now_or_never().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(flow.try_acquire(1, 1).unwrap_err().kind(), ErrorKind::Closed);
    }

    /// One step of somebody who uses flow control.
    #[derive(Debug, Clone)]
    enum Step {
        Wait(usize, usize),
        Try(usize, usize),
        /// Gives up the waiting append at this place.
        GiveUp(usize),
        /// Cuts a part off a permit.
        Split(usize, usize, usize),
        /// Moves a part of one permit into another.
        Move(usize, usize, usize, usize),
        Drop(usize),
    }

    type Waiting<'a> = BoxFuture<'a, Result<(Turn<'a>, Permit)>>;

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let (records, bytes, place) = (0..12usize, 0..110usize, 0..20usize);
        let step = prop_oneof![
            (records.clone(), bytes.clone()).prop_map(|(records, bytes)| Step::Wait(records, bytes)),
            (records.clone(), bytes.clone()).prop_map(|(records, bytes)| Step::Try(records, bytes)),
            place.clone().prop_map(Step::GiveUp),
            (place.clone(), records.clone(), bytes.clone()).prop_map(|(at, r, b)| Step::Split(at, r, b)),
            (place.clone(), place.clone(), records, bytes)
                .prop_map(|(to, of, r, b)| Step::Move(to, of, r, b)),
            place.prop_map(Step::Drop),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        #[test]
        fn permits_all_come_back_and_nobody_is_overtaken(steps in steps()) {
            const RECORDS: usize = 10;
            const BYTES: usize = 100;
            let flow = FlowControl::new(BYTES, RECORDS);
            let mut waiting: VecDeque<Waiting<'_>> = VecDeque::new();
            let mut permits: Vec<Permit> = Vec::new();
            for step in steps {
                match step {
                    Step::Wait(records, bytes) => {
                        let fits = records <= RECORDS && bytes <= BYTES;
                        let mut wait = flow.acquire(records, bytes).boxed();
                        match poll_once(&mut wait) {
                            Some(Ok((_turn, permit))) => {
                                prop_assert!(waiting.is_empty(), "an append overtook one that waits");
                                permits.push(permit);
                            }
                            Some(Err(error)) => {
                                prop_assert!(!fits, "{}", error);
                            }
                            None => {
                                prop_assert!(fits);
                                waiting.push_back(wait);
                            }
                        }
                    }
                    Step::Try(records, bytes) => permits.extend(flow.try_acquire(records, bytes)),
                    Step::GiveUp(at) if at < waiting.len() => drop(waiting.remove(at)),
                    Step::Split(at, records, bytes) if at < permits.len() => {
                        let part = permits[at].split(records, bytes);
                        permits.push(part);
                    }
                    Step::Move(to, of, records, bytes) if to < permits.len() && of < permits.len() && to != of => {
                        let mut giver = permits.swap_remove(of);
                        // The last one took the giver's place.
                        let to = if to == permits.len() { of } else { to };
                        permits[to].absorb(&mut giver, records, bytes);
                        permits.push(giver);
                    }
                    Step::Drop(at) if at < permits.len() => drop(permits.swap_remove(at)),
                    _ => {}
                }
                // Those who wait are served in their order: nobody is while an earlier one is not.
                while let Some(first) = waiting.front_mut() {
                    let Some(granted) = poll_once(first) else { break };
                    permits.push(granted.unwrap().1);
                    waiting.pop_front();
                }
                for later in waiting.iter_mut().skip(1) {
                    prop_assert!(poll_once(later).is_none(), "an append overtook one that waits");
                }
                let held = permits.iter().fold((0, 0), |sum, permit| (sum.0 + permit.records, sum.1 + permit.bytes));
                prop_assert_eq!(flow.held(), held);
                prop_assert!(held.0 <= RECORDS && held.1 <= BYTES);
            }
            drop(waiting);
            drop(permits);
            prop_assert_eq!(flow.held(), (0, 0));
            prop_assert!(flow.try_acquire(RECORDS, BYTES).is_ok());
        }
    }

    fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        match future.poll_unpin(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }
}
