//! What a client offers for writing.

use super::Client;
use crate::{
    error::Result,
    producer::{self, AppendOptions, AppendOutcome, ProducerBuilder},
    record::{Record, RecordBatch, RecordId},
    routing::ShardMap,
};

impl Client {
    /// A producer to a stream.
    pub fn producer(&self, stream: &str) -> ProducerBuilder {
        ProducerBuilder::new(self.cluster.clone(), stream)
    }

    /// Appends one record and waits until it is stored. For a record now and then; a [`producer`](Self::producer) has
    /// options, and does not make each record wait for the one before.
    ///
    /// Behind it is a producer that sends at once, one per stream and options, of which the client keeps the
    /// 64 used last; records appended at the same time share batches. What a producer promises holds here, too. Dropping
    /// the future after the record was accepted does not take it back.
    ///
    /// # Errors
    /// Those of [`Producer::append`](crate::Producer::append) and of its receipt; `NotFound` when the stream does not
    /// exist.
    ///
    /// ```no_run
    /// # async fn example(client: hstreamdb::Client) -> hstreamdb::Result<()> {
    /// let id = client.append("orders", hstreamdb::Record::raw("one more").with_key("customer-7")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn append(&self, stream: &str, record: Record) -> Result<RecordId> {
        self.direct.append(&self.cluster, stream, record).await
    }

    /// Appends many records in order and waits until all are stored or have failed; otherwise like
    /// [`append`](Self::append). Those of one shard are one batch, stored together or not at all, unless they take more
    /// than a batch holds (1 MiB) or share it with others.
    ///
    /// # Errors
    /// When none of them was appended; what became of each is in the outcome.
    pub async fn append_batch(&self, stream: &str, batch: RecordBatch) -> Result<AppendOutcome> {
        self.append_batch_with(stream, batch, AppendOptions::new()).await
    }

    /// As [`append_batch`](Self::append_batch), with compression.
    ///
    /// # Errors
    /// When none of them was appended, for options that do not fit as `InvalidArgument`.
    pub async fn append_batch_with(
        &self,
        stream: &str,
        batch: RecordBatch,
        options: AppendOptions,
    ) -> Result<AppendOutcome> {
        self.direct.append_batch(&self.cluster, stream, batch, options).await
    }

    /// Which shard of the stream takes which key, as of now.
    ///
    /// # Errors
    /// `NotFound` when the stream does not exist, `Unavailable`, `Closed`.
    pub async fn shard_map(&self, stream: &str) -> Result<ShardMap> {
        producer::shard_map(&self.cluster, stream).await
    }
}
