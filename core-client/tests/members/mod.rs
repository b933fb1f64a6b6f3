//! Real nodes that are told to be one cluster. A gateway in front of each answers by a script who is in the cluster and who
//! owns what; everything else is the node's. A relay in front of the gateway is the network.
#![allow(dead_code)]

use super::relay::Relay;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::future::BoxFuture;
use hstream_server::{
    auth::Tokens,
    node::{Node, NodeConfig},
};
use hstreamdb_proto::{api, metadata::CAPABILITIES};
use prost::Message;
use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};
use tonic::{
    body::Body,
    server::NamedService,
    transport::{Channel, Server, ServerTlsConfig, server::TcpIncoming},
};
use tower::Service;

/// What the gateways of a cluster say.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    nodes: Vec<api::ServerNodeStatus>,
    owner: Option<api::ServerNode>,
    silent_about_the_cluster: bool,
    /// Before what methods how long a gateway waits.
    slow: HashMap<&'static str, Duration>,
    published: bool,
}

impl Script {
    /// These are in the cluster, in these states.
    pub fn nodes(&self, nodes: &[(&Member, api::NodeState)]) {
        let status = |(member, state): &(&Member, api::NodeState)| api::ServerNodeStatus {
            node: Some(member.wire()),
            state: *state as i32,
        };
        self.0.lock().unwrap().nodes = nodes.iter().map(status).collect();
    }

    /// These are in the cluster and serve.
    pub fn running(&self, members: &[&Member]) {
        let all: Vec<_> = members.iter().map(|member| (*member, api::NodeState::Running)).collect();
        self.nodes(&all);
    }

    /// This one owns every shard and subscription. Without a word about it, the node that is asked does.
    pub fn owner(&self, member: &Member) {
        self.0.lock().unwrap().owner = Some(member.wire());
    }

    /// From now on nobody answers who is in the cluster.
    pub fn silent_about_the_cluster(&self, silent: bool) {
        self.0.lock().unwrap().silent_about_the_cluster = silent;
    }

    /// From now on calls of a method wait so long at the gateway.
    pub fn slow(&self, method: &'static str, by: Duration) {
        self.0.lock().unwrap().slow.insert(method, by);
    }

    /// Nodes announce none of what they can do beyond the published protocol.
    pub fn published(&self) {
        self.0.lock().unwrap().published = true;
    }

    fn answer(&self, method: &str) -> Option<Vec<u8>> {
        let told = self.0.lock().unwrap();
        match method {
            "DescribeCluster" => {
                let running =
                    |status: &&api::ServerNodeStatus| status.state == api::NodeState::Running as i32;
                let answer = api::DescribeClusterResponse {
                    protocol_version: "0.1.0".into(),
                    server_nodes: told.nodes.iter().filter(running).filter_map(|s| s.node.clone()).collect(),
                    server_nodes_status: told.nodes.clone(),
                    cluster_up_time: 1,
                };
                Some(answer.encode_to_vec())
            }
            "LookupShard" => {
                let answer = api::LookupShardResponse { shard_id: 0, server_node: told.owner.clone() };
                told.owner.as_ref().map(|_| answer.encode_to_vec())
            }
            "LookupResource" => told.owner.as_ref().map(Message::encode_to_vec),
            "LookupSubscription" => {
                let answer = api::LookupSubscriptionResponse {
                    subscription_id: String::new(),
                    server_node: told.owner.clone(),
                };
                told.owner.as_ref().map(|_| answer.encode_to_vec())
            }
            _ => None,
        }
    }
}

/// One node with its gateway and its network.
pub struct Member {
    id: u32,
    /// The network before it.
    pub relay: Relay,
    calls: Arc<Mutex<HashMap<String, u64>>>,
    node: Arc<(Node, tempfile::TempDir)>,
}

/// How a member is made.
#[derive(Default)]
pub struct MemberOptions {
    /// TLS of its gateway.
    pub tls: Option<ServerTlsConfig>,
    /// Tokens its node takes; none takes everybody.
    pub tokens: Vec<String>,
}

impl Member {
    pub async fn start(id: u32, script: &Script) -> Member {
        Member::start_with(id, script, MemberOptions::default()).await
    }

    pub async fn start_with(id: u32, script: &Script, options: MemberOptions) -> Member {
        let directory = tempfile::tempdir().unwrap();
        let config = NodeConfig {
            port: 0,
            server_id: id,
            data_dir: directory.path().join("data"),
            tokens: Tokens::new(options.tokens),
            ..NodeConfig::default()
        };
        let node = Arc::new((Node::start(config).await.unwrap(), directory));
        Member::before(node, id, script, options.tls).await
    }

    /// Another member over the same store, as nodes of one cluster are.
    pub async fn another(&self, id: u32, script: &Script, tls: Option<ServerTlsConfig>) -> Member {
        Member::before(self.node.clone(), id, script, tls).await
    }

    async fn before(
        node: Arc<(Node, tempfile::TempDir)>,
        id: u32,
        script: &Script,
        tls: Option<ServerTlsConfig>,
    ) -> Member {
        let channel = Channel::from_shared(format!("http://{}", node.0.address())).unwrap().connect_lazy();
        let calls = Arc::<Mutex<HashMap<String, u64>>>::default();
        let gateway = Gateway { channel, script: script.clone(), calls: calls.clone() };
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let relay = Relay::to(incoming.local_addr().unwrap()).await;
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        tokio::spawn(server.add_service(gateway).serve_with_incoming(incoming));
        Member { id, relay, calls, node }
    }

    pub fn address(&self) -> SocketAddr {
        self.relay.address()
    }

    /// How often a method was called here.
    pub fn calls(&self, method: &str) -> u64 {
        self.calls.lock().unwrap().get(method).copied().unwrap_or_default()
    }

    fn wire(&self) -> api::ServerNode {
        let address = self.address();
        api::ServerNode {
            id: self.id,
            host: address.ip().to_string(),
            port: address.port().into(),
            version: None,
        }
    }
}

#[derive(Clone)]
struct Gateway {
    channel: Channel,
    script: Script,
    calls: Arc<Mutex<HashMap<String, u64>>>,
}

impl NamedService for Gateway {
    const NAME: &'static str = "hstream.server.HStreamApi";
}

impl Service<http::Request<Body>> for Gateway {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut gateway = self.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            *gateway.calls.lock().unwrap().entry(method.clone()).or_default() += 1;
            if method == "DescribeCluster" && gateway.script.0.lock().unwrap().silent_about_the_cluster {
                return std::future::pending().await;
            }
            let slow = gateway.script.0.lock().unwrap().slow.get(method.as_str()).copied();
            if let Some(by) = slow {
                tokio::time::sleep(by).await;
            }
            std::future::poll_fn(|context| gateway.channel.poll_ready(context)).await.unwrap();
            let mut response = gateway.channel.call(request).await.unwrap().map(Body::new);
            if gateway.script.0.lock().unwrap().published {
                response.headers_mut().remove(CAPABILITIES);
            }
            // The node's refusal, of a wrong token for one, stays what it is.
            if response.headers().contains_key("grpc-status") {
                return Ok(response);
            }
            let Some(answer) = gateway.script.answer(&method) else { return Ok(response) };
            let (mut head, _) = response.into_parts();
            head.headers.remove("content-length");
            Ok(http::Response::from_parts(head, Body::new(Scripted::new(&answer))))
        })
    }
}

/// One message and a good end.
struct Scripted(VecDeque<http_body::Frame<Bytes>>);

impl Scripted {
    fn new(message: &[u8]) -> Self {
        let mut data = BytesMut::with_capacity(message.len() + 5);
        data.put_u8(0);
        data.put_u32(message.len() as u32);
        data.put_slice(message);
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        Scripted([http_body::Frame::data(data.freeze()), http_body::Frame::trailers(trailers)].into())
    }
}

impl http_body::Body for Scripted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}
