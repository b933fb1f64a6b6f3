//! `Client` and its builder: the way to everything else.

mod writing;

use crate::{
    cluster::{AuthToken, Cluster, Events, Names, Node, RawSettings, TokenProvider},
    error::Result,
    metrics::{MetricsRecorder, MetricsSnapshot},
    options::OptionValue,
    producer::DirectProducers,
};
use std::{io, net::IpAddr, path::Path, sync::Arc, time::Duration};

/// A connection to a cluster: one per process is enough. Cheap to clone; all clones share connections, node list and
/// counters.
///
/// Must be used inside a tokio runtime; [`Runtime`](crate::Runtime) brings one.
///
/// ```no_run
/// # async fn example() -> hstreamdb::Result<()> {
/// use hstreamdb::{Client, StreamOptions};
/// use std::time::Duration;
///
/// let client = Client::connect("hstream://127.0.0.1:6570").await?;
/// client.create_stream("orders", StreamOptions::new().shard_count(3)).await?;
/// client.close(Duration::from_secs(30)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) cluster: Cluster,
    /// Behind `append`.
    pub(crate) direct: Arc<DirectProducers>,
}

impl Client {
    /// Connects with default options to `hstream://host:6570,host2` (`hstreams://` for TLS). One address that answers
    /// suffices.
    ///
    /// # Errors
    /// Within the connect timeout (5 s): `InvalidArgument` for a URL that is none, `Unauthenticated`, `Unavailable`
    /// with what each address failed with.
    pub async fn connect(url: &str) -> Result<Client> {
        Client::builder().url(url).connect().await
    }

    /// A client with options.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The nodes as the cluster named them last; refreshed in the background. Never waits.
    pub fn nodes(&self) -> Vec<Node> {
        self.cluster.nodes()
    }

    /// Asks the cluster for its nodes now instead of at the next refresh in the background, and gives them.
    ///
    /// # Errors
    /// `Unavailable` or `Timeout` when no node answers (the old list stays), `Closed`.
    pub async fn refresh_nodes(&self) -> Result<Vec<Node>> {
        self.cluster.refresh_nodes().await?;
        Ok(self.nodes())
    }

    /// Drops the connections that calls and appends share, resolves names again and finds the nodes anew, from the
    /// addresses given at first, too. Rarely needed: what fails is replaced by itself. Calls under way keep their
    /// connections; consumers and readers keep theirs.
    ///
    /// # Errors
    /// As [`refresh_nodes`](Client::refresh_nodes).
    pub async fn reconnect(&self) -> Result<()> {
        self.cluster.reconnect().await
    }

    /// Membership and connection events from now on, one by one or as a stream.
    ///
    /// ```no_run
    /// # async fn example(client: hstreamdb::Client) {
    /// use hstreamdb::ClientEvent;
    ///
    /// let mut events = client.events();
    /// while let Some(event) = events.next().await {
    ///     match event {
    ///         ClientEvent::NodeSuspect { address, error } => eprintln!("{address} fails: {error}"),
    ///         ClientEvent::NodeTrusted { address } => eprintln!("{address} is back"),
    ///         _ => {}
    ///     }
    /// }
    /// # }
    /// ```
    pub fn events(&self) -> Events {
        self.cluster.events().subscribe()
    }

    /// Metrics over everything made from this client. To have them as they happen, see
    /// [`ClientBuilder::metrics_recorder`].
    pub fn metrics(&self) -> MetricsSnapshot {
        self.cluster.metrics().snapshot()
    }

    /// Whether `close` was called on this client or a clone of it, and has finished.
    pub fn is_closed(&self) -> bool {
        self.cluster.is_closed()
    }

    /// Closes in order: producers flush, consumers hand back their acks, then calls under way end as `Closed` and
    /// the connections go. Takes at most `timeout`; a second call waits for the first, later ones do nothing.
    ///
    /// # Errors
    /// `Timeout` when something did not finish in time, or the first error of what had to be flushed. The client is
    /// closed all the same.
    pub async fn close(&self, timeout: Duration) -> Result<()> {
        self.cluster.close(timeout).await
    }
}

/// Options of a [`Client`]. Defaults: 5 s for connecting and for one try of a call, 30 s for a call altogether, 5 tries
/// from 100 ms to 5 s apart, 500 ms for a silent node, discovery every 30 s, messages up to 32 MiB, one connection per node, no HTTP/2 pings.
///
/// ```no_run
/// # async fn example() -> hstreamdb::Result<()> {
/// use hstreamdb::Client;
///
/// let client = Client::builder()
///     .url("hstreams://db1.example,db2.example")
///     .ca_path("/etc/hstream/ca.pem")?
///     .identity_path("/etc/hstream/client.pem", "/etc/hstream/client.key")?
///     .host_mapping("10.1.0.7:6570", "db1.example:6570")
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until `connect`"]
pub struct ClientBuilder {
    settings: RawSettings,
}

impl ClientBuilder {
    /// Adds an address such as `hstream://host:6570,host2`. It is checked by `connect`.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.settings.add_url(url.into());
        self
    }

    /// Adds a host without a scheme: `host`, `host:6570` or `[::1]:6570`. Whether TLS is spoken there is said by a url, or
    /// by [`tls`](Self::tls).
    ///
    /// # Errors
    /// None now; what is no address is refused by `connect`.
    pub fn host(self, host: impl Into<String>) -> Result<Self> {
        self.set("hosts", host.into())
    }

    /// Sets an option of the table by name, in snake or camel case.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown name, with the known ones, and for a value that does not fit.
    pub fn set(mut self, name: &str, value: impl Into<OptionValue>) -> Result<Self> {
        self.settings.set(name, value.into())?;
        Ok(self)
    }

    /// Whether to speak TLS where only hosts are given; urls say so by their scheme.
    ///
    /// # Errors
    /// None now; what does not fit together is refused by `connect`.
    pub fn tls(self, tls: bool) -> Result<Self> {
        self.set("tls", tls)
    }

    /// Certificates in PEM that the servers' certificates must lead to; default: the system's.
    ///
    /// # Errors
    /// None now; what is no PEM is refused by `connect`. So for all options of TLS.
    pub fn ca_pem(self, pem: impl Into<Vec<u8>>) -> Result<Self> {
        self.set("tls_ca_pem", pem.into())
    }

    /// The file with them; `connect` reads it.
    ///
    /// # Errors
    /// `InvalidArgument` for a path that is not Unicode.
    pub fn ca_path(self, path: impl AsRef<Path>) -> Result<Self> {
        self.set_path("tls_ca_path", path.as_ref())
    }

    /// Trusts the system's certificates besides the given ones.
    ///
    /// # Errors
    /// None now.
    pub fn use_system_roots(self) -> Result<Self> {
        self.set("tls_use_system_roots", true)
    }

    /// The client's certificate chain and private key in PEM, for servers that ask for one.
    ///
    /// # Errors
    /// None now; a key of another certificate is refused by `connect`.
    pub fn identity_pem(self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Result<Self> {
        self.set("tls_cert_pem", chain.into())?.set("tls_key_pem", key.into())
    }

    /// The files with them; `connect` reads them.
    ///
    /// # Errors
    /// `InvalidArgument` for a path that is not Unicode.
    pub fn identity_path(self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self> {
        self.set_path("tls_cert_path", chain.as_ref())?.set_path("tls_key_path", key.as_ref())
    }

    /// Name the servers' certificates must carry, instead of the host connected to.
    ///
    /// # Errors
    /// None now.
    pub fn domain_name(self, name: impl Into<String>) -> Result<Self> {
        self.set("tls_domain_name", name.into())
    }

    fn set_path(self, option: &'static str, path: &Path) -> Result<Self> {
        match path.to_str() {
            Some(path) => self.set(option, path),
            None => Err(crate::Error::new(crate::ErrorKind::InvalidArgument, "set client option")
                .with_resource(option)
                .with_message("the path is not Unicode; give the text of the file instead")),
        }
    }

    /// Deadline of one try of a call; default 5 s, at least 1 ms.
    ///
    /// # Errors
    /// `InvalidArgument` when out of range, as for all setters of durations.
    pub fn request_timeout(self, timeout: Duration) -> Result<Self> {
        self.set("request_timeout_ms", millis(timeout))
    }

    /// Deadline of a call altogether, tries and pauses included; default 30 s, at least 1 ms. With the other defaults tries
    /// and pauses take at most 26.5 s.
    ///
    /// # Errors
    /// `InvalidArgument` when out of range.
    pub fn total_timeout(self, timeout: Duration) -> Result<Self> {
        self.set("total_timeout_ms", millis(timeout))
    }

    /// Deadline of connecting; default 5 s, at least 1 ms.
    ///
    /// # Errors
    /// `InvalidArgument` when out of range.
    pub fn connect_timeout(self, timeout: Duration) -> Result<Self> {
        self.set("connect_timeout_ms", millis(timeout))
    }

    /// How long a node may owe an answer without a sign of life; default 500 ms, at least four round trips. It is asked for an
    /// echo in between. Then calls and appends that may be repeated go to another node, if there is one; all others wait
    /// for their deadlines. Zero leaves everything to the deadlines.
    ///
    /// # Errors
    /// `InvalidArgument` when out of range.
    pub fn silence_timeout(self, timeout: Duration) -> Result<Self> {
        self.set("silence_timeout_ms", millis(timeout))
    }

    /// How long nothing may be heard of a node that consumers or readers listen to before it is asked for a sign of life;
    /// default 2 s, zero never asks. One small call per node, however many listen.
    ///
    /// # Errors
    /// `InvalidArgument` when out of range.
    pub fn node_check_interval(self, interval: Duration) -> Result<Self> {
        self.set("node_check_interval_ms", millis(interval))
    }

    /// Pause between two refreshes of the node list; default 30 s, at least 10 ms.
    ///
    /// # Errors
    /// `InvalidArgument` when out of range.
    pub fn discovery_interval(self, interval: Duration) -> Result<Self> {
        self.set("discovery_interval_ms", millis(interval))
    }

    /// Tries of a call altogether; default 5, 1 never retries.
    ///
    /// # Errors
    /// `InvalidArgument` for 0 and above 1000.
    pub fn retry_max_attempts(self, attempts: u32) -> Result<Self> {
        self.set("retry_max_attempts", attempts)
    }

    /// Pauses between tries: random between half and all of a step that begins at `base` (default 100 ms) and doubles up to
    /// `max` (default 5 s).
    ///
    /// # Errors
    /// `InvalidArgument` when out of range.
    pub fn retry_backoff(self, base: Duration, max: Duration) -> Result<Self> {
        self.set("retry_base_ms", millis(base))?.set("retry_max_ms", millis(max))
    }

    /// Largest message accepted from a server; default 32 MiB, from 64 KiB to 2 GiB.
    ///
    /// # Errors
    /// `InvalidArgument` when out of range.
    pub fn max_receive_bytes(self, bytes: usize) -> Result<Self> {
        self.set("max_receive_bytes", bytes)
    }

    /// Connections per node that calls and appends take in turn; default 1, at most 64. Consumers and readers have their
    /// own.
    ///
    /// # Errors
    /// `InvalidArgument` when out of range.
    pub fn channels_per_node(self, connections: u32) -> Result<Self> {
        self.set("channels_per_node", connections)
    }

    /// Pause between two HTTP/2 pings on an idle connection. Default none: published servers end connections that ping
    /// more often than every 300 s without a call, and TCP finds dead peers within 40 s. For paths that forget idle
    /// connections without a word.
    ///
    /// # Errors
    /// `InvalidArgument` when out of range.
    pub fn keepalive(self, every: Duration) -> Result<Self> {
        self.set("http2_keepalive_ms", millis(every))
    }

    /// Adds a header to every call. The client's own (`user-agent`, `grpc-…`) are refused by `connect`.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.add_metadata(name.into(), value.into());
        self
    }

    /// Language named in the user agent `hstreamdb-<lang>/<version>`; default `rust`.
    ///
    /// # Errors
    /// None now; what is not printable ASCII is refused by `connect`.
    pub fn user_agent_lang(self, language: impl Into<String>) -> Result<Self> {
        self.set("user_agent_lang", language.into())
    }

    /// Connects to `to` where the cluster names `from`, each `host:port` or `host` alone; for NAT and containers. Applies
    /// to all nodes, those found later and owners of shards and subscriptions, too. What is no address is refused by
    /// `connect`.
    pub fn host_mapping(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.settings.add_host_mapping(from.into(), to.into());
        self
    }

    /// Resolves host names to addresses in place of the system, anew for every connection.
    ///
    /// ```no_run
    /// # async fn example() -> hstreamdb::Result<()> {
    /// let client = hstreamdb::Client::builder()
    ///     .url("hstream://db")
    ///     .name_resolver(|_host| async { Ok(vec![[127, 0, 0, 1].into()]) })
    ///     .connect()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn name_resolver<F, Fut>(mut self, resolver: F) -> Self
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        self.settings.set_names(Names::new(resolver));
        self
    }

    /// Token sent as `authorization: Basic <token>`; one that begins with `Basic ` or `Bearer ` is sent as it is.
    ///
    /// # Errors
    /// None now; what does not fit together is refused by `connect`.
    pub fn auth_token(self, token: impl Into<String>) -> Result<Self> {
        self.set("auth_token", token.into())
    }

    /// Name and password for basic authentication.
    ///
    /// # Errors
    /// None now; what does not fit together is refused by `connect`.
    pub fn basic_auth(self, username: impl Into<String>, password: impl Into<String>) -> Result<Self> {
        self.set("username", username.into())?.set("password", password.into())
    }

    /// Tells a recorder every measurement as it happens, beside [`Client::metrics`].
    pub fn metrics_recorder(mut self, recorder: Arc<dyn MetricsRecorder>) -> Self {
        self.settings.set_recorder(recorder);
        self
    }

    /// Asks for a token when one is needed: before the first call, shortly before the last one ends, and once when a server
    /// refuses it. Calls at the same time share one asking; what it takes counts for their deadlines. A token goes with
    /// every call, those of consumers and readers and to nodes found later, too.
    ///
    /// ```no_run
    /// # async fn fetch() -> hstreamdb::Result<String> { Ok(String::new()) }
    /// # async fn example() -> hstreamdb::Result<()> {
    /// use hstreamdb::{AuthToken, Client};
    /// use std::time::Duration;
    ///
    /// let client = Client::builder()
    ///     .url("hstream://db")
    ///     .token_provider(|| async {
    ///         let token = fetch().await?;
    ///         Ok(AuthToken::new(format!("Bearer {token}")).valid_for(Duration::from_secs(3600)))
    ///     })
    ///     .connect()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// An error of the provider ends the call; a retryable one is tried again like a failed call.
    pub fn token_provider<F, Fut>(mut self, provider: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<AuthToken>> + Send + 'static,
    {
        self.settings.set_token_provider(TokenProvider::new(provider));
        self
    }

    /// Connects: all addresses at once, the first that answers decides.
    ///
    /// # Errors
    /// Within the connect timeout: `InvalidArgument` for options that do not fit together, `Unauthenticated`,
    /// `PermissionDenied`, `Unavailable` with what each address failed with.
    pub async fn connect(self) -> Result<Client> {
        let cluster = Cluster::connect(self.settings.finish()?).await?;
        Ok(Client { cluster, direct: Arc::default() })
    }
}

/// Whole milliseconds, a fraction rounded up so that it does not become 0.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
