//! The task that owns the membership: it alone reads the socket, the inbox and the clock.

use super::exchange::Visitor;
use super::inbox::Message;
use super::refusal::{Refusal, Refusals};
use super::seal::{Kind, MAX_DATAGRAM, Run, Seal};
use super::timers::Timers;
use crate::cluster::Members;
use crate::cluster::swim::{Event, Input, Membership, Output, Packet, SwimStats, TimerToken};
use crate::limits::Notice;
use crate::net::Datagrams;
use bytes::Bytes;
use futures::FutureExt as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Datagrams and messages that are taken before timers get their turn.
const DATAGRAMS_AT_A_TIME: usize = 256;
const MESSAGES_AT_A_TIME: usize = 16;
/// How long sending what one input asks for may hold up everything; the rest is lost then, as datagrams may be.
const SEND_WITHIN: Duration = Duration::from_millis(20);
/// Pause after the socket failed.
const SOCKET_PAUSE: Duration = Duration::from_millis(20);
/// Visits that are under way at a time; when there are more, the next round has to do.
const VISITS: usize = 8;
/// Who goes says so that often, since datagrams get lost.
const GOODBYES: usize = 3;
const GOODBYE_PAUSE: Duration = Duration::from_millis(30);

/// What the task has and what it shares.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) membership: Membership,
    pub(super) seal: Seal,
    pub(super) socket: Datagrams,
    pub(super) inbox: mpsc::Receiver<Message>,
    pub(super) timers: Timers<TimerToken>,
    pub(super) members: watch::Sender<Members>,
    /// As of the last input.
    pub(super) counted: SwimStats,
    pub(super) stats: Arc<Mutex<SwimStats>>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) visitor: Arc<Visitor>,
    pub(super) visits: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
    pub(super) lost: Notice,
    pub(super) doubles: Notice,
}

impl Owner {
    pub(super) fn places_for_visits() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(VISITS))
    }

    /// Runs until the node leaves or is dropped.
    pub(super) async fn run(mut self, first: Output) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.work(first) => stop.cancel(),
        }
    }

    async fn work(&mut self, first: Output) {
        self.carry_out(first).await;
        // One byte more than the largest: a datagram that fills it is too large.
        let mut buffer = [0; MAX_DATAGRAM + 1];
        loop {
            // What has come goes first: the timer that says that an answer is missing must not overtake the answer. After
            // a pause of the whole process both are due.
            for _ in 0..DATAGRAMS_AT_A_TIME {
                let Some(Ok((length, from))) = self.socket.recv_from(&mut buffer).now_or_never() else {
                    break;
                };
                self.datagram(buffer.get(..length).unwrap_or_default(), from).await;
            }
            for _ in 0..MESSAGES_AT_A_TIME {
                let Ok(message) = self.inbox.try_recv() else { break };
                if self.message(message).await {
                    return;
                }
            }
            while let Some(token) = self.timers.take_due(Instant::now()) {
                self.handle(Input::Timer(token)).await;
            }
            let next = self.timers.next();
            let due = async {
                match next {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => {
                        self.datagram(buffer.get(..length).unwrap_or_default(), from).await;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the gossip socket failed to receive");
                        tokio::time::sleep(SOCKET_PAUSE).await;
                    }
                },
                message = self.inbox.recv() => match message {
                    Some(message) => {
                        if self.message(message).await {
                            return;
                        }
                    }
                    None => return,
                },
                () = due => {}
            }
        }
    }

    async fn datagram(&mut self, bytes: &[u8], from: SocketAddr) {
        if bytes.len() > MAX_DATAGRAM {
            return self.refusals.note(Refusal::TooLarge, None, from);
        }
        let packet = Bytes::copy_from_slice(bytes);
        match self.seal.open(Kind::Datagram, &packet, Instant::now()) {
            Ok(opened) => {
                if !self.handle(Input::Packet(&opened.content)).await {
                    self.refusals.note(Refusal::Malformed, Some(opened.from.id), from);
                }
            }
            Err(refused) => self.refusals.note(refused.why, refused.sender, from),
        }
    }

    /// Whether that was the last one.
    async fn message(&mut self, message: Message) -> bool {
        // Whoever does not wait for the answer any more is gone; there is nobody to tell.
        match message {
            Message::Push { to, reply } => {
                let _ = reply.send(self.all_we_know(Kind::Push, to));
            }
            Message::Pull { packet, from, reply } => {
                let merged = self.merge(Kind::Pull, &packet, from).await;
                let _ = reply.send(merged.map(|_| ()));
            }
            Message::Exchange { packet, from, reply } => {
                let merged = self.merge(Kind::Push, &packet, from).await;
                let _ = reply.send(merged.map(|sender| self.all_we_know(Kind::Pull, sender)));
            }
            Message::Phase(phase) => {
                self.handle(Input::Phase(phase)).await;
            }
            Message::Generation(generation) => {
                self.seal.renew(generation);
                self.handle(Input::Generation(generation)).await;
            }
            Message::SessionOver(node, generation) => {
                self.handle(Input::SessionOver(node, generation)).await;
            }
            Message::Leave { reply } => {
                self.leave().await;
                let _ = reply.send(());
                return true;
            }
        }
        false
    }

    async fn merge(&mut self, kind: Kind, packet: &Bytes, from: SocketAddr) -> Result<Run, Refusal> {
        let opened = self.seal.open(kind, packet, Instant::now()).map_err(|refused| {
            self.refusals.note(refused.why, refused.sender, from);
            refused.why
        })?;
        if !self.handle(Input::Records(&opened.content)).await {
            self.refusals.note(Refusal::Malformed, Some(opened.from.id), from);
            return Err(Refusal::Malformed);
        }
        Ok(opened.from)
    }

    fn all_we_know(&mut self, kind: Kind, to: Run) -> Bytes {
        let records = self.membership.records();
        self.seal.close(kind, to, &records)
    }

    /// Whether the input could be read.
    async fn handle(&mut self, input: Input<'_>) -> bool {
        let before = self.counted.malformed;
        let output = self.membership.handle(input, Instant::now().into_std());
        self.carry_out(output).await;
        self.counted.malformed == before
    }

    async fn carry_out(&mut self, output: Output) {
        let now = Instant::now();
        for (after, token) in output.timers {
            self.timers.add(now + after, token);
        }
        self.send(&output.packets).await;
        for peer in output.push_pull {
            self.visit(peer.internal);
        }
        for event in output.events {
            self.tell(event);
        }
        if output.members_changed {
            self.members.send_replace(self.membership.members());
        }
        self.counted = self.membership.stats();
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = self.counted;
    }

    async fn send(&mut self, packets: &[Packet]) {
        let patience = Instant::now() + SEND_WITHIN;
        for packet in packets {
            let to = Run { id: packet.to.id, generation: packet.to.generation };
            let sealed = self.seal.close(Kind::Datagram, to, &packet.bytes);
            let sending = self.socket.send_to(&sealed, packet.to.internal);
            let lost = match tokio::time::timeout_at(patience, sending).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the socket takes nothing".to_owned(),
            };
            if let Some(times) = self.lost.due() {
                let to = packet.to;
                tracing::info!("cannot send gossip to {to}: {lost} ({times} since the last such line)");
            }
        }
    }

    fn visit(&self, address: SocketAddr) {
        let Ok(place) = self.visits.clone().try_acquire_owned() else { return };
        let (visitor, stop) = (self.visitor.clone(), self.stop.clone());
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = stop.cancelled() => {}
                outcome = visitor.visit(address) => if let Err(failure) = outcome {
                    tracing::debug!("nothing was exchanged with {address}: {failure}");
                }
            }
        });
    }

    fn tell(&self, event: Event) {
        match event {
            Event::Up(peer) => tracing::info!("{peer} is up"),
            Event::Suspect(peer) => tracing::info!("{peer} does not answer"),
            Event::Refuted(peer) => tracing::info!("{peer} answers again"),
            Event::Down(peer) => tracing::warn!("{peer} is down"),
            Event::Left(peer) => tracing::info!("{peer} has left"),
            Event::WronglyDown(peer) => tracing::warn!("{peer} was declared dead by mistake and is back"),
            Event::Returned => tracing::warn!("others declared this node dead by mistake; it is back"),
            Event::Duplicate { older, newer } => {
                if let Some(times) = self.doubles.due() {
                    tracing::error!(
                        "{older} and {newer} have the same number: give every node a --server-id of its own. If \
                         the first one was stopped without a word it is found dead soon, and nothing is to be done \
                         ({times} since the last such line)"
                    );
                }
            }
        }
    }

    async fn leave(&mut self) {
        let farewell = self.membership.handle(Input::Leave, Instant::now().into_std());
        let packets = farewell.packets.clone();
        self.carry_out(farewell).await;
        for _ in 1..GOODBYES {
            tokio::time::sleep(GOODBYE_PAUSE).await;
            self.send(&packets).await;
        }
    }
}
