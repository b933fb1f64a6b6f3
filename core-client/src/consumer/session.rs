//! One attachment of a consumer to its subscription: batches in, acknowledgements out.

use super::event::{ConsumerEvent, ConsumerState};
use super::identity::Identity;
use super::ledger::Delivery;
use super::shared::{Control, Shared};
use crate::cluster::{Capabilities, Cluster, NodeAddress};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{ReceivedBatch, RecordId};
use futures::future::BoxFuture;
use hstreamdb_proto::api::{
    GetSubscriptionResponse, ReceivedRecord, StreamingFetchRequest, StreamingFetchResponse,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status, Streaming};

/// Ids in one message: 1,000 take some 25 KB.
const MAX_IDS_PER_MESSAGE: usize = 1000;
/// How often the committed checkpoints are asked for while acknowledgements are unconfirmed.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);
/// The same when the ledger is more than half full.
const CHECKPOINT_INTERVAL_FULL: Duration = Duration::from_secs(1);
/// How long the end of a call may take to arrive after its request side was seen to be gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// By request; the server has read every acknowledgement.
    Left,
    /// By request, but the time was up before the server answered.
    TimedOut,
    /// By the server or the network.
    Lost(Error),
}

/// The call's response side, which some servers open only with the first batch.
pub(super) enum Incoming {
    Opening(BoxFuture<'static, Result<Response<Streaming<StreamingFetchResponse>>, Status>>),
    Open(Box<Streaming<StreamingFetchResponse>>),
}

enum Arrival {
    Opened(Box<MetadataMap>),
    Message(StreamingFetchResponse),
    Ended,
}

impl Incoming {
    /// Cancel-safe: what was not returned is still there.
    async fn next(&mut self) -> Result<Arrival, Status> {
        match self {
            Incoming::Opening(call) => {
                let (keys, stream, _) = call.as_mut().await?.into_parts();
                *self = Incoming::Open(Box::new(stream));
                Ok(Arrival::Opened(Box::new(keys)))
            }
            Incoming::Open(stream) => Ok(stream.message().await?.map_or(Arrival::Ended, Arrival::Message)),
        }
    }
}

/// Asks the owner for the subscription and its committed checkpoints.
pub(super) type AskCheckpoints =
    Box<dyn Fn() -> BoxFuture<'static, Result<Response<GetSubscriptionResponse>>> + Send + Sync>;

pub(super) struct Session {
    pub shared: Arc<Shared>,
    pub control: watch::Receiver<Control>,
    pub address: NodeAddress,
    pub requests: mpsc::Sender<StreamingFetchRequest>,
    pub incoming: Incoming,
    pub ask_checkpoints: AskCheckpoints,
    pub cluster: Cluster,
    /// The server tells by itself which checkpoints are durable.
    pub confirms: bool,
    /// Set once a batch has come: the connection is a working one.
    pub delivered: bool,
}

impl Session {
    /// Runs until the session ends one way or another.
    pub async fn run(&mut self) -> End {
        let mut due: Option<Instant> = None;
        let mut asked_at = Instant::now();
        let mut checkpoints: Option<BoxFuture<'static, Result<Response<GetSubscriptionResponse>>>> = None;
        loop {
            let control = *self.control.borrow_and_update();
            if let Control::Stop(deadline) = control {
                return self.leave(deadline).await;
            }
            let (unsent, unconfirmed, fill) = self.settle();
            let now = Instant::now();
            due = (unsent > 0).then(|| due.unwrap_or(now + self.shared.settings.ack_max_age));
            let send_now = unsent >= self.shared.settings.ack_max_records
                || (unsent > 0 && self.shared.flush_is_wanted())
                || due.is_some_and(|due| due <= now);
            let interval = if fill > 50 { CHECKPOINT_INTERVAL_FULL } else { CHECKPOINT_INTERVAL };
            // What the server tells by itself waits behind batches while there is no room for those.
            let ask = unconfirmed > 0 && checkpoints.is_none() && (!self.confirms || fill > 50);
            let ask_at = ask.then_some(asked_at + interval);
            let room = self.shared.prefetch.has_room(0);
            let shared = Arc::clone(&self.shared);
            // Dropped with this turn: our side ends when the last sender is gone.
            let requests = self.requests.clone();
            tokio::select! {
                // Control and acknowledgements first: a flood of batches must not hold them up.
                biased;
                _ = self.control.changed() => {}
                permit = requests.reserve(), if send_now => match permit {
                    Ok(permit) => {
                        self.send_acks(permit);
                        due = None;
                    }
                    Err(_) => return self.last_words().await,
                },
                answer = pending_or(&mut checkpoints) => {
                    checkpoints = None;
                    if let Ok(answer) = answer {
                        note_subscription(&shared, &answer);
                    }
                }
                () = sleep_until(ask_at) => {
                    asked_at = Instant::now();
                    checkpoints = Some((self.ask_checkpoints)());
                }
                () = sleep_until(due), if !send_now => {}
                () = shared.acks.notified(), if !send_now => {}
                true = shared.prefetch.room(0), if !room => {}
                arrival = self.incoming.next(), if room => match arrival {
                    Ok(Arrival::Opened(keys)) => self.opened(&keys),
                    Ok(Arrival::Message(message)) => self.receive(message),
                    Ok(Arrival::Ended) => return End::Lost(self.ended()),
                    Err(status) => return End::Lost(self.error(&status)),
                },
            }
        }
    }

    /// Publishes a flush that has come to its end; what is left to send, what is unconfirmed, how full it is.
    fn settle(&self) -> (u64, u64, usize) {
        let book = self.shared.book();
        let ledger = &book.ledger;
        if ledger.unsent() == 0 {
            self.shared.publish_flushed(ledger.generation());
        }
        (ledger.unsent(), ledger.unconfirmed(), ledger.fill_percent())
    }

    fn opened(&mut self, keys: &MetadataMap) {
        self.confirms = Capabilities::from_metadata(keys).is_some_and(|able| able.ack_confirmation);
        self.shared.note_identity(Identity { created: None, incarnation: Identity::incarnation_in(keys) });
        self.shared.set_state(ConsumerState::Connected);
        self.shared
            .event(ConsumerEvent::Connected { name: self.shared.name(), node: self.address.to_string() });
    }

    /// Takes in a message that only tells durable checkpoints; false if it is not one.
    fn note_confirmation(&self, received: &ReceivedRecord) -> bool {
        let is_one = self.confirms && received.record.is_none();
        if is_one {
            let mut book = self.shared.book();
            for id in &received.record_ids {
                book.ledger.checkpoint(id.shard_id, id.batch_id);
            }
        }
        is_one
    }

    fn receive(&mut self, message: StreamingFetchResponse) {
        let Some(received) = message.received_records else { return };
        if self.note_confirmation(&received) {
            return;
        }
        self.delivered = true;
        let batch = match ReceivedBatch::from_wire(received, self.cluster.decoded_limit()) {
            Ok(batch) if batch.is_empty() => return,
            Ok(batch) => batch,
            Err(error) => {
                // Nothing in it could be acknowledged; the server sends it again after the ack timeout.
                tracing::warn!(subscription = %self.shared.subscription, %error, "unreadable batch skipped");
                return;
            }
        };
        let metrics = self.cluster.metrics();
        metrics.consumer_batches.add(1);
        metrics.consumer_records.add(batch.len() as u64);
        metrics.consumer_bytes.add(batch.encoded_bytes() as u64);
        let delivery = self.shared.book().ledger.delivered(batch.ids());
        match delivery {
            Delivery::Fresh => {}
            Delivery::Partly(records) | Delivery::Known(records) => {
                self.shared.redelivered.fetch_add(records, Ordering::Relaxed);
            }
        }
        match delivery {
            Delivery::Known(records) => self.shared.event(ConsumerEvent::Redelivered { records }),
            Delivery::Fresh | Delivery::Partly(_) => self.shared.prefetch.push(0, batch),
        }
    }

    /// Sends what is acknowledged, closes our side and waits for the server to close its.
    async fn leave(&mut self, deadline: Instant) -> End {
        self.shared.set_state(ConsumerState::Stopping);
        let shared = Arc::clone(&self.shared);
        loop {
            {
                let mut book = shared.book();
                if book.ledger.unsent() == 0 {
                    // From here on nothing could be sent any more.
                    book.closed = true;
                    break;
                }
            }
            // Dropped with this turn: our side ends when the last sender is gone.
            let requests = self.requests.clone();
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(deadline) => return End::TimedOut,
                permit = requests.reserve() => match permit {
                    Ok(permit) => {
                        self.send_acks(permit);
                    }
                    Err(_) => return self.last_words().await,
                },
                arrival = self.incoming.next() => if let Some(end) = self.discard(arrival) {
                    return end;
                },
            }
        }
        self.settle();
        // Replacing the sender drops it, which ends the request stream after the messages in it.
        self.requests = mpsc::channel(1).0;
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(deadline) => return End::TimedOut,
                arrival = self.incoming.next() => match arrival {
                    Ok(Arrival::Ended) => {
                        shared.book().ledger.confirm_sent();
                        return End::Left;
                    }
                    Err(status) => return End::Lost(self.error(&status)),
                    // Batches already on their way to us; they stay unacknowledged.
                    Ok(Arrival::Opened(_) | Arrival::Message(_)) => {}
                },
            }
        }
    }

    /// Hands the next acknowledgements to the connection.
    fn send_acks(&self, permit: mpsc::Permit<'_, StreamingFetchRequest>) {
        let (ids, all_up_to) = {
            let mut book = self.shared.book();
            let ids = book.ledger.take_unsent(MAX_IDS_PER_MESSAGE);
            (ids, (book.ledger.unsent() == 0).then(|| book.ledger.generation()))
        };
        permit.send(ack_message(&self.shared, &ids));
        self.cluster.metrics().consumer_acks.add(ids.len() as u64);
        if let Some(generation) = all_up_to {
            self.shared.publish_flushed(generation);
        }
    }

    /// Looks at a batch that will not be delivered: an acknowledgement in it may need to be sent again.
    fn discard(&self, arrival: Result<Arrival, Status>) -> Option<End> {
        match arrival {
            Ok(Arrival::Opened(_)) => None,
            Ok(Arrival::Message(message)) => {
                let received = message.received_records.unwrap_or_default();
                if self.note_confirmation(&received) {
                    return None;
                }
                let ids: Vec<RecordId> = received.record_ids.into_iter().map(RecordId::from).collect();
                self.shared.book().ledger.delivered(&ids);
                None
            }
            Ok(Arrival::Ended) => Some(End::Lost(self.ended())),
            Err(status) => Some(End::Lost(self.error(&status))),
        }
    }

    /// The request side is gone, so the call is over: takes what has arrived and learns why. The peer can send
    /// nothing more, so this is bounded by what HTTP/2 had let in.
    async fn last_words(&mut self) -> End {
        let listen = async {
            loop {
                match self.incoming.next().await {
                    Ok(Arrival::Opened(_)) => {}
                    Ok(Arrival::Message(message)) => self.receive(message),
                    Ok(Arrival::Ended) => return self.ended(),
                    Err(status) => return self.error(&status),
                }
            }
        };
        match tokio::time::timeout(LAST_WORDS, listen).await {
            Ok(error) => End::Lost(error),
            Err(_) => End::Lost(self.ended()),
        }
    }

    fn ended(&self) -> Error {
        self.shared
            .error(ErrorKind::Unavailable, "consume")
            .with_node(&self.address)
            .with_message("the server ended the session")
    }

    fn error(&self, status: &Status) -> Error {
        Error::from_status("consume", status)
            .with_resource(self.shared.subscription.clone())
            .with_node(&self.address)
    }
}

/// Takes in which subscription there is now, and what its committed checkpoints cover.
pub(super) fn note_subscription(shared: &Shared, answer: &Response<GetSubscriptionResponse>) {
    let incarnation = Identity::incarnation_in(answer.metadata());
    let answer = answer.get_ref();
    let time = answer.subscription.as_ref().and_then(|subscription| subscription.creation_time.as_ref());
    shared.note_identity(Identity { created: time.map(|time| (time.seconds, time.nanos)), incarnation });
    let mut book = shared.book();
    for offset in &answer.offsets {
        // 0 stands for nothing committed.
        if offset.batch_id != 0 {
            book.ledger.checkpoint(offset.shard_id, offset.batch_id);
        }
    }
}

/// The message that attaches a consumer.
pub(super) fn first_message(shared: &Shared) -> StreamingFetchRequest {
    ack_message(shared, &[])
}

fn ack_message(shared: &Shared, ids: &[RecordId]) -> StreamingFetchRequest {
    StreamingFetchRequest {
        subscription_id: shared.subscription.clone(),
        consumer_name: shared.name(),
        ack_ids: ids.iter().map(|id| id.to_wire()).collect(),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn pending_or<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.as_mut().await,
        None => std::future::pending().await,
    }
}
