//! Who is there and who owns what: this node, and it owns everything.

use super::announce;
use crate::error::{Class, Result, ServerError};
use crate::node::NodeContext;
use crate::stream::check_lookup_id;
use hstreamdb_proto::api::{self as wire, NodeState, ResourceType};
use serde_json::json;
use std::sync::Arc;
use tonic::{Code, Request, Response};

/// What `DescribeCluster` calls the protocol.
const PROTOCOL_VERSION: &str = "0.1.0";

pub(super) async fn echo(
    _: &Arc<NodeContext>,
    request: Request<wire::EchoRequest>,
) -> Result<Response<wire::EchoResponse>> {
    Ok(announce(Response::new(wire::EchoResponse { msg: request.into_inner().msg })))
}

pub(super) async fn describe(
    node: &Arc<NodeContext>,
    _: Request<()>,
) -> Result<Response<wire::DescribeClusterResponse>> {
    let this = this(node);
    let status = wire::ServerNodeStatus { node: Some(this.clone()), state: NodeState::Running as i32 };
    Ok(announce(Response::new(wire::DescribeClusterResponse {
        protocol_version: PROTOCOL_VERSION.to_owned(),
        server_nodes: vec![this],
        server_nodes_status: vec![status],
        cluster_up_time: node.started.elapsed().as_secs(),
    })))
}

fn this(node: &NodeContext) -> wire::ServerNode {
    wire::ServerNode {
        id: node.config.server_id,
        host: node.advertised_host.clone(),
        port: u32::from(node.port),
        version: Some(wire::HStreamVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: String::new(),
        }),
    }
}

pub(super) async fn lookup_shard(
    node: &Arc<NodeContext>,
    request: wire::LookupShardRequest,
) -> Result<wire::LookupShardResponse> {
    Ok(wire::LookupShardResponse { shard_id: request.shard_id, server_node: Some(this(node)) })
}

pub(super) async fn lookup_key(
    node: &Arc<NodeContext>,
    _: wire::LookupKeyRequest,
) -> Result<wire::ServerNode> {
    Ok(this(node))
}

pub(super) async fn lookup_subscription(
    node: &Arc<NodeContext>,
    request: wire::LookupSubscriptionRequest,
) -> Result<wire::LookupSubscriptionResponse> {
    Ok(wire::LookupSubscriptionResponse {
        subscription_id: request.subscription_id,
        server_node: Some(this(node)),
    })
}

pub(super) async fn lookup_shard_reader(
    node: &Arc<NodeContext>,
    request: wire::LookupShardReaderRequest,
) -> Result<wire::LookupShardReaderResponse> {
    Ok(wire::LookupShardReaderResponse { reader_id: request.reader_id, server_node: Some(this(node)) })
}

pub(super) async fn lookup_resource(
    node: &Arc<NodeContext>,
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
    Ok(this(node))
}

/// The commands an operator needs to see that the node is there. The answer is a JSON text.
pub(super) async fn admin_command(
    node: &Arc<NodeContext>,
    request: wire::AdminCommandRequest,
) -> Result<wire::AdminCommandResponse> {
    let words: Vec<&str> = request.command.split_whitespace().collect();
    let answer = match &words[..] {
        ["server", "status"] => json!({ "type": "table", "content": {
            "headers": ["Node ID", "State", "Address"],
            "rows": [[
                node.config.server_id.to_string(),
                "Running",
                format!("{}:{}", node.advertised_host, node.port),
            ]],
        }}),
        ["server", "init"] => {
            json!({ "type": "plain", "content": "Server successfully received init signal" })
        }
        ["server", "ready"] => json!({ "type": "plain", "content": "Cluster is ready" }),
        _ => {
            let command: String = request.command.chars().take(80).collect();
            return Err(ServerError::plain(
                Code::Internal,
                format!(
                    "this server has no command {command:?}; it has: server status, server init, server ready"
                ),
            ));
        }
    };
    Ok(wire::AdminCommandResponse { result: answer.to_string() })
}
