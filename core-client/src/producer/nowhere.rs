//! Producers that send nothing, for measuring what batching costs by itself.

use super::{
    Producer, ProducerBuilder,
    shared::{Identity, Shared},
    transport::{Answer, Stamp, Transport},
};
use crate::{
    cluster::Cluster,
    error::{Error, ErrorKind, Result},
    metrics::Metrics,
    record::RecordId,
    routing::ShardMap,
};
use futures::future::BoxFuture;
use hstreamdb_proto::{api::AppendRequest, partition::even_range};
use std::sync::Arc;

/// Acknowledges every batch at once.
struct Nowhere {
    cluster: Cluster,
    map: ShardMap,
}

impl Transport for Nowhere {
    fn append(
        &self,
        request: AppendRequest,
        _stamp: Option<Stamp>,
        _repeatable: bool,
    ) -> BoxFuture<'_, Result<Answer>> {
        let records = request.records.map_or(0, |records| records.batch_size);
        let id = |batch_index| RecordId { shard_id: request.shard_id, batch_id: 1, batch_index };
        Box::pin(std::future::ready(Ok(Answer { ids: (0..records).map(id).collect(), honours_stamps: true })))
    }

    fn shards(&self) -> BoxFuture<'_, Result<ShardMap>> {
        Box::pin(std::future::ready(Ok(self.map.clone())))
    }

    fn metrics(&self) -> &Metrics {
        self.cluster.metrics()
    }
}

impl ProducerBuilder {
    /// Not an interface for applications: a producer to a stream of so many shards that does not exist. Everything
    /// is as always, except that batches go nowhere and are acknowledged at once.
    ///
    /// # Errors
    /// `InvalidArgument` for options that do not fit.
    #[doc(hidden)]
    pub fn build_to_nowhere(self, shards: u32) -> Result<Producer> {
        let (cluster, stream, settings) = self.into_parts()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::Internal, "build producer").with_message(error.to_string())
        })?;
        let map = ShardMap::new((0..shards).map(|index| {
            let (start, end) = even_range(index, shards);
            (u64::from(index) + 1, start..=end)
        }))?;
        let retry = cluster.settings().retry;
        let transport = Arc::new(Nowhere { cluster, map: map.clone() });
        let identity = Identity { producer_id: 1, stamps: true };
        Ok(Producer::new(Shared::new(stream, identity, settings, retry, transport, map, runtime)))
    }
}
