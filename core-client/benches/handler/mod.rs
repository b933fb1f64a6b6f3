//! A server of the protocol that keeps nothing: what is left is gRPC.

use hstreamdb_proto::{
    api::{
        AppendRequest, AppendResponse, DescribeClusterResponse, ListShardsRequest, ListShardsResponse,
        LookupShardRequest, LookupShardResponse, RecordId, ServerNode, ServerNodeStatus, Shard,
    },
    metadata::{CAPABILITIES, CAPABILITY_PRODUCER_SEQUENCE},
    partition::even_range,
};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, http},
    metadata::MetadataValue,
    server::{Grpc, NamedService},
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

/// A running handler, stopped on drop.
pub struct NullHandler {
    state: State,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct State {
    port: u16,
    shards: u32,
    records: Arc<AtomicU64>,
}

impl NullHandler {
    pub async fn start(shards: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = State { port, shards, records: Arc::default() };
        let service = Handler(state.clone());
        let task = tokio::spawn(async move {
            let server = tonic::transport::Server::builder().tcp_nodelay(true).add_service(service);
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("serves");
        });
        NullHandler { state, task }
    }

    pub fn url(&self) -> String {
        format!("hstream://127.0.0.1:{}", self.state.port)
    }

    /// Records of all appends so far.
    pub fn records(&self) -> u64 {
        self.state.records.load(Relaxed)
    }
}

impl Drop for NullHandler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Handler(State);

impl NamedService for Handler {
    const NAME: &'static str = "hstream.server.HStreamApi";
}

impl Service<http::Request<Body>> for Handler {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let state = self.0.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            Ok(match method.as_str() {
                "Append" => {
                    let answer = service_fn(|request| std::future::ready(state.append(request)));
                    Grpc::new(ProstCodec::<AppendResponse, AppendRequest>::default())
                        .unary(answer, request)
                        .await
                }
                "DescribeCluster" => {
                    let answer = service_fn(|_: Request<()>| std::future::ready(announced(state.describe())));
                    Grpc::new(ProstCodec::<DescribeClusterResponse, ()>::default())
                        .unary(answer, request)
                        .await
                }
                "ListShards" => {
                    let answer = service_fn(|_: Request<ListShardsRequest>| {
                        std::future::ready(announced(state.list()))
                    });
                    Grpc::new(ProstCodec::<ListShardsResponse, ListShardsRequest>::default())
                        .unary(answer, request)
                        .await
                }
                "LookupShard" => {
                    let answer = service_fn(|request: Request<LookupShardRequest>| {
                        let shard_id = request.into_inner().shard_id;
                        let server_node = Some(state.node());
                        std::future::ready(announced(LookupShardResponse { shard_id, server_node }))
                    });
                    Grpc::new(ProstCodec::<LookupShardResponse, LookupShardRequest>::default())
                        .unary(answer, request)
                        .await
                }
                _ => Status::unimplemented(method).into_http(),
            })
        })
    }
}

impl State {
    fn append(&self, request: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
        let AppendRequest { stream_name, shard_id, records } = request.into_inner();
        let count = records.map_or(0, |records| records.batch_size);
        let batch_id = self.records.fetch_add(u64::from(count), Relaxed);
        let record_ids = (0..count).map(|batch_index| RecordId { shard_id, batch_id, batch_index }).collect();
        announced(AppendResponse { stream_name, shard_id, record_ids })
    }

    fn node(&self) -> ServerNode {
        ServerNode { id: 1, host: "127.0.0.1".into(), port: u32::from(self.port), ..Default::default() }
    }

    fn describe(&self) -> DescribeClusterResponse {
        let status = ServerNodeStatus { node: Some(self.node()), state: 1 };
        DescribeClusterResponse {
            server_nodes: vec![self.node()],
            server_nodes_status: vec![status],
            ..Default::default()
        }
    }

    fn list(&self) -> ListShardsResponse {
        let shard = |index| {
            let (start, end) = even_range(index, self.shards);
            Shard {
                stream_name: "s".into(),
                shard_id: u64::from(index) + 1,
                start_hash_range_key: start.to_string(),
                end_hash_range_key: end.to_string(),
                is_active: true,
                ..Default::default()
            }
        };
        ListShardsResponse { shards: (0..self.shards).map(shard).collect() }
    }
}

/// An answer of a server that can order batches, so that several are in flight.
fn announced<T>(answer: T) -> Result<Response<T>, Status> {
    let mut response = Response::new(answer);
    response.metadata_mut().insert(CAPABILITIES, MetadataValue::from_static(CAPABILITY_PRODUCER_SEQUENCE));
    Ok(response)
}
