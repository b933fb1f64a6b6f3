//! Who is there.

use super::announce;
use crate::cluster::{Member, MemberState, NodeId, Phase};
use crate::connection::Peer;
use crate::error::{Class, Result, ServerError};
use crate::limits::{FREE_ANSWER, charge_answer};
use crate::listener::{Address, ListenerKey};
use crate::node::context::NodeContext;
use hstreamdb_proto::api::{self as wire, NodeState};
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
    let mut server_nodes = Vec::new();
    let mut server_nodes_status = Vec::new();
    for (member, state) in nodes(node) {
        let usable = member.id == node.me() || usable(member.state, member.phase);
        for address in member.advertised.through(through.as_deref()) {
            let server_node = at(&member, address);
            if usable {
                server_nodes.push(server_node.clone());
            }
            server_nodes_status.push(wire::ServerNodeStatus { node: Some(server_node), state: state as i32 });
        }
    }
    Ok(announce(Response::new(wire::DescribeClusterResponse {
        protocol_version: PROTOCOL_VERSION.to_owned(),
        server_nodes,
        server_nodes_status,
        cluster_up_time: node.bootstrap.up_time().as_secs(),
    })))
}

/// Every node that clients and operators are told of, the answering one first, with the state they are told.
///
/// A node that said that it goes is not among them: listed as dead, it would alarm whoever checks that all nodes run.
pub(super) fn nodes(node: &NodeContext) -> Vec<(Member, NodeState)> {
    let members = node.members();
    let others = members.nodes.values().filter(|member| member.id != members.me);
    let known = members.get(members.me).into_iter().chain(others);
    known.filter_map(|member| Some((member.clone(), state(member.state, member.phase)?))).collect()
}

fn state(state: MemberState, phase: Phase) -> Option<NodeState> {
    match (state, phase) {
        (MemberState::Left, _) => None,
        (MemberState::Down, _) => Some(NodeState::Dead),
        // A suspect may be dead, and a node that drains takes nothing new: nothing to begin anything at.
        (MemberState::Suspect, _) | (MemberState::Alive, Phase::Draining) => Some(NodeState::Unavailable),
        (MemberState::Alive, Phase::Starting) => Some(NodeState::Starting),
        (MemberState::Alive, Phase::Running) => Some(NodeState::Running),
    }
}

/// Whether clients that look at no state may use a node. One that starts is among them: clients that never ask again would
/// otherwise not know the nodes of a cluster that is just being founded.
fn usable(state: MemberState, phase: Phase) -> bool {
    state == MemberState::Alive && phase != Phase::Draining
}

/// Key of the listener a call came in through; `None` is the main one.
pub(super) fn listener(extensions: &Extensions) -> Option<ListenerKey> {
    extensions.get::<Peer>().and_then(|peer| peer.listener.clone())
}

fn at(member: &Member, address: &Address) -> wire::ServerNode {
    wire::ServerNode {
        id: member.id.0,
        host: address.host.clone(),
        port: u32::from(address.port),
        version: Some(wire::HStreamVersion {
            version: member.version.clone(),
            commit: member.commit.clone(),
        }),
    }
}

/// A node as a client of that listener reaches it.
///
/// # Errors
/// [`Class::NodesNotFound`] if it has no address there.
pub(super) fn reached(node: &NodeContext, id: NodeId, through: Option<&str>) -> Result<wire::ServerNode> {
    let members = node.members();
    let found =
        members.get(id).and_then(|member| Some(at(member, member.advertised.through(through).first()?)));
    found.ok_or_else(|| ServerError::new(Class::NodesNotFound, "Got empty nodes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_states_they_know_and_never_of_a_node_that_left() {
        for (member, phase, told) in [
            (MemberState::Alive, Phase::Starting, Some(NodeState::Starting)),
            (MemberState::Alive, Phase::Running, Some(NodeState::Running)),
            (MemberState::Alive, Phase::Draining, Some(NodeState::Unavailable)),
            (MemberState::Suspect, Phase::Running, Some(NodeState::Unavailable)),
            (MemberState::Down, Phase::Running, Some(NodeState::Dead)),
            (MemberState::Left, Phase::Draining, None),
        ] {
            assert_eq!(state(member, phase), told, "{member:?} {phase:?}");
            let expected = matches!(told, Some(NodeState::Starting | NodeState::Running));
            assert_eq!(usable(member, phase), expected, "{member:?} {phase:?}");
        }
    }
}
