//! What a node stands on.

use super::config::NodeConfig;
use super::start_error::StartError;
use crate::cluster::ownership::forget_leases;
use crate::store::disk::{Disk, LocalDisk};
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::jetstream::{JetStreamOptions, JetStreamStore};
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

/// A store that the node opened itself, and closes when it stops.
#[derive(Debug)]
pub(crate) enum OwnStore {
    /// In its data directory: nobody else can use it.
    Embedded(EmbeddedStore),
    /// Others may use it at the same time.
    Shared(JetStreamStore),
}

impl OwnStore {
    /// Both halves.
    pub(crate) fn stores(&self) -> Stores {
        match self {
            OwnStore::Embedded(store) => Stores::of(store),
            OwnStore::Shared(store) => Stores { log: store.log(), meta: store.meta() },
        }
    }

    /// Whether nobody else can use it.
    pub(crate) fn is_exclusive(&self) -> bool {
        matches!(self, OwnStore::Embedded(_))
    }

    /// Ends after all that was accepted is done.
    pub(crate) async fn close(&self) {
        match self {
            OwnStore::Embedded(store) => store.close().await,
            OwnStore::Shared(store) => store.close().await,
        }
    }
}

/// Where the data of a node are, for those who read its errors.
pub(crate) fn place_of(config: &NodeConfig) -> String {
    match &config.store {
        Some(store) => store.url.to_string(),
        None => config.data_dir.display().to_string(),
    }
}

/// Opens the store that a node of this configuration stands on.
pub(crate) async fn open_own(config: &NodeConfig) -> Result<OwnStore, StartError> {
    let Some(options) = &config.store else {
        let open = |path: &Path| Ok(Arc::new(LocalDisk::open(path)?) as _);
        return Ok(OwnStore::Embedded(open_embedded(config, open).await?));
    };
    let max_batch_bytes = usize::try_from(config.max_record_size).unwrap_or(usize::MAX);
    let options = JetStreamOptions { max_batch_bytes, ..options.clone() };
    Ok(OwnStore::Shared(JetStreamStore::open(options).await?))
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
