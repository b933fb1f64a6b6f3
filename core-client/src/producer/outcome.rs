//! Who waits for what became of records, told exactly once.

use super::{flow::closed, observer::BatchPart};
use crate::{
    error::{Error, ErrorKind, Result},
    record::RecordId,
};
use std::{
    fmt,
    future::Future,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::sync::oneshot;

/// What became of the records of one `append_many`.
#[derive(Debug, Clone, Default)]
pub struct AppendOutcome {
    /// One per record, in order; `None` for records that failed.
    pub ids: Vec<Option<RecordId>>,
    /// Why records failed: ranges of their positions, ascending, without overlap.
    pub errors: Vec<(Range<usize>, Error)>,
}

impl AppendOutcome {
    /// All ids, or the first error.
    ///
    /// # Errors
    /// The error of the first record that failed.
    pub fn into_result(self) -> Result<Vec<RecordId>> {
        if let Some((_, error)) = self.errors.into_iter().next() {
            return Err(error);
        }
        let ids: Option<Vec<RecordId>> = self.ids.into_iter().collect();
        ids.ok_or_else(|| {
            Error::new(ErrorKind::Internal, "append").with_message("a record has neither an id nor an error")
        })
    }
}

/// Told what became of the records of one `try_append_many`: called exactly once, when all are resolved, on a
/// thread of the runtime. It must not block.
pub type Completion = Box<dyn FnOnce(AppendOutcome) + Send>;

/// The id of an appended record, once it is stored. Dropping it does not take the record back.
#[must_use = "the record may fail: await the receipt, or flush the producer"]
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Result<RecordId>>);

impl Future for Receipt {
    type Output = Result<RecordId>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(context)).unwrap_or_else(|_| Err(closed())))
    }
}

/// The outcome of an `append_many`, once all its records are resolved. Dropping it does not take them back.
#[must_use = "records may fail: await the receipt, or flush the producer"]
#[derive(Debug)]
pub struct ManyReceipt {
    receiver: oneshot::Receiver<AppendOutcome>,
    records: usize,
}

impl Future for ManyReceipt {
    type Output = AppendOutcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.receiver).poll(context));
        Poll::Ready(outcome.unwrap_or_else(|_| AppendOutcome {
            ids: vec![None; self.records],
            errors: vec![(0..self.records, closed())],
        }))
    }
}

/// A waiter for one record and its receipt.
pub(super) fn receipt() -> (oneshot::Sender<Result<RecordId>>, Receipt) {
    let (sender, receiver) = oneshot::channel();
    (sender, Receipt(receiver))
}

/// A completion and the receipt that waits for it.
pub(super) fn many_receipt(records: usize) -> (Completion, ManyReceipt) {
    let (sender, receiver) = oneshot::channel();
    let done: Completion = Box::new(move |outcome| {
        // Nobody waits any more: the records are stored all the same.
        let _ = sender.send(outcome);
    });
    (done, ManyReceipt { receiver, records })
}

/// One call with several records, shared by the batches they are in.
pub(super) struct Call {
    tag: u64,
    state: Mutex<CallState>,
}

struct CallState {
    outcome: AppendOutcome,
    remaining: usize,
    done: Option<Completion>,
}

impl Call {
    pub fn new(records: usize, tag: u64, done: Completion) -> Arc<Self> {
        let outcome = AppendOutcome { ids: vec![None; records], errors: Vec::new() };
        let state = CallState { outcome, remaining: records, done: Some(done) };
        Arc::new(Call { tag, state: Mutex::new(state) })
    }

    /// The tag of its records.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// The records at `positions` failed before they got into a batch.
    pub fn fail(&self, positions: Range<usize>, error: Error) {
        self.resolve(Positions::Run(positions), Err(&error));
    }

    /// `ids` are those of `positions`, in order.
    fn resolve(&self, positions: Positions, result: Result<&[RecordId], &Error>) {
        let finished = {
            let mut state = self.lock();
            state.remaining = state.remaining.saturating_sub(positions.len());
            match result {
                Ok(ids) => {
                    for (position, id) in positions.iter().zip(ids) {
                        if let Some(slot) = state.outcome.ids.get_mut(position) {
                            *slot = Some(*id);
                        }
                    }
                }
                Err(error) => {
                    state.outcome.errors.extend(positions.runs().map(|run| (run, error.clone())));
                }
            }
            if state.remaining > 0 { None } else { state.finish() }
        };
        if let Some((done, outcome)) = finished {
            complete(done, outcome);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, CallState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallState {
    fn finish(&mut self) -> Option<(Completion, AppendOutcome)> {
        let done = self.done.take()?;
        let mut outcome = std::mem::take(&mut self.outcome);
        outcome.errors.sort_by_key(|(range, _)| range.start);
        Some((done, outcome))
    }
}

impl Drop for Call {
    /// Records that never reached a batch, because the producer went away in between.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.done.is_none() {
            return;
        }
        let failed: Vec<bool> = {
            let mut failed = vec![true; state.outcome.ids.len()];
            for (position, id) in state.outcome.ids.iter().enumerate() {
                if id.is_some() {
                    failed[position] = false;
                }
            }
            for position in state.outcome.errors.iter().flat_map(|(range, _)| range.clone()) {
                if let Some(slot) = failed.get_mut(position) {
                    *slot = false;
                }
            }
            failed
        };
        let missing = Positions::List(
            failed.iter().enumerate().filter(|(_, failed)| **failed).map(|(at, _)| at as u32).collect(),
        );
        state.outcome.errors.extend(missing.runs().map(|run| (run, closed())));
        if let Some((done, outcome)) = state.finish() {
            complete(done, outcome);
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("remaining", &self.lock().remaining).finish_non_exhaustive()
    }
}

/// Runs a caller's completion; a panic in it is the caller's and must not take the shard's pipeline along.
pub(super) fn complete(done: Completion, outcome: AppendOutcome) {
    if catch_unwind(AssertUnwindSafe(move || done(outcome))).is_err() {
        tracing::error!("a completion passed to try_append_many panicked");
    }
}

/// Ascending positions of records in their call. Neighbours cost nothing each.
#[derive(Debug, Clone)]
enum Positions {
    Run(Range<usize>),
    List(Vec<u32>),
}

impl Positions {
    fn len(&self) -> usize {
        match self {
            Positions::Run(run) => run.len(),
            Positions::List(list) => list.len(),
        }
    }

    fn push(&mut self, position: usize) {
        match self {
            Positions::Run(run) if run.end == position => run.end += 1,
            Positions::Run(run) => {
                let mut list: Vec<u32> = run.clone().map(|at| at as u32).collect();
                list.push(position as u32);
                *self = Positions::List(list);
            }
            Positions::List(list) => list.push(position as u32),
        }
    }

    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let (run, list) = match self {
            Positions::Run(run) => (run.clone(), &[][..]),
            Positions::List(list) => (0..0, list.as_slice()),
        };
        run.chain(list.iter().map(|at| *at as usize))
    }

    /// The positions as ranges of neighbours.
    fn runs(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut positions = self.iter().peekable();
        std::iter::from_fn(move || {
            let start = positions.next()?;
            let mut end = start + 1;
            while positions.next_if_eq(&end).is_some() {
                end += 1;
            }
            Some(start..end)
        })
    }
}

#[derive(Debug)]
enum Waiter {
    One(oneshot::Sender<Result<RecordId>>),
    Many(Arc<Call>, Positions),
}

/// Who waits for the records of one batch, in the batch's order.
#[derive(Debug, Default)]
pub(super) struct Waiters(Vec<Waiter>);

impl Waiters {
    /// The batch's next record belongs to this receipt.
    pub fn push_one(&mut self, sender: oneshot::Sender<Result<RecordId>>) {
        self.0.push(Waiter::One(sender));
    }

    /// The batch's next record is the one at `position` of `call`.
    pub fn push_many(&mut self, call: &Arc<Call>, position: usize) {
        if let Some(Waiter::Many(last, positions)) = self.0.last_mut()
            && Arc::ptr_eq(last, call)
        {
            positions.push(position);
            return;
        }
        self.0.push(Waiter::Many(call.clone(), Positions::Run(position..position + 1)));
    }

    /// Where the records came from, in the batch's order.
    pub fn parts(&self) -> Vec<BatchPart> {
        let mut parts = Vec::with_capacity(self.0.len());
        for waiter in &self.0 {
            match waiter {
                Waiter::One(_) => parts.push(BatchPart { tag: 0, positions: 0..1 }),
                Waiter::Many(call, positions) => {
                    parts.extend(positions.runs().map(|positions| BatchPart { tag: call.tag, positions }));
                }
            }
        }
        parts
    }

    /// Tells everybody. `ids` holds one id per record of the batch; the caller has checked that.
    pub fn resolve(&mut self, result: Result<&[RecordId], &Error>) {
        let mut rest = result;
        for waiter in self.0.drain(..) {
            let count = match &waiter {
                Waiter::One(_) => 1,
                Waiter::Many(_, positions) => positions.len(),
            };
            let mine = match rest {
                Ok(ids) => {
                    let (mine, others) = ids.split_at(count.min(ids.len()));
                    rest = Ok(others);
                    Ok(mine)
                }
                Err(error) => Err(error),
            };
            match waiter {
                Waiter::One(sender) => {
                    let result = match mine {
                        Ok(ids) => ids.first().copied().ok_or_else(closed),
                        Err(error) => Err(error.clone()),
                    };
                    // Nobody waits any more: fine.
                    let _ = sender.send(result);
                }
                Waiter::Many(call, positions) => call.resolve(positions, mine),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(batch_index: u32) -> RecordId {
        RecordId { shard_id: 1, batch_id: 2, batch_index }
    }

    #[tokio::test]
    async fn a_call_spread_over_batches_completes_once_with_everything_in_order() {
        let (done, receipt) = many_receipt(6);
        let call = Call::new(6, 0, done);
        let (mut first, mut second) = (Waiters::default(), Waiters::default());
        for position in 0..6 {
            if position % 2 == 0 { &mut first } else { &mut second }.push_many(&call, position);
        }
        drop(call);
        second.resolve(Err(&closed()));
        first.resolve(Ok(&[id(0), id(1), id(2)]));
        let outcome = receipt.await;
        assert_eq!(outcome.ids, [Some(id(0)), None, Some(id(1)), None, Some(id(2)), None]);
        let failed: Vec<_> = outcome.errors.iter().map(|(range, _)| range.clone()).collect();
        assert_eq!(failed, [1..2, 3..4, 5..6]);
        assert_eq!(outcome.into_result().unwrap_err().kind(), ErrorKind::Closed);
    }

    #[tokio::test]
    async fn receipts_and_calls_share_a_batch() {
        let (done, many) = many_receipt(3);
        let call = Call::new(3, 7, done);
        let (sender, one) = receipt();
        let mut waiters = Waiters::default();
        waiters.push_many(&call, 0);
        waiters.push_one(sender);
        waiters.push_many(&call, 1);
        waiters.push_many(&call, 2);
        let parts: Vec<_> = waiters.parts().into_iter().map(|part| (part.tag, part.positions)).collect();
        assert_eq!(parts, [(7, 0..1), (0, 0..1), (7, 1..3)]);
        waiters.resolve(Ok(&[id(0), id(1), id(2), id(3)]));
        assert_eq!(one.await.unwrap(), id(1));
        assert_eq!(many.await.into_result().unwrap(), [id(0), id(2), id(3)]);
    }

    #[tokio::test]
    async fn what_is_dropped_unresolved_is_closed() {
        let (done, many) = many_receipt(3);
        let call = Call::new(3, 7, done);
        call.fail(1..2, Error::new(ErrorKind::InvalidArgument, "append"));
        drop(call);
        let outcome = many.await;
        let kinds: Vec<_> = outcome.errors.iter().map(|(range, e)| (range.clone(), e.kind())).collect();
        assert_eq!(
            kinds,
            [(0..1, ErrorKind::Closed), (1..2, ErrorKind::InvalidArgument), (2..3, ErrorKind::Closed)]
        );
        let (sender, one) = receipt();
        drop(sender);
        assert_eq!(one.await.unwrap_err().kind(), ErrorKind::Closed);
    }

    #[test]
    fn a_completion_that_panics_is_contained() {
        complete(Box::new(|_| panic!("in user code")), AppendOutcome::default());
    }
}
