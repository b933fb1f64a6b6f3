//! Readers that the cluster keeps.

use crate::{client::Client, error::Result, reader::polled::calls, record::ReceivedBatch};
use hstreamdb_proto::api::ReceivedRecord;
use std::time::Duration;

impl Client {
    /// Ids of all polled readers that the cluster keeps, in order. One whose process was killed stays until it is deleted.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `Closed`.
    pub async fn list_shard_readers(&self) -> Result<Vec<String>> {
        calls::list(&self.cluster).await
    }

    /// One poll of a reader that the server keeps, by its id, whoever created it: up to `max_batches` batches, none when
    /// nothing came within the reader's own wait. `wait` says how long that is at most; an answer is waited for that much
    /// longer than for others.
    ///
    /// The poll moves the reader, so it is not repeated once it may have reached it: after an unclear failure, which says
    /// `may_have_been_applied`, batches may have been passed over. A [`PolledReader`](crate::PolledReader) knows what it
    /// has delivered and loses none.
    ///
    /// # Errors
    /// `NotFound` when there is no such reader; `Unavailable`, `Timeout`, `Closed`; for a gap in the log `FailedPrecondition`
    /// or whatever else the server says, with the code of that gap.
    pub async fn read_shard_reader(
        &self,
        reader_id: &str,
        max_batches: u32,
        wait: Duration,
    ) -> Result<Vec<ReceivedBatch>> {
        let received = calls::read(&self.cluster, reader_id, max_batches, wait).await?;
        let limit = self.cluster.decoded_limit();
        // The reader has passed them already, so one that cannot be decoded must not take the others along.
        let batch = |each: ReceivedRecord| match each.record {
            Some(_) => ReceivedBatch::from_wire(each, limit),
            None => Ok(ReceivedBatch::without_content(each.record_ids)),
        };
        received.into_iter().map(batch).collect()
    }

    /// Deletes a polled reader. One that is in use is created anew by its client, behind what it had read.
    ///
    /// # Errors
    /// `NotFound` when there is none, `InvalidArgument` for an id that cannot be one, `Unavailable`, `Timeout`, `Closed`. It is
    /// repeated after unclear failures, which is harmless.
    pub async fn delete_shard_reader(&self, reader_id: &str) -> Result<()> {
        calls::delete(&self.cluster, reader_id).await
    }
}
