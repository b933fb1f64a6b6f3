//! The connection to the servers: one per store, which comes back by itself.

use super::failure::{ApiError, ApiFailure, Lost};
use super::open_error::{Attempt, OpenError};
use super::url::Login;
use super::{JetStreamOptions, StoreUrl};
use async_nats::connection::State;
use async_nats::jetstream;
use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Message, Request, RequestErrorKind,
};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// A server that is silent for twice as long is given up.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// How long one server may take to let this node in.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// Longest pause between two attempts to connect again.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A server that does not answer is asked again after this long, unless the call ends earlier.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Between two looks whether the connection is back.
const LOOK: Duration = Duration::from_millis(50);

/// What one store has in common: a connection that comes back, and who it is.
pub(crate) struct Connection {
    client: Client,
    context: jetstream::Context,
    url: StoreUrl,
    timeout: Duration,
    /// Times the connection was lost.
    losses: watch::Receiver<u64>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects once; afterwards the connection comes back by itself, for ever.
    pub(super) async fn open(options: &JetStreamOptions) -> Result<Arc<Connection>, Attempt> {
        let url = &options.url;
        check_files(options)?;
        let (lost, losses) = watch::channel(0);
        let mut connect = ConnectOptions::new()
            .name("hstream-server")
            .require_tls(url.tls())
            .ping_interval(PING_INTERVAL)
            .connection_timeout(CONNECT_WITHIN)
            .max_reconnects(None)
            .reconnect_delay_callback(pause)
            // Every call says how long it waits.
            .request_timeout(None)
            .event_callback(move |event| {
                if matches!(event, Event::Disconnected) {
                    lost.send_modify(|times| *times += 1);
                }
                tell(&event);
                std::future::ready(())
            });
        connect = match url.login() {
            None => connect,
            Some(Login::User { name, password }) => connect.user_and_password(name.clone(), password.clone()),
            Some(Login::Token(token)) => connect.token(token.clone()),
        };
        if let Some(authorities) = &options.tls_ca {
            connect = connect.add_root_certificates(authorities.clone());
        }
        if let Some((certificate, key)) = &options.tls_identity {
            connect = connect.add_client_certificate(certificate.clone(), key.clone());
        }
        let scheme = if url.tls() { "tls" } else { "nats" };
        let servers: Result<Vec<async_nats::ServerAddr>, _> = url
            .servers()
            .iter()
            .map(|(host, port)| match host.contains(':') {
                true => format!("{scheme}://[{host}]:{port}").parse(),
                false => format!("{scheme}://{host}:{port}").parse(),
            })
            .collect();
        let servers = servers.map_err(|error: io::Error| Attempt::Again(error.to_string()))?;
        let client = connect.connect(servers).await.map_err(|error| refusal(url, &error))?;
        let context = jetstream::new(client.clone());
        Ok(Arc::new(Connection { client, context, url: url.clone(), timeout: options.timeout, losses }))
    }

    /// The client, for what this type has no word for.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// What reads messages of consumers.
    pub(crate) fn context(&self) -> &jetstream::Context {
        &self.context
    }

    /// Where the store is.
    pub(crate) fn url(&self) -> &StoreUrl {
        &self.url
    }

    /// What everything of this store is called after.
    pub(crate) fn name(&self) -> &str {
        self.url.name()
    }

    /// How long a call waits for its answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Largest message in bytes, headers included, as the server says it that this node is connected to.
    pub(crate) fn max_payload(&self) -> usize {
        self.client.server_info().max_payload
    }

    /// Whether the server is one of several.
    pub(crate) fn is_clustered(&self) -> bool {
        self.client.server_info().cluster.is_some()
    }

    /// Changes whenever the connection was lost.
    pub(crate) fn losses(&self) -> watch::Receiver<u64> {
        self.losses.clone()
    }

    /// Waits until there is a connection.
    pub(crate) async fn connected(&self, deadline: Instant) -> Result<(), Lost> {
        while self.client.connection_state() != State::Connected {
            if Instant::now() >= deadline {
                return Err(Lost { sent: false, why: "there is no connection to a NATS server".to_owned() });
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Sends a message and waits for the answer. It ends early when the connection is lost or nobody answers for a while, so
    /// that the caller can ask again.
    pub(crate) async fn request(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Message, Lost> {
        // Without a connection a message would wait in the client and be sent whenever that comes back.
        self.connected(deadline).await?;
        let mut losses = self.losses();
        losses.mark_unchanged();
        let mut request = Request::new().payload(payload).timeout(None);
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let lost = |sent, why: &str| Err(Lost { sent, why: why.to_owned() });
        let until = deadline.min(Instant::now() + ASK_AGAIN);
        let answer = async {
            tokio::select! {
                biased;
                answer = self.client.send_request(subject, request) => Some(answer),
                Ok(()) = losses.changed() => None,
            }
        };
        match timeout_at(until, answer).await {
            Ok(Some(Ok(message))) => Ok(message),
            Ok(Some(Err(error))) if error.kind() == RequestErrorKind::NoResponders => {
                lost(false, "no NATS server is in charge of it right now")
            }
            Ok(Some(Err(error))) => lost(true, &error.to_string()),
            Ok(None) => lost(true, "the connection to the NATS server was lost"),
            Err(_) => lost(true, "the NATS servers do not answer"),
        }
    }

    /// Asks the servers for something of their API; an empty body where `body` is null.
    pub(crate) async fn api<T: DeserializeOwned>(
        &self,
        verb: &str,
        body: &serde_json::Value,
        deadline: Instant,
    ) -> Result<T, ApiFailure> {
        #[derive(Deserialize)]
        struct Refusal {
            error: Option<ApiError>,
        }
        let payload = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let answer = self.request(format!("$JS.API.{verb}"), None, payload, deadline).await?;
        let odd = |error: serde_json::Error| {
            ApiFailure::Lost(Lost {
                sent: true,
                why: format!("the answer to {verb} makes no sense: {error}"),
            })
        };
        let refusal: Refusal = serde_json::from_slice(&answer.payload).map_err(odd)?;
        if let Some(error) = refusal.error {
            return Err(ApiFailure::Refused(error));
        }
        serde_json::from_slice(&answer.payload).map_err(odd)
    }

    /// Ends it.
    pub(super) async fn close(&self) {
        // Fails when it is over already.
        let _ = self.client.drain().await;
    }
}

/// Before the next attempt to connect again.
fn pause(attempts: usize) -> Duration {
    let steps = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    Duration::from_millis(50).saturating_mul(steps).min(LONGEST_PAUSE)
}

fn tell(event: &Event) {
    match event {
        Event::Disconnected => tracing::warn!("the connection to the NATS server was lost, connecting again"),
        Event::Connected => tracing::info!("connected to a NATS server"),
        Event::LameDuckMode => tracing::info!("the NATS server is about to stop"),
        Event::SlowConsumer(_) => tracing::warn!("messages of NATS came faster than they were taken"),
        Event::ServerError(error) => tracing::warn!("the NATS server reports: {error}"),
        // One for each failed attempt.
        Event::ClientError(error) => tracing::debug!("NATS: {error}"),
        Event::Draining | Event::Closed => {}
    }
}

/// Names the file that cannot be read, before a handshake fails for a reason that is hard to guess.
fn check_files(options: &JetStreamOptions) -> Result<(), OpenError> {
    let check = |setting: &'static str, path: &Path| {
        let failed = |reason: String| OpenError::File { setting, path: path.to_owned(), reason };
        let text = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        if text.windows(11).any(|window| window == b"-----BEGIN ") {
            return Ok(());
        }
        Err(failed("it is no PEM file".to_owned()))
    };
    if let Some(path) = &options.tls_ca {
        check("--store-tls-ca-path", path)?;
    }
    if let Some((certificate, key)) = &options.tls_identity {
        check("--store-tls-cert-path", certificate)?;
        check("--store-tls-key-path", key)?;
    }
    Ok(())
}

/// What it means that a connection did not come about.
fn refusal(url: &StoreUrl, error: &async_nats::ConnectError) -> Attempt {
    let text = chain(error);
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            Attempt::Final(OpenError::Refused { url: url.to_string(), reason: text })
        }
        ConnectErrorKind::Tls => Attempt::Final(OpenError::Tls { url: url.to_string(), reason: text }),
        _ if is_tls(error) => Attempt::Final(OpenError::Tls { url: url.to_string(), reason: text }),
        _ => Attempt::Again(text),
    }
}

/// Whether TLS is what failed; the client reports that as a failure of input or output.
fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    if inner.is_some_and(|inner| inner.is::<tokio_rustls::rustls::Error>())
        || error.is::<tokio_rustls::rustls::Error>()
    {
        return true;
    }
    error.source().is_some_and(is_tls)
}

/// An error and what it rests on, each said once.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = next.source();
    }
    text
}
