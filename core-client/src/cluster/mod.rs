//! The cluster as one client sees it: nodes, connections, owners, and calls that find their way.

mod address;
mod asking;
mod authorized;
mod call;
mod dialer;
mod discovery;
mod event;
mod headers;
mod hearing;
mod line;
mod members;
mod names;
mod owners;
mod pool;
mod probe;
mod route;
mod settings;
mod silence;
mod tls;
mod token;
mod url;

pub use address::NodeAddress;
pub use event::{ClientEvent, Events};
pub use members::{Node, NodeState};
pub use token::AuthToken;

pub(crate) use call::unheard;
pub(crate) use event::EventSender;
pub(crate) use members::nodes_of;
pub(crate) use names::Names;
pub(crate) use owners::Resource;
pub(crate) use pool::{ApiClient, Contact};
pub(crate) use route::Target;
pub(crate) use settings::{RawSettings, Settings};
pub(crate) use silence::Patience;
pub(crate) use token::TokenProvider;

use crate::{
    error::{Error, ErrorKind, Result},
    metrics::Metrics,
    retry::{Backoff, RetryPolicy},
};
use dialer::Dialer;
use futures::future::{BoxFuture, join_all};
use hstreamdb_proto::metadata::{
    CAPABILITIES, CAPABILITY_ACK_CONFIRMATION, CAPABILITY_PRODUCER_SEQUENCE, CAPABILITY_SUBSCRIPTION_POLICY,
};
use line::Lines;
use members::Members;
use owners::Owners;
use pool::Pool;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;

/// How much longer than its limit `close` waits for what keeps the limit itself.
const CLOSE_GRACE: Duration = Duration::from_millis(250);

/// What a server can do beyond the published protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Capabilities {
    /// It orders and deduplicates appends by producer, epoch and sequence.
    pub producer_sequence: bool,
    /// It tells consumers that ask which acknowledgements are durable.
    pub ack_confirmation: bool,
    /// It takes a redelivery policy with a subscription.
    pub subscription_policy: bool,
}

impl Capabilities {
    /// From response metadata; `None` when the server announces nothing there.
    pub(crate) fn from_metadata(metadata: &MetadataMap) -> Option<Self> {
        let text = metadata.get(CAPABILITIES)?.to_str().ok()?;
        let has = |name| text.split(',').any(|part| part.trim() == name);
        Some(Capabilities {
            producer_sequence: has(CAPABILITY_PRODUCER_SEQUENCE),
            ack_confirmation: has(CAPABILITY_ACK_CONFIRMATION),
            subscription_policy: has(CAPABILITY_SUBSCRIPTION_POLICY),
        })
    }
}

/// Something made from a client that must end before the client does.
pub(crate) trait Closable: Send + Sync {
    /// Ends in order within the time: flushes, hands back, resolves everything. Idempotent.
    fn close(&self, timeout: Duration) -> BoxFuture<'static, Result<()>>;
}

/// Shared by a client and everything made from it; the background work ends with the last clone or with `close`.
#[derive(Clone)]
pub(crate) struct Cluster(Arc<Inner>);

pub(crate) struct Inner {
    settings: Settings,
    members: Members,
    pool: Pool,
    owners: Owners,
    capabilities: Mutex<HashMap<NodeAddress, Capabilities>>,
    metrics: Arc<Metrics>,
    events: EventSender,
    closed: CancellationToken,
    closing: tokio::sync::Mutex<()>,
    closables: Mutex<Vec<Weak<dyn Closable>>>,
    refresh: Arc<Notify>,
    random: Mutex<StdRng>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl Cluster {
    fn new(settings: Settings) -> Self {
        let metrics = Arc::new(Metrics::new(settings.recorder.clone()));
        let events = EventSender::new();
        let lines = Lines::new(events.clone());
        Cluster(Arc::new(Inner {
            members: Members::new(settings.bootstrap.clone()),
            pool: Pool::new(Dialer::new(settings.connection.clone(), lines, metrics.clone())),
            settings,
            owners: Owners::default(),
            capabilities: Mutex::default(),
            metrics,
            events,
            closed: CancellationToken::new(),
            closing: tokio::sync::Mutex::default(),
            closables: Mutex::default(),
            refresh: Arc::new(Notify::new()),
            random: Mutex::new(StdRng::from_os_rng()),
        }))
    }

    /// The checked options of the client.
    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Deadline of one try of a unary call.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.0.settings.request_timeout
    }

    /// Shape of the pauses between tries.
    pub(crate) fn retry_policy(&self) -> RetryPolicy {
        self.0.settings.retry
    }

    /// Most bytes a received batch may decompress to: batches grow when decompressed, but not without end.
    pub(crate) fn decoded_limit(&self) -> usize {
        self.0.settings.connection.max_receive_bytes.saturating_mul(4)
    }

    /// Counters of the client.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The counters themselves, for what may outlive the client.
    pub(crate) fn shared_metrics(&self) -> Arc<Metrics> {
        self.0.metrics.clone()
    }

    /// Where events go.
    pub(crate) fn events(&self) -> &EventSender {
        &self.0.events
    }

    /// The nodes as the cluster named them last.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        self.0.members.nodes()
    }

    /// A client over the node's shared connection, with a deadline that the server is told; for callers that keep
    /// their own retry loop. The caller applies the same deadline to the call.
    ///
    /// # Errors
    /// `Unavailable` within the connect timeout, `Closed`. Nothing was sent then.
    pub(crate) async fn channel_with_deadline(
        &self,
        address: &NodeAddress,
        timeout: Duration,
    ) -> Result<Contact> {
        self.client(address, timeout).await
    }

    /// A client over a new connection of its own, for a stream whose slow reader must not hold up the window that
    /// other calls share. The connection ends with the last clone of what is returned.
    ///
    /// # Errors
    /// As [`channel_with_deadline`](Self::channel_with_deadline).
    pub(crate) async fn dedicated(&self, address: &NodeAddress) -> Result<Contact> {
        self.dedicated_with_window(address, None).await
    }

    /// [`dedicated`](Self::dedicated) with at most this many bytes on their way in each of its streams.
    ///
    /// # Errors
    /// As [`channel_with_deadline`](Self::channel_with_deadline).
    pub(crate) async fn dedicated_with_window(
        &self,
        address: &NodeAddress,
        window: Option<u32>,
    ) -> Result<Contact> {
        tokio::select! {
            biased;
            () = self.closed() => Err(self.closed_error("connect")),
            client = self.reached(address, self.0.pool.dedicated(address, window)) => {
                if let Err(error) = &client {
                    self.mark_suspect(address, error);
                }
                client
            }
        }
    }

    async fn client(&self, address: &NodeAddress, timeout: Duration) -> Result<Contact> {
        tokio::select! {
            biased;
            () = self.closed() => Err(self.closed_error("connect")),
            client = self.reached(address, self.0.pool.client(address, timeout)) => {
                if let Err(error) = &client {
                    self.mark_suspect(address, error);
                }
                client
            }
        }
    }

    /// After a failure on the way to a node: its connection is dropped, others are preferred until it answers a probe or
    /// a call, and the node list is refreshed soon.
    pub(crate) fn mark_suspect(&self, address: &NodeAddress, error: &Error) {
        let number = self.0.members.suspect(address);
        // Once it is suspect, a young connection is not the one that failed: one that broke is replaced anyway, and one
        // that is silent is noticed only after a while.
        let age = if number.is_some() { Duration::ZERO } else { self.notices_within() };
        self.0.pool.discard(address, age);
        if let Some(number) = number {
            self.0.owners.forget_node(address);
            self.lock_capabilities().remove(address);
            self.0.metrics.node_suspects.add(1);
            tracing::debug!(node = %address, %error, "node is suspect");
            self.0.events.send(ClientEvent::NodeSuspect { address: address.clone(), error: error.clone() });
            self.start_probing(address.clone(), number);
        }
        self.0.refresh.notify_one();
    }

    /// How long a silent connection is at least not noticed.
    fn notices_within(&self) -> Duration {
        let (silence, request) = (self.0.settings.silence_timeout, self.request_timeout());
        if silence.is_zero() { request } else { silence.min(request) }
    }

    /// An answer came from the node.
    pub(crate) fn trust(&self, address: &NodeAddress) {
        if self.0.members.trust(address) {
            self.trusted_again(address);
        }
    }

    /// An answer came from the node; calls that any node can answer go there from now on, unless they have a node they
    /// go to.
    fn prefer_if_free(&self, address: &NodeAddress) {
        if self.0.members.prefer_if_free(address) {
            self.trusted_again(address);
        }
    }

    /// An answer came from the node, and calls that any node can answer go there from now on.
    fn prefer(&self, address: &NodeAddress) {
        if self.0.members.prefer(address) {
            self.trusted_again(address);
        }
    }

    fn trusted_again(&self, address: &NodeAddress) {
        self.0.metrics.node_trusts.add(1);
        tracing::debug!(node = %address, "node is trusted again");
        self.0.events.send(ClientEvent::NodeTrusted { address: address.clone() });
    }

    /// Whether a call to the node failed on the way, and it has not answered since.
    pub(crate) fn is_suspect(&self, address: &NodeAddress) -> bool {
        self.0.members.is_suspect(address)
    }

    /// Whether it became suspect lately: it is being probed often, and the cluster may still be about to notice.
    pub(crate) fn is_newly_suspect(&self, address: &NodeAddress) -> bool {
        self.0.members.is_newly_suspect(address)
    }

    /// Whether there is another node that serves, and has not failed since it last answered.
    pub(crate) fn has_other(&self, address: &NodeAddress) -> bool {
        self.0.members.has_other(address)
    }

    /// Resolves when a node's standing changes: suspected, trusted, of another state.
    pub(crate) async fn standing_changes(&self, address: &NodeAddress) {
        let mut news = self.0.members.news();
        let before = self.0.members.standing(address);
        while self.0.members.standing(address) == before {
            if news.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// What the node can do; asks it once when it is not known.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub(crate) async fn capabilities(&self, address: &NodeAddress) -> Result<Capabilities> {
        if let Some(known) = self.lock_capabilities().get(address) {
            return Ok(*known);
        }
        self.describe(Target::Node(address.clone())).await?;
        Ok(self.lock_capabilities().get(address).copied().unwrap_or_default())
    }

    /// Learns from the metadata of an answer, which also shows that the node is well.
    pub(crate) fn note_capabilities(&self, address: &NodeAddress, metadata: &MetadataMap) {
        self.trust(address);
        if let Some(seen) = Capabilities::from_metadata(metadata) {
            self.lock_capabilities().insert(address.clone(), seen);
        }
    }

    /// A random number in `0.0..1.0`.
    pub(crate) fn random_unit(&self) -> f64 {
        self.lock_random().random()
    }

    /// Random bits, for ids and names.
    pub(crate) fn random_u128(&self) -> u128 {
        self.lock_random().random()
    }

    /// The pauses of the client's retry policy, for code with its own loop.
    pub(crate) fn backoff(&self) -> Backoff<impl FnMut() -> f64 + use<>> {
        let cluster = self.clone();
        self.0.settings.retry.backoff(move || cluster.random_unit())
    }

    /// Whether the client was closed; nothing works from then on.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.closed.is_cancelled()
    }

    /// Resolves when the client is closed.
    pub(crate) async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    /// The error of everything that is tried after `close`.
    pub(crate) fn closed_error(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::Closed, operation).with_message("the client is closed")
    }

    /// Takes part in `close`.
    ///
    /// # Errors
    /// `Closed` when the client is closed already.
    pub(crate) fn register(&self, closable: Weak<dyn Closable>) -> Result<()> {
        let mut closables = self.lock_closables();
        if self.is_closed() {
            return Err(self.closed_error("register with client"));
        }
        closables.retain(|known| known.strong_count() > 0);
        closables.push(closable);
        Ok(())
    }

    /// Ends everything made from the client in order, within the time, and then the client. The first error is
    /// returned; the client is closed all the same.
    pub(crate) async fn close(&self, timeout: Duration) -> Result<()> {
        let in_order = async {
            // A second caller waits for the first.
            let _closing = self.0.closing.lock().await;
            if self.is_closed() {
                return Ok(());
            }
            let closables: Vec<_> = self.lock_closables().iter().filter_map(Weak::upgrade).collect();
            let results = join_all(closables.iter().map(|closable| closable.close(timeout))).await;
            results.into_iter().find(Result::is_err).unwrap_or(Ok(()))
        };
        // They give up at the limit themselves and resolve what they hold; this is for one that does not.
        let limit = timeout.saturating_add(CLOSE_GRACE);
        let result = tokio::time::timeout(limit, in_order).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, "close client").with_message(format!(
                "producers or consumers did not finish within {timeout:?}; what they held is resolved as closed"
            )))
        });
        {
            let mut closables = self.lock_closables();
            if !self.is_closed() {
                self.0.closed.cancel();
                self.0.events.send(ClientEvent::Closed);
            }
            closables.clear();
        }
        self.0.pool.retain(|_| false);
        result
    }

    fn lock_closables(&self) -> MutexGuard<'_, Vec<Weak<dyn Closable>>> {
        self.0.closables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_capabilities(&self) -> MutexGuard<'_, HashMap<NodeAddress, Capabilities>> {
        self.0.capabilities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_random(&self) -> MutexGuard<'_, StdRng> {
        self.0.random.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("members", &self.0.members).finish_non_exhaustive()
    }
}
