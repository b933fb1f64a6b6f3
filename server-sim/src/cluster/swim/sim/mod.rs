//! A cluster in virtual time: real memberships, a simulated network and clock, one seed for everything.

mod network;
mod script;

use super::timer::Wake;
use super::{Event, GossipSettings, Input, Membership, Output, TimerToken};
use crate::cluster::{Member, MemberState, Members, NodeId, Phase};
use crate::listener::{Address, Advertised};
pub use network::Network;
use rand_0_10::rngs::SmallRng;
use rand_0_10::{RngExt as _, SeedableRng as _};
pub use script::Op;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Packets a stopped process finds in its socket when it goes on; what comes later is lost.
const SOCKET_BUFFER: usize = 256;

pub struct World {
    /// Nothing is read from it: virtual time is added to it.
    base: Instant,
    pub now: Duration,
    pub network: Network,
    pub settings: GossipSettings,
    nodes: Vec<Process>,
    queue: BinaryHeap<Reverse<Entry>>,
    happenings: BTreeMap<u64, Happening>,
    scheduled: u64,
    rng: SmallRng,
    /// What every node noticed.
    pub log: Vec<(Duration, usize, Event)>,
    /// Of every packet and its moment.
    pub digest: u64,
    /// What is never delivered, whatever the network does.
    pub censor: fn(&[u8]) -> bool,
    /// Whether a suspect is dead at once.
    pub no_suspicion: bool,
}

type Entry = (Duration, u64);

enum Happening {
    Packet { to: usize, bytes: Vec<u8> },
    Timer { node: usize, run: u64, token: TimerToken },
    Visit { from: usize, to: usize, records: Vec<u8> },
    Answer { to: usize, records: Vec<u8> },
}

struct Process {
    id: NodeId,
    membership: Option<Membership>,
    address: SocketAddr,
    generation: u64,
    paused: bool,
    /// What waits for a stopped process: timers and packets.
    waiting: Vec<Happening>,
}

pub fn address_of(node: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, (node / 250) as u8, (node % 250 + 1) as u8)), 6571)
}

pub fn id_of(node: usize) -> NodeId {
    NodeId(node as u32 + 1)
}

pub fn member(id: NodeId, generation: u64, internal: SocketAddr) -> Member {
    let main = Address { host: internal.ip().to_string(), port: 6570 };
    Member {
        id,
        generation,
        internal,
        state: MemberState::Alive,
        phase: Phase::Starting,
        advertised: Advertised {
            main,
            extra: vec![("public".into(), Address { host: format!("n{id}.example.com"), port: 7000 })],
        },
        version: "1.2.3".to_owned(),
        commit: String::new(),
    }
}

impl World {
    /// Nodes that know nobody.
    pub fn new(nodes: usize, settings: GossipSettings, seed: u64) -> Self {
        let process = |node| Process {
            id: id_of(node),
            membership: None,
            address: address_of(node),
            generation: 1_700_000_000_000,
            paused: false,
            waiting: Vec::new(),
        };
        World {
            base: Instant::now(),
            now: Duration::ZERO,
            network: Network::default(),
            settings,
            nodes: (0..nodes).map(process).collect(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            scheduled: 0,
            rng: SmallRng::seed_from_u64(seed),
            log: Vec::new(),
            digest: 0,
            censor: |_| false,
            no_suspicion: false,
        }
    }

    /// Nodes that all know each other and are not in step.
    pub fn settled(nodes: usize, settings: GossipSettings, seed: u64) -> Self {
        let mut world = World::new(nodes, settings, seed);
        for node in 0..nodes {
            let pause =
                world.settings.probe_interval.mul_f64(world.rng.random_range(0.0..1.0) / nodes as f64 * 4.0);
            world.run(pause);
            world.start(node);
            world.phase(node, Phase::Running);
        }
        let agreed = world.periods_until(100, World::all_agree);
        assert!(agreed, "{nodes} nodes do not find each other");
        world.periods(20);
        world.log.clear();
        world
    }

    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    fn instant(&self) -> Instant {
        self.base + self.now
    }

    /// Starts a process, with a higher generation than before. It asks the first that is up.
    pub fn start(&mut self, node: usize) {
        let process = &mut self.nodes[node];
        process.generation += 1;
        let me = member(process.id, process.generation, process.address);
        let (seed, now) = (self.rng.random(), self.instant());
        let (membership, first) = Membership::new(&me, self.settings.clone(), seed, now).unwrap();
        let process = &mut self.nodes[node];
        process.membership = Some(membership);
        (process.paused, process.waiting) = (false, Vec::new());
        self.carry_out(node, first);
        self.join(node);
    }

    /// Asks the first that is up, as nodes ask their seeds.
    pub fn join(&mut self, node: usize) {
        let reachable =
            |other: &usize| *other != node && self.is_up(*other) && self.network.connects(node, *other);
        if let Some(seed) = (0..self.size()).find(reachable) {
            self.visit(node, self.nodes[seed].address);
        }
    }

    pub fn generation(&self, node: usize) -> u64 {
        self.nodes[node].generation
    }

    /// Who sees whom how, for messages.
    pub fn opinions(&self) -> String {
        let line = |node: usize| {
            let states = self
                .view(node)
                .nodes
                .values()
                .map(|member| format!("{:?}", member.state))
                .collect::<Vec<_>>();
            format!("\n{} sees {}", id_of(node), states.join(" "))
        };
        self.up().into_iter().map(line).collect()
    }

    /// Its next run has another address.
    pub fn move_to(&mut self, node: usize, address: SocketAddr) {
        self.nodes[node].address = address;
    }

    /// Its next run has the number of another node, and a higher generation.
    pub fn call_it(&mut self, node: usize, id: NodeId) {
        self.nodes[node].id = id;
        self.nodes[node].generation += 1000;
    }

    pub fn crash(&mut self, node: usize) {
        self.nodes[node].membership = None;
    }

    pub fn pause(&mut self, node: usize) {
        self.nodes[node].paused = true;
    }

    /// What is overdue comes first, packets behind it: the unkind order.
    pub fn resume(&mut self, node: usize) {
        self.nodes[node].paused = false;
        let waiting = std::mem::take(&mut self.nodes[node].waiting);
        let (timers, packets): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|happening| matches!(happening, Happening::Timer { .. }));
        for happening in timers.into_iter().chain(packets) {
            self.happen(happening);
        }
    }

    pub fn leave(&mut self, node: usize) {
        self.handle(node, Input::Leave);
        self.crash(node);
    }

    pub fn phase(&mut self, node: usize, phase: Phase) {
        self.handle(node, Input::Phase(phase));
    }

    /// A node learns that the present session of another one is over.
    pub fn session_over(&mut self, node: usize, other: usize) {
        self.session_of_run_over(node, other, self.generation(other));
    }

    /// The same of an earlier one.
    pub fn session_of_run_over(&mut self, node: usize, other: usize, generation: u64) {
        self.handle(node, Input::SessionOver(id_of(other), generation));
    }

    pub fn is_up(&self, node: usize) -> bool {
        self.nodes[node].membership.is_some() && !self.nodes[node].paused
    }

    pub fn up(&self) -> Vec<usize> {
        (0..self.size()).filter(|node| self.is_up(*node)).collect()
    }

    pub fn membership(&self, node: usize) -> &Membership {
        self.nodes[node].membership.as_ref().expect("the node is up")
    }

    pub fn view(&self, node: usize) -> Members {
        self.membership(node).members()
    }

    /// What one node thinks of another; nothing if it never heard of it.
    pub fn sees(&self, node: usize, other: usize) -> Option<MemberState> {
        self.membership(node).state_of(id_of(other))
    }

    pub fn all_see(&self, other: usize, state: MemberState) -> bool {
        self.up().into_iter().all(|node| node == other || self.sees(node, other) == Some(state))
    }

    /// Whether all that are up see each other alive and everybody else not.
    pub fn all_agree(&self) -> bool {
        let up = self.up();
        up.iter().all(|node| {
            (0..self.size()).all(|other| {
                let alive = self.sees(*node, other) == Some(MemberState::Alive);
                alive == up.contains(&other)
            })
        })
    }

    pub fn periods(&mut self, periods: u32) {
        self.run(self.settings.probe_interval * periods);
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Whether it came so within that time; looked at after every happening.
    pub fn run_until(&mut self, time: Duration, mut done: impl FnMut(&World) -> bool) -> bool {
        let end = self.now + time;
        while !done(self) {
            if !self.step(end) {
                self.now = end;
                return done(self);
            }
        }
        true
    }

    /// Whether it came so within so many periods; looked at once in each.
    pub fn periods_until(&mut self, periods: u32, mut done: impl FnMut(&World) -> bool) -> bool {
        (0..periods).any(|_| {
            self.periods(1);
            done(self)
        })
    }

    /// Nothing left to do until then: false.
    fn step(&mut self, end: Duration) -> bool {
        let Some(Reverse((due, number))) = self.queue.peek().copied() else { return false };
        if due > end {
            return false;
        }
        self.queue.pop();
        self.now = due;
        if let Some(happening) = self.happenings.remove(&number) {
            self.happen(happening);
        }
        true
    }

    fn schedule(&mut self, after: Duration, happening: Happening) {
        self.scheduled += 1;
        self.queue.push(Reverse((self.now + after, self.scheduled)));
        self.happenings.insert(self.scheduled, happening);
    }

    fn happen(&mut self, happening: Happening) {
        let node = match &happening {
            Happening::Timer { node, .. } => *node,
            Happening::Packet { to, .. } | Happening::Visit { to, .. } | Happening::Answer { to, .. } => *to,
        };
        let process = &mut self.nodes[node];
        if process.paused {
            if process.waiting.len() < SOCKET_BUFFER || matches!(happening, Happening::Timer { .. }) {
                process.waiting.push(happening);
            }
            return;
        }
        match happening {
            Happening::Packet { to, bytes } => self.handle(to, Input::Packet(&bytes)),
            // A new process does not know the timers of the old one.
            Happening::Timer { node, run, token } if run == self.nodes[node].generation => {
                self.handle(node, Input::Timer(token));
            }
            Happening::Timer { .. } => {}
            Happening::Visit { from, to, records } => {
                self.handle(to, Input::Records(&records));
                if let Some(membership) = &self.nodes[to].membership
                    && self.network.connects(to, from)
                {
                    let records = membership.records();
                    self.schedule(self.network.latency, Happening::Answer { to: from, records });
                }
            }
            Happening::Answer { to, records } => self.handle(to, Input::Records(&records)),
        }
    }

    pub fn handle(&mut self, node: usize, input: Input<'_>) {
        let now = self.instant();
        let Some(membership) = &mut self.nodes[node].membership else { return };
        let output = membership.handle(input, now);
        self.carry_out(node, output);
    }

    fn carry_out(&mut self, node: usize, output: Output) {
        for event in output.events {
            self.log.push((self.now, node, event));
        }
        let run = self.nodes[node].generation;
        for (mut after, token) in output.timers {
            if self.no_suspicion && matches!(token.what, Wake::Foca(foca::Timer::ChangeSuspectToDown { .. }))
            {
                after = Duration::ZERO;
            }
            self.schedule(after, Happening::Timer { node, run, token });
        }
        for packet in output.packets {
            self.note(&packet.bytes);
            let Some(to) = self.at(packet.to.internal) else { continue };
            let Some(delay) = self.network.carry(node, to, &mut self.rng) else { continue };
            if !(self.censor)(&packet.bytes) {
                self.schedule(delay, Happening::Packet { to, bytes: packet.bytes.to_vec() });
            }
        }
        for peer in output.push_pull {
            self.visit(node, peer.internal);
        }
    }

    /// A connection, by which nothing gets lost.
    fn visit(&mut self, from: usize, address: SocketAddr) {
        let Some(to) = self.at(address) else { return };
        if self.network.connects(from, to) && self.is_up(to) {
            let records = self.membership(from).records();
            self.schedule(self.network.latency * 2, Happening::Visit { from, to, records });
        }
    }

    fn at(&self, address: SocketAddr) -> Option<usize> {
        self.nodes.iter().position(|process| process.address == address)
    }

    /// What nodes noticed of one since some moment.
    pub fn noticed(&self, since: Duration, what: impl Fn(Event) -> bool) -> Vec<(Duration, usize, Event)> {
        self.log.iter().copied().filter(|(at, _, event)| *at >= since && what(*event)).collect()
    }

    fn note(&mut self, bytes: &[u8]) {
        let seed = self.digest ^ self.now.as_nanos() as u64;
        self.digest = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed);
    }
}
