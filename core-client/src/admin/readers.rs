//! Readers that the cluster keeps.

use crate::{client::Client, error::Result, reader::polled::calls};

impl Client {
    /// Ids of all polled readers that the cluster keeps, in order. One whose process was killed stays until it is deleted.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `Closed`.
    pub async fn list_shard_readers(&self) -> Result<Vec<String>> {
        calls::list(&self.cluster).await
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
