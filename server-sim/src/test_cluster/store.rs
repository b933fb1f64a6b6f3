//! The one store that all nodes of a test cluster share.

use super::error::TestClusterError;
use super::offshore::{OffshoreLog, OffshoreMeta};
use crate::node::{NodeConfig, OwnStore, StartError, Stores, open_own, place_of};
use crate::stream::Streams;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// A disk that takes longer is left as it is; the next start recovers what is on it.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// A store whose work runs on the runtime of the cluster.
#[derive(Debug)]
pub(super) struct SharedStore {
    own: OwnStore,
    pub(super) log: Arc<OffshoreLog>,
    pub(super) meta: Arc<OffshoreMeta>,
}

impl SharedStore {
    /// Opens it; to be called on the runtime of the cluster.
    pub(super) async fn open(config: &NodeConfig) -> Result<SharedStore, TestClusterError> {
        let own = open_own(config).await.map_err(TestClusterError::Store)?;
        let Stores { log, meta } = own.stores();
        if own.is_exclusive() {
            // No node does it: each has to take what it finds for another one's work.
            let unusable =
                |source| TestClusterError::Store(StartError::Catalogue { place: place_of(config), source });
            let streams = Streams::open(log.clone(), meta.clone()).await.map_err(unusable)?;
            streams.reclaim().await.map_err(unusable)?;
        }
        let log = OffshoreLog::new(log, Handle::current());
        let meta = OffshoreMeta::new(meta, Handle::current());
        Ok(SharedStore { own, log, meta })
    }

    pub(super) async fn close(&self) {
        if tokio::time::timeout(CLOSE_WITHIN, self.own.close()).await.is_err() {
            tracing::warn!("the store of the test cluster does not answer and is left as it is");
        }
    }
}
