//! What a node answers on its internal port.

use super::exchange::MAX_EXCHANGE;
use super::hello::Myself;
use super::inbox::{Inbox, Message, Turned};
use super::refusal::{Refusal, Refusals};
use crate::cluster::{MemberState, Members, NodeId};
use crate::connection;
use hstreamdb_proto::api::{StreamingFetchRequest, StreamingFetchResponse};
use hstreamdb_proto::internal::node_server::{Node, NodeServer};
use hstreamdb_proto::internal::{HelloRequest, HelloResponse, Sealed};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

/// Largest request: what consumers may send to any node they may send through another one, too.
const MAX_REQUEST: usize = 4 * 1024 * 1024;

/// Batches on their way to a consumer.
pub type Fetched = Pin<Box<dyn Stream<Item = Result<StreamingFetchResponse, Status>> + Send>>;

/// Serves consumers that came to another node. Whoever builds the node fills it in; gossip knows nothing of consumers, and
/// the key says nothing about them: who calls has to show a token of its own, as on every other listener.
#[tonic::async_trait]
pub trait FetchForOthers: Send + Sync + fmt::Debug + 'static {
    /// A consumer's stream that another node passes on.
    ///
    /// # Errors
    /// What the consumer is to be told.
    async fn streaming_fetch(
        &self,
        request: Request<Streaming<StreamingFetchRequest>>,
    ) -> Result<Response<Fetched>, Status>;
}

/// The service `hstream.internal.Node` of one node.
#[derive(Debug, Clone)]
pub struct InternalService {
    pub(super) me: Arc<Myself>,
    pub(super) inbox: Inbox,
    pub(super) members: watch::Receiver<Members>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) fetch: Option<Arc<dyn FetchForOthers>>,
}

impl InternalService {
    /// The same with somebody who serves consumers that came to other nodes.
    #[must_use]
    pub fn with_fetch(self, fetch: Arc<dyn FetchForOthers>) -> Self {
        InternalService { fetch: Some(fetch), ..self }
    }

    /// As a tonic server takes it, with the largest message it reads.
    pub fn into_server(self) -> NodeServer<InternalService> {
        NodeServer::new(self).max_decoding_message_size(MAX_REQUEST).max_encoding_message_size(usize::MAX)
    }

    /// Where another living node has this number than the one that gossips at `address`.
    fn taken_by(&self, id: NodeId, address: SocketAddr) -> Option<SocketAddr> {
        let members = self.members.borrow();
        let member = members.get(id)?;
        let lives = matches!(member.state, MemberState::Alive | MemberState::Suspect);
        (lives && member.internal != address).then_some(member.internal)
    }
}

#[tonic::async_trait]
impl Node for InternalService {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        let from = origin(&request);
        let question = request.into_inner();
        let taken_by = match self.me.hear(&question) {
            Ok(peer) if peer.run.id == self.me.run().id && !self.me.is_me(peer.run) => {
                self.refusals.note(Refusal::SameId, Some(peer.run.id), peer.internal);
                None
            }
            Ok(peer) => {
                let taken_by = self.taken_by(peer.run.id, peer.internal);
                if taken_by.is_some() {
                    self.refusals.note(Refusal::TakenId, Some(peer.run.id), peer.internal);
                }
                taken_by
            }
            Err(stranger) => {
                self.refusals.note(stranger.why, Some(stranger.id), from);
                None
            }
        };
        // A stranger gets an answer, too: it must be able to tell its operator what is different.
        Ok(Response::new(self.me.answer(&question, taken_by)))
    }

    async fn push_pull(&self, request: Request<Sealed>) -> Result<Response<Sealed>, Status> {
        let from = origin(&request);
        let packet = request.into_inner().packet;
        if packet.len() > MAX_EXCHANGE {
            self.refusals.note(Refusal::TooLarge, None, from);
            return Err(Status::resource_exhausted(format!("a push has at most {MAX_EXCHANGE} bytes")));
        }
        match self.inbox.ask_now(|reply| Message::Exchange { packet, from, reply }).await {
            Ok(Ok(packet)) => Ok(Response::new(Sealed { packet })),
            Ok(Err(refusal)) => {
                Err(Status::failed_precondition(format!("this push does not count: {refusal}")))
            }
            Err(Turned::Away) => Err(Status::resource_exhausted("too many nodes push at once; try again")),
            Err(Turned::Off) => Err(Status::unavailable("this node is leaving")),
        }
    }

    type StreamingFetchStream = Fetched;

    async fn streaming_fetch(
        &self,
        request: Request<Streaming<StreamingFetchRequest>>,
    ) -> Result<Response<Fetched>, Status> {
        match &self.fetch {
            Some(fetch) => fetch.streaming_fetch(request).await,
            None => Err(Status::unimplemented("this node serves no consumers")),
        }
    }
}

fn origin<T>(request: &Request<T>) -> SocketAddr {
    let peer = request.extensions().get::<connection::Peer>().map(|peer| peer.address);
    peer.or_else(|| request.remote_addr()).unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
}
