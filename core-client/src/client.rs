//! `Client` and its builder: the way to everything else.

use crate::{
    cluster::{Cluster, Node, RawSettings},
    error::Result,
    events::Events,
    metrics::{MetricsRecorder, MetricsSnapshot},
    options::OptionValue,
};
use std::{sync::Arc, time::Duration};

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

    /// Membership and connection events from now on.
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

/// Options of a [`Client`]. Defaults: request and connect timeout 5 s, 5 tries from 100 ms to 5 s apart, discovery every
/// 30 s, messages up to 32 MiB.
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

    /// Sets an option of the table by name, in snake or camel case.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown name, with the known ones, and for a value that does not fit.
    pub fn set(mut self, name: &str, value: impl Into<OptionValue>) -> Result<Self> {
        self.settings.set(name, value.into())?;
        Ok(self)
    }

    /// Deadline of one try of a call; default 5 s, at least 1 ms.
    ///
    /// # Errors
    /// `InvalidArgument` when out of range, as for all setters of durations.
    pub fn request_timeout(self, timeout: Duration) -> Result<Self> {
        self.set("request_timeout_ms", millis(timeout))
    }

    /// Deadline of connecting; default 5 s, at least 1 ms.
    ///
    /// # Errors
    /// `InvalidArgument` when out of range.
    pub fn connect_timeout(self, timeout: Duration) -> Result<Self> {
        self.set("connect_timeout_ms", millis(timeout))
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

    /// Connects: all addresses at once, the first that answers decides.
    ///
    /// # Errors
    /// Within the connect timeout: `InvalidArgument` for options that do not fit together, `Unauthenticated`,
    /// `PermissionDenied`, `Unavailable` with what each address failed with.
    pub async fn connect(self) -> Result<Client> {
        let cluster = Cluster::connect(self.settings.finish()?).await?;
        Ok(Client { cluster })
    }
}

/// Whole milliseconds, a fraction rounded up so that it does not become 0.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
