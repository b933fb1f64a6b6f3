//! Who is there and who owns what: this node, and it owns everything.

use super::announce;
use crate::connection::Peer;
use crate::error::{Class, Result, ServerError};
use crate::limits::{FREE_ANSWER, charge_answer};
use crate::listener::{Address, ListenerKey};
use crate::node::context::NodeContext;
use crate::stream::check_lookup_id;
use hstreamdb_proto::api::{self as wire, NodeState, ResourceType};
use std::sync::Arc;
use tonic::{Extensions, Request, Response};

/// What `DescribeCluster` calls the protocol.
const PROTOCOL_VERSION: &str = "0.1.0";

pub(super) async fn echo(
    node: &Arc<NodeContext>,
    request: Request<wire::EchoRequest>,
) -> Result<Response<wire::EchoResponse>> {
    let msg = request.into_inner().msg;
    // Short ones tell whether the node is alive, however short its memory is.
    let charge = if msg.len() > FREE_ANSWER { Some(node.responses.reserve(msg.len()).await) } else { None };
    let mut response = announce(Response::new(wire::EchoResponse { msg }));
    if let Some(charge) = charge {
        charge_answer(&mut response, charge);
    }
    Ok(response)
}

pub(super) async fn describe(
    node: &Arc<NodeContext>,
    request: Request<()>,
) -> Result<Response<wire::DescribeClusterResponse>> {
    let through = listener(request.extensions());
    let addresses = node.advertised.through(through.as_deref());
    let server_nodes: Vec<_> = addresses.into_iter().map(|address| at(node, address)).collect();
    let running = |node: &wire::ServerNode| wire::ServerNodeStatus {
        node: Some(node.clone()),
        state: NodeState::Running as i32,
    };
    Ok(announce(Response::new(wire::DescribeClusterResponse {
        protocol_version: PROTOCOL_VERSION.to_owned(),
        server_nodes_status: server_nodes.iter().map(running).collect(),
        server_nodes,
        cluster_up_time: node.started.elapsed().as_secs(),
    })))
}

/// Key of the listener a call came in through; `None` is the main one.
pub(super) fn listener(extensions: &Extensions) -> Option<ListenerKey> {
    extensions.get::<Peer>().and_then(|peer| peer.listener.clone())
}

fn at(node: &NodeContext, address: &Address) -> wire::ServerNode {
    wire::ServerNode {
        id: node.config.server_id,
        host: address.host.clone(),
        port: u32::from(address.port),
        version: Some(wire::HStreamVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: String::new(),
        }),
    }
}

/// This node as a client of that listener reaches it.
pub(super) fn this(node: &NodeContext, through: Option<&str>) -> Result<wire::ServerNode> {
    match node.advertised.through(through).first() {
        Some(address) => Ok(at(node, address)),
        None => Err(ServerError::new(Class::NodesNotFound, "Got empty nodes")),
    }
}

pub(super) async fn lookup_shard(
    node: &Arc<NodeContext>,
    through: Option<ListenerKey>,
    request: wire::LookupShardRequest,
) -> Result<wire::LookupShardResponse> {
    let server_node = Some(this(node, through.as_deref())?);
    Ok(wire::LookupShardResponse { shard_id: request.shard_id, server_node })
}

pub(super) async fn lookup_key(
    node: &Arc<NodeContext>,
    through: Option<ListenerKey>,
    _: wire::LookupKeyRequest,
) -> Result<wire::ServerNode> {
    this(node, through.as_deref())
}

pub(super) async fn lookup_subscription(
    node: &Arc<NodeContext>,
    through: Option<ListenerKey>,
    request: wire::LookupSubscriptionRequest,
) -> Result<wire::LookupSubscriptionResponse> {
    let server_node = Some(this(node, through.as_deref())?);
    Ok(wire::LookupSubscriptionResponse { subscription_id: request.subscription_id, server_node })
}

pub(super) async fn lookup_shard_reader(
    node: &Arc<NodeContext>,
    through: Option<ListenerKey>,
    request: wire::LookupShardReaderRequest,
) -> Result<wire::LookupShardReaderResponse> {
    let server_node = Some(this(node, through.as_deref())?);
    Ok(wire::LookupShardReaderResponse { reader_id: request.reader_id, server_node })
}

pub(super) async fn lookup_resource(
    node: &Arc<NodeContext>,
    through: Option<ListenerKey>,
    request: wire::LookupResourceRequest,
) -> Result<wire::ServerNode> {
    let class = match ResourceType::try_from(request.res_type) {
        Ok(ResourceType::ResStream) => Class::InvalidStreamName,
        Ok(ResourceType::ResSubscription) => Class::InvalidSubscriptionId,
        Ok(ResourceType::ResShard) => Class::InvalidShardId,
        Ok(ResourceType::ResShardReader) => Class::InvalidReaderId,
        Ok(ResourceType::ResConnector) => Class::InvalidConnectorName,
        Ok(ResourceType::ResQuery) => Class::InvalidQueryId,
        Ok(ResourceType::ResView) => Class::InvalidViewId,
        Err(_) => {
            let text = format!("there is no resource type {}", request.res_type);
            return Err(ServerError::new(Class::InvalidResourceType, text));
        }
    };
    check_lookup_id(class, &request.res_id)?;
    if class == Class::InvalidViewId {
        return Err(ServerError::new(Class::ViewNotFound, request.res_id));
    }
    this(node, through.as_deref())
}
