//! Appending: records are batched per shard and sent in order; receipts say what became of each.

mod batch;
mod batcher;
mod builder;
mod cluster_transport;
mod delivery;
mod direct;
mod flow;
mod lookup;
mod nowhere;
mod observer;
mod outcome;
mod pipeline;
mod report;
mod settings;
mod shared;
mod transport;

pub use builder::ProducerBuilder;
pub(crate) use cluster_transport::shard_map;
pub use direct::AppendOptions;
pub(crate) use direct::DirectProducers;
pub use observer::{BatchPart, BatchReport};
pub use outcome::{AppendOutcome, Completion, ManyReceipt, Receipt};
pub use report::{CloseReport, UnresolvedShard};
pub use settings::{Compression, WhenFull};

use crate::{
    error::{Error, ErrorKind, Result},
    record::{Record, RecordBatch, RecordView, codec::RecordLayout},
};
use flow::{Permit, Turn, closed};
use outcome::Call;
use shared::Shared;
use std::{fmt, sync::Arc, time::Duration};

/// Records accepted and not yet resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pending {
    /// Number of records.
    pub records: usize,
    /// Their payloads, keys and attributes, in bytes.
    pub bytes: usize,
}

/// Appends records to one stream. Cheap to clone; clones share batches, limits and order.
///
/// Records of one key are stored in the order of the calls that appended them. Against servers that announce it
/// every record is stored exactly once whatever happens on the way; against others a record whose answer was
/// lost fails with `OutcomeUnknown` and is not sent again, unless `allow_duplicates` is set.
///
/// When the last clone is dropped, what was accepted is still sent in the background; [`close`](Self::close)
/// waits for it.
#[derive(Clone)]
pub struct Producer(Arc<Handle>);

struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl Producer {
    fn new(shared: Arc<Shared>) -> Self {
        Producer(Arc::new(Handle(shared)))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Accepts a record; the receipt tells its id once it is stored.
    ///
    /// Waits for flow control according to `when_full`. Dropping the future before it resolves appends nothing.
    ///
    /// # Errors
    /// `InvalidArgument` (code 207) when the record is larger than servers accept or than flow control ever
    /// allows, `Overloaded` when there is no room and `when_full` does not wait for it, `Closed`, `Routing` when
    /// no shard takes the key.
    pub async fn append(&self, record: Record) -> Result<Receipt> {
        self.append_one(&record).await
    }

    async fn append_one(&self, record: &Record) -> Result<Receipt> {
        let view = record.view();
        let layout = self.measure(&view)?;
        let (turn, permit) = self.enter(1, view.flow_bytes()).await?;
        match self.hand_over_one(&view, layout, permit) {
            Err(error) if error.kind() == ErrorKind::Routing => {
                // Whoever comes later waits until this one has found its shard, or has not.
                self.find_shards(error).await?;
                drop(turn);
                let (_turn, permit) = self.enter(1, view.flow_bytes()).await?;
                self.hand_over_one(&view, layout, permit)
            }
            handed_over => handed_over,
        }
    }

    /// Accepts a record if there is room now. Never waits.
    ///
    /// # Errors
    /// Those of [`append`](Self::append); `Overloaded` when there is no room. After `Routing` the shards are asked for in
    /// the background.
    pub fn try_append(&self, record: Record) -> Result<Receipt> {
        let view = record.view();
        let layout = self.measure(&view)?;
        let permit =
            self.shared().flow.try_acquire(1, view.flow_bytes()).map_err(|error| self.named(error))?;
        let handed_over = self.hand_over_one(&view, layout, permit);
        if handed_over.as_ref().is_err_and(|error| error.kind() == ErrorKind::Routing) {
            self.shared().refresh_shards_later();
        }
        handed_over
    }

    /// Accepts many records at once, in order; the receipt tells what became of each.
    ///
    /// This is the fast way: what a single record costs here is its copy into the batch and, unless the one before has
    /// the same key, the hash of its key. A record that could never be sent fails alone; the others are sent.
    ///
    /// # Errors
    /// `InvalidArgument` when the records together are more than flow control ever allows, `Overloaded`,
    /// `Closed`; nothing was appended then.
    pub async fn append_many(&self, batch: RecordBatch) -> Result<ManyReceipt> {
        self.append_all(&batch).await
    }

    async fn append_all(&self, batch: &RecordBatch) -> Result<ManyReceipt> {
        let (_turn, permit) = self.enter(batch.len(), batch.flow_bytes()).await?;
        if !self.shared().intake().takes_every_key() {
            // Whether it helps shows below.
            let _ = self.shared().refresh_shards().await;
        }
        let (done, receipt) = outcome::many_receipt(batch.len());
        self.hand_over(batch, permit, done).map_err(|(error, _)| error)?;
        Ok(receipt)
    }

    /// Accepts many records at once if there is room now. Never waits; `done` is called when all are resolved.
    ///
    /// # Errors
    /// Those of [`append_many`](Self::append_many), with what was passed in; `done` was not and will not be
    /// called then. After `Overloaded`, [`room`](Self::room) tells when to try again.
    #[allow(clippy::result_large_err, reason = "the batch goes back to the caller without a copy")]
    pub fn try_append_many(
        &self,
        batch: RecordBatch,
        done: Completion,
    ) -> Result<(), (Error, RecordBatch, Completion)> {
        match self.shared().flow.try_acquire(batch.len(), batch.flow_bytes()) {
            Ok(permit) => self.hand_over(&batch, permit, done).map_err(|(error, done)| (error, batch, done)),
            Err(error) => Err((self.named(error), batch, done)),
        }
    }

    /// Resolves when [`try_append_many`](Self::try_append_many) of so many records and bytes may succeed. Others
    /// may take the room first.
    ///
    /// # Errors
    /// `InvalidArgument` when there can never be so much room, `Closed`.
    pub async fn room(&self, records: usize, bytes: usize) -> Result<()> {
        self.shared().flow.acquire(records, bytes).await.map(drop).map_err(|error| self.named(error))
    }

    /// Sends what waits in open batches, and resolves when everything appended before is resolved.
    ///
    /// Dropping the future stops the waiting only.
    ///
    /// # Errors
    /// The first error among these records.
    pub async fn flush(&self) -> Result<()> {
        let everything = self.shared().intake().flush();
        everything.wait().await
    }

    /// Sends what waits in the open batch of the key's shard, and resolves when everything appended before to that
    /// shard is resolved. Other shards go on collecting.
    ///
    /// Dropping the future stops the waiting only.
    ///
    /// # Errors
    /// The first error among these records; `Routing` when no shard takes the key.
    pub async fn flush_key(&self, key: &str) -> Result<()> {
        let before = self.shared().intake().flush_key(key);
        before?.wait().await
    }

    /// As [`flush_key`](Self::flush_key), for a shard by its id.
    ///
    /// # Errors
    /// The first error among these records; `Routing` when the stream has no such shard, as far as the producer knows.
    pub async fn flush_shard(&self, shard_id: u64) -> Result<()> {
        let before = self.shared().intake().flush_shard(shard_id);
        before.map_err(|error| self.named(error))?.wait().await
    }

    /// Stops accepting, sends what was accepted, and resolves every receipt: what is left after `timeout` is
    /// given up, with `OutcomeUnknown` if it had been sent and `Closed` if not. The report says on which shards, how
    /// much of it may be stored, and why. Calling it again is harmless.
    ///
    /// # Errors
    /// None today; failures of records are told by their receipts and counted in the report.
    pub async fn close(&self, timeout: Duration) -> Result<CloseReport> {
        Ok(self.shared().clone().close(timeout).await)
    }

    /// What is accepted and not yet resolved.
    pub fn pending(&self) -> Pending {
        let (records, bytes) = self.shared().flow.held();
        Pending { records, bytes }
    }

    /// The stream's name.
    pub fn stream(&self) -> &str {
        &self.shared().stream
    }

    /// Takes room as `when_full` says. The turn is held until the records are handed over.
    async fn enter(&self, records: usize, bytes: usize) -> Result<(Option<Turn<'_>>, Permit)> {
        let flow = &self.shared().flow;
        let entered = match self.shared().settings.when_full {
            WhenFull::Fail => flow.try_acquire(records, bytes).map(|permit| (None, permit)),
            WhenFull::Wait => flow.acquire(records, bytes).await.map(|(turn, permit)| (Some(turn), permit)),
            WhenFull::WaitTimeout(limit) => {
                match tokio::time::timeout(limit, flow.acquire(records, bytes)).await {
                    Ok(entered) => entered.map(|(turn, permit)| (Some(turn), permit)),
                    Err(_) => Err(flow.full()),
                }
            }
        };
        entered.map_err(|error| self.named(error))
    }

    fn measure(&self, view: &RecordView<'_>) -> Result<RecordLayout> {
        batcher::measure(&self.shared().settings, view).map_err(|error| self.named(error))
    }

    /// After a key had no shard: asks which there are now. `routing` stays the error when nobody can say.
    async fn find_shards(&self, routing: Error) -> Result<()> {
        match self.shared().refresh_shards().await {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(self.named(error)),
            Err(_) => Err(routing),
            Ok(()) => Ok(()),
        }
    }

    fn hand_over_one(&self, view: &RecordView<'_>, layout: RecordLayout, permit: Permit) -> Result<Receipt> {
        let (sender, receipt) = outcome::receipt();
        let mut lanes = Vec::new();
        let pushed = {
            let mut intake = self.shared().intake();
            if intake.is_closed() {
                Err(closed())
            } else {
                intake.push(view, layout, permit, sender, &mut lanes)
            }
        };
        pipeline::start(self.shared(), lanes);
        pushed.map(|()| receipt).map_err(|error| self.named(error))
    }

    fn hand_over(
        &self,
        batch: &RecordBatch,
        permit: Permit,
        done: Completion,
    ) -> Result<(), (Error, Completion)> {
        let mut lanes = Vec::new();
        let (call, refused) = {
            let mut intake = self.shared().intake();
            if intake.is_closed() {
                return Err((self.named(closed()), done));
            }
            let call = Call::new(batch.len(), batch.tag(), done);
            let refused = intake.push_many(batch, permit, &call, &mut lanes);
            (call, refused)
        };
        pipeline::start(self.shared(), lanes);
        if batch.is_empty() || !refused.is_empty() {
            let producer = self.shared().clone();
            // Completions run on the runtime, never inside the call that passed them in. Should the runtime be
            // gone, dropping the call completes it.
            drop(self.shared().runtime.spawn(async move {
                if refused.is_empty() {
                    call.fail(0..0, closed());
                }
                if refused.iter().any(|(_, error)| error.kind() == ErrorKind::Routing) {
                    producer.refresh_shards_later();
                }
                for (position, error) in refused {
                    let error = error.with_resource(format!("stream {:?}", producer.stream));
                    producer.tell_refused(call.tag(), position, &error);
                    call.fail(position..position + 1, error);
                }
            }));
        }
        Ok(())
    }

    fn named(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Routing => error,
            _ => error.with_resource(format!("stream {:?}", self.shared().stream)),
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("stream", &self.shared().stream)
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
