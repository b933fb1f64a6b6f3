//! Random histories: nodes that pause, die, come back, lose the store and are wrongly found dead, while all of them serve
//! what they believe to be theirs. Checked at every step: one owner at a time, checkpoints that never go back. Checked
//! at the end of every history: everything is served again.
//!
//! `HSTREAM_OWNERSHIP_ROUNDS` runs more histories than the few that every test run does.

use super::world::{LEASE, World};
use super::{lease_ms, wait_ms};
use crate::cluster::ownership::{Claim, Kind, Ownership};
use crate::cluster::{MemberState, NodeId};
use crate::store::{MetaStore, StoreError};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const RESOURCES: [&str; 4] = ["a", "b", "c", "d"];
/// Steps of a history, in tenths of a second.
const LENGTH: u64 = 900;

/// Serves one resource whenever this node believes that it should.
async fn serve(ownership: Arc<Ownership>, meta: Arc<dyn MetaStore>, resource: &'static str) {
    loop {
        if ownership.owner_of(Kind::Subscription, resource).await == Ok(ownership.me())
            && let Ok(claim) = ownership.claim_here(Kind::Subscription, resource).await
        {
            own(&ownership, &*meta, resource, &claim).await;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

/// Moves the checkpoint on as long as the claim is there, from where it is.
async fn own(ownership: &Ownership, meta: &dyn MetaStore, resource: &str, claim: &Claim) {
    let key = format!("checkpoint/{resource}");
    let Ok(found) = meta.get(&key).await else { return };
    let mut at: u64 = found.map_or(0, |found| String::from_utf8_lossy(&found.value).parse().unwrap());
    let mut in_doubt = false;
    while claim.is_valid() {
        let written = async {
            if in_doubt {
                ownership.renew_guard(claim).await?;
            }
            meta.put_many(vec![(key.clone(), Bytes::from((at + 1).to_string()))], claim.guard()).await
        };
        match written.await {
            Ok(()) => (at, in_doubt) = (at + 1, false),
            Err(StoreError::Conflict { .. }) => return ownership.fenced(claim),
            // It may land yet; what was acknowledged meanwhile goes further.
            Err(_) => (at, in_doubt) = (at + 1, true),
        }
        tokio::time::sleep(Duration::from_millis(70)).await;
    }
}

struct History {
    world: World,
    rng: StdRng,
    count: u32,
    checkpoints: BTreeMap<String, u64>,
    /// When a node is thought of differently: (when, observer, node, how).
    rumours: Vec<(u64, u32, u32, MemberState)>,
    told: Vec<String>,
    serving: Vec<bool>,
}

impl History {
    fn new(seed: u64) -> History {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = rng.random_range(2..=4);
        let slow = *[2, 10, 60, 250].choose(&mut rng).unwrap();
        let mut world = World::new(seed, count, slow);
        let late = *[0, 10, 40].choose(&mut rng).unwrap();
        world.store.late(late);
        for node in 1..=count {
            world.start(node);
            // Clocks of two nodes run apart by less than the tenth that is allowed for.
            world.clock(node, rng.random_range(97..=103));
        }
        let serving = vec![false; count as usize];
        let told = vec![format!("{count} nodes, ways of up to {slow} ms, {late} of 1000 calls late")];
        History { world, rng, count, checkpoints: BTreeMap::new(), rumours: Vec::new(), told, serving }
    }

    fn tell(&mut self, what: String) {
        self.told.push(format!("{:>7} ms: {what}", self.world.now));
    }

    /// All others come to think so of a node, each in its own time.
    fn rumour(&mut self, node: u32, state: MemberState, after: std::ops::Range<u64>) {
        self.rumours.retain(|(_, _, about, _)| *about != node);
        for observer in (1..=self.count).filter(|observer| *observer != node) {
            let when = self.world.now + self.rng.random_range(after.clone());
            self.rumours.push((when, observer, node, state));
        }
    }

    fn check(&mut self) -> Result<(), String> {
        for resource in RESOURCES {
            let serving = self.world.serving(resource);
            if serving.len() > 1 {
                return Err(format!("{resource} is served by {serving:?}"));
            }
        }
        for written in self.world.store.written() {
            let Some(resource) = written.key.strip_prefix("checkpoint/") else { continue };
            let value: u64 = String::from_utf8_lossy(&written.after).parse().unwrap();
            let last = self.checkpoints.entry(resource.to_owned()).or_default();
            if value <= *last {
                let (from, node) = (*last, written.node + 1);
                return Err(format!(
                    "the checkpoint of {resource} went from {from} to {value} by node {node}"
                ));
            }
            *last = value;
        }
        Ok(())
    }

    /// A tenth of a second.
    fn go(&mut self) -> Result<(), String> {
        let now = self.world.now;
        let (due, later) = self.rumours.drain(..).partition(|(when, ..)| *when <= now);
        self.rumours = later;
        let due: Vec<_> = due;
        for (_, observer, node, state) in due {
            self.world.sees(observer, node, state);
        }
        for node in 1..=self.count {
            let there = self.world.node(node);
            let serving = &mut self.serving[node as usize - 1];
            if !*serving && let Some(ownership) = there.ownership() {
                *serving = true;
                for resource in RESOURCES {
                    there.spawn(serve(ownership.clone(), self.world.store.link(node as usize - 1), resource));
                }
            }
        }
        for _ in 0..10 {
            self.world.step();
            self.check()?;
        }
        Ok(())
    }

    /// Something goes wrong, or right again.
    fn trouble(&mut self) {
        let node = self.rng.random_range(1..=self.count);
        let (alive, paused) = (self.world.node(node).is_alive(), self.world.node(node).is_paused());
        match self.rng.random_range(0..10) {
            0 | 1 if alive && !paused => {
                self.tell(format!("node {node} pauses"));
                self.world.pause(node, true);
                self.rumour(node, MemberState::Down, 1_500..7_000);
            }
            0..=2 if paused => {
                self.tell(format!("node {node} goes on"));
                self.world.pause(node, false);
                self.rumour(node, MemberState::Alive, 100..1_500);
            }
            3 if alive => {
                self.tell(format!("node {node} dies"));
                self.world.kill(node);
                self.world.pause(node, false);
                self.serving[node as usize - 1] = false;
                self.rumour(node, MemberState::Down, 1_500..7_000);
            }
            3 | 4 => {
                self.tell(format!("node {node} is started"));
                self.world.start(node);
                self.serving[node as usize - 1] = false;
                self.rumour(node, MemberState::Alive, 100..1_500);
            }
            5 => {
                self.tell(format!("node {node} loses the store"));
                self.world.cut(node, true);
            }
            6 | 7 => {
                self.tell(format!("node {node} reaches the store"));
                self.world.cut(node, false);
            }
            8 => {
                self.tell(format!("node {node} is wrongly found dead"));
                self.rumour(node, MemberState::Down, 0..500);
            }
            _ => {
                self.tell(format!("node {node} is heard of again"));
                if alive && !paused {
                    self.rumour(node, MemberState::Alive, 0..500);
                }
            }
        }
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..LENGTH {
            if self.rng.random_bool(0.06) {
                self.trouble();
            }
            self.go()?;
        }
        // One node is well, whatever the others are.
        let well = self.rng.random_range(1..=self.count);
        self.tell(format!("node {well} is well"));
        if !self.world.node(well).is_alive() {
            self.world.start(well);
            self.serving[well as usize - 1] = false;
        }
        self.world.pause(well, false);
        self.world.cut(well, false);
        self.rumour(well, MemberState::Alive, 0..500);
        let others: Vec<u32> = (1..=self.count).filter(|node| *node != well).collect();
        let gone = self.rng.random_bool(0.5);
        for node in others {
            match (gone, self.rng.random_range(0..3)) {
                (false, _) => {
                    self.world.pause(node, false);
                    self.world.cut(node, false);
                    if !self.world.node(node).is_alive() {
                        self.world.start(node);
                        self.serving[node as usize - 1] = false;
                    }
                    self.rumour(node, MemberState::Alive, 0..500);
                }
                (true, 0) => {
                    self.world.kill(node);
                    self.serving[node as usize - 1] = false;
                    self.rumour(node, MemberState::Down, 0..500);
                }
                (true, 1) => {
                    self.world.pause(node, true);
                    self.rumour(node, MemberState::Down, 0..500);
                }
                (true, _) => {
                    self.world.cut(node, true);
                    self.rumour(node, MemberState::Alive, 0..500);
                }
            }
        }
        // A lease that must run out, twice where gossip says nothing; then answers that were lost in time.
        self.world.store.late(0);
        let bound = 3 * wait_ms() + 6_000;
        let start = self.world.now;
        loop {
            self.go()?;
            let unserved = RESOURCES.iter().find(|resource| {
                let serving = self.world.serving(resource);
                if gone { serving != [NodeId(well)] } else { serving.is_empty() }
            });
            let Some(resource) = unserved else { break };
            if self.world.now - start > bound {
                let record = self.world.store.get(&format!("owner/subscription/{resource}"));
                return Err(format!("{resource} is served by nobody {bound} ms later: {record:?}"));
            }
        }
        Ok(())
    }
}

#[test]
fn histories_have_one_owner_at_a_time_and_checkpoints_that_never_go_back() {
    assert_eq!(LEASE.as_millis() as u64, lease_ms());
    let rounds = std::env::var("HSTREAM_OWNERSHIP_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let first = std::env::var("HSTREAM_OWNERSHIP_SEED").ok().and_then(|seed| seed.parse().ok());
    let (mut progress, mut moves) = (0, 0);
    for seed in first.unwrap_or(1)..first.unwrap_or(1) + rounds.unwrap_or(8_u64) {
        let mut history = History::new(seed);
        if let Err(broken) = history.run() {
            panic!("seed {seed}: {broken}\n{}", history.told.join("\n"));
        }
        progress += history.checkpoints.values().sum::<u64>();
        moves += history.told.len();
    }
    assert!(progress > 1_000 && moves > 60, "nothing happened: {progress} checkpoints, {moves} events");
}
