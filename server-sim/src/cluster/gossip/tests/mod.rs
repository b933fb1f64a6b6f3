//! Several nodes in one process, each with a socket and an internal service of its own.

mod hostile;
mod joining;
mod spreading;
mod strangers;

use super::{Gossip, GossipError, GossipKey, GossipStart};
use crate::cluster::{GossipSettings, Member, MemberState, Members, NodeId, Phase, Seed};
use crate::connection::{Door, Threshold};
use crate::limits::Limits;
use crate::listener::{Address, Advertised};
use crate::net::Net;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

/// How long anything may take that happens at once on a machine with time.
const SOON: Duration = Duration::from_secs(20);
const STORE: u128 = 0x5107e;

/// What a node is started with.
#[derive(Debug, Clone)]
struct Spec {
    id: u32,
    generation: u64,
    bind: SocketAddr,
    seeds: Vec<SocketAddr>,
    cluster: &'static str,
    store: u128,
    key: Option<GossipKey>,
    settings: GossipSettings,
}

impl Spec {
    fn new(id: u32, seeds: &[SocketAddr]) -> Spec {
        Spec {
            id,
            generation: 1000,
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            seeds: seeds.to_vec(),
            cluster: "tests",
            store: STORE,
            key: Some(key(1)),
            settings: GossipSettings::default(),
        }
    }
}

fn key(byte: u8) -> GossipKey {
    GossipKey::new(&[byte; 32]).unwrap()
}

/// A node that gossips and does nothing else.
#[derive(Debug)]
struct TestNode {
    gossip: Gossip,
    address: SocketAddr,
    net: Net,
    server: JoinHandle<()>,
}

impl TestNode {
    /// Starts it and serves its internal port; it has not joined.
    fn start(spec: &Spec) -> TestNode {
        TestNode::start_at(spec, None)
    }

    /// Like [`TestNode::start`]; others are told that it gossips at that address.
    fn start_at(spec: &Spec, told: Option<SocketAddr>) -> TestNode {
        let net = Net::new();
        let (calls, socket) = net.listen_both(spec.bind).unwrap();
        let address = calls.local_addr().unwrap();
        let me = Member {
            id: NodeId(spec.id),
            generation: spec.generation,
            internal: told.unwrap_or(address),
            state: MemberState::Alive,
            phase: Phase::Starting,
            advertised: Advertised {
                main: Address { host: format!("host{}", spec.id), port: 6570 },
                extra: vec![("public".into(), Address { host: "example.com".to_owned(), port: 7000 })],
            },
            version: "0.1.0".to_owned(),
            commit: String::new(),
        };
        let gossip = Gossip::start(GossipStart {
            me,
            seeds: spec.seeds.iter().map(|seed| Seed::parse(&seed.to_string(), 1).unwrap()).collect(),
            settings: spec.settings.clone(),
            cluster_name: spec.cluster.to_owned(),
            store_id: spec.store,
            key: spec.key.clone(),
            net: net.clone(),
            socket,
            seed: u64::from(spec.id),
        })
        .unwrap();
        let (sender, opened) = mpsc::channel(64);
        let door = Door { socket: calls, key: None, tls: None };
        tokio::spawn(door.serve(Threshold::new(&Limits::default(), sender)));
        let service = gossip.service().into_server();
        let server = tokio::spawn(async move {
            let server = Server::builder().add_service(service);
            server.serve_with_incoming(ReceiverStream::new(opened)).await.unwrap();
        });
        TestNode { gossip, address, net, server }
    }

    /// Starts it and lets it join.
    async fn join(spec: &Spec) -> Result<TestNode, GossipError> {
        let node = TestNode::start(spec);
        node.gossip.join().await?;
        Ok(node)
    }

    fn members(&self) -> Members {
        self.gossip.members().borrow().clone()
    }

    /// What it thinks of that node.
    fn state_of(&self, id: u32) -> Option<MemberState> {
        self.members().get(NodeId(id)).map(|member| member.state)
    }

    /// Waits until its members are as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&Members) -> bool) -> Members {
        let mut members = self.gossip.members();
        let outcome = tokio::time::timeout(SOON, members.wait_for(|members| wanted(members))).await;
        match outcome {
            Ok(seen) => seen.unwrap().clone(),
            Err(_) => panic!("not seen in time: {what}; node {:?} sees {:#?}", self.address, self.members()),
        }
    }

    async fn until_alive(&self, count: usize) -> Members {
        let all = |members: &Members| {
            members.nodes.values().filter(|member| member.state == MemberState::Alive).count() == count
        };
        self.until(&format!("{count} nodes alive"), all).await
    }

    async fn until_state(&self, id: u32, state: MemberState) {
        let is = |members: &Members| members.get(NodeId(id)).is_some_and(|member| member.state == state);
        self.until(&format!("node {id} {state:?}"), is).await;
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// So many nodes that know each other. All list the first as seed.
async fn cluster(count: u32) -> Vec<TestNode> {
    cluster_with(count, |_| {}).await
}

async fn cluster_with(count: u32, change: impl Fn(&mut Spec)) -> Vec<TestNode> {
    let mut nodes: Vec<TestNode> = Vec::new();
    for id in 1..=count {
        let seeds: Vec<SocketAddr> = nodes.first().map(|node| node.address).into_iter().collect();
        let mut spec = Spec::new(id, &seeds);
        change(&mut spec);
        nodes.push(TestNode::join(&spec).await.unwrap());
    }
    for node in &nodes {
        node.until_alive(count as usize).await;
    }
    nodes
}

/// Waits until that is so.
async fn poll(what: &str, mut done: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + SOON;
    while !done() {
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
