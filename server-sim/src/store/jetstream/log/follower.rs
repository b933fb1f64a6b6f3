//! Following a lane: the headers of everything that is stored in it, by whomever, as it is stored.
//!
//! First the last message of every subject, then what is new. Whatever goes wrong (a server that stops, messages that get lost
//! on the way, silence) the consumer is made anew and goes on behind what has come by.

use super::front::HEADER;
use super::lane::Lane;
use super::wire::FIRST_PAUSE;
use async_nats::jetstream::Message as JetStreamMessage;
use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the server says that it is there when there is nothing else to say, and how long it may not.
const HEARTBEAT: Duration = Duration::from_millis(500);
const SILENCE: Duration = Duration::from_millis(1700);
/// How often it is looked whether the connection is another one.
const LOOK: Duration = Duration::from_millis(250);
/// Longest pause between two tries to begin.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Messages that were missed and are read one by one; of more, only the last one of each subject.
const READ_ALL: u64 = 20_000;

/// Follows a lane until told to stop.
pub async fn follow(lane: Arc<Lane>, end: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        let reason = tokio::select! {
            () = end.cancelled() => return,
            reason = follow_once(&lane, &mut pause) => reason,
        };
        // The first time is the normal case of a server that moved.
        if pause >= LONGEST_PAUSE && !told {
            told = true;
            tracing::warn!(stream = lane.stream, reason, "the log cannot be followed; trying on");
        } else {
            tracing::debug!(stream = lane.stream, reason, "the log is followed anew");
        }
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        told &= pause >= LONGEST_PAUSE;
    }
}

/// Returns why it ended. `pause` is reset when it has begun.
async fn follow_once(lane: &Lane, pause: &mut Duration) -> String {
    let client = lane.wire.client();
    let statistics = client.statistics();
    let connects = statistics.connects.load(Ordering::Relaxed);
    let (mut messages, consumer) = match begin(lane).await {
        Ok(begun) => begun,
        Err(reason) => return reason,
    };
    *pause = FIRST_PAUSE;
    let mut expected = 1;
    let mut last_sign = tokio::time::Instant::now();
    let reason = loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = tokio::time::sleep(LOOK) => {
                if statistics.connects.load(Ordering::Relaxed) != connects {
                    break "the connection is a new one".to_owned();
                }
                if last_sign.elapsed() > SILENCE {
                    break "the server is silent".to_owned();
                }
                continue;
            }
        };
        let Some(message) = message else { break "the connection is closed".to_owned() };
        last_sign = tokio::time::Instant::now();
        if let Some(status) = message.status {
            match sign(lane, &message, status, expected).await {
                Ok(()) => continue,
                Err(reason) => break reason,
            }
        }
        match take(lane, message, expected) {
            Ok(()) => expected += 1,
            Err(reason) => break reason,
        }
    };
    drop(messages);
    lane.wire.delete_consumer(&lane.stream, &consumer).await;
    reason
}

async fn begin(lane: &Lane) -> Result<(Subscriber, String), String> {
    if !lane.wire.is_connected() {
        return Err("there is no connection to the servers".into());
    }
    let client = lane.wire.client();
    let position = *lane.position.borrow();
    let start = match position {
        0 => json!({ "deliver_policy": "last_per_subject" }),
        _ => json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": position + 1 }),
    };
    let inbox = client.new_inbox();
    let messages = client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
    let (name, waiting) = lane.wire.create_consumer(&lane.stream, &config(lane, &inbox, start)).await?;
    if position == 0 || waiting <= READ_ALL {
        return Ok((messages, name));
    }
    lane.wire.delete_consumer(&lane.stream, &name).await;
    drop(messages);
    let inbox = client.new_inbox();
    let messages = client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
    let start = json!({ "deliver_policy": "last_per_subject" });
    let (name, _) = lane.wire.create_consumer(&lane.stream, &config(lane, &inbox, start)).await?;
    Ok((messages, name))
}

fn config(lane: &Lane, inbox: &str, start: Value) -> Value {
    let mut config = json!({
        "deliver_subject": inbox,
        "filter_subject": lane.all(),
        "ack_policy": "none",
        "replay_policy": "instant",
        "max_deliver": 1,
        "headers_only": true,
        "flow_control": true,
        "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        "inactive_threshold": Duration::from_secs(30).as_nanos() as u64,
        "mem_storage": true,
        "num_replicas": 1,
    });
    if let (Value::Object(config), Value::Object(start)) = (&mut config, start) {
        config.extend(start);
    }
    config
}

/// A heartbeat, or a question whether we keep up.
async fn sign(lane: &Lane, message: &Message, status: StatusCode, expected: u64) -> Result<(), String> {
    if status != StatusCode::IDLE_HEARTBEAT {
        return Err(format!("the server ends it: {status}"));
    }
    let header = |name| message.headers.as_ref().and_then(|headers| headers.get(name));
    let stalled = header("Nats-Consumer-Stalled").map(|subject| subject.as_str().to_owned());
    if let Some(answer) = message.reply.as_ref().map(ToString::to_string).or(stalled) {
        let sent = lane.wire.client().publish(answer, Bytes::new()).await;
        sent.map_err(|error| error.to_string())?;
    }
    let delivered: Option<u64> = header("Nats-Last-Consumer").and_then(|last| last.as_str().parse().ok());
    match delivered {
        Some(delivered) if delivered >= expected => Err("messages got lost on the way".into()),
        _ => Ok(()),
    }
}

fn take(lane: &Lane, message: Message, expected: u64) -> Result<(), String> {
    let message = JetStreamMessage { message, context: lane.wire.context().clone() };
    let (seq, delivered) = match message.info() {
        Ok(info) => (info.stream_sequence, info.consumer_sequence),
        Err(error) => return Err(format!("a message cannot be read: {error}")),
    };
    if delivered != expected {
        return Err("messages got lost on the way".into());
    }
    let front = message.headers.as_ref().and_then(|headers| headers.get(HEADER));
    lane.came(&message.subject, seq, front.map(|front| front.as_str()));
    Ok(())
}
