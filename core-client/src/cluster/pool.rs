//! One connection per node, made when it is first needed.

use super::{address::NodeAddress, auth::CallHeaders};
use crate::{
    error::{Error, ErrorKind, Result},
    metrics::Metrics,
};
use hstreamdb_proto::api::h_stream_api_client::HStreamApiClient;
use std::{
    collections::HashMap,
    error::Error as StdError,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::OnceCell;
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Channel, ClientTlsConfig, Endpoint},
};

/// The generated client, with this client's headers on every call. Cheap to clone.
pub(crate) type ApiClient = HStreamApiClient<InterceptedService<Channel, CallHeaders>>;

/// TCP keepalive finds peers that vanished without a word under long streams. HTTP/2 pings stay off: servers
/// of the original end connections that send them while idle.
const TCP_KEEPALIVE: Duration = Duration::from_secs(20);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const TCP_KEEPALIVE_PROBES: u32 = 4;

/// What all connections share.
#[derive(Clone)]
pub(crate) struct ConnectionSettings {
    pub tls: Option<ClientTlsConfig>,
    pub headers: CallHeaders,
    pub user_agent: String,
    pub connect_timeout: Duration,
    pub max_receive_bytes: usize,
}

/// Connections by address.
pub(crate) struct Pool {
    settings: ConnectionSettings,
    channels: Mutex<HashMap<NodeAddress, Arc<OnceCell<Channel>>>>,
    metrics: Arc<Metrics>,
}

impl Pool {
    pub(crate) fn new(settings: ConnectionSettings, metrics: Arc<Metrics>) -> Self {
        Pool { settings, channels: Mutex::default(), metrics }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeAddress, Arc<OnceCell<Channel>>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client over the node's connection, which is made first if there is none. Callers that come while it is being
    /// made wait for the same one.
    ///
    /// # Errors
    /// `Unavailable` within the connect timeout; nothing was sent then.
    pub(crate) async fn client(&self, address: &NodeAddress, timeout: Duration) -> Result<ApiClient> {
        let cell = self.lock().entry(address.clone()).or_default().clone();
        let channel = cell.get_or_try_init(|| self.connect(address)).await?.clone();
        Ok(self.over(channel, Some(timeout)))
    }

    /// A client over a new connection that nobody else uses.
    ///
    /// # Errors
    /// As [`client`](Self::client).
    pub(crate) async fn dedicated(&self, address: &NodeAddress) -> Result<ApiClient> {
        Ok(self.over(self.connect(address).await?, None))
    }

    fn over(&self, channel: Channel, timeout: Option<Duration>) -> ApiClient {
        let headers = match timeout {
            Some(timeout) => self.settings.headers.with_timeout(timeout),
            None => self.settings.headers.clone(),
        };
        HStreamApiClient::with_interceptor(channel, headers)
            .max_decoding_message_size(self.settings.max_receive_bytes)
            .max_encoding_message_size(usize::MAX)
    }

    /// Forgets the connection, so that the next call makes a new one; calls under way keep theirs.
    pub(crate) fn discard(&self, address: &NodeAddress) {
        self.lock().remove(address);
    }

    /// Forgets connections to addresses that are none of the cluster's any more.
    pub(crate) fn retain(&self, keep: impl Fn(&NodeAddress) -> bool) {
        self.lock().retain(|address, _| keep(address));
    }

    async fn connect(&self, address: &NodeAddress) -> Result<Channel> {
        let unavailable = |reason: String| {
            Error::new(ErrorKind::Unavailable, "connect")
                .with_node(address)
                .with_message(reason)
                .with_transport(true)
        };
        let settings = &self.settings;
        let scheme = if settings.tls.is_some() { "https" } else { "http" };
        // An IPv6 zone does not fit into a URI; such hosts fail here with a sentence.
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .and_then(|endpoint| endpoint.user_agent(settings.user_agent.clone()))
            .map_err(|error| unavailable(innermost(&error)))?
            .connect_timeout(settings.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(TCP_KEEPALIVE))
            .tcp_keepalive_interval(Some(TCP_KEEPALIVE_INTERVAL))
            .tcp_keepalive_retries(Some(TCP_KEEPALIVE_PROBES));
        if let Some(tls) = &settings.tls {
            endpoint = endpoint
                .tls_config(tls.clone())
                .map_err(|error| unavailable(format!("TLS: {}", innermost(&error))).with_retryable(false))?;
        }
        // `connect_timeout` covers TCP only; a peer that accepts and stays silent is bounded here.
        let result = tokio::time::timeout(settings.connect_timeout, endpoint.connect()).await;
        match result {
            Ok(Ok(channel)) => {
                self.metrics.connects.add(1);
                Ok(channel)
            }
            Ok(Err(error)) => {
                self.metrics.connect_failures.add(1);
                Err(unavailable(innermost(&error)).with_source(error))
            }
            Err(_) => {
                self.metrics.connect_failures.add(1);
                Err(unavailable(format!("no connection within {:?}", settings.connect_timeout)))
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("nodes", &self.lock().keys().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

/// The words of the last error in the chain, which name the cause: `Connection refused (os error 111)`.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}
