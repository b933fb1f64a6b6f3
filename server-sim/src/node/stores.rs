//! What a node stands on.

use super::config::NodeConfig;
use super::start_error::StartError;
use crate::cluster::ownership::forget_leases;
use crate::store::disk::Disk;
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::{LogStore, MetaStore, StoreError};
use std::path::Path;
use std::sync::Arc;

/// The store of a cluster as one of its nodes reaches it. All nodes of a cluster stand on the same one.
#[derive(Debug, Clone)]
pub struct Stores {
    /// The records of every shard.
    pub log: Arc<dyn LogStore>,
    /// Everything else.
    pub meta: Arc<dyn MetaStore>,
}

impl Stores {
    /// The two halves of an embedded store.
    pub fn of(store: &EmbeddedStore) -> Stores {
        Stores { log: store.log(), meta: store.meta() }
    }
}

/// Opens the embedded store in the data directory, which nobody else has open then.
pub(crate) async fn open_embedded(
    config: &NodeConfig,
    open: impl FnOnce(&Path) -> Result<Arc<dyn Disk>, StoreError>,
) -> Result<EmbeddedStore, StartError> {
    let failed = |source| StartError::Store { path: config.data_dir.clone(), source };
    let disk = open(&config.data_dir).map_err(failed)?;
    let options = EmbeddedOptions {
        serve_damaged: config.serve_damaged_log,
        verify_log: config.verify_log,
        ..EmbeddedOptions::default()
    };
    let store = EmbeddedStore::open(disk, options).await.map_err(failed)?;
    forget_leases(&*store.meta()).await.map_err(failed)?;
    Ok(store)
}
