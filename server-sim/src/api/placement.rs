//! Where things are served, and whether that is here.

use crate::cluster::ownership::{ClaimError, Kind};
use crate::cluster::{Members, NodeId, Phase};
use crate::error::{Class, Result, ServerError};
use crate::node::context::NodeContext;
use std::time::Duration;

/// How long a call waits for a node that is starting. Published clients give up before that, or never.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The node for what every node can serve.
///
/// # Errors
/// [`Class::ServerNotAvailable`] if this node stops, does not get ready in time, or no node takes anything.
pub(super) async fn stateless(node: &NodeContext, key: &str) -> Result<NodeId> {
    ready(node).await?;
    node.ownership.stateless(key).ok_or_else(|| ClaimError::NoTaker.into())
}

/// The node that serves a resource, or would. One that is stored and there is told at once, otherwise once this node is
/// ready: before that it may not know who else is there.
///
/// # Errors
/// Those of [`stateless`]; what the store reports.
pub(super) async fn owner(node: &NodeContext, kind: Kind, id: &str) -> Result<NodeId> {
    if !is_ready(node) {
        if let Some(stored) = node.ownership.stored_owner_of(kind, id).await? {
            return Ok(stored);
        }
        ready(node).await?;
    }
    Ok(node.ownership.owner_of(kind, id).await?)
}

/// Refuses what another node serves.
///
/// # Errors
/// [`Class::WrongServer`], with which clients look it up again; those of [`owner`].
pub(super) async fn here(node: &NodeContext, kind: Kind, id: &str) -> Result<()> {
    if owner(node, kind, id).await? == node.me() { Ok(()) } else { Err(elsewhere(kind)) }
}

/// What published servers say of something that another node serves.
pub(super) fn elsewhere(kind: Kind) -> ServerError {
    let what = match kind {
        Kind::Subscription => "Subscription",
        Kind::ShardReader => "ShardReader",
        Kind::Connector => "Connector",
        Kind::Query => "Query",
        Kind::View => "View",
        Kind::Stream => "Stream",
        Kind::Shard => "Shard",
    };
    ServerError::new(Class::WrongServer, format!("{what} is bound to a different node"))
}

/// Whether this node may place things, and is counted among those on which things are placed.
fn is_ready(node: &NodeContext) -> bool {
    node.bootstrap.is_ready()
        && (node.config.cluster.seed_nodes.is_empty() || has_begun(&node.members.borrow()))
}

/// Gossip learns from this node that it serves a moment after it does.
fn has_begun(members: &Members) -> bool {
    members.get(members.me).is_some_and(|me| me.phase != Phase::Starting)
}

/// Waits until it may.
async fn ready(node: &NodeContext) -> Result<()> {
    if is_ready(node) {
        return Ok(());
    }
    let refused = |text: &str| Err(ServerError::new(Class::ServerNotAvailable, text));
    let waiting = async {
        node.bootstrap.ready().await;
        if !node.config.cluster.seed_nodes.is_empty() {
            // Nobody tells any more when the node stops.
            let _ = node.members.clone().wait_for(has_begun).await;
        }
    };
    tokio::select! {
        () = node.stop.cancelled() => refused("the server is stopping"),
        waited = tokio::time::timeout(READY_WITHIN, waiting) => match waited {
            Ok(()) => Ok(()),
            Err(_) if !node.bootstrap.is_founded() => {
                refused("the cluster is not founded yet: say `hstream init` to one of its nodes")
            }
            Err(_) => refused("this node has not come to its cluster yet; try another one"),
        },
    }
}
