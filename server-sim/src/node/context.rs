//! What the handlers of calls share.

use super::config::NodeConfig;
use crate::cluster::Members;
use crate::limits::Budget;
use crate::listener::Advertised;
use crate::net::Net;
use crate::reader::PolledReaders;
use crate::stats::Stats;
use crate::store::LogStore;
use crate::stream::Streams;
use crate::subscription::Subscriptions;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// One node as its handlers see it.
#[derive(Debug)]
pub struct NodeContext {
    pub(crate) config: NodeConfig,
    pub(crate) advertised: Advertised,
    pub(crate) started: Instant,
    /// Opens every socket of the node.
    #[expect(dead_code, reason = "for calls to other nodes")]
    pub(crate) net: Net,
    /// Who is there, this node included.
    #[expect(dead_code, reason = "for lookups and DescribeCluster")]
    pub(crate) members: watch::Receiver<Members>,
    pub(crate) log: Arc<dyn LogStore>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) readers: PolledReaders,
    pub(crate) stats: Arc<Stats>,
    /// Room for appends that wait for their predecessors.
    pub(crate) parked_appends: Semaphore,
    /// Memory of records on their way to readers.
    pub(crate) responses: Arc<Budget>,
    /// Memory of records on their way to consumers.
    pub(crate) deliveries: Arc<Budget>,
    /// Cancelled when the node stops; long calls end then.
    pub(crate) stop: CancellationToken,
}
