//! Requests to JetStream, as they stand on the wire, and what the answers mean.

use super::front::HEADER;
use crate::store::{Result, StoreError};
use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::{Client, HeaderMap, Message, Request, RequestErrorKind, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// One try of a request; an answer that takes longer is taken for lost.
const ONE_TRY: Duration = Duration::from_secs(2);
/// Pauses between tries: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Error codes of JetStream.
mod code {
    pub const WRONG_LAST: [u64; 2] = [10071, 10164];
    pub const STREAM_EXISTS: u64 = 10058;
    pub const NO_MESSAGE: u64 = 10037;
    /// Resources of the server, of the account, of the stream.
    pub const FULL: [u64; 4] = [10047, 10023, 10077, 10054];
    pub const STREAM_NOT_FOUND: u64 = 10059;
}

/// Why a message was not stored, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishError {
    /// The last message of its subject is another one than expected; its sequence, if the answer says so.
    Wrong(Option<u64>),
    /// It may have been stored.
    Unclear(String),
    /// It was not sent, or nobody took it.
    NotSent(String),
    /// There is no room for it.
    Full(String),
    /// It will never be taken.
    Refused(String),
}

/// A stored message.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its sequence in the stream.
    pub seq: u64,
    /// Our header, as it stands there.
    pub front: Option<String>,
    /// Its data.
    pub payload: Bytes,
}

/// A connection to JetStream.
#[derive(Debug, Clone)]
pub struct Wire {
    context: Context,
    client: Client,
    /// How long calls go on trying.
    timeout: Duration,
}

#[derive(Debug, Deserialize)]
struct ApiError {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

#[derive(Debug, Deserialize)]
struct Answer {
    error: Option<ApiError>,
    #[serde(default)]
    seq: u64,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

/// An answer of the JetStream API that says no.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ApiFailure {
    /// It may be different in a moment.
    Transient(String),
    /// It says what.
    Said { code: u64, description: String },
}

impl Wire {
    pub fn new(context: Context, timeout: Duration) -> Self {
        Wire { client: context.client(), context, timeout }
    }

    /// One that leads nowhere.
    #[cfg(test)]
    pub async fn detached() -> Self {
        let client =
            async_nats::ConnectOptions::new().retry_on_initial_connect().connect("127.0.0.1:1").await;
        Wire::new(async_nats::jetstream::new(client.unwrap()), Duration::from_secs(1))
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Bytes of headers and payload that the server connected to takes in a message.
    pub fn max_message(&self) -> usize {
        self.client.server_info().max_payload
    }

    /// Stores one message and returns its sequence.
    pub async fn publish(
        &self,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<u64, PublishError> {
        // What the client would keep for later may land much later; what was not sent can be told apart.
        if !self.is_connected() {
            return Err(PublishError::NotSent("there is no connection to the servers".into()));
        }
        let request = Request::new().headers(headers).payload(payload).timeout(Some(ONE_TRY));
        let answer = match self.client.send_request(subject.to_owned(), request).await {
            Ok(answer) => answer,
            Err(error) => {
                let text = error.to_string();
                return Err(match error.kind() {
                    RequestErrorKind::NoResponders => PublishError::NotSent("no leader answers".into()),
                    RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
                        PublishError::Refused(text)
                    }
                    _ => PublishError::Unclear(text),
                });
            }
        };
        let Ok(answer) = serde_json::from_slice::<Answer>(&answer.payload) else {
            return Err(PublishError::Unclear("the answer cannot be read".into()));
        };
        let Some(error) = answer.error else { return Ok(answer.seq) };
        let ApiError { code, err_code, description } = error;
        if code::WRONG_LAST.contains(&err_code) {
            let last = description.rsplit(' ').next().and_then(|last| last.parse().ok());
            return Err(PublishError::Wrong(last));
        }
        Err(if code::FULL.contains(&err_code) {
            PublishError::Full(description)
        } else if code >= 500 {
            PublishError::Unclear(description)
        } else {
            PublishError::Refused(description)
        })
    }

    /// Messages of `subject` from sequence `from` on, at most so many of them and not many more bytes, from whatever server
    /// has time: it may be one that lags, so what is missing may be there.
    pub async fn batch(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<Stored>> {
        let request = json!({ "seq": from.max(1), "next_by_subj": subject, "batch": most.max(1), "max_bytes": bytes.max(1) });
        self.gather(stream, &request).await
    }

    /// The last message of each subject that matches, at most so many, from whatever server has time.
    pub async fn last_of_each(&self, stream: &str, subjects: &str, most: usize) -> Result<Vec<Stored>> {
        self.gather(stream, &json!({ "multi_last": [subjects], "batch": most })).await
    }

    async fn gather(&self, stream: &str, request: &Value) -> Result<Vec<Stored>> {
        let deadline = Instant::now() + self.timeout;
        let mut pause = PAUSES.0;
        loop {
            let failed = match self.gather_once(stream, request).await {
                Ok(found) => return Ok(found),
                Err(reason) => reason,
            };
            rest(&mut pause, deadline).await.map_err(|()| unreachable("reading", &failed))?;
        }
    }

    async fn gather_once(&self, stream: &str, request: &Value) -> Result<Vec<Stored>, String> {
        if !self.is_connected() {
            return Err("there is no connection to the servers".into());
        }
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
        let payload = Bytes::from(request.to_string());
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        let sent = self.client.publish_with_reply(subject, inbox, payload).await;
        sent.map_err(|error| error.to_string())?;
        let mut found = Vec::new();
        loop {
            let deadline = Instant::now() + ONE_TRY;
            let message = timeout_at(deadline, answers.next()).await.map_err(|_| "no answer in time")?;
            let message = message.ok_or("the connection was lost")?;
            match message.status {
                None => found.extend(stored(&message)),
                Some(StatusCode::NOT_FOUND) => return Ok(found),
                Some(status) if status.as_u16() == 204 => return Ok(found),
                Some(StatusCode::NO_RESPONDERS) => return Err("no server answers".into()),
                Some(status) => return Err(format!("the answer is {status}")),
            }
        }
    }

    /// The first message of `subject` at or after `from`, as the leader has it.
    pub async fn next_at_leader(&self, stream: &str, subject: &str, from: u64) -> Result<Option<Stored>> {
        let request = json!({ "seq": from.max(1), "next_by_subj": subject });
        match self.api(&format!("STREAM.MSG.GET.{stream}"), &request).await {
            Ok(mut answer) => {
                let message = answer.remove("message").unwrap_or_default();
                Ok(Some(
                    stored_json(&message)
                        .ok_or_else(|| unreachable("reading", "the answer cannot be read"))?,
                ))
            }
            Err(ApiFailure::Said { code: code::NO_MESSAGE, .. }) => Ok(None),
            Err(failure) => Err(failure.into_error("reading")),
        }
    }

    /// The first message of `subject` that the server took at or after that time.
    pub async fn first_since(&self, stream: &str, subject: &str, time_ms: u64) -> Result<Option<Stored>> {
        let time = chrono::DateTime::from_timestamp_millis(i64::try_from(time_ms).unwrap_or(i64::MAX));
        let Some(time) = time else { return Ok(None) };
        let request = json!({ "start_time": time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true), "next_by_subj": subject, "batch": 1 });
        Ok(self.gather(stream, &request).await?.into_iter().next())
    }

    /// Removes the messages of `subject` below sequence `below`, or all of them.
    pub async fn purge(&self, stream: &str, subject: &str, below: Option<u64>) -> Result<()> {
        let request = match below {
            // To JetStream 0 is no bound at all, and nothing is below the first message.
            Some(0 | 1) => return Ok(()),
            Some(below) => json!({ "filter": subject, "seq": below }),
            None => json!({ "filter": subject }),
        };
        match self.api(&format!("STREAM.PURGE.{stream}"), &request).await {
            Ok(_) | Err(ApiFailure::Said { code: code::STREAM_NOT_FOUND, .. }) => Ok(()),
            Err(failure) => Err(failure.into_error("removing data")),
        }
    }

    /// Makes sure that there is this stream and that it can do what is asked of it.
    pub async fn ensure_stream(&self, config: &Value) -> Result<()> {
        let name = config.get("name").and_then(Value::as_str).unwrap_or_default();
        match self.api(&format!("STREAM.CREATE.{name}"), config).await {
            Ok(_) => return Ok(()),
            // An operator may have changed what is not ours to say.
            Err(ApiFailure::Said { code: code::STREAM_EXISTS, .. }) => {}
            Err(failure) => return Err(failure.into_error(&format!("creating the stream {name}"))),
        }
        let info = self.api(&format!("STREAM.INFO.{name}"), &json!({})).await;
        let info = info.map_err(|failure| failure.into_error(&format!("asking for the stream {name}")))?;
        for (key, wanted) in
            config.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with("allow_"))
        {
            let found = info.get("config").and_then(|config| config.get(key));
            if found != Some(wanted) {
                return Err(StoreError::Io(format!(
                    "the stream {name} must have {key} = {wanted}; change it with the tools of NATS, or use another name in the store's URL"
                )));
            }
        }
        Ok(())
    }

    /// Creates a consumer and returns how many messages wait for it.
    pub async fn create_consumer(&self, stream: &str, config: &Value) -> Result<(String, u64), String> {
        let request = json!({ "stream_name": stream, "config": config });
        let answer = self
            .api_once(&format!("CONSUMER.CREATE.{stream}"), &request)
            .await
            .map_err(|failure| failure.to_string())?;
        let name = answer.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok((name, answer.get("num_pending").and_then(Value::as_u64).unwrap_or_default()))
    }

    /// Removes a consumer; nothing happens if that fails, it goes by itself.
    pub async fn delete_consumer(&self, stream: &str, name: &str) {
        let _ = self.api_once(&format!("CONSUMER.DELETE.{stream}.{name}"), &json!({})).await;
    }

    async fn api(&self, what: &str, request: &Value) -> Result<serde_json::Map<String, Value>, ApiFailure> {
        let deadline = Instant::now() + self.timeout;
        let mut pause = PAUSES.0;
        loop {
            match self.api_once(what, request).await {
                Err(ApiFailure::Transient(reason)) => {
                    if rest(&mut pause, deadline).await.is_err() {
                        return Err(ApiFailure::Transient(reason));
                    }
                }
                outcome => return outcome,
            }
        }
    }

    async fn api_once(
        &self,
        what: &str,
        request: &Value,
    ) -> Result<serde_json::Map<String, Value>, ApiFailure> {
        if !self.is_connected() {
            return Err(ApiFailure::Transient("there is no connection to the servers".into()));
        }
        let request = Request::new().payload(Bytes::from(request.to_string())).timeout(Some(ONE_TRY));
        let answer = self.client.send_request(format!("$JS.API.{what}"), request).await;
        let answer = answer.map_err(|error| ApiFailure::Transient(error.to_string()))?;
        let Ok(answer) = serde_json::from_slice::<Answer>(&answer.payload) else {
            return Err(ApiFailure::Transient("the answer cannot be read".into()));
        };
        match answer.error {
            None => Ok(answer.rest),
            Some(ApiError { code, err_code, description })
                if code >= 500 && !code::FULL.contains(&err_code) && err_code != 10074 =>
            {
                Err(ApiFailure::Transient(description))
            }
            // A server that is down is no peer for a new stream until it is back.
            Some(ApiError { err_code: 10005, description, .. }) => Err(ApiFailure::Transient(description)),
            Some(ApiError { err_code, description, .. }) => {
                Err(ApiFailure::Said { code: err_code, description })
            }
        }
    }
}

impl ApiFailure {
    fn into_error(self, what: &str) -> StoreError {
        match self {
            ApiFailure::Transient(reason) => unreachable(what, &reason),
            ApiFailure::Said { code, description } if code::FULL.contains(&code) => {
                StoreError::DiskFull(description)
            }
            ApiFailure::Said { code, description } => {
                StoreError::Io(format!("{what}: JetStream refuses: {description} ({code})"))
            }
        }
    }
}

impl std::fmt::Display for ApiFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ApiFailure::Transient(reason) => f.write_str(reason),
            ApiFailure::Said { code, description } => write!(f, "{description} ({code})"),
        }
    }
}

/// Nobody answered, or not in time.
pub fn unreachable(what: &str, reason: &str) -> StoreError {
    StoreError::Unreachable(format!("{what}: {reason}"))
}

/// Waits before the next try, twice as long each time; fails when the time is over.
pub async fn rest(pause: &mut Duration, deadline: Instant) -> Result<(), ()> {
    let until = Instant::now() + *pause;
    if until >= deadline {
        return Err(());
    }
    tokio::time::sleep_until(until).await;
    *pause = (*pause * 2).min(PAUSES.1);
    Ok(())
}

/// The first pause of [`rest`].
pub const FIRST_PAUSE: Duration = PAUSES.0;

fn stored(message: &Message) -> Option<Stored> {
    let headers = message.headers.as_ref()?;
    let seq = headers.get("Nats-Sequence")?.as_str().parse().ok()?;
    let front = headers.get(HEADER).map(|value| value.as_str().to_owned());
    Some(Stored { seq, front, payload: message.payload.clone() })
}

fn stored_json(message: &Value) -> Option<Stored> {
    let bytes = |name| match message.get(name).and_then(Value::as_str) {
        Some(text) => BASE64.decode(text).ok(),
        None => Some(Vec::new()),
    };
    let headers = bytes("hdrs")?;
    let headers = String::from_utf8_lossy(&headers);
    let ours = headers.split("\r\n").find_map(|line| line.strip_prefix(HEADER)?.strip_prefix(':'));
    Some(Stored {
        seq: message.get("seq").and_then(Value::as_u64)?,
        front: ours.map(|value| value.trim().to_owned()),
        payload: Bytes::from(bytes("data")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_the_leader_is_read_with_its_header() {
        let hdrs = BASE64.encode("NATS/1.0\r\nNats-TTL: 60s\r\nHs: abc=\r\n\r\n");
        let found = stored_json(&json!({ "subject": "s", "seq": 7, "hdrs": hdrs, "data": "eHl6" })).unwrap();
        assert_eq!((found.seq, found.front.as_deref(), &found.payload[..]), (7, Some("abc="), &b"xyz"[..]));
        assert!(stored_json(&json!({ "seq": 7, "data": "?" })).is_none());
        assert!(stored_json(&Value::Null).is_none());
    }
}
