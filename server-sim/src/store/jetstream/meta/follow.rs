//! What keeps the mirror up to date: a consumer of the bucket, made anew whenever something may have been missed.
//!
//! Each consumer first brings the last change of every key and then every new one. The list is complete when the node's
//! own mark, written after the consumer was made, comes out of it.

use super::bucket::nanos;
use super::{Meta, message};
use crate::store::jetstream::failure::{ApiFailure, Lost};
use async_nats::{Message, Subscriber, jetstream};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// A consumer that has nothing to tell says so this often.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// One that is silent for longer is given up.
const PATIENCE: Duration = Duration::from_millis(3500);
/// Servers that take longer to make a consumer, and then to bring everything there is, are asked again.
const BEGIN_WITHIN: Duration = Duration::from_secs(5);
const LIST_WITHIN: Duration = Duration::from_secs(30);
/// The servers forget a consumer that nobody listens to.
const FORGET_AFTER: Duration = Duration::from_secs(30);
/// Pauses before the next consumer.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Follows the bucket until it is told to stop.
pub(super) async fn follow(meta: Arc<Meta>, stop: CancellationToken) {
    let mut pause = PAUSE;
    loop {
        let before = meta.mirror.position();
        let why = tokio::select! {
            () = stop.cancelled() => return,
            why = follow_once(&meta) => why,
        };
        if meta.mirror.position() > before {
            pause = PAUSE;
        }
        tracing::debug!(why = %why.why, "changes of the metadata may have been missed, listing them again");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Ends with the reason why the consumer is of no use any more.
async fn follow_once(meta: &Meta) -> Lost {
    let mut following = match Following::begin(meta).await {
        Ok(following) => following,
        Err(lost) => return lost,
    };
    let why = following.run().await;
    following.end().await;
    why
}

struct Following<'a> {
    meta: &'a Meta,
    consumer: String,
    messages: Subscriber,
    /// Number of the last message that this consumer delivered.
    delivered: u64,
    /// The change that the last message was.
    position: u64,
    /// Whether everything has come that was there when this began.
    listed: bool,
}

impl Following<'_> {
    async fn begin(meta: &Meta) -> Result<Following<'_>, Lost> {
        let connection = &meta.connection;
        let deadline = Instant::now() + BEGIN_WITHIN;
        connection.connected(deadline).await?;
        let inbox = connection.client().new_inbox();
        let failed = |why: String| Lost { sent: false, why };
        let messages = connection.client().subscribe(inbox.clone()).await;
        let messages = messages.map_err(|error| failed(error.to_string()))?;
        let consumer = format!("meta-{:016x}", rand::random::<u64>());
        let request = json!({
            "stream_name": meta.bucket.stream,
            "action": "create",
            "config": {
                "name": consumer,
                "deliver_subject": inbox,
                "deliver_policy": "last_per_subject",
                "filter_subjects": [format!("{}*", meta.bucket.prefix), meta.mark],
                "ack_policy": "none",
                "replay_policy": "instant",
                "flow_control": true,
                "idle_heartbeat": nanos(HEARTBEAT),
                "inactive_threshold": nanos(FORGET_AFTER),
                "mem_storage": true,
                "num_replicas": 1,
            }
        });
        // Before the consumer is there, so that nothing of it is taken for what another one told.
        meta.mirror.begin_list();
        let verb = format!("CONSUMER.CREATE.{}.{consumer}", meta.bucket.stream);
        match connection.api::<Value>(&verb, &request, deadline).await {
            Ok(_) => {}
            Err(ApiFailure::Lost(lost)) => return Err(lost),
            Err(ApiFailure::Refused(error)) => return Err(failed(error.to_string())),
        }
        Ok(Following { meta, consumer, messages, delivered: 0, position: 0, listed: false })
    }

    async fn run(&mut self) -> Lost {
        let meta = self.meta;
        let mut losses = meta.connection.losses();
        losses.mark_unchanged();
        let deadline = Instant::now() + LIST_WITHIN;
        let mut mark = Some(Box::pin(meta.write_mark(deadline)));
        let mut marked = None;
        loop {
            let broken = |why: &str| Lost { sent: false, why: why.to_owned() };
            tokio::select! {
                biased;
                written = async { match &mut mark { Some(mark) => mark.await, None => std::future::pending().await } } => {
                    mark = None;
                    match written {
                        Ok(version) => marked = Some(version),
                        Err(lost) => return lost,
                    }
                }
                next = timeout(PATIENCE, self.messages.next()) => match next {
                    Ok(Some(message)) => if let Err(why) = self.take(message).await { return broken(&why) },
                    Ok(None) => return broken("the subscription ended"),
                    Err(_) => return broken("the consumer is silent"),
                },
                Ok(()) = losses.changed() => return broken("the connection was lost"),
                () = meta.again.notified(), if self.listed => return broken("it does not come forward"),
            }
            if !self.listed && marked.is_some_and(|marked| self.position >= marked) {
                self.listed = true;
                meta.mirror.end_list(self.position);
            }
            if self.listed {
                meta.mirror.reach(self.position);
            } else if Instant::now() > deadline {
                return broken("the list does not end");
            }
        }
    }

    async fn take(&mut self, message: Message) -> Result<(), String> {
        if let Some(status) = message.status {
            return self.take_status(status.as_u16(), message).await;
        }
        let message = jetstream::Message { message, context: self.meta.connection.context().clone() };
        let info = message.info().map_err(|error| format!("a message makes no sense: {error}"))?;
        if info.consumer_sequence != self.delivered + 1 {
            return Err("a message was lost".to_owned());
        }
        let version = info.stream_sequence;
        self.delivered = info.consumer_sequence;
        self.position = version;
        // What is no key is a mark, or not ours.
        if let Some(key) = message::key_of(&self.meta.bucket, &message.subject) {
            let change = message::read(&key, message.headers.as_ref(), message.payload.clone());
            self.meta.mirror.take(&key, version, change);
        }
        Ok(())
    }

    /// A sign of life, or a question whether more may come.
    async fn take_status(&mut self, status: u16, message: Message) -> Result<(), String> {
        if status != 100 {
            return Err(message.description.unwrap_or_else(|| format!("status {status}")));
        }
        let header = |name: &str| {
            message
                .headers
                .as_ref()
                .and_then(|headers| headers.get(name))
                .map(|value| value.as_str().to_owned())
        };
        if let Some(last) = header("Nats-Last-Consumer").and_then(|last| last.parse::<u64>().ok())
            && last != self.delivered
        {
            return Err("the last messages were lost".to_owned());
        }
        let answer_to =
            message.reply.map(|reply| reply.to_string()).or_else(|| header("Nats-Consumer-Stalled"));
        if let Some(subject) = answer_to {
            let sent = self.meta.connection.client().publish(subject, Bytes::new()).await;
            sent.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Lets the servers forget it at once; otherwise they do so later.
    async fn end(&mut self) {
        let subject = format!("$JS.API.CONSUMER.DELETE.{}.{}", self.meta.bucket.stream, self.consumer);
        let client = self.meta.connection.client();
        if client.connection_state() == async_nats::connection::State::Connected {
            let _ = client.publish(subject, Bytes::new()).await;
        }
    }
}
