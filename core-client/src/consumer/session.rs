//! One attachment of a consumer to its subscription: batches in, acknowledgements out.

use super::doubt::Doubt;
use super::event::{ConsumerEvent, ConsumerState};
use super::identity::Identity;
use super::ledger::Delivery;
use super::owner::{Answer, Owner};
use super::quiet::{Question, Quiet};
use super::shared::{Control, Deadlines, Shared};
use crate::cluster::{Capabilities, Cluster};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{DecodeWatch, ReceivedBatch, RecordId};
use futures::future::BoxFuture;
use hstreamdb_proto::api::{
    GetSubscriptionResponse, ReceivedRecord, StreamingFetchRequest, StreamingFetchResponse,
};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
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
/// How long a session that is being left says nothing until what it has not delivered again is taken as known to the
/// server.
const AWAITED_REDELIVERY: Duration = Duration::from_secs(1);
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

pub(super) struct Session {
    pub shared: Arc<Shared>,
    pub control: watch::Receiver<Control>,
    pub owner: Owner,
    pub requests: mpsc::Sender<StreamingFetchRequest>,
    pub incoming: Incoming,
    pub cluster: Cluster,
    /// The server tells by itself which checkpoints are durable.
    pub confirms: bool,
    /// Set once a batch has come: the connection is a working one.
    pub delivered: bool,
    /// How long the server has said nothing.
    pub quiet: Quiet,
    /// Counted as attached; taken back when the session ends.
    pub attached: Option<Attached>,
    /// What has to be looked at before an acknowledgement may go out.
    pub doubt: Doubt,
    /// When the call was made.
    pub began: Instant,
}

/// One attached session in the gauge.
pub(super) struct Attached(Cluster);

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.metrics().consumer_sessions.change(-1);
    }
}

impl Session {
    /// Runs until the session ends one way or another.
    pub async fn run(&mut self) -> End {
        let mut due: Option<Instant> = None;
        let mut asked_at = Instant::now();
        let mut question: Option<BoxFuture<'static, Result<Answer>>> = None;
        let mut word = self.owner.owes_a_word();
        loop {
            let control = *self.control.borrow_and_update();
            let mut give_up_at = None;
            if let Control::Stop(deadlines) = control {
                if !self.doubt.is_open() {
                    return self.leave(deadlines).await;
                }
                give_up_at = Some(deadlines.session);
            }
            let (unsent, unconfirmed, fill) = self.settle();
            let now = Instant::now();
            due = (unsent > 0).then(|| due.unwrap_or(now + self.shared.settings.ack_max_age));
            let doubt = self.doubt.is_open();
            let send_now = !doubt
                && (unsent >= self.shared.settings.ack_max_records
                    || (unsent > 0 && self.shared.flush_is_wanted())
                    || due.is_some_and(|due| due <= now));
            let interval = if fill > 50 { CHECKPOINT_INTERVAL_FULL } else { CHECKPOINT_INTERVAL };
            // What the server tells by itself waits behind batches while there is no room for those.
            let ask = unconfirmed > 0 && question.is_none() && !doubt && (!self.confirms || fill > 50);
            let ask_at = ask.then_some(asked_at + interval);
            let probe_at = if question.is_none() && !doubt { self.quiet.due() } else { None };
            let check_at = if question.is_none() { self.doubt.due() } else { None };
            // The call is made also while nothing of it may be taken in: because it is not known which subscription it is, or
            // because the application has not yet taken what came before. Acknowledgements need it.
            let opening = matches!(self.incoming, Incoming::Opening(_));
            let room = opening || (!doubt && self.shared.prefetch.has_room(0));
            let shared = Arc::clone(&self.shared);
            // Dropped with this turn: our side ends when the last sender is gone.
            let requests = self.requests.clone();
            tokio::select! {
                // Control and acknowledgements first: a flood of batches must not hold them up.
                biased;
                _ = self.control.changed() => {}
                () = sleep_until(give_up_at) => return End::TimedOut,
                permit = requests.reserve(), if send_now => match permit {
                    Ok(permit) => {
                        self.send_acks(permit);
                        due = None;
                    }
                    Err(_) => return self.last_words().await,
                },
                answer = pending_or(&mut question) => {
                    question = None;
                    if let Some(error) = self.note_answer(answer) {
                        return End::Lost(error);
                    }
                }
                () = sleep_until(ask_at) => {
                    asked_at = Instant::now();
                    question = Some(self.owner.ask(Question::Subscription, shared.name()));
                }
                () = sleep_until(probe_at) => {
                    question = Some(self.owner.ask(self.quiet.ask(opening), shared.name()));
                    self.cluster.metrics().consumer_probes.add(1);
                }
                () = &mut word, if question.is_none() => {
                    question = Some(self.owner.ask(Question::Alive, shared.name()));
                    word = self.owner.owes_a_word();
                    self.cluster.metrics().consumer_probes.add(1);
                }
                () = sleep_until(check_at) => {
                    question = Some(self.owner.ask(self.doubt.ask(), shared.name()));
                }
                () = sleep_until(due), if !send_now && !doubt => {}
                () = shared.acks.notified(), if !send_now => {}
                true = shared.prefetch.room(0), if !room && !doubt => {}
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
        let state = (ledger.unsent(), ledger.unconfirmed(), ledger.fill_percent());
        drop(book);
        self.shared.show_pending(state.0 + state.1);
        state
    }

    /// Takes in what the owner said, or that it did not; what it says about the session, if that is its end.
    fn note_answer(&mut self, answer: Result<Answer>) -> Option<Error> {
        let now = Instant::now();
        match answer {
            Ok(Answer::Subscription(answer)) => note_subscription(&self.shared, &answer),
            // It says nothing about this session.
            Ok(Answer::Alive) => return None,
            Ok(Answer::Attached(true)) => {}
            Ok(Answer::Attached(false)) if self.doubt.not_yet(now) => return None,
            // A busy server may still be about to take it.
            Ok(Answer::Attached(false)) if now < self.began + self.owner.timeout => {}
            // Nothing will ever come of this session.
            Ok(Answer::Attached(false)) => {
                return Some(self.lost("the server does not list the consumer any more"));
            }
            Err(error) if error.kind() == ErrorKind::Timeout => {
                return self.quiet.unanswered(now).then_some(error);
            }
            // The connection broke, or its node fell silent and another one is there.
            Err(error) if error.is_transport() => return Some(error),
            // The owner has moved; or the subscription is gone, which the next try learns from who should know.
            Err(error) if matches!(error.kind(), ErrorKind::Routing | ErrorKind::NotFound) => {
                return Some(self.lost("the node does not own the subscription any more").with_source(error));
            }
            // It does not know the call, or not now. It is there.
            Err(_) => {}
        }
        self.doubt.answered(now);
        self.quiet.answered(now);
        None
    }

    fn opened(&mut self, keys: &MetadataMap) {
        self.quiet.heard(Instant::now());
        self.cluster.metrics().consumer_sessions.change(1);
        self.attached = Some(Attached(self.cluster.clone()));
        self.confirms = Capabilities::from_metadata(keys).is_some_and(|able| able.ack_confirmation);
        let incarnation = Identity::incarnation_in(keys);
        self.shared.note_identity(Identity { created: None, incarnation });
        if incarnation.is_some() {
            self.doubt = Doubt::none();
        }
        self.shared.set_state(ConsumerState::Connected);
        self.shared.event(ConsumerEvent::Connected {
            name: self.shared.name(),
            node: self.owner.address.to_string(),
        });
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
        self.quiet.heard(Instant::now());
        let Some(received) = message.received_records else { return };
        if self.note_confirmation(&received) {
            return;
        }
        self.delivered = true;
        let Some(batch) = self.unpack(received) else { return };
        let metrics = self.cluster.metrics();
        metrics.consumer_batches.add(1);
        metrics.consumer_records.add(batch.len() as u64);
        metrics.consumer_bytes.add(batch.encoded_bytes() as u64);
        let (delivery, again) = {
            let mut book = self.shared.book();
            book.session.note(batch.ids());
            (book.ledger.delivered(batch.ids()), book.seen.note(batch.ids()))
        };
        let acked = match delivery {
            Delivery::Fresh => 0,
            Delivery::Partly(records) | Delivery::Known(records) => records,
        };
        let again = again || acked > 0;
        if again {
            let records = batch.len() as u64;
            self.shared.redelivered.fetch_add(records, Ordering::Relaxed);
            self.shared.redelivered_acked.fetch_add(acked, Ordering::Relaxed);
            metrics.consumer_redelivered_records.add(records);
            metrics.consumer_redelivered_acked_records.add(acked);
            self.shared.event(ConsumerEvent::Redelivered { records, acked });
        }
        // One that still waits here to be taken need not wait twice.
        let waiting = again && self.shared.prefetch.holds(0, &batch);
        if !waiting && !matches!(delivery, Delivery::Known(_)) {
            let shared: Arc<dyn DecodeWatch> = Arc::clone(&self.shared) as Arc<dyn DecodeWatch>;
            let watch: Weak<dyn DecodeWatch> = Arc::downgrade(&shared);
            self.shared.prefetch.push(0, batch.delivered(again, watch));
        }
    }

    /// The batch of a message. What it holds is looked at when the application asks for it.
    fn unpack(&self, received: ReceivedRecord) -> Option<ReceivedBatch> {
        let (ids, has_content) = (received.record_ids.len(), received.record.is_some());
        if ids == 0 {
            // Neither shown nor acknowledged; no server should send it.
            if has_content {
                let error = self.shared.error(ErrorKind::Codec, "consume");
                let text = "the server sent a batch without record ids, which nobody can acknowledge";
                self.shared.note_unreadable(&[], &error.with_node(&self.owner.address).with_message(text));
            }
            return None;
        }
        if !has_content {
            let batch = ReceivedBatch::without_content(received.record_ids);
            if let Err(error) = batch.decoded() {
                self.shared.note_unreadable(batch.ids(), &error);
            }
            return Some(batch);
        }
        ReceivedBatch::from_wire(received, self.cluster.decoded_limit()).ok()
    }

    /// Waits for handlers, sends what is acknowledged, closes our side and waits for the server to close its.
    async fn leave(&mut self, deadlines: Deadlines) -> End {
        self.shared.set_state(ConsumerState::Stopping);
        let shared = Arc::clone(&self.shared);
        // An earlier deadline may still come.
        let mut deadlines = deadlines;
        // Records of earlier sessions may be on their way to us, to be acknowledged once more.
        let mut awaited = Some(Instant::now() + AWAITED_REDELIVERY);
        loop {
            if let Control::Stop(now) = *self.control.borrow_and_update() {
                deadlines = now;
            }
            let settled = shared.handlers.settled();
            let unsent = {
                let mut book = shared.book();
                let unsent = book.ledger.unsent() > 0;
                if !book.ledger.reaches_beyond(&book.session) {
                    awaited = None;
                }
                let overdue = awaited.is_none_or(|until| until <= Instant::now());
                if settled && !unsent && overdue {
                    // From here on nothing could be sent any more.
                    book.closed = true;
                    break;
                }
                unsent
            };
            // Dropped with this turn: our side ends when the last sender is gone.
            let requests = self.requests.clone();
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(deadlines.session) => return End::TimedOut,
                _ = self.control.changed() => {}
                permit = requests.reserve(), if unsent => match permit {
                    Ok(permit) => {
                        self.send_acks(permit);
                    }
                    Err(_) => return self.last_words().await,
                },
                () = shared.handlers.settle(deadlines.handlers), if !settled => {}
                () = shared.acks.notified(), if !unsent => {}
                // What is read now is thrown away; others may have it while our handlers finish.
                () = sleep_until(awaited), if settled && !unsent => {}
                arrival = self.incoming.next(), if settled => {
                    if let Some(end) = self.discard(arrival) {
                        return end;
                    }
                    awaited = awaited.map(|_| Instant::now() + AWAITED_REDELIVERY);
                }
            }
        }
        self.settle();
        // Replacing the sender drops it, which ends the request stream after the messages in it.
        self.requests = mpsc::channel(1).0;
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(deadlines.session) => return End::TimedOut,
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
                let mut book = self.shared.book();
                book.session.note(&ids);
                book.ledger.delivered(&ids);
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
        self.lost("the server ended the session")
    }

    fn lost(&self, reason: &str) -> Error {
        self.shared
            .error(ErrorKind::Unavailable, "consume")
            .with_node(&self.owner.address)
            .with_message(reason)
    }

    fn error(&self, status: &Status) -> Error {
        Error::from_status("consume", status)
            .with_resource(self.shared.subscription.clone())
            .with_node(&self.owner.address)
            // Consuming changes nothing by itself.
            .with_may_have_been_applied(false)
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
