//! Batches on their way to a caller who may have stopped waiting.
//!
//! A timeout of the caller can fall between the moment the core hands out a batch and the moment the caller has
//! it. Such a batch comes back here and goes to the next caller, instead of being missing until the server
//! delivers it again. The same holds for the error that ended everything, which the core reports once.

use crate::{batch::ReceivedBatch as PyBatch, errors};
use hstreamdb::{Error, ReceivedBatch, Result};
use pyo3::{BoundObject, exceptions::PyBaseException, prelude::*, sync::PyOnceLock, types::PyList};
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, OwnedMutexGuard};

/// How long a call waits until the one before it has arrived or came back. Only an event loop that was left with a
/// batch on its way takes longer; order is not worth waiting for that one for ever.
const TURN_WAIT: Duration = Duration::from_secs(5);

enum Item {
    /// Never empty.
    Batches(Vec<ReceivedBatch>),
    Failed(Error),
    /// An error that was an exception already when it came back.
    Raised(PyErr),
}

/// What was handed out and came back.
#[derive(Default)]
pub struct Returned {
    kept: Mutex<Kept>,
    came_back: Notify,
    /// Held from before a pull until what it gave has arrived or came back: without it, a later call could
    /// overtake a batch that comes back.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Kept {
    queue: VecDeque<Item>,
    closed: bool,
}

impl Kept {
    fn take(&mut self, limit: usize) -> Option<Item> {
        match self.queue.pop_front()? {
            Item::Batches(mut batches) => {
                let rest = batches.split_off(batches.len().min(limit.max(1)));
                if !rest.is_empty() {
                    self.queue.push_front(Item::Batches(rest));
                }
                Some(Item::Batches(batches))
            }
            other => Some(other),
        }
    }
}

impl fmt::Debug for Returned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Returned")
    }
}

impl Returned {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, item: Item) {
        let mut kept = self.kept();
        // Batches nobody took before the stop stay unacknowledged, and come again.
        if !kept.closed {
            kept.queue.push_front(item);
            drop(kept);
            self.came_back.notify_one();
        }
    }

    /// Takes back what a future of `_pull` gave: a batch or several, the error it failed with, or `None` for the end.
    pub fn put_back(&self, value: &Bound<'_, PyAny>) {
        if let Ok(batch) = value.cast::<PyBatch>() {
            self.keep(Item::Batches(vec![batch.get().received()]));
        } else if let Ok(list) = value.cast::<PyList>() {
            let batches =
                list.iter().filter_map(|batch| Some(batch.cast::<PyBatch>().ok()?.get().received()));
            let batches: Vec<_> = batches.collect();
            if !batches.is_empty() {
                self.keep(Item::Batches(batches));
            }
        } else if value.is_instance_of::<PyBaseException>() {
            self.keep(Item::Raised(PyErr::from_value(value.clone())));
        }
    }

    /// Keeps nothing from now on.
    pub fn close(&self) {
        let left = {
            let mut kept = self.kept();
            kept.closed = true;
            std::mem::take(&mut kept.queue)
        };
        drop(left);
    }

    /// The next batch: one that came back, else what `pull` gives. `pull` must be cancel-safe.
    pub async fn next<F>(self: Arc<Self>, mut pull: impl FnMut() -> F) -> Result<Option<InTransit>>
    where
        F: Future<Output = Result<Option<ReceivedBatch>>>,
    {
        self.some(1, move || {
            let pulled = pull();
            async move { Ok(pulled.await?.map(|batch| vec![batch])) }
        })
        .await
    }

    /// The same for several batches at a time: at most `limit` of those that came back.
    pub async fn some<F>(
        self: Arc<Self>,
        limit: usize,
        mut pull: impl FnMut() -> F,
    ) -> Result<Option<InTransit>>
    where
        F: Future<Output = Result<Option<Vec<ReceivedBatch>>>>,
    {
        let turn = tokio::time::timeout(TURN_WAIT, self.turn.clone().lock_owned()).await.ok();
        loop {
            let returned = self.kept().take(limit);
            if let Some(item) = returned {
                return Ok(Some(InTransit { item: Some(item), home: self, _turn: turn }));
            }
            tokio::select! {
                biased;
                () = self.came_back.notified() => {}
                pulled = pull() => {
                    let item = match pulled {
                        Ok(None) => return Ok(None),
                        // Nothing came, and nothing has ended.
                        Ok(Some(batches)) if batches.is_empty() => return Ok(None),
                        Ok(Some(batches)) => Item::Batches(batches),
                        Err(error) => Item::Failed(error),
                    };
                    return Ok(Some(InTransit { item: Some(item), home: self, _turn: turn }));
                }
            }
        }
    }
}

/// The coroutine that a caller awaits: calls `_pull` of the handle with what was asked for, and puts back what did not
/// arrive.
pub fn arrive<'py, A>(handle: &Bound<'py, PyAny>, wanted: A) -> PyResult<Bound<'py, PyAny>>
where
    A: IntoPyObject<'py>,
{
    static ARRIVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = handle.py();
    let wanted = wanted.into_pyobject(py).map_err(Into::into)?.into_any().into_bound();
    ARRIVE.import(py, "hstreamdb._arrival", "arrive")?.call1((handle, wanted))
}

/// Something that goes back unless it is taken.
pub struct InTransit {
    item: Option<Item>,
    home: Arc<Returned>,
    /// Released after `drop` has put the item back.
    _turn: Option<OwnedMutexGuard<()>>,
}

impl InTransit {
    /// It has arrived.
    pub fn take(mut self, py: Python<'_>) -> PyResult<Vec<ReceivedBatch>> {
        match self.item.take() {
            Some(Item::Batches(batches)) => Ok(batches),
            Some(Item::Failed(error)) => Err(errors::raise(py, &error)),
            Some(Item::Raised(error)) => Err(error),
            None => Ok(Vec::new()),
        }
    }
}

impl Drop for InTransit {
    fn drop(&mut self) {
        if let Some(item) = self.item.take() {
            self.home.keep(item);
        }
    }
}
