//! A process that gossips and does nothing else.

use crate::namespaces::{address, known_as};
use crate::process::say;
use hstream_server::cluster::gossip::{Gossip, GossipKey, GossipStart};
use hstream_server::cluster::{GossipSettings, Member, MemberState, Members, NodeId, Phase, Seed};
use hstream_server::connection::{Door, Threshold};
use hstream_server::limits::Limits;
use hstream_server::listener::{Address, Advertised};
use hstream_server::net::Net;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

/// The internal port of all nodes.
pub const PORT: u16 = 6571;
/// How often a node tells the test what it sees, beside every change.
const REPORT: Duration = Duration::from_millis(200);

/// What a node sees.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// How many probes it has asked others for.
    pub indirect_probes: u64,
    members: Vec<(u32, String)>,
}

impl View {
    /// What it thinks of that node.
    pub fn state(&self, node: u32) -> &str {
        self.members.iter().find(|(id, _)| *id == node).map_or("unknown", |(_, state)| state)
    }

    /// How many nodes are in that state.
    pub fn count(&self, state: &str) -> usize {
        self.members.iter().filter(|(_, its)| its == state).count()
    }

    /// A view as a node says it; nothing if the line says something else.
    pub fn read(line: &str) -> Option<View> {
        let (probes, members) = line.strip_prefix("sees ")?.split_once(' ')?;
        let members = members.split(' ').filter_map(|member| {
            let (id, state) = member.split_once(':')?;
            Some((id.parse().ok()?, state.to_owned()))
        });
        Some(View { indirect_probes: probes.parse().ok()?, members: members.collect() })
    }
}

fn tell(gossip: &Gossip, members: &Members) {
    let states = members.nodes.values().map(|member| format!("{}:{:?}", member.id, member.state));
    let states: Vec<String> = states.collect();
    say(&format!("sees {} {}", gossip.stats().swim.indirect_probes, states.join(" ")));
}

/// Gossips until it is told to stop by SIGTERM. `TASK` is its number and the number of nodes.
pub fn run() {
    let task = std::env::var("TASK").unwrap();
    let (id, nodes) = task.split_once(' ').unwrap();
    let (id, nodes): (u32, u32) = (id.parse().unwrap(), nodes.parse().unwrap());
    // A test that was killed must not leave anything behind.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(gossip(id, nodes));
}

async fn gossip(id: u32, nodes: u32) {
    let mut stop = signal(SignalKind::terminate()).unwrap();
    let net = Net::new();
    let (calls, socket) = net.listen_both(SocketAddr::from((address(id), PORT))).unwrap();
    let me = Member {
        id: NodeId(id),
        generation: 1,
        internal: SocketAddr::from((known_as(id), PORT)),
        state: MemberState::Alive,
        phase: Phase::Running,
        advertised: Advertised { main: Address { host: format!("node{id}"), port: 6570 }, extra: Vec::new() },
        version: "0.1.0".to_owned(),
        commit: String::new(),
    };
    let gossip = Gossip::start(GossipStart {
        me,
        seeds: (1..=nodes).map(|node| Seed::parse(&known_as(node).to_string(), PORT).unwrap()).collect(),
        settings: GossipSettings::default(),
        cluster_name: "between processes".to_owned(),
        store_id: 1,
        key: Some(GossipKey::new(&[7; 32]).unwrap()),
        net,
        socket,
        seed: u64::from(id),
    })
    .unwrap();
    let (sender, opened) = mpsc::channel(64);
    tokio::spawn(
        Door { socket: calls, key: None, tls: None }.serve(Threshold::new(&Limits::default(), sender)),
    );
    let server = Server::builder().add_service(gossip.service().into_server());
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(opened)));
    gossip.join().await.unwrap();
    let mut members = gossip.members();
    loop {
        let seen = members.borrow_and_update().clone();
        tell(&gossip, &seen);
        tokio::select! {
            _ = stop.recv() => break,
            changed = members.changed() => changed.unwrap(),
            () = tokio::time::sleep(REPORT) => {}
        }
    }
    gossip.leave().await;
}
