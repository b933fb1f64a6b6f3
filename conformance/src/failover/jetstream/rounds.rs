//! What happens to the processes, and how long everybody waited then.

use super::{
    super::{
        load::{Appending, Consuming},
        pauses::Row,
    },
    JetStreamSettings,
    machines::Machines,
};
use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// How long a process is away: sometimes nobody has taken over yet, mostly everybody has.
const AWAY: std::ops::Range<u64> = 500..12_000;
/// Between two rounds.
const REST: std::ops::Range<u64> = 500..2_000;
/// What is asserted of every wait: generous, as the machine may be busy.
const MOST: Duration = Duration::from_secs(60);

/// Who fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Victim {
    /// A NATS peer.
    Peer,
    /// A node.
    Node,
    /// One of each.
    Both,
}

/// How.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Way {
    /// SIGKILL, and started again later.
    Kill,
    /// SIGSTOP, and SIGCONT later.
    Pause,
}

impl Victim {
    /// All of them.
    pub const ALL: [Victim; 3] = [Victim::Peer, Victim::Node, Victim::Both];
}

impl Way {
    /// All of them; twice as many kills as pauses.
    pub const USUAL: [Way; 3] = [Way::Kill, Way::Kill, Way::Pause];
}

/// One fault.
#[derive(Debug)]
pub struct Round {
    /// Who.
    pub victim: Victim,
    /// How.
    pub way: Way,
    peer: usize,
    node: usize,
    /// Whether the peer led the cluster.
    led: bool,
    /// Languages whose subscriptions the node owned.
    owned: Vec<String>,
    at: Instant,
    lasting: Duration,
    /// From its end until everything was well again.
    well_after: Duration,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (peer, node) = (format!("NATS peer {}", self.peer), format!("node {}", self.node + 1));
        let leading = if self.led { " (the leader)" } else { "" };
        match self.victim {
            Victim::Peer => write!(f, "{peer}{leading} was")?,
            Victim::Node => write!(f, "{node} was")?,
            Victim::Both => write!(f, "{peer}{leading} and {node} were")?,
        }
        let way = match self.way {
            Way::Kill => "killed",
            Way::Pause => "paused",
        };
        write!(f, " {way} for {:.1?}; all was well {:.1?} after that", self.lasting, self.well_after)
    }
}

impl Round {
    /// Lets it happen, and waits until everything is well again.
    pub(super) async fn happen(mut self, machines: &Machines) -> Result<Round> {
        let (peer, node) = (self.victim != Victim::Node, self.victim != Victim::Peer);
        self.led = peer && machines.nats.leader().is_ok_and(|leader| leader == self.peer);
        self.at = Instant::now();
        match self.way {
            Way::Kill => {
                if peer {
                    machines.nats.kill(self.peer)?;
                }
                if node {
                    machines.kill(self.node)?;
                }
            }
            Way::Pause => {
                if peer {
                    machines.nats.pause(self.peer)?;
                }
                if node {
                    machines.pause(self.node)?;
                }
            }
        }
        sleep(self.lasting).await;
        let ended = Instant::now();
        match self.way {
            Way::Kill => {
                if peer {
                    machines.nats.restart(self.peer)?;
                }
                if node {
                    machines.start_again(self.node).await?;
                }
            }
            Way::Pause => {
                if peer {
                    machines.nats.resume(self.peer)?;
                }
                if node {
                    machines.resume(self.node)?;
                }
            }
        }
        machines.well().await.with_context(|| format!("after {self}"))?;
        self.well_after = ended.elapsed();
        Ok(self)
    }
}

/// What happens next, by a seed.
pub(super) struct Plan {
    random: StdRng,
    victims: Vec<Victim>,
    ways: Vec<Way>,
}

impl Plan {
    pub(super) fn new(settings: &JetStreamSettings) -> Plan {
        let random = StdRng::seed_from_u64(settings.seed);
        Plan { random, victims: settings.victims.clone(), ways: settings.ways.clone() }
    }

    /// The next fault. Mostly to a node that owns something, so that many subscriptions have to move.
    pub(super) fn round(&mut self, owners: Vec<(String, usize)>) -> Round {
        let victim = self.victims.choose(&mut self.random).copied().unwrap_or(Victim::Both);
        let way = self.ways.choose(&mut self.random).copied().unwrap_or(Way::Kill);
        let owner = owners.choose(&mut self.random).map(|(_, node)| *node);
        let any = self.random.random_range(0..3);
        let node = if self.random.random_bool(0.7) { owner.unwrap_or(any) } else { any };
        let node_fails = victim != Victim::Peer;
        let owned = owners.into_iter().filter(|(_, owner)| node_fails && *owner == node);
        Round {
            victim,
            way,
            peer: self.random.random_range(0..3),
            node,
            led: false,
            owned: owned.map(|(name, _)| name).collect(),
            at: Instant::now(),
            lasting: Duration::from_millis(self.random.random_range(AWAY)),
            well_after: Duration::ZERO,
        }
    }

    pub(super) fn rest(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(REST))
    }
}

/// How long everybody waited, by what failed.
#[derive(Debug, Default)]
pub struct Figures {
    rows: BTreeMap<(Victim, Way, &'static str), Row>,
}

impl Figures {
    pub(super) fn of(
        rounds: &[Round],
        appending: &[Arc<Appending>],
        consuming: &[Arc<Consuming>],
    ) -> Result<Figures> {
        let mut figures = Figures::default();
        for round in rounds {
            let mut add = |what, wait| {
                figures.rows.entry((round.victim, round.way, what)).or_default().add(wait);
            };
            for of in appending {
                let wait = of.first_after(round.at);
                let wait = wait.with_context(|| format!("{} appended nothing after {round}", of.language))?;
                ensure!(wait < MOST, "{} waited {wait:.1?} for an append after {round}", of.language);
                add("first append", wait);
            }
            for of in consuming {
                let wait = of.first_after(round.at);
                let wait = wait.with_context(|| format!("{} received nothing after {round}", of.language))?;
                ensure!(wait < MOST, "{} waited {wait:.1?} for a record after {round}", of.language);
                let owned = round.owned.contains(&of.language);
                add(if owned { "first record, its owner failed" } else { "first record" }, wait);
            }
            add("well again after its end", round.well_after);
        }
        Ok(figures)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| who | how | what | times | p50 | p90 | longest |")?;
        write!(f, "| --- | --- | --- | --- | --- | --- | --- |")?;
        for ((victim, way, what), row) in &self.rows {
            let [half, most, all] = [0.5, 0.9, 1.0].map(|share| row.quantile(share).as_secs_f64());
            write!(
                f,
                "\n| {victim:?} | {way:?} | {what} | {} | {half:.2} s | {most:.2} s | {all:.2} s |",
                row.count()
            )?;
        }
        Ok(())
    }
}
