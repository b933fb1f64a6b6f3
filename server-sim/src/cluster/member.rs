//! The nodes of a cluster as one of them sees them.

use crate::listener::Advertised;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Number of a node, `--server-id`; unique in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the failure detector says about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer, and may still refute that.
    Suspect,
    /// It is dead until it comes back.
    Down,
    /// It said that it goes.
    Left,
}

/// What a node says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Phase {
    /// It is up and may not serve resources yet.
    Starting,
    /// It serves.
    Running,
    /// It is about to stop and takes nothing new.
    Draining,
}

/// One node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// Which run of the node this is; a later one has a higher generation.
    pub generation: u64,
    /// Where it gossips.
    pub internal: SocketAddr,
    /// What the failure detector says about it.
    pub state: MemberState,
    /// What it says about itself.
    pub phase: Phase,
    /// What its clients are told to connect to.
    pub advertised: Advertised,
    /// Its release.
    pub version: String,
    /// Commit its release was built from; empty if unknown.
    pub commit: String,
}

impl Member {
    /// Whether resources may be placed on it: it answers and serves.
    pub fn takes_resources(&self) -> bool {
        self.state == MemberState::Alive && self.phase == Phase::Running
    }
}

/// All nodes one of them knows, itself included, at one moment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Members {
    /// The node that sees it so.
    pub me: NodeId,
    /// By number; of a node that was started again only the newest run.
    pub nodes: Arc<BTreeMap<NodeId, Member>>,
}

impl Members {
    /// A node that is alone.
    pub fn alone(me: Member) -> Self {
        Members { me: me.id, nodes: Arc::new(BTreeMap::from([(me.id, me)])) }
    }

    /// The node of this number, in whatever state.
    pub fn get(&self, id: NodeId) -> Option<&Member> {
        self.nodes.get(&id)
    }

    /// Whether what this node owns may be given to others: it is dead, has left, or was never heard of. A suspect is
    /// still there.
    pub fn is_gone(&self, id: NodeId) -> bool {
        self.get(id).is_none_or(|member| matches!(member.state, MemberState::Down | MemberState::Left))
    }

    /// Nodes that resources may be placed on, in the order of their numbers.
    pub fn takers(&self) -> impl Iterator<Item = &Member> {
        self.nodes.values().filter(|member| member.takes_resources())
    }
}
