//! Which node serves what. Whether it exists is not asked, as on published servers.

use super::cluster::reached;
use super::placement;
use crate::cluster::ownership::Kind;
use crate::error::{Class, Result, ServerError};
use crate::listener::ListenerKey;
use crate::node::context::NodeContext;
use crate::stream::check_lookup_id;
use hstreamdb_proto::api::{self as wire, ResourceType};
use std::sync::Arc;

pub(super) async fn shard(
    node: &Arc<NodeContext>,
    through: Option<ListenerKey>,
    request: wire::LookupShardRequest,
) -> Result<wire::LookupShardResponse> {
    let id = placement::stateless(node, &request.shard_id.to_string()).await?;
    let server_node = Some(reached(node, id, through.as_deref())?);
    Ok(wire::LookupShardResponse { shard_id: request.shard_id, server_node })
}

pub(super) async fn key(
    node: &Arc<NodeContext>,
    through: Option<ListenerKey>,
    request: wire::LookupKeyRequest,
) -> Result<wire::ServerNode> {
    reached(node, placement::stateless(node, &request.partition_key).await?, through.as_deref())
}

pub(super) async fn subscription(
    node: &Arc<NodeContext>,
    through: Option<ListenerKey>,
    request: wire::LookupSubscriptionRequest,
) -> Result<wire::LookupSubscriptionResponse> {
    let id = placement::owner(node, Kind::Subscription, &request.subscription_id).await?;
    let server_node = Some(reached(node, id, through.as_deref())?);
    Ok(wire::LookupSubscriptionResponse { subscription_id: request.subscription_id, server_node })
}

pub(super) async fn shard_reader(
    node: &Arc<NodeContext>,
    through: Option<ListenerKey>,
    request: wire::LookupShardReaderRequest,
) -> Result<wire::LookupShardReaderResponse> {
    let id = placement::owner(node, Kind::ShardReader, &request.reader_id).await?;
    let server_node = Some(reached(node, id, through.as_deref())?);
    Ok(wire::LookupShardReaderResponse { reader_id: request.reader_id, server_node })
}

pub(super) async fn resource(
    node: &Arc<NodeContext>,
    through: Option<ListenerKey>,
    request: wire::LookupResourceRequest,
) -> Result<wire::ServerNode> {
    let (kind, class) = match ResourceType::try_from(request.res_type) {
        Ok(ResourceType::ResStream) => (Kind::Stream, Class::InvalidStreamName),
        Ok(ResourceType::ResSubscription) => (Kind::Subscription, Class::InvalidSubscriptionId),
        Ok(ResourceType::ResShard) => (Kind::Shard, Class::InvalidShardId),
        Ok(ResourceType::ResShardReader) => (Kind::ShardReader, Class::InvalidReaderId),
        Ok(ResourceType::ResConnector) => (Kind::Connector, Class::InvalidConnectorName),
        Ok(ResourceType::ResQuery) => (Kind::Query, Class::InvalidQueryId),
        Ok(ResourceType::ResView) => (Kind::View, Class::InvalidViewId),
        Err(_) => {
            let text = format!("there is no resource type {}", request.res_type);
            return Err(ServerError::new(Class::InvalidResourceType, text));
        }
    };
    check_lookup_id(class, &request.res_id)?;
    if kind == Kind::View {
        return Err(ServerError::new(Class::ViewNotFound, request.res_id));
    }
    let id = match kind {
        // Served by every node: what is told spreads load, and LookupShard tells the same.
        Kind::Shard => placement::stateless(node, &request.res_id).await?,
        _ => placement::owner(node, kind, &request.res_id).await?,
    };
    reached(node, id, through.as_deref())
}
