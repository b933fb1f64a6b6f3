//! A gRPC proxy that misbehaves on purpose, message by message.
//!
//! It stands between any client and any server of the protocol, so the same faults reach every language. Node
//! addresses in answers are rewritten to the proxy's own, otherwise discovery would lead clients around it.

use crate::{
    faults::{Fault, decoded, forget, respond},
    messages::{Change, MessageBody},
};
use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use hstreamdb_proto::api;
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Status, body::Body, codegen::http, server::NamedService, transport::Channel};
use tower::Service;

type Request = http::Request<Body>;
type Response = http::Response<Body>;

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
    upstream: Mutex<Channel>,
    fault: Mutex<Fault>,
    /// Stays whatever `fault` becomes.
    broken: Fault,
    /// Method, and the status it is answered with.
    canned: Mutex<Option<(String, Status)>>,
    /// Appends that are being kept back.
    late: AtomicUsize,
    port: u16,
}

/// An append that is being kept back.
struct Late(Arc<Shared>);

impl Late {
    fn new(shared: Arc<Shared>) -> Self {
        shared.late.fetch_add(1, Ordering::AcqRel);
        Late(shared)
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        self.0.late.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    fn upstream(&self) -> MutexGuard<'_, Channel> {
        self.upstream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> MutexGuard<'_, Fault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn canned(&self) -> MutexGuard<'_, Option<(String, Status)>> {
        self.canned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses up one lost reply to `method`.
    fn lose_reply(&self, method: &str) -> bool {
        match (method, &mut *self.fault()) {
            ("Append", Fault::LoseReplies(left))
            | ("ReadShard" | "CreateShardReader", Fault::LoseReaderReplies(left))
                if *left > 0 =>
            {
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
        let upstream = Mutex::new(channel(upstream_port)?);
        let (fault, canned) = (Mutex::new(Fault::None), Mutex::new(None));
        let shared = Arc::new(Shared { upstream, fault, broken, canned, late: AtomicUsize::new(0), port });
        let (cut, cuts) = watch::channel(0);
        let service = Proxy { shared: shared.clone() };
        let task = tokio::spawn(async move {
            let connections = futures::StreamExt::map(TcpListenerStream::new(listener), move |connection| {
                connection.map(|stream| crate::cutting::CuttingStream::new(stream, cuts.clone()))
            });
            // Ends only when the task is aborted.
            let _ = tonic::transport::Server::builder()
                // A client may give up many calls at once, and does when a server stands still.
                .http2_max_pending_accept_reset_streams(Some(1024))
                .add_service(service)
                .serve_with_incoming(connections)
                .await;
        });
        Ok(RpcProxy { port, shared, cut, task })
    }

    /// Sends calls to a server on another port from now on, as after a restart.
    ///
    /// # Errors
    /// As [`RpcProxy::start`].
    pub fn point_at(&self, upstream_port: u16) -> Result<()> {
        *self.shared.upstream() = channel(upstream_port)?;
        Ok(())
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

    /// Appends that were held up and have not been answered by the server.
    pub fn late(&self) -> usize {
        self.shared.late.load(Ordering::Acquire)
    }

    /// Breaks every connection that is open now; new ones work.
    pub fn cut_connections(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

/// Lazy: the server may be down now and back later.
fn channel(port: u16) -> Result<Channel> {
    let address = format!("http://127.0.0.1:{port}");
    Ok(tonic::transport::Endpoint::from_shared(address).context("the upstream address")?.connect_lazy())
}

impl Drop for RpcProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Clone)]
struct Proxy {
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
        for key in self.shared.broken.hidden_keys() {
            request.headers_mut().remove(*key);
        }
        let mut response = self.pass_faulty(&method, request).await?;
        for key in self.shared.broken.hidden_answers() {
            response.headers_mut().remove(*key);
        }
        let refused = response.headers().get("grpc-status").is_some_and(|status| status != "0");
        if refused && self.shared.broken == Fault::WrongErrors {
            return Ok(Status::internal("something went wrong").into_http());
        }
        Ok(response)
    }

    async fn pass_faulty(
        &mut self,
        method: &str,
        mut request: Request,
    ) -> Result<Response, tonic::transport::Error> {
        let fault = match self.shared.broken {
            Fault::None | Fault::DropStamps | Fault::DropPolicies | Fault::Published | Fault::WrongErrors => {
                *self.shared.fault()
            }
            broken => broken,
        };
        if let Some(answer) = fault.instead(method) {
            return Ok(answer_with(answer));
        }
        if let Some(change) = fault.of_requests(method) {
            request = request.map(|body| Body::new(MessageBody::new(body, change)));
        }
        let response = match (method, fault) {
            ("Append", Fault::Hang) => {
                let _late = Late::new(self.shared.clone());
                std::future::pending().await
            }
            ("Append", Fault::Late(most)) => self.forward_late(request, most).await?,
            ("Append", Fault::ForgetAppends) => forget(request),
            ("Append" | "ReadShard" | "CreateShardReader", _) => {
                let lose = self.shared.lose_reply(method);
                let response = self.forward(request).await?;
                if lose {
                    // Read to the end first: the server has stored the batch by then.
                    let mut body = MessageBody::new(response.into_body(), Box::new(|message| vec![message]));
                    while std::future::poll_fn(|cx| body.poll_message(cx)).await.is_some() {}
                    return Ok(Status::unavailable("the reply was lost").into_http());
                }
                response
            }
            ("StreamingFetch", Fault::EndlessConsumers) => {
                let response = self.forward(request).await?;
                response.map(|body| {
                    Body::new(MessageBody::new(body, Box::new(|message| vec![message])).without_end())
                })
            }
            _ => {
                let response = self.forward(request).await?;
                let change = redirect(method, self.shared.port).or_else(|| fault.of_responses(method));
                match change {
                    Some(change) => response.map(|body| Body::new(MessageBody::new(body, change))),
                    None => response,
                }
            }
        };
        let status = response.headers().get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()));
        match status.filter(|code| *code != Code::Ok).and_then(|code| fault.refusal(method, code)) {
            Some(answer) => Ok(answer_with(answer)),
            None => Ok(response),
        }
    }

    /// Forwards an append whatever the client does meanwhile.
    async fn forward_late(
        &mut self,
        request: Request,
        most: u32,
    ) -> Result<Response, tonic::transport::Error> {
        let (head, body) = request.into_parts();
        let mut body = MessageBody::new(body, Box::new(|message| vec![message]));
        let Some(Ok(message)) = std::future::poll_fn(|cx| body.poll_message(cx)).await else {
            return Ok(Status::cancelled("the append was cut off").into_http());
        };
        let request = http::Request::from_parts(head, Body::new(MessageBody::holding(message)));
        let mut proxy = self.clone();
        let late = Late::new(self.shared.clone());
        let forwarded = tokio::spawn(async move {
            let pause = rand::random_range(0..=most);
            tokio::time::sleep(Duration::from_millis(pause.into())).await;
            let response = proxy.forward(request).await;
            drop(late);
            response
        });
        match forwarded.await {
            Ok(response) => response,
            Err(error) => Ok(Status::internal(error.to_string()).into_http()),
        }
    }

    async fn forward(&mut self, request: Request) -> Result<Response, tonic::transport::Error> {
        let mut channel = self.shared.upstream().clone();
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
        channel.call(request).await
    }
}

fn answer_with(message: Vec<u8>) -> Response {
    respond(MessageBody::holding(message.into()).with_ok_trailers())
}

/// Puts the proxy in the place of every node that an answer of `method` names.
fn redirect(method: &str, port: u16) -> Option<Change> {
    let port = u32::from(port);
    Some(match method {
        "DescribeCluster" => decoded(move |answer: &mut api::DescribeClusterResponse| {
            answer.server_nodes.iter_mut().for_each(|node| node.port = port);
            let nodes = answer.server_nodes_status.iter_mut().filter_map(|status| status.node.as_mut());
            nodes.for_each(|node| node.port = port);
        }),
        "LookupShard" => decoded(move |answer: &mut api::LookupShardResponse| {
            answer.server_node.iter_mut().for_each(|node| node.port = port);
        }),
        "LookupSubscription" => decoded(move |answer: &mut api::LookupSubscriptionResponse| {
            answer.server_node.iter_mut().for_each(|node| node.port = port);
        }),
        "LookupShardReader" => decoded(move |answer: &mut api::LookupShardReaderResponse| {
            answer.server_node.iter_mut().for_each(|node| node.port = port);
        }),
        "LookupKey" | "LookupResource" => decoded(move |node: &mut api::ServerNode| node.port = port),
        _ => return None,
    })
}
