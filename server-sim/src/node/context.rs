//! What the handlers of calls share.

use super::config::NodeConfig;
use crate::limits::Budget;
use crate::listener::Advertised;
use crate::reader::PolledReaders;
use crate::stats::Stats;
use crate::store::LogStore;
use crate::stream::Streams;
use crate::subscription::Subscriptions;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// One node as its handlers see it.
#[derive(Debug)]
pub struct NodeContext {
    pub(crate) config: NodeConfig,
    pub(crate) advertised: Advertised,
    pub(crate) started: Instant,
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
