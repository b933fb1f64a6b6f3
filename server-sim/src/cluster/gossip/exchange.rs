//! Visiting another node: who are you, and here is all I know, what do you know?

use super::error::GossipError;
use super::hello::{Myself, Peer, Stranger};
use super::inbox::{Inbox, Message};
use super::seal::Run;
use crate::cluster::swim::MAX_RECORDS;
use crate::net::Net;
use bytes::Bytes;
use hstreamdb_proto::internal::node_client::NodeClient;
use hstreamdb_proto::internal::{HelloRequest, HelloResponse, Sealed};
use rand::Rng as _;
use rand::rngs::StdRng;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};

/// Largest push or pull: the longest records, sealed and wrapped.
pub(super) const MAX_EXCHANGE: usize = MAX_RECORDS + 1024;
/// An answer to a hello is small.
const MAX_HELLO: usize = 16 * 1024;
/// How long a visit may take, whatever the other side does.
const VISIT_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection and a hello may take: a node that is there answers at once.
const HELLO_WITHIN: Duration = Duration::from_secs(2);

/// How a visit ended that led to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visit {
    /// That node knows what we know, and we know what it knows.
    Done(Peer),
    /// It was ourselves.
    Myself,
}

/// Why a visit led to nothing.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// Nobody is there, or it does not answer; this may change.
    Absent(String),
    /// Somebody is there who is none of us.
    Stranger(Stranger),
    /// A living node has our number.
    SameId(SocketAddr),
    /// A node that has our number is believed to live, and does not answer us.
    IdLives(SocketAddr),
}

impl Failure {
    /// What it means for a start, if it will not pass by itself.
    pub(super) fn verdict(&self, at: SocketAddr, me: &Myself) -> Option<GossipError> {
        match self {
            Failure::Absent(_) | Failure::IdLives(_) => None,
            Failure::Stranger(stranger) => Some(GossipError::Stranger {
                address: at,
                id: stranger.id,
                difference: stranger.difference.clone(),
            }),
            Failure::SameId(address) => Some(GossipError::DuplicateId { id: me.run().id, address: *address }),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Absent(reason) => f.write_str(reason),
            Failure::Stranger(stranger) => write!(f, "it {}", stranger.difference),
            Failure::SameId(address) => write!(f, "the node at {address} has the number of this one"),
            Failure::IdLives(address) => {
                write!(
                    f,
                    "the cluster believes that this node lives at {address}; it waits until that one is down"
                )
            }
        }
    }
}

/// Visits other nodes on behalf of this one.
#[derive(Debug)]
pub(super) struct Visitor {
    net: Net,
    pub(super) me: Arc<Myself>,
    inbox: Inbox,
    nonces: Mutex<StdRng>,
    visits: AtomicU64,
    failed: AtomicU64,
}

impl Visitor {
    pub(super) fn new(net: Net, me: Arc<Myself>, inbox: Inbox, nonces: StdRng) -> Self {
        let (visits, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        Visitor { net, me, inbox, nonces: Mutex::new(nonces), visits, failed }
    }

    /// How many visits there were, and how many of them led to nothing.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.visits.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// Introduces this node and exchanges what both know. Takes at most five seconds.
    pub(super) async fn visit(&self, address: SocketAddr) -> Result<Visit, Failure> {
        self.visits.fetch_add(1, Ordering::Relaxed);
        let outcome = self.try_visit(address).await;
        if outcome.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    async fn try_visit(&self, address: SocketAddr) -> Result<Visit, Failure> {
        within(VISIT_WITHIN, async {
            let mut client = self.connect(address).await?;
            let (peer, taken_by) = self.hello(&mut client).await?;
            if self.me.is_me(peer.run) {
                return Ok(Visit::Myself);
            }
            if peer.run.id == self.me.run().id {
                return Err(Failure::SameId(address));
            }
            if let Some(other) = taken_by {
                return Err(self.who_is_it(other).await);
            }
            self.exchange(&mut client, peer.run, address).await?;
            Ok(Visit::Done(peer))
        })
        .await
    }

    /// Whether a node has our number really lives there.
    async fn who_is_it(&self, address: SocketAddr) -> Failure {
        let asked = async {
            let mut client = self.connect(address).await?;
            self.hello(&mut client).await
        };
        match asked.await {
            Ok((peer, _)) if peer.run.id == self.me.run().id && !self.me.is_me(peer.run) => {
                Failure::SameId(address)
            }
            _ => Failure::IdLives(address),
        }
    }

    async fn connect(&self, address: SocketAddr) -> Result<NodeClient<Channel>, Failure> {
        let unusable = |error: tonic::transport::Error| Failure::Absent(reason(&error));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(unusable)?;
        let channel = within(HELLO_WITHIN, async {
            endpoint.connect_with_connector(self.net.connector()).await.map_err(unusable)
        });
        Ok(NodeClient::new(channel.await?).max_decoding_message_size(MAX_EXCHANGE))
    }

    async fn hello(&self, client: &mut NodeClient<Channel>) -> Result<(Peer, Option<SocketAddr>), Failure> {
        let nonce = self.nonces.lock().unwrap_or_else(PoisonError::into_inner).random();
        let question: HelloRequest = self.me.ask(nonce);
        let answer: HelloResponse = within(HELLO_WITHIN, async {
            let mut client = client.clone().max_decoding_message_size(MAX_HELLO);
            Ok(client.hello(question).await.map_err(|status| refused(&status))?.into_inner())
        })
        .await?;
        let peer = self.me.hear_answer(&answer, nonce).map_err(Failure::Stranger)?;
        Ok((peer, answer.taken_by.parse().ok()))
    }

    async fn exchange(
        &self,
        client: &mut NodeClient<Channel>,
        peer: Run,
        address: SocketAddr,
    ) -> Result<(), Failure> {
        let packet: Bytes = self.ask(|reply| Message::Push { to: peer, reply }).await?;
        let answer = client.push_pull(Sealed { packet }).await.map_err(|status| refused(&status))?;
        let packet = answer.into_inner().packet;
        let merged = self.ask(|reply| Message::Pull { packet, from: address, reply }).await?;
        merged.map_err(|refusal| Failure::Absent(format!("its answer is of no use: {refusal}")))
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, Failure> {
        self.inbox.ask(message).await.ok_or_else(|| Failure::Absent("this node is stopping".to_owned()))
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::Absent(format!("no answer within {limit:?}"))),
    }
}

fn refused(status: &tonic::Status) -> Failure {
    Failure::Absent(format!("it answered {:?}: {}", status.code(), status.message()))
}

/// The last cause says what happened; what is around it says that something happened.
fn reason(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
