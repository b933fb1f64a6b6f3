//! What a simulated cluster does, in figures.

use crate::cluster::MemberState;
use crate::cluster::swim::sim::{World, id_of};
use crate::cluster::swim::{Event, GossipSettings, SwimStats};
use std::collections::BTreeMap;
use std::time::Duration;

/// What became of nodes that died one after the other, in periods.
#[derive(Debug, Default)]
pub struct Deaths {
    /// From the death to the first that suspects.
    pub detection: Vec<f64>,
    /// From there until all do.
    pub spread: Vec<f64>,
    /// From the first suspicion to the first verdict.
    pub verdict: Vec<f64>,
    /// From the death until all know.
    pub known: Vec<f64>,
}

pub fn mean(figures: &[f64]) -> f64 {
    figures.iter().sum::<f64>() / figures.len() as f64
}

pub fn most(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(0.0, f64::max)
}

/// Kills nodes of a settled cluster at moments that have nothing to do with its periods, and starts them again.
pub fn deaths(nodes: usize, times: usize, seed: u64) -> Deaths {
    let mut world = World::settled(nodes, GossipSettings::default(), seed);
    let mut deaths = Deaths::default();
    let period = world.settings.probe_interval;
    for time in 0..times {
        let victim = (time * 7 + 3) % nodes;
        world.run(period.mul_f64(0.37 * (time % 10) as f64));
        let died = world.now;
        world.crash(victim);
        // Waiting for every verdict would take most of the time, and all take the same.
        let judged = time % 4 == 0;
        let found = world.periods_until(200, |world| {
            world.up().into_iter().all(|node| match world.sees(node, victim) {
                Some(MemberState::Suspect) => !judged,
                state => state == Some(MemberState::Down),
            })
        });
        assert!(found, "{nodes} nodes have not found out in 200 periods that one of them is dead");
        let of_victim = |(at, node, event): &(Duration, usize, Event)| match event {
            Event::Suspect(peer) if peer.id == id_of(victim) => Some((*at, *node, false)),
            Event::Down(peer) if peer.id == id_of(victim) => Some((*at, *node, true)),
            _ => None,
        };
        let noticed: Vec<_> = world.log.iter().filter(|(at, ..)| *at >= died).filter_map(of_victim).collect();
        let mut first_of: BTreeMap<usize, Duration> = BTreeMap::new();
        for (at, node, _) in &noticed {
            first_of.entry(*node).or_insert(*at);
        }
        let periods = |time: Duration| time.as_secs_f64() / period.as_secs_f64();
        let downs = || noticed.iter().filter(|(.., down)| *down).map(|(at, ..)| *at);
        let suspected = first_of.values().min().copied().unwrap_or_default();
        let spread = first_of.values().max().copied().unwrap_or_default();
        deaths.detection.push(periods(suspected - died));
        deaths.spread.push(periods(spread - suspected));
        if judged {
            deaths.verdict.push(periods(downs().min().unwrap_or_default() - suspected));
            deaths.known.push(periods(downs().max().unwrap_or_default() - died));
        }
        world.start(victim);
        assert!(world.periods_until(100, World::all_agree));
        world.periods(5);
        world.log.clear();
    }
    deaths
}

/// What a cluster in which nobody dies sends, and whom it thinks dead.
#[derive(Debug)]
pub struct Quiet {
    /// Packets per node and period that belong to probes.
    pub probes: f64,
    /// And those that only carry news.
    pub gossip: f64,
    /// Their bytes.
    pub bytes: f64,
    /// Verdicts, over all observers.
    pub downs: u64,
    pub suspicions: u64,
    /// Whether all see each other alive in the end, given time for what is under way.
    pub agree: bool,
}

pub fn quiet(nodes: usize, periods: u32, loss: f64, no_suspicion: bool, seed: u64) -> Quiet {
    let mut world = World::settled(nodes, GossipSettings::default(), seed);
    let sum = |world: &World, figure: fn(&SwimStats) -> u64| -> u64 {
        (0..nodes).map(|node| figure(&world.membership(node).stats())).sum()
    };
    (world.network.loss, world.no_suspicion) = (loss, no_suspicion);
    let figures: [fn(&SwimStats) -> u64; 5] =
        [|s| s.packets_sent, |s| s.bytes_sent, |s| s.downs, |s| s.suspicions, |s| s.gossip_sent];
    let before = figures.map(|figure| sum(&world, figure));
    world.periods(periods);
    let mut spent = figures.map(|figure| sum(&world, figure));
    spent.iter_mut().zip(before).for_each(|(spent, before)| *spent -= before);
    let per_node = |total: u64| total as f64 / nodes as f64 / f64::from(periods);
    let agree = world.all_agree() || world.periods_until(60, World::all_agree);
    Quiet {
        probes: per_node(spent[0] - spent[4]),
        gossip: per_node(spent[4]),
        bytes: per_node(spent[1]),
        downs: spent[2],
        suspicions: spent[3],
        agree,
    }
}
