//! Records of one shard that are stored together or not at all, and who waits for them.

use super::{
    flow::Permit,
    observer::{BatchReport, Observer},
    outcome::Waiters,
};
use crate::{
    error::{Error, ErrorKind, Result},
    record::{RecordId, codec::BatchEncoder},
};
use std::sync::{Arc, OnceLock, Weak};
use tokio::{sync::watch, time::Instant};

/// A batch from its first record until everybody was told what became of it.
#[derive(Debug)]
pub(super) struct Batch {
    pub shard_id: u64,
    pub encoder: BatchEncoder,
    /// How many records there are; stays when the encoder is taken out.
    pub records: usize,
    /// Length of the content, as sent once it is packed.
    pub bytes: usize,
    /// When its first record came.
    pub opened: Instant,
    pub waiters: Waiters,
    pub permit: Permit,
    observer: Option<Observer>,
    generation: Arc<Generation>,
    resolved: bool,
}

impl Batch {
    /// An empty batch.
    pub fn open(
        shard_id: u64,
        encoder: BatchEncoder,
        permit: Permit,
        generation: Arc<Generation>,
        observer: Option<Observer>,
    ) -> Self {
        Batch {
            shard_id,
            encoder,
            records: 0,
            bytes: 0,
            opened: Instant::now(),
            waiters: Waiters::default(),
            permit,
            observer,
            generation,
            resolved: false,
        }
    }

    /// Tells everybody what became of the records and gives their room back. Not under a lock: it runs code of the
    /// application.
    pub fn resolve(mut self, result: Result<&[RecordId], &Error>) {
        self.tell(result);
    }

    fn tell(&mut self, result: Result<&[RecordId], &Error>) {
        self.resolved = true;
        if let Err(error) = result {
            // A flush reports the first error only.
            let _ = self.generation.error.set(error.clone());
        }
        let parts = self.observer.as_ref().map(|_| self.waiters.parts()).unwrap_or_default();
        // Before anybody is told, so that whoever reacts to it finds the room.
        self.permit.release();
        self.waiters.resolve(result);
        if let Some(observer) = &self.observer {
            observer.tell(&BatchReport {
                stream: observer.stream(),
                shard_id: self.shard_id,
                records: self.records,
                bytes: self.bytes,
                took: self.opened.elapsed(),
                result,
                parts: &parts,
            });
        }
    }
}

impl Drop for Batch {
    /// A batch that goes away unsent, with its runtime or its producer. Those that were sent are resolved by
    /// their pipeline.
    fn drop(&mut self) {
        if !self.resolved {
            let error = Error::new(ErrorKind::Closed, "append")
                .with_message("the producer was closed before the record was sent");
            self.tell(Err(&error));
        }
    }
}

/// The batches of a shard that were opened between two flushes. A flush waits until none of them is left.
#[derive(Debug)]
pub(super) struct Generation {
    alive: watch::Sender<()>,
    error: Arc<OnceLock<Error>>,
}

/// The generations of one shard of which batches are left.
#[derive(Debug, Default)]
pub(super) struct Generations {
    current: Option<Arc<Generation>>,
    known: Vec<Weak<Generation>>,
}

impl Generations {
    /// The one that batches opened now belong to.
    pub fn current(&mut self) -> Arc<Generation> {
        if let Some(current) = &self.current {
            return current.clone();
        }
        let new = Arc::new(Generation { alive: watch::Sender::new(()), error: Arc::default() });
        self.known.retain(|generation| generation.strong_count() > 0);
        self.known.push(Arc::downgrade(&new));
        self.current = Some(new.clone());
        new
    }

    /// Adds all batches opened so far to what a flush waits for.
    pub fn wait_for_all(&mut self, wait: &mut FlushWait) {
        // From here on it is alive only as long as its batches are.
        self.current = None;
        self.known.retain(|generation| match generation.upgrade() {
            Some(generation) => {
                wait.0.push((generation.alive.subscribe(), generation.error.clone()));
                true
            }
            None => false,
        });
    }

    /// Takes over those of a shard that is gone.
    pub fn adopt(&mut self, mut other: Generations) {
        other.current = None;
        self.known.extend(other.known.into_iter().filter(|generation| generation.strong_count() > 0));
    }
}

/// Waits for the batches before a flush.
#[derive(Debug, Default)]
pub(super) struct FlushWait(Vec<(watch::Receiver<()>, Arc<OnceLock<Error>>)>);

impl FlushWait {
    /// Resolves when all are resolved, with the first error among them.
    pub async fn wait(self) -> Result<()> {
        let mut first = None;
        for (mut alive, error) in self.0 {
            while alive.changed().await.is_ok() {}
            first = first.or_else(|| error.get().cloned());
        }
        first.map_or(Ok(()), Err)
    }
}
