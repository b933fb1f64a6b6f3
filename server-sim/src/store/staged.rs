//! Metadata whose calls stop where a test wants them to, so that interleavings are played out and not hoped for.

use super::{Expect, Guard, MetaStore, MetaWatch, Result, Versioned};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;

/// A call of [`MetaStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Get,
    List,
    Put,
    /// Several, by the first key.
    PutMany,
    Delete,
    Settle,
}

/// Where a call stops: before it does anything, or before it says what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Before,
    After,
}

/// One node's view of the metadata, with stops.
#[derive(Debug)]
pub(crate) struct Staged {
    inner: Arc<dyn MetaStore>,
    stops: Mutex<Vec<Stop>>,
    /// Whether its watches have everything; if not, whoever must know has to list.
    settles: bool,
}

#[derive(Debug)]
struct Stop {
    when: When,
    call: Call,
    prefix: String,
    reached: oneshot::Sender<()>,
    go: oneshot::Receiver<()>,
}

/// A call that is to stop.
#[derive(Debug)]
pub(crate) struct Stopped {
    reached: Option<oneshot::Receiver<()>>,
    go: oneshot::Sender<()>,
}

impl Stopped {
    /// Waits until the call is there.
    pub(crate) async fn reached(&mut self) {
        if let Some(reached) = self.reached.take() {
            let waited = tokio::time::timeout(Duration::from_secs(10), reached).await;
            waited.expect("the call comes").expect("the stop is there");
        }
    }

    /// Lets it go on.
    pub(crate) fn go(self) {
        let _ = self.go.send(());
    }
}

impl Staged {
    pub(crate) fn over(inner: Arc<dyn MetaStore>) -> Arc<Self> {
        Arc::new(Staged { inner, stops: Mutex::default(), settles: true })
    }

    /// The same for an engine that cannot say whether watches have everything.
    pub(crate) fn unsettled(inner: Arc<dyn MetaStore>) -> Arc<Self> {
        Arc::new(Staged { inner, stops: Mutex::default(), settles: false })
    }

    /// Stops the next call of this kind on a key that starts with `prefix`.
    pub(crate) fn stop(&self, when: When, call: Call, prefix: &str) -> Stopped {
        let ((reached, was_reached), (go, may_go)) = (oneshot::channel(), oneshot::channel());
        let stop = Stop { when, call, prefix: prefix.to_owned(), reached, go: may_go };
        self.stops.lock().unwrap().push(stop);
        Stopped { reached: Some(was_reached), go }
    }

    async fn at(&self, when: When, call: Call, key: &str) {
        let stop = {
            let mut stops = self.stops.lock().unwrap();
            let at = stops
                .iter()
                .position(|stop| stop.when == when && stop.call == call && key.starts_with(&stop.prefix));
            at.map(|at| stops.remove(at))
        };
        if let Some(stop) = stop {
            let _ = stop.reached.send(());
            let _ = stop.go.await;
        }
    }
}

#[async_trait]
impl MetaStore for Staged {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        self.at(When::Before, Call::Get, key).await;
        let answer = self.inner.get(key).await;
        self.at(When::After, Call::Get, key).await;
        answer
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        self.at(When::Before, Call::List, prefix).await;
        let answer = self.inner.list(prefix).await;
        self.at(When::After, Call::List, prefix).await;
        answer
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64> {
        self.at(When::Before, Call::Put, key).await;
        let answer = self.inner.put(key, value, expect).await;
        self.at(When::After, Call::Put, key).await;
        answer
    }

    async fn put_many(&self, values: Vec<(String, Bytes)>, guard: Option<Guard>) -> Result<()> {
        let first = values.first().map(|(key, _)| key.clone()).unwrap_or_default();
        self.at(When::Before, Call::PutMany, &first).await;
        let answer = self.inner.put_many(values, guard).await;
        self.at(When::After, Call::PutMany, &first).await;
        answer
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<()> {
        self.at(When::Before, Call::Delete, key).await;
        let answer = self.inner.delete(key, expect).await;
        self.at(When::After, Call::Delete, key).await;
        answer
    }

    fn watch(&self, prefix: &str) -> MetaWatch {
        self.inner.watch(prefix)
    }

    async fn settle(&self) -> Result<bool> {
        self.at(When::Before, Call::Settle, "").await;
        Ok(self.inner.settle().await? && self.settles)
    }
}
