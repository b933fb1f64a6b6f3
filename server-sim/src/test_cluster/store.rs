//! The one store that all nodes of a test cluster share.

use super::error::TestClusterError;
use super::offshore::{OffshoreLog, OffshoreMeta};
use crate::node::{NodeConfig, StartError, open_embedded};
use crate::store::disk::LocalDisk;
use crate::store::embedded::EmbeddedStore;
use crate::stream::Streams;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// A disk that takes longer is left as it is; the next start recovers what is on it.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// An embedded store whose work runs on the runtime of the cluster.
#[derive(Debug)]
pub(super) struct SharedStore {
    embedded: EmbeddedStore,
    pub(super) log: Arc<OffshoreLog>,
    pub(super) meta: Arc<OffshoreMeta>,
}

impl SharedStore {
    /// Opens it; to be called on the runtime of the cluster.
    pub(super) async fn open(config: &NodeConfig) -> Result<SharedStore, TestClusterError> {
        let open = |path: &std::path::Path| Ok(Arc::new(LocalDisk::open(path)?) as _);
        let embedded = open_embedded(config, open).await.map_err(TestClusterError::Store)?;
        // No node does it: each has to take what it finds for another one's work.
        let unusable =
            |source| TestClusterError::Store(StartError::Catalogue { path: config.data_dir.clone(), source });
        let streams = Streams::open(embedded.log(), embedded.meta()).await.map_err(unusable)?;
        streams.reclaim().await.map_err(unusable)?;
        let log = OffshoreLog::new(embedded.log(), Handle::current());
        let meta = OffshoreMeta::new(embedded.meta(), Handle::current());
        Ok(SharedStore { embedded, log, meta })
    }

    pub(super) async fn close(&self) {
        if tokio::time::timeout(CLOSE_WITHIN, self.embedded.close()).await.is_err() {
            tracing::warn!("the disk of the test cluster does not answer; its store is left as it is");
        }
    }
}
