//! A gRPC proxy that misbehaves on purpose, message by message.
//!
//! It stands between any client and any server of the protocol, so the same faults reach every language. Node
//! addresses in answers are rewritten to the proxy's own, otherwise discovery would lead clients around it.

use crate::messages::MessageBody;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::future::BoxFuture;
use hstreamdb_proto::{api, metadata};
use prost::Message;
use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Status, body::Body, codegen::http, server::NamedService, transport::Channel};
use tower::Service;

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// What the proxy does to the calls that pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nothing.
    None,
    /// Appends are stored, then answered UNAVAILABLE; each count is used up by one append.
    LoseReplies(u32),
    /// Appends never get an answer.
    Hang,
    /// Appends are acknowledged with invented ids and thrown away.
    ForgetAppends,
    /// Acks of a streaming fetch never reach the server.
    DropAcks,
    /// Each pair of delivered batches changes places.
    Reorder,
    /// Every delivered batch arrives twice.
    Duplicate,
    /// Producer stamps never reach the server, which therefore stores a repeat again.
    DropStamps,
    /// Whatever the server refuses is refused with an error of another class.
    WrongErrors,
}

/// A running proxy, stopped on drop.
#[derive(Debug)]
pub struct RpcProxy {
    port: u16,
    shared: Arc<Shared>,
    cut: watch::Sender<u64>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    fault: Mutex<Fault>,
    /// Stays whatever `fault` becomes.
    broken: Fault,
    /// Method, and the status it is answered with.
    canned: Mutex<Option<(String, Status)>>,
    port: u16,
}

impl Shared {
    fn fault(&self) -> MutexGuard<'_, Fault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn canned(&self) -> MutexGuard<'_, Option<(String, Status)>> {
        self.canned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses up one lost reply.
    fn lose_reply(&self) -> bool {
        match &mut *self.fault() {
            Fault::LoseReplies(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}

impl RpcProxy {
    /// A proxy on a free port of the loopback interface in front of the server on `upstream_port`.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start(upstream_port: u16) -> Result<RpcProxy> {
        RpcProxy::start_broken(upstream_port, Fault::None).await
    }

    /// A proxy that makes a broken server of the one behind it for good; [`RpcProxy::set`] adds to that.
    ///
    /// # Errors
    /// As [`RpcProxy::start`].
    pub async fn start_broken(upstream_port: u16, broken: Fault) -> Result<RpcProxy> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let port = listener.local_addr()?.port();
        let shared =
            Arc::new(Shared { fault: Mutex::new(Fault::None), broken, canned: Mutex::new(None), port });
        let (cut, cuts) = watch::channel(0);
        // Lazy: the server may be down now and back later.
        let channel = tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{upstream_port}"))
            .context("the upstream address")?
            .connect_lazy();
        let service = Proxy { channel, shared: shared.clone() };
        let task = tokio::spawn(async move {
            let connections = futures::StreamExt::map(TcpListenerStream::new(listener), move |connection| {
                connection.map(|stream| crate::cutting::CuttingStream::new(stream, cuts.clone()))
            });
            // Ends only when the task is aborted.
            let _ = tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(connections)
                .await;
        });
        Ok(RpcProxy { port, shared, cut, task })
    }

    /// Port clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// URL for clients.
    pub fn url(&self) -> String {
        format!("hstream://127.0.0.1:{}", self.port)
    }

    /// What happens to calls from now on.
    pub fn set(&self, fault: Fault) {
        *self.shared.fault() = fault;
    }

    /// Answers every call of `method` with this status from now on; the server is not asked.
    pub fn answer(&self, method: &str, status: i32, message: &str) {
        *self.shared.canned() = Some((method.to_owned(), Status::new(status.into(), message)));
    }

    /// Breaks every connection that is open now; new ones work.
    pub fn cut_connections(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for RpcProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Clone)]
struct Proxy {
    channel: Channel,
    shared: Arc<Shared>,
}

impl NamedService for Proxy {
    const NAME: &'static str = "hstream.server.HStreamApi";
}

impl Service<Request> for Proxy {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let mut proxy = self.clone();
        Box::pin(async move {
            let answer = proxy.pass(request).await;
            Ok(answer.unwrap_or_else(|error| Status::unavailable(format!("proxy: {error}")).into_http()))
        })
    }
}

impl Proxy {
    async fn pass(&mut self, mut request: Request) -> Result<Response, tonic::transport::Error> {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let canned =
            self.shared.canned().as_ref().filter(|(of, _)| *of == method).map(|(_, status)| status.clone());
        if let Some(status) = canned {
            return Ok(status.into_http());
        }
        if self.shared.broken == Fault::DropStamps {
            for key in [metadata::PRODUCER_ID, metadata::PRODUCER_EPOCH, metadata::PRODUCER_SEQUENCE] {
                request.headers_mut().remove(key);
            }
        }
        let response = self.pass_faulty(&method, request).await?;
        let refused = response.headers().get("grpc-status").is_some_and(|status| status != "0");
        if refused && self.shared.broken == Fault::WrongErrors {
            return Ok(Status::internal("something went wrong").into_http());
        }
        Ok(response)
    }

    async fn pass_faulty(
        &mut self,
        method: &str,
        request: Request,
    ) -> Result<Response, tonic::transport::Error> {
        let fault = match self.shared.broken {
            Fault::None | Fault::DropStamps | Fault::WrongErrors => *self.shared.fault(),
            broken => broken,
        };
        match (method, fault) {
            ("Append", Fault::Hang) => std::future::pending().await,
            ("Append", Fault::ForgetAppends) => Ok(forget(request)),
            ("Append", _) => {
                let lose = self.shared.lose_reply();
                let response = self.forward(request).await?;
                if lose {
                    // Read to the end first: the server has stored the batch by then.
                    let mut body = MessageBody::new(response.into_body(), Box::new(|message| vec![message]));
                    while std::future::poll_fn(|cx| body.poll_message(cx)).await.is_some() {}
                    return Ok(Status::unavailable("the reply was lost").into_http());
                }
                Ok(response)
            }
            ("StreamingFetch", Fault::DropAcks) => {
                let mut first = true;
                let request = request.map(|body| {
                    let keep =
                        move |message| if std::mem::take(&mut first) { vec![message] } else { Vec::new() };
                    Body::new(MessageBody::new(body, Box::new(keep)))
                });
                self.forward(request).await
            }
            ("StreamingFetch", Fault::Duplicate) => {
                self.forward_changed(request, Box::new(|message: Bytes| vec![message.clone(), message])).await
            }
            ("StreamingFetch", Fault::Reorder) => {
                let mut held: VecDeque<Bytes> = VecDeque::new();
                let swap = move |message| match held.pop_front() {
                    Some(earlier) => vec![message, earlier],
                    None => {
                        held.push_back(message);
                        Vec::new()
                    }
                };
                self.forward_changed(request, Box::new(swap)).await
            }
            ("DescribeCluster", _) => {
                let port = self.shared.port;
                self.forward_decoded(request, move |answer: &mut api::DescribeClusterResponse| {
                    answer.server_nodes.iter_mut().for_each(|node| node.port = port.into());
                    let nodes =
                        answer.server_nodes_status.iter_mut().filter_map(|status| status.node.as_mut());
                    nodes.for_each(|node| node.port = port.into());
                })
                .await
            }
            ("LookupShard", _) => {
                let port = self.shared.port;
                self.forward_decoded(request, move |answer: &mut api::LookupShardResponse| {
                    answer.server_node.iter_mut().for_each(|node| node.port = port.into());
                })
                .await
            }
            ("LookupSubscription", _) => {
                let port = self.shared.port;
                self.forward_decoded(request, move |answer: &mut api::LookupSubscriptionResponse| {
                    answer.server_node.iter_mut().for_each(|node| node.port = port.into());
                })
                .await
            }
            ("LookupKey" | "LookupResource", _) => {
                let port = self.shared.port;
                self.forward_decoded(request, move |node: &mut api::ServerNode| node.port = port.into()).await
            }
            _ => self.forward(request).await,
        }
    }

    async fn forward(&mut self, request: Request) -> Result<Response, tonic::transport::Error> {
        std::future::poll_fn(|cx| self.channel.poll_ready(cx)).await?;
        self.channel.call(request).await
    }

    async fn forward_changed(
        &mut self,
        request: Request,
        change: Box<dyn FnMut(Bytes) -> Vec<Bytes> + Send>,
    ) -> Result<Response, tonic::transport::Error> {
        Ok(self.forward(request).await?.map(|body| Body::new(MessageBody::new(body, change))))
    }

    async fn forward_decoded<M: Message + Default>(
        &mut self,
        request: Request,
        change: impl Fn(&mut M) + Send + 'static,
    ) -> Result<Response, tonic::transport::Error> {
        let change = move |message: Bytes| match M::decode(message.clone()) {
            Ok(mut decoded) => {
                change(&mut decoded);
                vec![decoded.encode_to_vec().into()]
            }
            Err(_) => vec![message],
        };
        self.forward_changed(request, Box::new(change)).await
    }
}

/// An acknowledgement for an append that goes nowhere.
fn forget(request: Request) -> Response {
    let mut next = 2_000_000_000_000_000_000;
    let acknowledge = move |message: Bytes| {
        let Ok(append) = api::AppendRequest::decode(message) else { return Vec::new() };
        next += 1;
        let record_ids = (0..append.records.map_or(0, |records| records.batch_size))
            .map(|batch_index| api::RecordId { shard_id: append.shard_id, batch_id: next, batch_index })
            .collect();
        let answer =
            api::AppendResponse { stream_name: append.stream_name, shard_id: append.shard_id, record_ids };
        vec![answer.encode_to_vec().into()]
    };
    let body = MessageBody::new(request.into_body(), Box::new(acknowledge)).with_ok_trailers();
    let mut response = http::Response::new(Body::new(body));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    response
}
