//! Simulated nodes over one simulated store. Each has a runtime and a clock of its own, which the world moves on.
//!
//! A paused node's clock goes on, but its tasks learn of it only when it runs again: what a stopped process or a
//! stopped virtual machine looks like from inside. Clocks may run fast or slow.

use super::sim_store::{Ms, SimStore};
use crate::cluster::ownership::{Claim, ClaimError, Kind, Ownership, Session, SessionStart};
use crate::cluster::{Member, MemberState, Members, NodeId, Phase};
use crate::listener::{Address, Advertised};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(super) const LEASE: Duration = Duration::from_secs(3);
/// Milliseconds of a step of the world.
const STEP: Ms = 10;
/// Turns of a node's tasks in a step.
const TURNS: usize = 12;

pub(super) struct World {
    pub(super) store: SimStore,
    pub(super) nodes: Vec<SimNode>,
    pub(super) now: Ms,
}

pub(super) struct SimNode {
    pub(super) id: NodeId,
    /// `None` while it is dead.
    life: Option<Life>,
    paused: bool,
    /// Nanoseconds of its clock in a millisecond of the world.
    rate: u64,
    /// What its clock is behind.
    owed: Duration,
    members: watch::Sender<Members>,
}

struct Life {
    runtime: Runtime,
    ownership: Arc<Mutex<Option<Arc<Ownership>>>>,
}

fn member(id: NodeId) -> Member {
    Member {
        id,
        generation: 1,
        internal: SocketAddr::from((Ipv4Addr::LOCALHOST, 6571)),
        state: MemberState::Alive,
        phase: Phase::Running,
        advertised: Advertised { main: Address { host: "h".into(), port: 1 }, extra: Vec::new() },
        version: String::new(),
        commit: String::new(),
    }
}

impl World {
    /// Nodes 1 to `count`, all of which see each other; none is started.
    pub(super) fn new(seed: u64, count: u32, slow: Ms) -> World {
        World::of((1..=count).map(NodeId).collect(), seed, slow)
    }

    /// Processes that run as these nodes. Everywhere here a process is named by its place in this list, from 1 on.
    pub(super) fn of(ids: Vec<NodeId>, seed: u64, slow: Ms) -> World {
        let all: BTreeMap<NodeId, Member> = ids.iter().map(|&id| (id, member(id))).collect();
        let node = |id: NodeId| SimNode {
            id,
            life: None,
            paused: false,
            rate: 1_000_000,
            owed: Duration::ZERO,
            members: watch::Sender::new(Members { me: id, nodes: Arc::new(all.clone()) }),
        };
        let nodes: Vec<SimNode> = ids.into_iter().map(node).collect();
        World { store: SimStore::new(seed, nodes.len(), slow), nodes, now: 0 }
    }

    /// As [`World::new`], with all nodes started.
    pub(super) fn started(seed: u64, count: u32) -> World {
        let mut world = World::new(seed, count, 3);
        for node in 1..=count {
            world.start(node);
        }
        world.until("all nodes have begun", 2_000, |world| {
            world.nodes.iter().all(|node| node.ownership().is_some())
        });
        world
    }

    fn index(id: u32) -> usize {
        id as usize - 1
    }

    pub(super) fn node(&self, id: u32) -> &SimNode {
        &self.nodes[World::index(id)]
    }

    /// Starts a node, or starts it again.
    pub(super) fn start(&mut self, id: u32) {
        self.kill(id);
        let meta = self.store.link(World::index(id));
        let node = &mut self.nodes[World::index(id)];
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let ownership = Arc::new(Mutex::new(None));
        let (begun, members, me) = (ownership.clone(), node.members.subscribe(), node.id);
        runtime.spawn(async move {
            // As a node does that cannot reach its store yet.
            loop {
                let address = format!("process {id}");
                let start = SessionStart { meta: meta.clone(), node: me, address, lease: LEASE };
                if let Ok(session) = Session::begin(start).await
                    && let Ok(there) =
                        Ownership::start(Arc::new(session), meta.clone(), members.clone()).await
                {
                    *begun.lock().unwrap() = Some(there);
                    return;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        node.life = Some(Life { runtime, ownership });
        node.paused = false;
        node.owed = Duration::ZERO;
    }

    /// Ends a node's process on the spot.
    pub(super) fn kill(&mut self, id: u32) {
        if let Some(life) = self.nodes[World::index(id)].life.take() {
            life.runtime.shutdown_background();
        }
    }

    pub(super) fn pause(&mut self, id: u32, pause: bool) {
        self.nodes[World::index(id)].paused = pause;
    }

    pub(super) fn cut(&mut self, id: u32, cut: bool) {
        self.store.cut(World::index(id), cut);
    }

    /// Lets a node's clock run fast (above 100) or slow, in percent.
    pub(super) fn clock(&mut self, id: u32, percent: u64) {
        self.nodes[World::index(id)].rate = percent * 10_000;
    }

    /// Changes what one node thinks of another.
    pub(super) fn sees(&mut self, observer: u32, id: u32, state: MemberState) {
        self.nodes[World::index(observer)].members.send_modify(|members| {
            if let Some(member) = Arc::make_mut(&mut members.nodes).get_mut(&NodeId(id)) {
                member.state = state;
            }
        });
    }

    /// Changes what all others think of a node.
    pub(super) fn all_see(&mut self, id: u32, state: MemberState) {
        for observer in 1..=self.nodes.len() as u32 {
            if observer != id {
                self.sees(observer, id, state);
            }
        }
    }

    /// Lets all time of the world pass that a step is.
    pub(super) fn step(&mut self) {
        self.now += STEP;
        self.store.step(self.now);
        for node in &mut self.nodes {
            node.owed += Duration::from_nanos(STEP * node.rate);
            if node.paused {
                continue;
            }
            let owed = std::mem::take(&mut node.owed);
            if let Some(life) = &node.life {
                life.runtime.block_on(async {
                    tokio::time::advance(owed).await;
                    for _ in 0..TURNS {
                        tokio::task::yield_now().await;
                    }
                });
            }
        }
    }

    pub(super) fn run(&mut self, ms: Ms) {
        let end = self.now + ms;
        while self.now < end {
            self.step();
        }
    }

    /// Steps until something holds, and says after how many milliseconds it did.
    pub(super) fn until(&mut self, what: &str, within: Ms, mut holds: impl FnMut(&World) -> bool) -> Ms {
        let start = self.now;
        while !holds(self) {
            assert!(self.now - start < within, "not within {within} ms: {what}");
            self.step();
        }
        self.now - start
    }

    /// Begins to claim something on a node.
    pub(super) fn claim(&self, id: u32, resource: &str) -> Claiming {
        self.claiming(id, resource, false)
    }

    /// As [`World::claim`], for a call that another node passed on.
    pub(super) fn claim_here(&self, id: u32, resource: &str) -> Claiming {
        self.claiming(id, resource, true)
    }

    fn claiming(&self, id: u32, resource: &str, here: bool) -> Claiming {
        let node = self.node(id);
        let (ownership, resource) = (node.ownership().expect("a node that has begun"), resource.to_owned());
        let claiming = async move {
            match here {
                true => ownership.claim_here(Kind::Subscription, &resource).await,
                false => ownership.claim(Kind::Subscription, &resource).await,
            }
        };
        Claiming(node.life.as_ref().expect("a living node").runtime.spawn(claiming))
    }

    /// Claims something on a node, whatever its placement.
    pub(super) fn claimed(&mut self, id: u32, resource: &str) -> Claim {
        let claiming = self.claim_here(id, resource);
        self.outcome(claiming, 15_000).unwrap()
    }

    /// Waits for a claim.
    pub(super) fn outcome(&mut self, claiming: Claiming, within: Ms) -> Result<Claim, ClaimError> {
        self.until("a claim has an outcome", within, |_| claiming.0.is_finished());
        futures::executor::block_on(claiming.0).unwrap()
    }

    /// Runs something on a node until it is done.
    pub(super) fn on<T: Send + 'static>(
        &mut self,
        id: u32,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let task = self.node(id).life.as_ref().expect("a living node").runtime.spawn(work);
        self.until("something on a node is done", 20_000, |_| task.is_finished());
        futures::executor::block_on(task).unwrap()
    }

    /// Writes a checkpoint as the owner.
    pub(super) fn checkpoint(&mut self, id: u32, claim: &Claim, value: u64) -> crate::store::Result<()> {
        let (meta, guard) = (self.store.link(World::index(id)), claim.guard());
        let value = (format!("checkpoint/{}", claim.resource().id), Bytes::from(value.to_string()));
        self.on(id, async move { meta.put_many(vec![value], guard).await })
    }

    /// The node that may serve something right now, by its own clock. A node whose tasks do not run serves nothing.
    pub(super) fn serving(&self, resource: &str) -> Vec<NodeId> {
        self.nodes.iter().filter(|node| !node.paused && node.serves(resource)).map(|node| node.id).collect()
    }

    /// Whether a node may serve anything, by its own clock.
    pub(super) fn has_lease(&self, id: u32) -> bool {
        let node = self.node(id);
        let (Some(life), Some(ownership)) = (&node.life, node.ownership()) else { return false };
        let _in = life.runtime.enter();
        ownership.session().term().is_valid()
    }

    /// Whether a claim is valid by the clock of the node that has it.
    pub(super) fn is_valid(&self, id: u32, claim: &Claim) -> bool {
        let _in = self.node(id).life.as_ref().expect("a living node").runtime.enter();
        claim.is_valid()
    }

    /// The node that another one says something is on.
    pub(super) fn owner(&mut self, asked: u32, resource: &str) -> Option<u32> {
        let (ownership, resource) = (self.node(asked).ownership().unwrap(), resource.to_owned());
        let owner = self.on(asked, async move { ownership.owner_of(Kind::Subscription, &resource).await });
        owner.ok().map(|node| node.0)
    }
}

impl SimNode {
    pub(super) fn ownership(&self) -> Option<Arc<Ownership>> {
        self.life.as_ref()?.ownership.lock().unwrap().clone()
    }

    pub(super) fn is_alive(&self) -> bool {
        self.life.is_some()
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether it may serve something, by its own clock.
    fn serves(&self, resource: &str) -> bool {
        let Some(life) = &self.life else { return false };
        let _in = life.runtime.enter();
        self.ownership().is_some_and(|ownership| ownership.held(Kind::Subscription, resource).is_some())
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.life.as_ref().expect("a living node").runtime.spawn(work);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for id in 1..=self.nodes.len() as u32 {
            self.kill(id);
        }
    }
}

/// A claim under way.
pub(super) struct Claiming(JoinHandle<Result<Claim, ClaimError>>);

impl Claiming {
    pub(super) fn is_done(&self) -> bool {
        self.0.is_finished()
    }
}
