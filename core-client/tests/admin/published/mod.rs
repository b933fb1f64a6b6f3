//! Nodes that answer as published servers do where our own server has nothing: queries, views, schemas and connectors.
//!
//! They keep what they are sent, check who owns it, and refuse in the published words. Calls about streams,
//! subscriptions and records go on to a real node, if there is one.

mod connectors;
mod sql;
mod state;

use futures::future::BoxFuture;
use hstreamdb_proto::api;
use prost::Message;
use state::{Answer, State};
use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::http,
    server::NamedService,
    transport::{Channel, Server},
};
use tower::{Service, ServiceExt as _};

/// A cluster of such nodes, ended on drop.
pub struct Published {
    pub ports: Vec<u16>,
    state: Arc<Mutex<State>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Published {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Published {
    /// So many nodes that know nothing of streams.
    pub async fn start(nodes: usize) -> Published {
        Published::serve(vec![None; nodes]).await
    }

    /// One node in front of the real one on this port.
    pub async fn start_before(port: u16) -> Published {
        Published::start_before_each(&[port]).await
    }

    /// One node in front of each of these.
    pub async fn start_before_each(ports: &[u16]) -> Published {
        Published::serve(ports.iter().copied().map(Some).collect()).await
    }

    async fn serve(backends: Vec<Option<u16>>) -> Published {
        let mut listeners = Vec::new();
        for _ in &backends {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let ports: Vec<u16> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        let channel = |port| Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap().connect_lazy();
        let state = Arc::new(Mutex::new(State::new(ports.clone())));
        let serve = |(number, (listener, backend)): (usize, (TcpListener, Option<u16>))| {
            let service = Node { number, state: state.clone(), backend: backend.map(channel) };
            tokio::spawn(async move {
                let connections = TcpListenerStream::new(listener);
                Server::builder().add_service(service).serve_with_incoming(connections).await.unwrap();
            })
        };
        let tasks = listeners.into_iter().zip(backends).enumerate().map(serve).collect();
        Published { ports, state, tasks }
    }

    /// A client that knows the first node and does not wait long between tries.
    pub async fn client(&self) -> hstreamdb::Client {
        self.builder().connect().await.unwrap()
    }

    pub fn builder(&self) -> hstreamdb::ClientBuilder {
        hstreamdb::Client::builder()
            .url(format!("hstream://127.0.0.1:{}", self.ports[0]))
            .set("retry_base_ms", 1)
            .and_then(|builder| builder.set("retry_max_ms", 20))
            .unwrap()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The nodes that were called by this name, in order.
    pub fn nodes_of(&self, call: &str) -> Vec<usize> {
        self.state().calls.iter().filter(|(_, name)| name == call).map(|(node, _)| *node).collect()
    }
}

#[derive(Clone)]
struct Node {
    number: usize,
    state: Arc<Mutex<State>>,
    backend: Option<Channel>,
}

impl NamedService for Node {
    const NAME: &'static str = "hstream.server.HStreamApi";
}

impl Service<http::Request<Body>> for Node {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let node = self.clone();
        Box::pin(async move { Ok(node.answer(request).await) })
    }
}

impl Node {
    async fn answer(&self, request: http::Request<Body>) -> http::Response<Body> {
        let call = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let (delay, refused) = {
            let mut state = self.state.lock().unwrap();
            state.calls.push((self.number, call.clone()));
            let refused = state.refused.get(&call).is_some_and(|nodes| nodes.contains(&self.number));
            (state.delays.get(&call).copied().unwrap_or_default(), refused)
        };
        if refused {
            return Status::unavailable("not now").into_http();
        }
        if delay > Duration::ZERO {
            tokio::time::sleep(delay).await;
        }
        macro_rules! calls {
            ($($name:literal => $method:ident($request:ty),)*) => {
                match call.as_str() {
                    $($name => {
                        self.unary(&call, request, |state, node, request: $request| state.$method(node, request)).await
                    })*
                    _ => self.forward(request).await,
                }
            };
        }
        calls! {
            "DescribeCluster" => describe(()),
            "LookupResource" => lookup_resource(api::LookupResourceRequest),
            "LookupShard" => lookup_shard(api::LookupShardRequest),
            "LookupSubscription" => lookup_subscription(api::LookupSubscriptionRequest),
            "LookupShardReader" => lookup_shard_reader(api::LookupShardReaderRequest),
            "LookupKey" => lookup_key(api::LookupKeyRequest),
            "CreateQuery" => create_query(api::CreateQueryRequest),
            "CreateQueryWithNamespace" => create_query_with_namespace(api::CreateQueryWithNamespaceRequest),
            "ListQueries" => list_queries(api::ListQueriesRequest),
            "GetQuery" => get_query(api::GetQueryRequest),
            "TerminateQuery" => terminate_query(api::TerminateQueryRequest),
            "ResumeQuery" => resume_query(api::ResumeQueryRequest),
            "DeleteQuery" => delete_query(api::DeleteQueryRequest),
            "ExecuteQuery" => execute_query(api::CommandQuery),
            "ParseSql" => parse_sql(api::ParseSqlRequest),
            "ListViews" => list_views(api::ListViewsRequest),
            "GetView" => get_view(api::GetViewRequest),
            "DeleteView" => delete_view(api::DeleteViewRequest),
            "ExecuteViewQuery" => execute_view_query(api::ExecuteViewQueryRequest),
            "ExecuteViewQueryWithNamespace"
                => execute_view_query_with_namespace(api::ExecuteViewQueryWithNamespaceRequest),
            "RegisterSchema" => register_schema(api::Schema),
            "GetSchema" => get_schema(api::GetSchemaRequest),
            "UnregisterSchema" => unregister_schema(api::UnregisterSchemaRequest),
            "CreateConnector" => create_connector(api::CreateConnectorRequest),
            "ListConnectors" => list_connectors(api::ListConnectorsRequest),
            "GetConnector" => get_connector(api::GetConnectorRequest),
            "GetConnectorSpec" => get_connector_spec(api::GetConnectorSpecRequest),
            "GetConnectorLogs" => get_connector_logs(api::GetConnectorLogsRequest),
            "DeleteConnector" => delete_connector(api::DeleteConnectorRequest),
            "PauseConnector" => pause_connector(api::PauseConnectorRequest),
            "ResumeConnector" => resume_connector(api::ResumeConnectorRequest),
            "AlterConnectorConfig" => alter_connector_config(api::AlterConnectorConfigRequest),
        }
    }

    async fn unary<Q, A>(
        &self,
        call: &str,
        request: http::Request<Body>,
        answer: impl Fn(&mut State, usize, Q) -> Answer<A>,
    ) -> http::Response<Body>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let service = tower::service_fn(|request: Request<Q>| {
            let mut state = self.state.lock().unwrap();
            let mut answer = answer(&mut state, self.number, request.into_inner());
            // What was done is done; only its answer is lost.
            if let Some(left) = state.lost.get_mut(call).filter(|left| **left > 0) {
                *left -= 1;
                answer = Err(Status::unavailable("the connection broke"));
            }
            async move { answer.map(Response::new) }
        });
        tonic::server::Grpc::new(tonic_prost::ProstCodec::<A, Q>::default()).unary(service, request).await
    }

    async fn forward(&self, request: http::Request<Body>) -> http::Response<Body> {
        let Some(mut backend) = self.backend.clone() else {
            return Status::unimplemented("").into_http();
        };
        match backend.ready().await {
            Ok(backend) => match backend.call(request).await {
                Ok(response) => response,
                Err(error) => Status::unavailable(error.to_string()).into_http(),
            },
            Err(error) => Status::unavailable(error.to_string()).into_http(),
        }
    }
}
