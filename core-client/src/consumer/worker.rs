//! The task behind a consumer: attaches it, attaches it again after every loss, and ends it.

use super::doubt::Doubt;
use super::event::{ConsumerEvent, ConsumerState, StopReport};
use super::name;
use super::owner::{Answer, Owner};
use super::quiet::{Question, Quiet};
use super::session::{End, Incoming, Session, first_message, note_subscription};
use super::shared::{Control, Shared};
use crate::cluster::{Cluster, NodeAddress, unheard};
use crate::error::{Error, ErrorKind, Result};
use futures::FutureExt as _;
use hstreamdb_proto::metadata;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tracing::Instrument as _;

/// Messages between the session and the connection; acknowledgements wait in the ledger, not here.
const REQUESTS_AHEAD: usize = 4;
/// A name found taken this often in a row is given up for one with a suffix. Until then the taken one is
/// probably our own previous session, which the server has not seen die yet.
const NAME_TAKEN_LIMIT: u32 = 3;
/// Most and least that HTTP/2 lets a server send ahead of what was read, in bytes.
const WINDOW: std::ops::RangeInclusive<usize> = 65_535..=2 << 20;
/// Longest pause before the owner is looked up again while the one that is named is known not to be it, or not to answer: the
/// cluster is about to name another one.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A node found not to own the subscription this often in a row, although it is named as the owner, is called all the same: it
/// passes the call on.
const MISLED_LIMIT: u32 = 3;
/// A session that lived this long, or delivered something, was a working one: pauses start small again.
const WORKING_SESSION: Duration = Duration::from_secs(5);
/// The server's class for a subscription that is going away, in an ABORTED status.
const DELETING: &str = "SubscriptionIsDeleting";
/// The class with which a lookup reports a cluster that has no node to offer, in a NOT_FOUND status.
const NO_NODES: &str = "NodesNotFound";

pub(super) struct Worker {
    pub shared: Arc<Shared>,
    pub cluster: Cluster,
    pub control: watch::Receiver<Control>,
    /// Name without a suffix.
    pub base_name: String,
    /// How often in a row the name was taken.
    pub taken: u32,
    /// The owner that was named last.
    pub owner: Option<NodeAddress>,
    /// It was not even called: it is known to be silent, or says that it is not the owner.
    pub passed_over: bool,
    /// How often in a row it was not the owner.
    pub misled: u32,
}

impl Worker {
    /// Runs the consumer to its end. The report is published whatever happens, also when the task is dropped.
    pub async fn run(mut self) {
        let mut finish = Finish { shared: Arc::clone(&self.shared), clean: false };
        let policy = self.cluster.retry_policy().unlimited();
        let mut pauses = policy.backoff(rand::random::<f64>);
        // Failures since the last working session, and when the first of them was.
        let (mut failures, mut failing_since) = (0u32, None);
        loop {
            let started = Instant::now();
            let mut delivered = false;
            let error = match self.attach(&mut delivered).await {
                End::Left => {
                    finish.clean = true;
                    return;
                }
                End::TimedOut => return,
                End::Lost(error) => error,
            };
            {
                let mut book = self.shared.book();
                book.ledger.session_lost();
                book.session.clear();
            }
            if self.note_name(&error) || is_final(&error) {
                self.shared.prefetch.fail(error);
                return;
            }
            if delivered || started.elapsed() >= WORKING_SESSION {
                pauses = policy.backoff(rand::random::<f64>);
                (failures, failing_since) = (0, None);
            }
            let since = *failing_since.get_or_insert_with(Instant::now);
            if !self.passed_over {
                failures = failures.saturating_add(1);
            }
            if self.gives_up(failures, since) {
                self.shared.prefetch.fail(error.with_tries(failures.max(1), since.elapsed()));
                return;
            }
            let mut delay = pauses.next().unwrap_or(policy.max);
            if self.passed_over {
                delay = delay.min(LOOK_AGAIN);
            }
            self.shared.reconnects.fetch_add(1, Ordering::Relaxed);
            self.cluster.metrics().consumer_reconnects.add(1);
            self.note_loss();
            self.shared.event(ConsumerEvent::Reconnecting { error, delay });
            let left = tokio::select! {
                end = leave_now(&self.shared, self.control.clone()) => Some(end),
                () = tokio::time::sleep(delay) => None,
                () = self.owner_changes(policy.base.min(delay)) => None,
            };
            if let Some(end) = left {
                finish.clean = matches!(end, End::Left);
                return;
            }
        }
    }

    /// Resolves soon after the owner we wait for answers again, or the cluster thinks otherwise of it: then there is no
    /// reason to sit out a long pause. Many consumers wait for the same news, so each takes a moment by chance.
    async fn owner_changes(&self, moment: Duration) {
        match &self.owner {
            Some(owner) if self.cluster.is_suspect(owner) => self.cluster.standing_changes(owner).await,
            _ => std::future::pending().await,
        }
        tokio::time::sleep(moment.mul_f64(rand::random())).await;
    }

    /// Whether the user's limits on reconnecting are reached.
    fn gives_up(&self, failures: u32, since: Instant) -> bool {
        let settings = &self.shared.settings;
        let (attempts, limit) = (settings.reconnect_max_attempts, settings.reconnect_timeout);
        (attempts > 0 && failures > attempts) || (!limit.is_zero() && since.elapsed() >= limit)
    }

    fn note_loss(&self) {
        // Copied first: the state must not be locked for reading while it is set.
        let (control, state) = (*self.control.borrow(), *self.shared.state.borrow());
        if control == Control::Run && state == ConsumerState::Connected {
            self.shared.set_state(ConsumerState::Reconnecting);
        }
    }

    /// One attachment, from the lookup to its end.
    async fn attach(&mut self, delivered: &mut bool) -> End {
        self.passed_over = false;
        let shared = Arc::clone(&self.shared);
        let leave = leave_now(&shared, self.control.clone());
        let opened = tokio::select! {
            end = leave => return end,
            opened = self.open() => opened,
        };
        let mut session = match opened {
            Ok(session) => session,
            Err(error) => return End::Lost(error),
        };
        let span = tracing::debug_span!(
            "hstreamdb.consume",
            subscription = %shared.subscription,
            consumer = %shared.name(),
            node = %session.owner.address,
        );
        let end = session.run().instrument(span).await;
        *delivered = session.delivered;
        if let End::Lost(error) = &end
            && error.is_transport()
        {
            self.cluster.mark_suspect(&session.owner.address, error);
        }
        end
    }

    /// Finds the owner, confirms what its checkpoints cover and starts the call.
    async fn open(&mut self) -> Result<Session> {
        let shared = Arc::clone(&self.shared);
        let node = self.cluster.owner_of_subscription(&shared.subscription).await?;
        self.owner = Some(node.clone());
        if self.cluster.is_newly_suspect(&node) && self.cluster.has_other(&node) {
            self.passed_over = true;
            return Err(unheard(&node).with_operation("consume").with_resource(shared.subscription.clone()));
        }
        let ahead = shared.settings.prefetch_bytes.clamp(*WINDOW.start(), *WINDOW.end());
        let window = u32::try_from(ahead).ok();
        let contact = self.cluster.dedicated_with_window(&node, window).await?;
        let owner = Owner {
            cluster: self.cluster.clone(),
            contact: contact.clone(),
            address: node,
            subscription: shared.subscription.clone(),
            timeout: self.cluster.request_timeout(),
        };
        match owner.ask(Question::Subscription, shared.name()).await {
            Ok(Answer::Subscription(answer)) => note_subscription(&shared, &answer),
            // Attaching without having seen which subscription it is could acknowledge the wrong records.
            Err(error) if error.is_transport() => return Err(error),
            // It moves. Who is called now would pass the call on for as long as it lasts, one more node to depend on.
            Err(error) if error.kind() == ErrorKind::Routing && self.misled < MISLED_LIMIT => {
                self.misled += 1;
                self.passed_over = true;
                return Err(error);
            }
            // Not every server offers it to us (the owner may have moved meanwhile), and the fetch says best what is wrong.
            Ok(Answer::Attached(_) | Answer::Alive) | Err(_) => {}
        }
        self.misled = 0;
        let (requests, outgoing) = mpsc::channel(REQUESTS_AHEAD);
        // The channel is empty, so there is room.
        let _ = requests.try_send(first_message(&shared));
        let mut client = contact.client;
        let mut request = Request::new(ReceiverStream::new(outgoing));
        request.metadata_mut().insert(metadata::ACK_CONFIRMATION, MetadataValue::from_static("1"));
        // A session of ours that the server has not seen die ends by that.
        if let Ok(instance) = shared.instance.parse() {
            request.metadata_mut().insert(metadata::CONSUMER_INSTANCE, instance);
        }
        if let Some(incarnation) = shared.book().identity.incarnation {
            // Moved since we asked, it refuses us rather than take acknowledgements for what it was.
            request.metadata_mut().insert(metadata::SUBSCRIPTION_INCARNATION, incarnation.into());
        }
        let call = async move { client.streaming_fetch(request).await };
        let quiet = Quiet::new(shared.settings.probe_interval, Instant::now());
        // Before the first session nothing was delivered that could be acknowledged.
        let first = shared.reconnects.load(Ordering::Relaxed) == 0;
        let guarded = shared.book().identity.incarnation.is_some();
        let doubt = if first || guarded { Doubt::none() } else { Doubt::from(Instant::now()) };
        Ok(Session {
            shared,
            control: self.control.clone(),
            owner,
            requests,
            incoming: Incoming::Opening(call.boxed()),
            cluster: self.cluster.clone(),
            confirms: false,
            delivered: false,
            quiet,
            attached: None,
            doubt,
            began: Instant::now(),
        })
    }

    /// Counts how often the name was taken, and takes another one when that is not going to pass. Whether the name is not
    /// to be had and no other one will do.
    fn note_name(&mut self, error: &Error) -> bool {
        if error.kind() != ErrorKind::AlreadyExists {
            self.taken = 0;
            return false;
        }
        self.taken += 1;
        if self.taken >= NAME_TAKEN_LIMIT {
            let never_attached = *self.shared.state.borrow() == ConsumerState::Connecting;
            if self.shared.settings.name_must_be_free && never_attached {
                return true;
            }
            self.taken = 0;
            let name = name::with_suffix(&self.base_name);
            self.shared.rename(name.clone());
            self.shared.event(ConsumerEvent::Renamed { name });
        }
        false
    }
}

/// Resolves when there is no reason to look for a session: asked to stop with nothing left to tell the server,
/// or out of time.
async fn leave_now(shared: &Shared, mut control: watch::Receiver<Control>) -> End {
    loop {
        let wanted = *control.borrow_and_update();
        if let Control::Stop(deadlines) = wanted {
            shared.set_state(ConsumerState::Stopping);
            let settled = shared.handlers.settled();
            let nothing_left = {
                let mut book = shared.book();
                let nothing_left = settled && book.ledger.unsent() == 0 && book.ledger.unconfirmed() == 0;
                book.closed |= nothing_left;
                nothing_left
            };
            if nothing_left {
                return End::Left;
            }
            tokio::select! {
                () = tokio::time::sleep_until(deadlines.session) => return End::TimedOut,
                () = shared.handlers.settle(deadlines.handlers), if !settled => {}
                // An earlier deadline may come.
                changed = control.changed() => if changed.is_err() { return End::TimedOut },
            }
            continue;
        }
        if control.changed().await.is_err() {
            return End::TimedOut;
        }
    }
}

/// Whether trying again cannot help.
fn is_final(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::NotFound => error.message() != NO_NODES,
        ErrorKind::InvalidArgument
        | ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied
        | ErrorKind::Unimplemented
        | ErrorKind::Closed
        | ErrorKind::Codec => true,
        ErrorKind::FailedPrecondition => !error.is_retryable() || error.message() == DELETING,
        _ => false,
    }
}

/// Publishes the end of a consumer, however its task ends.
struct Finish {
    shared: Arc<Shared>,
    clean: bool,
}

impl Drop for Finish {
    fn drop(&mut self) {
        let unsent_acks = {
            let mut book = self.shared.book();
            book.closed = true;
            book.ledger.unsent() + book.ledger.unconfirmed()
        };
        // After a failure what is buffered and the error are still to be had; after a stop this is closed already.
        if !self.shared.prefetch.is_ending() {
            self.shared.prefetch.fail(
                self.shared
                    .error(ErrorKind::Closed, "consume")
                    .with_message("the client's runtime was shut down"),
            );
        }
        self.shared.handlers.stopping.cancel();
        self.shared.show_pending(0);
        let unfinished_handlers = self.shared.handlers.unfinished();
        let report = StopReport { unsent_acks, clean: self.clean, unfinished_handlers };
        self.shared.set_state(ConsumerState::Closed);
        self.shared.report.send_replace(Some(report));
        let error = self.shared.prefetch.error();
        self.shared.tell_listener(&ConsumerEvent::Closed { report, error });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hstreamdb_proto::api::ErrorCode;
    use hstreamdb_proto::error_body::ErrorBody;
    use tonic::{Code, Status};

    fn verdict(code: Code, body: Option<(ErrorCode, &str)>) -> bool {
        let message =
            body.map_or("log not found".into(), |(error, class)| ErrorBody::new(error, class, "").to_json());
        is_final(&Error::from_status("consume", &Status::new(code, message)))
    }

    #[test]
    fn only_what_cannot_heal_is_final() {
        for code in [Code::NotFound, Code::InvalidArgument, Code::Unauthenticated, Code::PermissionDenied] {
            assert!(verdict(code, None), "{code:?}");
        }
        assert!(verdict(Code::NotFound, Some((ErrorCode::SubscriptionNotFound, "SubscriptionNotFound"))));
        assert!(verdict(Code::Aborted, Some((ErrorCode::InternalError, DELETING))));
        assert!(!verdict(Code::Aborted, Some((ErrorCode::InternalError, "SubscriptionInvalidError"))));
        assert!(!verdict(Code::Aborted, Some((ErrorCode::InternalError, "ConsumerInvalidError"))));
        assert!(!verdict(Code::AlreadyExists, Some((ErrorCode::InternalError, "ConsumerExists"))));
        assert!(!verdict(Code::FailedPrecondition, Some((ErrorCode::WrongServer, "WrongServer"))));
        assert!(!verdict(Code::NotFound, Some((ErrorCode::InternalError, NO_NODES))));
        for code in
            [Code::Unavailable, Code::Cancelled, Code::Internal, Code::Unknown, Code::DeadlineExceeded]
        {
            assert!(!verdict(code, None), "{code:?}");
        }
    }
}
