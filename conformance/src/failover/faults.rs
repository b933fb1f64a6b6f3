//! What happens to the nodes.

use anyhow::Result;
use clap::ValueEnum;
use hstream_server::test_cluster::TestCluster;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use std::{
    fmt,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// How long a node is away: long enough for the cluster to give what it owned to others, and for that to be noticed.
const AWAY: std::ops::Range<u64> = 7_000..9_000;
/// How long one is paused: some pauses are over before anybody takes over, others are not.
const PAUSED: std::ops::Range<u64> = 500..8_000;
/// Between two faults.
const REST: std::ops::Range<u64> = 500..2_000;

/// Something that happens to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Fault {
    /// Switched off without a word, and started again later.
    Kill,
    /// Stands still, and goes on later.
    Pause,
    /// Loses the other nodes; clients and the store still reach it.
    Partition,
    /// Loses the store.
    CutOff,
    /// Stopped in order, and started again.
    Stop,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 5] = [Fault::Kill, Fault::Pause, Fault::Partition, Fault::CutOff, Fault::Stop];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill => "killed",
            Fault::Pause => "paused",
            Fault::Partition => "partitioned",
            Fault::CutOff => "cut off from the store",
            Fault::Stop => "stopped",
        }
    }
}

/// One fault: to which node, from when on, and whose subscriptions the node owned.
#[derive(Debug)]
pub struct Round {
    /// Which.
    pub fault: Fault,
    /// Number of the node.
    pub node: u32,
    /// Languages whose subscriptions it owned.
    pub owned: Vec<String>,
    /// When it began.
    pub at: Instant,
    /// For how long it lasts.
    pub lasting: Duration,
    /// Until everything was well again.
    pub over_after: Duration,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} was {} for {:.1?}", self.node, self.fault.name(), self.lasting)?;
        write!(
            f,
            "; it owned {}",
            if self.owned.is_empty() { "nothing".into() } else { self.owned.join(", ") }
        )?;
        write!(f, "; all was well after {:.1?}", self.over_after)
    }
}

impl Round {
    /// Lets it happen, and waits until the cluster is well again.
    pub(super) async fn happen(mut self, cluster: &TestCluster, ready_within: Duration) -> Result<Round> {
        let node = self.node;
        self.at = Instant::now();
        match self.fault {
            Fault::Kill => cluster.kill(node).await?,
            Fault::Pause => cluster.pause(node).await?,
            Fault::Partition => cluster.partition(node).await?,
            Fault::CutOff => cluster.cut_off_store(node).await?,
            Fault::Stop => cluster.stop(node).await?,
        }
        sleep(self.lasting).await;
        match self.fault {
            Fault::Kill | Fault::Stop => cluster.restart(node).await?,
            Fault::Pause => cluster.resume(node).await?,
            Fault::Partition => cluster.heal().await?,
            Fault::CutOff => cluster.heal_store(node).await?,
        }
        cluster.await_ready(ready_within).await?;
        self.over_after = self.at.elapsed();
        Ok(self)
    }
}

/// What happens next, by a seed.
pub(super) struct Plan {
    random: StdRng,
    faults: Vec<Fault>,
}

impl Plan {
    pub(super) fn new(seed: u64, faults: Vec<Fault>) -> Plan {
        Plan { random: StdRng::seed_from_u64(seed), faults }
    }

    /// The next fault. Mostly to a node that owns something, so that many subscriptions have to move.
    pub(super) fn round(&mut self, nodes: &[u32], owners: Vec<(String, u32)>) -> Round {
        let fault = self.faults.choose(&mut self.random).copied().unwrap_or(Fault::Kill);
        let owner = owners.choose(&mut self.random).map(|(_, node)| *node);
        let any = nodes.choose(&mut self.random).copied().unwrap_or(1);
        let node = if self.random.random_bool(0.7) { owner.unwrap_or(any) } else { any };
        let lasting = match fault {
            Fault::Pause => PAUSED,
            _ => AWAY,
        };
        Round {
            fault,
            node,
            owned: owners.into_iter().filter(|(_, owner)| *owner == node).map(|(name, _)| name).collect(),
            at: Instant::now(),
            lasting: Duration::from_millis(self.random.random_range(lasting)),
            over_after: Duration::ZERO,
        }
    }

    pub(super) fn rest(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(REST))
    }
}
