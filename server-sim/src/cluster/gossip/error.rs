//! Why a node does not take part.

use crate::cluster::NodeId;
use std::net::SocketAddr;

/// Why a node does not take part in its cluster. Each is one sentence an operator can act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GossipError {
    /// Settings contradict each other.
    #[error("gossip: {0}")]
    Settings(String),
    /// There are too many seeds.
    #[error("--seed-nodes: there are {0} of them; three to seven do for any cluster, and 64 are the most")]
    Seeds(usize),
    /// What the node says about itself is too long for a packet.
    #[error("{0}")]
    Description(String),
    /// A living node of the cluster has the same number.
    #[error(
        "--server-id {id} is taken: the node at {address} is alive and has it; give this node another number, or \
         stop that one first"
    )]
    DuplicateId {
        /// The number.
        id: NodeId,
        /// Where the other one gossips.
        address: SocketAddr,
    },
    /// The cluster believes that a node of the same number lives, which does not answer.
    #[error(
        "--server-id {id} is taken: the cluster sees a node with it at {address}, which does not answer here; start \
         again when that one is down, or give this node another number"
    )]
    IdLives {
        /// The number.
        id: NodeId,
        /// Where the other one gossips.
        address: SocketAddr,
    },
    /// A seed is a node that does not belong to this one.
    #[error("node {id} at {address} {difference}")]
    Stranger {
        /// Where it gossips.
        address: SocketAddr,
        /// Its number, as it says.
        id: NodeId,
        /// What is different, and what to do.
        difference: String,
    },
    /// The node has stopped meanwhile.
    #[error("the node stopped before it had joined its cluster")]
    Stopped,
}
