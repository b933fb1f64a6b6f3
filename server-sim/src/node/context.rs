//! What the handlers of calls share.

use super::config::NodeConfig;
use crate::cluster::bootstrap::Bootstrap;
use crate::cluster::ownership::Ownership;
use crate::cluster::{Member, MemberState, Members, NodeId, Peers};
use crate::limits::Budget;
use crate::listener::Advertised;
use crate::reader::PolledReaders;
use crate::stats::Stats;
use crate::store::LogStore;
use crate::stream::Streams;
use crate::subscription::Subscriptions;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// One node as its handlers see it.
#[derive(Debug)]
pub struct NodeContext {
    pub(crate) config: NodeConfig,
    pub(crate) advertised: Advertised,
    /// Connections to other nodes.
    pub(crate) peers: Peers,
    /// How far this node is on its way into the cluster.
    pub(crate) bootstrap: Bootstrap,
    /// Who is there, this node included.
    pub(crate) members: watch::Receiver<Members>,
    /// Who serves what.
    pub(crate) ownership: Arc<Ownership>,
    pub(crate) log: Arc<dyn LogStore>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) readers: PolledReaders,
    pub(crate) stats: Arc<Stats>,
    /// Room for appends that wait for their predecessors.
    pub(crate) parked_appends: Semaphore,
    /// Room for changes of streams and readers, which outlive their calls: the limit of calls does not hold for them.
    pub(crate) changes: Arc<Semaphore>,
    /// Memory of records on their way to readers.
    pub(crate) responses: Arc<Budget>,
    /// Memory of records on their way to consumers.
    pub(crate) deliveries: Arc<Budget>,
    /// Cancelled when the node stops; long calls end then.
    pub(crate) stop: CancellationToken,
}

impl NodeContext {
    /// Number of this node.
    pub(crate) fn me(&self) -> NodeId {
        NodeId(self.config.server_id)
    }

    /// Who is there at this moment. What it says about this node itself is always right.
    pub(crate) fn members(&self) -> Members {
        let mut members = self.members.borrow().clone();
        let phase = *self.bootstrap.phase().borrow();
        // Gossip comes to it a moment later.
        let news = |me: &Member| me.phase != phase || me.state != MemberState::Alive;
        if members.get(members.me).is_some_and(news)
            && let Some(me) = Arc::make_mut(&mut members.nodes).get_mut(&members.me)
        {
            (me.phase, me.state) = (phase, MemberState::Alive);
        }
        members
    }
}
