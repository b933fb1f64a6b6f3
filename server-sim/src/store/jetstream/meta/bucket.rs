//! The bucket that holds the metadata: a stream with the newest message of every key.

use crate::store::jetstream::connection::Connection;
use crate::store::jetstream::failure::ApiFailure;
use crate::store::jetstream::open_error::{Attempt, OpenError};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// The servers know a message that comes twice for this long.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(60);
/// Copies in a cluster of servers, unless another number is asked for.
const USUAL_REPLICAS: usize = 3;
/// What marks a stream as ours, and the form of what is in it.
const FORM_KEY: &str = "hstream.form";
const FORM: &str = "1";

const STREAM_NOT_FOUND: u32 = 10059;
const NOT_CLUSTERED: u32 = 10074;
const NO_SUITABLE_PEERS: u32 = 10005;

/// Names of the bucket.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    /// The stream.
    pub(super) stream: String,
    /// What precedes a key in a subject.
    pub(super) prefix: String,
}

impl Bucket {
    pub(super) fn of(connection: &Connection) -> Bucket {
        let name = connection.name();
        Bucket { stream: format!("KV_{name}_meta"), prefix: format!("$KV.{name}_meta.") }
    }

    /// Makes it if it is missing, with so many copies; one that has fewer gets more. Returns
    /// how many there are.
    pub(super) async fn ensure(
        &self,
        connection: &Connection,
        replicas: Option<usize>,
    ) -> Result<usize, Attempt> {
        let deadline = Instant::now() + connection.timeout();
        let lone = if connection.is_clustered() { USUAL_REPLICAS } else { 1 };
        let wanted = replicas.unwrap_or(lone);
        let info =
            connection.api::<Value>(&format!("STREAM.INFO.{}", self.stream), &Value::Null, deadline).await;
        let config = match info {
            Ok(info) => info.get("config").cloned().unwrap_or_default(),
            Err(ApiFailure::Refused(error)) if error.err_code == STREAM_NOT_FOUND => {
                let verb = format!("STREAM.CREATE.{}", self.stream);
                let made = connection.api::<Value>(&verb, &self.config(wanted), deadline).await;
                made.map_err(|failure| self.refusal(connection, wanted, failure))?;
                if wanted == 1 {
                    tracing::warn!(
                        "the metadata have ONE COPY, on one NATS server: what that loses is lost; run three servers as a cluster"
                    );
                }
                return Ok(wanted);
            }
            Err(failure) => return Err(self.refusal(connection, wanted, failure)),
        };
        self.check(connection, &config)?;
        let has = config.get("num_replicas").and_then(Value::as_u64);
        let has = has.and_then(|has| usize::try_from(has).ok()).unwrap_or(1);
        if has >= wanted {
            return Ok(has);
        }
        let mut more = config;
        if let Some(more) = more.as_object_mut() {
            more.insert("num_replicas".to_owned(), json!(wanted));
        }
        let verb = format!("STREAM.UPDATE.{}", self.stream);
        match connection.api::<Value>(&verb, &more, deadline).await {
            Ok(_) => {
                tracing::info!("the metadata get {wanted} copies");
                Ok(wanted)
            }
            Err(failure) if replicas.is_some() => Err(self.refusal(connection, wanted, failure)),
            Err(failure) => {
                tracing::warn!("the metadata have fewer than {wanted} copies: {failure}");
                Ok(has)
            }
        }
    }

    fn config(&self, replicas: usize) -> Value {
        json!({
            "name": self.stream,
            "description": "metadata of an HStream cluster",
            "subjects": [format!("{}>", self.prefix)],
            "retention": "limits",
            "storage": "file",
            "num_replicas": replicas,
            "max_msgs_per_subject": 1,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "discard": "new",
            "allow_rollup_hdrs": true,
            "deny_delete": true,
            "allow_direct": true,
            "allow_msg_ttl": true,
            "duplicate_window": nanos(DUPLICATE_WINDOW),
            "metadata": { FORM_KEY: FORM },
        })
    }

    /// Whether the stream of this name is one that this server made.
    fn check(&self, connection: &Connection, config: &Value) -> Result<(), OpenError> {
        let form = config.get("metadata").and_then(|metadata| metadata.get(FORM_KEY)).and_then(Value::as_str);
        let reason = match form {
            Some(FORM) => return Ok(()),
            Some(other) => format!("its form is {other:?}, this server knows the form {FORM:?}"),
            None => "somebody else made it".to_owned(),
        };
        Err(OpenError::Foreign { url: connection.url().to_string(), stream: self.stream.clone(), reason })
    }

    fn refusal(&self, connection: &Connection, replicas: usize, failure: ApiFailure) -> Attempt {
        let error = match failure {
            ApiFailure::Lost(lost) => return lost.into(),
            ApiFailure::Refused(error) => error,
        };
        let url = connection.url().to_string();
        let too_few = OpenError::TooFewPeers { url: url.clone(), replicas, reason: error.to_string() };
        match error.err_code {
            NOT_CLUSTERED => Attempt::Final(too_few),
            // Others may be on their way up.
            NO_SUITABLE_PEERS => Attempt::Later(too_few),
            _ if error.is_passing() => Attempt::Again(error.to_string()),
            _ => {
                let what = format!("keep the stream {}", self.stream);
                Attempt::Final(OpenError::Denied { url, what, reason: error.to_string() })
            }
        }
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
