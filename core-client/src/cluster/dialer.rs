//! Making one connection to a node.

use super::{
    address::NodeAddress,
    authorized::Authorized,
    headers::CallHeaders,
    line::{Line, Lines, Watched},
    names::Names,
};
use crate::{
    error::{Error, ErrorKind, Result},
    metrics::Metrics,
};
use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use std::{
    error::Error as StdError,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::TcpStream, time::Instant};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tower::Service;

/// TCP keepalive finds peers that vanished without a word under idle streams.
const TCP_KEEPALIVE: Duration = Duration::from_secs(20);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const TCP_KEEPALIVE_PROBES: u32 = 4;
/// The same for a stream that has something to say: without it, acknowledgements sent into a black hole are
/// repeated by the kernel for a quarter of an hour. As long as keepalive takes.
#[cfg(any(target_os = "linux", target_os = "android"))]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(40);
/// How much later than this client the channel gives up connecting.
const CHANNEL_MARGIN: Duration = Duration::from_millis(250);
/// How long the answer to an HTTP/2 ping may take, where pings are on.
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What all connections share.
#[derive(Clone)]
pub(crate) struct ConnectionSettings {
    pub tls: Option<ClientTlsConfig>,
    pub headers: CallHeaders,
    pub names: Names,
    pub user_agent: String,
    pub connect_timeout: Duration,
    pub max_receive_bytes: usize,
    /// Connections per node that unary calls and appends are spread over.
    pub channels_per_node: usize,
    /// Pause between two HTTP/2 pings; `None` sends none.
    pub http2_keepalive: Option<Duration>,
}

/// A connection that was made.
#[derive(Clone)]
pub(crate) struct Connection {
    pub channel: Channel,
    pub line: Arc<Line>,
    pub made: Instant,
}

/// Makes connections.
pub(crate) struct Dialer {
    pub settings: ConnectionSettings,
    lines: Arc<Lines>,
    metrics: Arc<Metrics>,
}

impl Dialer {
    pub(crate) fn new(settings: ConnectionSettings, lines: Lines, metrics: Arc<Metrics>) -> Self {
        Dialer { settings, lines: Arc::new(lines), metrics }
    }

    /// Connects: resolves the name and tries all its addresses, both families side by side.
    ///
    /// # Errors
    /// `Unavailable` within the connect timeout; nothing was sent then.
    pub(crate) async fn connect(&self, address: &NodeAddress) -> Result<Connection> {
        self.connect_with_window(address, None).await
    }

    /// [`connect`](Self::connect) with another HTTP/2 window for streams than 2 MiB, in bytes.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub(crate) async fn connect_with_window(
        &self,
        address: &NodeAddress,
        window: Option<u32>,
    ) -> Result<Connection> {
        let unavailable = |reason: String| {
            Error::new(ErrorKind::Unavailable, "connect")
                .with_node(address)
                .with_message(reason)
                .with_transport(true)
        };
        let limit = self.settings.connect_timeout;
        let endpoint = self.endpoint(address).map_err(|error| unavailable(innermost(&error)))?;
        let endpoint = endpoint.initial_stream_window_size(window);
        let line = Line::new(address.clone(), self.lines.clone(), self.settings.tls.is_some());
        let connector = self.connector(line.clone());
        let started = Instant::now();
        // Resolving the name, all addresses and the handshake of TLS included.
        let result = tokio::time::timeout(limit, endpoint.connect_with_connector(connector)).await;
        let error = match result {
            Ok(Ok(channel)) => {
                line.trust();
                line.took(started.elapsed());
                self.metrics.connects.add(1);
                return Ok(Connection { channel, line, made: Instant::now() });
            }
            Ok(Err(error)) => unavailable(innermost(&error)).with_source(error),
            Err(_) => unavailable(format!("no connection within {limit:?}")),
        };
        self.metrics.connect_failures.add(1);
        Err(error)
    }

    fn endpoint(&self, address: &NodeAddress) -> Result<Endpoint, tonic::transport::Error> {
        let settings = &self.settings;
        let scheme = if settings.tls.is_some() { "https" } else { "http" };
        // An IPv6 zone does not fit into a URI; such hosts fail here with a sentence.
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .user_agent(settings.user_agent.clone())?
            // For connections that the channel makes by itself; ours are ended before it, with better words.
            .connect_timeout(settings.connect_timeout.saturating_add(CHANNEL_MARGIN));
        if let Some(every) = settings.http2_keepalive {
            endpoint = endpoint
                .http2_keep_alive_interval(every)
                .keep_alive_timeout(HTTP2_PING_TIMEOUT)
                .keep_alive_while_idle(true);
        }
        if let Some(tls) = &settings.tls {
            endpoint = endpoint.tls_config(tls.clone())?;
        }
        Ok(endpoint)
    }

    fn connector(&self, line: Arc<Line>) -> Connector {
        let mut http = HttpConnector::new_with_resolver(self.settings.names.clone());
        // TLS comes on top of it.
        http.enforce_http(false);
        // Shared among the addresses of a name, so that the last one has a turn.
        http.set_connect_timeout(Some(self.settings.connect_timeout));
        http.set_nodelay(true);
        http.set_keepalive(Some(TCP_KEEPALIVE));
        http.set_keepalive_interval(Some(TCP_KEEPALIVE_INTERVAL));
        http.set_keepalive_retries(Some(TCP_KEEPALIVE_PROBES));
        #[cfg(any(target_os = "linux", target_os = "android"))]
        http.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        Connector { http, line, metrics: self.metrics.clone() }
    }

    /// A client of the connection's; `timeout` is a deadline the server is told.
    pub(crate) fn over(&self, channel: Channel, timeout: Option<Duration>) -> Authorized {
        let headers = match timeout {
            Some(timeout) => self.settings.headers.with_timeout(timeout),
            None => self.settings.headers.clone(),
        };
        Authorized::new(channel, headers)
    }
}

/// Opens the sockets of one channel. The channel connects again by itself when it finds its socket gone.
#[derive(Clone)]
struct Connector {
    http: HttpConnector<Names>,
    line: Arc<Line>,
    metrics: Arc<Metrics>,
}

type Socket = TokioIo<Watched<TcpStream>>;
type BoxError = Box<dyn StdError + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = Socket;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Socket, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.http.call(uri);
        let (line, metrics) = (self.line.clone(), self.metrics.clone());
        Box::pin(async move {
            let socket = connecting.await?;
            let (watched, first) = line.watch(socket.into_inner());
            if !first {
                metrics.connects.add(1);
            }
            Ok(TokioIo::new(watched))
        })
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
