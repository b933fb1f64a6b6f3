//! The polled reader of a shard.

use super::values::Payload;
use crate::{
    error::Result,
    reader::PolledReader,
    record::{ReceivedBatch, RecordId},
};

/// A reader of one shard that the server keeps and that is polled.
#[derive(Debug, Clone)]
pub struct ShardReader(PolledReader);

impl ShardReader {
    pub(super) fn new(reader: PolledReader) -> Self {
        ShardReader(reader)
    }

    /// What follows the last read, of at most so many **batches**; nothing when none came within the reader's wait. A batch
    /// that cannot be decoded gives its ids with the reason.
    ///
    /// # Errors
    /// `NotFound` when the shard is gone, `InvalidArgument` for 0, `Unavailable`, `Timeout`, `Closed`. The reader goes on
    /// where it was when it is read again.
    pub async fn read(&self, max_records: u32) -> Result<Vec<(RecordId, Result<Payload>)>> {
        Ok(self.0.read(max_records).await?.iter().flat_map(records).collect())
    }

    /// Deletes the reader on the server. Dropping the last clone does that in the background.
    ///
    /// # Errors
    /// When it could not be deleted; the text names what is left.
    pub async fn delete(&self) -> Result<()> {
        self.0.close().await
    }
}

fn records(batch: &ReceivedBatch) -> Vec<(RecordId, Result<Payload>)> {
    match batch.decoded() {
        Ok(records) => records.iter().map(|record| (record.id, Ok(Payload::received(record)))).collect(),
        Err(error) => batch.ids().iter().map(|id| (*id, Err(error.clone()))).collect(),
    }
}
