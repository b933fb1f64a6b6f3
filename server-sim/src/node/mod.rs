//! One node: its stores, its domain, its listener, and an orderly way in and out.

mod config;
pub(crate) mod context;
mod doors;
mod internal;
mod membership;
mod start_error;
mod stores;
mod verdicts;

pub use config::NodeConfig;
pub use start_error::StartError;
pub use stores::Stores;

use context::NodeContext;
pub(crate) use doors::Doors;
use internal::InternalServer;
use membership::Membership;
use stores::open_embedded;
pub(crate) use stores::{OwnStore, open_own, place_of};

use crate::api::{Api, ForOthers};
use crate::cluster::bootstrap;
use crate::cluster::ownership::Ownership;
use crate::cluster::{Members, NodeId, Peers};
use crate::connection::{Door, Threshold};
use crate::limits::{Budget, CallLimits};
use crate::listener::Advertised;
use crate::net::Net;
use crate::reader::PolledReaders;
use crate::stats::{CountedLog, Stats};
use crate::store::StoreError;
use crate::store::disk::Disk;
use crate::stream::Streams;
use crate::subscription::Subscriptions;
use hstreamdb_proto::api::h_stream_api_server::HStreamApiServer;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

/// Largest message taken from a client, unless batches may be larger.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// What a request holds besides its batch.
const REQUEST_SLACK: usize = 64 * 1024;
/// Calls of one connection at a time; further ones wait at the client. Every consumer and every reader that
/// follows the tail is one for as long as it lives.
const MAX_CALLS_PER_CONNECTION: u32 = 8192;
/// Calls of one connection that were cancelled before the node got to see them; more end the connection. After a pause of
/// the node a client gives up all that it had under way at once, which must not cost it everything else on the connection.
const MAX_CANCELLED_UNSEEN: usize = 1024;
/// Bytes under way on one call and on one connection before the sender has to wait.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// A silent peer is asked for a sign of life this often and given up after the timeout.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Appends that wait for their predecessors, over all producers.
const MAX_PARKED_APPENDS: usize = 256;
/// Changes of streams and readers under way at a time; further ones wait.
const MAX_CHANGES: usize = 1024;

/// Opened connections that wait to be served.
const OPENED: usize = 64;

/// How long closing the store may take on top of a shutdown's timeout.
const STORE_GRACE: Duration = Duration::from_secs(5);

/// A running node. Dropping it stops listening at once; [`Node::shutdown`] is the orderly way.
#[derive(Debug)]
pub struct Node {
    context: Arc<NodeContext>,
    address: SocketAddr,
    /// Present when the node opened it, and closes it then.
    own: Option<OwnStore>,
    membership: Membership,
    /// Serves other nodes.
    internal: Option<InternalServer>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Node {
    /// Opens the embedded store and recovers what is in it, or connects to [`NodeConfig::store`], and starts listening.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: NodeConfig) -> Result<Node, StartError> {
        let net = Net::new();
        // First of all, so that a second server on the same port leaves the data alone.
        let doors = Doors::open(&config, &net)?;
        let own = open_own(&config).await?;
        let stores = own.stores();
        Node::open(config, net, doors, stores, Some(own)).await
    }

    /// Like [`Node::start`] with an embedded store on a disk of the caller's, for tests on one that fails
    /// ([`FaultDisk`](crate::store::disk::FaultDisk)). The disk is opened once the listeners are, and is told the data
    /// directory.
    ///
    /// # Errors
    /// [`StartError`].
    #[doc(hidden)]
    pub async fn start_on(
        config: NodeConfig,
        open: impl FnOnce(&Path) -> Result<Arc<dyn Disk>, StoreError>,
    ) -> Result<Node, StartError> {
        let net = Net::new();
        let doors = Doors::open(&config, &net)?;
        let own = OwnStore::Embedded(open_embedded(&config, open).await?);
        let stores = own.stores();
        Node::open(config, net, doors, stores, Some(own)).await
    }

    /// Starts a node over a store that others use, too, with `net` for all its sockets. The store stays open when the
    /// node stops.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_over(config: NodeConfig, stores: Stores, net: Net) -> Result<Node, StartError> {
        let doors = Doors::open(&config, &net)?;
        Node::open(config, net, doors, stores, None).await
    }

    /// The same with sockets that are open already.
    pub(crate) async fn open(
        config: NodeConfig,
        net: Net,
        doors: Doors,
        stores: Stores,
        own: Option<OwnStore>,
    ) -> Result<Node, StartError> {
        let Doors { clients, address, advertised, internal } = doors;
        bootstrap::started(NodeId(config.server_id), address.port());
        for (key, address) in &advertised.extra {
            bootstrap::extra_listener(NodeId(config.server_id), key, address.port);
        }
        let exclusive = own.as_ref().is_some_and(OwnStore::is_exclusive);
        let mut membership =
            Membership::begin(&config, &advertised, internal, &stores.meta, exclusive, &net).await?;
        let unusable = |source| StartError::Catalogue { place: place_of(&config), source };
        let ownership =
            Ownership::start(membership.session.clone(), stores.meta.clone(), membership.members.clone());
        let ownership = ownership.await.map_err(StartError::Metadata)?;
        let streams = Streams::open(stores.log.clone(), stores.meta.clone()).await.map_err(unusable)?;
        if exclusive {
            streams.reclaim().await.map_err(unusable)?;
        }
        let stats = Stats::new(streams.clone());
        let log = CountedLog::over(stores.log.clone(), stats.clone());
        let subscriptions =
            Subscriptions::open(log.clone(), stores.meta.clone(), streams.clone(), ownership.clone());
        let subscriptions = subscriptions.await.map_err(unusable)?;
        let responses = Budget::new(config.limits.response_memory, config.limits.stall);
        let readers =
            PolledReaders::open(log.clone(), stores.meta.clone(), responses.clone(), ownership.clone());
        let readers = readers.await.map_err(unusable)?;

        let bootstrap = membership.bootstrap(&config, &stores.meta).await?;
        let stop = CancellationToken::new();
        let context = Arc::new(NodeContext {
            advertised,
            peers: Peers::new(net),
            bootstrap,
            members: membership.members.clone(),
            ownership,
            log,
            streams,
            subscriptions,
            readers,
            stats,
            parked_appends: Semaphore::new(MAX_PARKED_APPENDS),
            changes: Arc::new(Semaphore::new(MAX_CHANGES)),
            responses,
            deliveries: Budget::new(config.limits.response_memory, config.limits.stall),
            stop: stop.clone(),
            config,
        });
        let fetch = Arc::new(ForOthers::new(context.clone()));
        let internal = membership.listen(&context.config.limits, fetch);
        membership.join(&context.bootstrap, &context.ownership, &stop).await?;
        let server = tokio::spawn(serve_clients(&context, clients));
        Ok(Node { context, address, own, membership, internal, server })
    }

    /// Where the node listens; with port 0 in the configuration this is the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every address of this node, with the ports that were taken.
    pub fn advertised(&self) -> &Advertised {
        &self.context.advertised
    }

    /// Who is there, this node included, as it sees them now.
    pub fn members(&self) -> Members {
        self.context.members()
    }

    /// Whether it serves.
    pub fn is_ready(&self) -> bool {
        self.context.bootstrap.is_ready()
    }

    /// Stops: no new connections, long calls end with UNAVAILABLE, running ones get `timeout` to finish, and
    /// the store is closed in any case, which takes at most five seconds more. Everything acknowledged is on disk with or without this.
    pub async fn shutdown(mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        self.context.bootstrap.drain();
        // While consumers are still there: each hears that its subscription moves once another node may serve it.
        self.context.ownership.drain(timeout / 2).await;
        self.context.stop.cancel();
        if timeout_at(deadline, self.context.subscriptions.close()).await.is_err() {
            tracing::warn!("some consumers did not end in time");
        }
        if timeout_at(deadline, &mut self.server).await.is_err() {
            tracing::warn!("some calls did not end in time and are cut off");
            self.server.abort();
        }
        let close = async {
            self.context.readers.close().await;
            // Now that it serves nothing any more, others need not wait until they miss it.
            self.membership.leave().await;
            self.membership.session.release().await;
            if let Some(store) = &self.own {
                store.close().await;
            }
        };
        if tokio::time::timeout(STORE_GRACE, close).await.is_err() {
            tracing::warn!("the store does not answer and is left as it is; the next start recovers it");
        }
        if let Some(internal) = &mut self.internal {
            internal.close().await;
        }
    }
}

/// Serves clients until the node stops.
fn serve_clients(
    context: &Arc<NodeContext>,
    doors: Vec<Door>,
) -> impl Future<Output = Result<(), tonic::transport::Error>> + Send + use<> {
    let most = MAX_REQUEST_BYTES.max(context.config.max_record_size as usize + REQUEST_SLACK);
    let service = HStreamApiServer::new(Api::new(context.clone()))
        .max_decoding_message_size(most)
        .max_encoding_message_size(usize::MAX);
    let service = InterceptedService::new(service, context.config.tokens.clone());
    let (sender, opened) = mpsc::channel(OPENED);
    let threshold = Threshold::new(&context.config.limits, sender);
    for door in doors {
        tokio::spawn(door.serve(threshold.clone()));
    }
    Server::builder()
        .max_concurrent_streams(MAX_CALLS_PER_CONNECTION)
        .http2_max_pending_accept_reset_streams(Some(MAX_CANCELLED_UNSEEN))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(CallLimits::new(&context.config.limits, most))
        .add_service(service)
        .serve_with_incoming_shutdown(ReceiverStream::new(opened), context.stop.clone().cancelled_owned())
}

impl Drop for Node {
    fn drop(&mut self) {
        self.context.stop.cancel();
        self.server.abort();
    }
}
