//! What this node does for consumers that came to other nodes.

use super::fetch_for_other;
use crate::cluster::gossip::{FetchForOthers, Fetched};
use crate::node::context::NodeContext;
use hstreamdb_proto::api::StreamingFetchRequest;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// Serves the calls that other nodes pass on to this one. The client's token is checked here as well: who reaches the
/// internal port may do no more than through any other.
#[derive(Debug)]
pub struct ForOthers {
    node: Arc<NodeContext>,
}

impl ForOthers {
    /// At this node.
    pub fn new(node: Arc<NodeContext>) -> Self {
        ForOthers { node }
    }
}

#[tonic::async_trait]
impl FetchForOthers for ForOthers {
    async fn streaming_fetch(
        &self,
        request: Request<Streaming<StreamingFetchRequest>>,
    ) -> Result<Response<Fetched>, Status> {
        self.node.config.tokens.check(request.metadata())?;
        let (keys, messages, extensions) = fetch_for_other(&self.node, request).await?.into_parts();
        let messages: Fetched = messages;
        Ok(Response::from_parts(keys, messages, extensions))
    }
}
