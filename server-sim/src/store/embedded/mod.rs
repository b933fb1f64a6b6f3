//! The store of one machine: a segment log for records and a redb file for metadata, on one [`Disk`].

use super::disk::Disk;
use super::{LogStore, MetaStore, Result, StoreError};
use std::sync::Arc;

/// How an [`EmbeddedStore`] behaves; [`Default`] is right for a server.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// A segment is closed once it is this long, in bytes. Default 64 MiB.
    pub segment_bytes: u32,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        EmbeddedOptions { segment_bytes: 64 << 20 }
    }
}

/// Both halves of the store, opened together.
#[derive(Debug)]
pub struct EmbeddedStore {
    log: Arc<dyn LogStore>,
    meta: Arc<dyn MetaStore>,
}

impl EmbeddedStore {
    /// Opens or creates the store on `disk` and recovers what a crash left.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the disk cannot be read or written, [`StoreError::Corrupt`] if the metadata is damaged.
    pub async fn open(disk: Arc<dyn Disk>, options: EmbeddedOptions) -> Result<EmbeddedStore> {
        let _ = (disk, options);
        Err(StoreError::Io("the embedded store is not part of this build".into()))
    }

    /// The records of every shard.
    pub fn log(&self) -> Arc<dyn LogStore> {
        Arc::clone(&self.log)
    }

    /// Everything else.
    pub fn meta(&self) -> Arc<dyn MetaStore> {
        Arc::clone(&self.meta)
    }

    /// Makes everything accepted so far durable and gives the directory back. Later calls answer
    /// [`StoreError::Closed`]; closing twice is fine.
    pub async fn close(&self) {}
}
