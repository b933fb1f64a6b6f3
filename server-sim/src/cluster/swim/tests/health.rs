//! Nodes that are slow themselves.

use crate::cluster::swim::sim::{World, id_of};
use crate::cluster::swim::{Event, GossipSettings};
use std::time::Duration;

/// Verdicts over nodes that are well and over those that are slow, all observers together.
fn verdicts(
    nodes: usize,
    slow: usize,
    delay: Duration,
    max_local_health: u32,
    seeds: u64,
    time: Duration,
) -> (usize, usize) {
    let mut verdicts = (0, 0);
    for seed in 0..seeds {
        let settings = GossipSettings { max_local_health, ..GossipSettings::default() };
        let mut world = World::settled(nodes, settings, seed);
        world.network.slow = (0..slow).map(|node| (node, delay)).collect();
        world.run(time);
        for (.., event) in &world.log {
            if let Event::Down(peer) = event {
                let is_slow = (0..slow).any(|node| peer.id == id_of(node));
                *(if is_slow { &mut verdicts.1 } else { &mut verdicts.0 }) += 1;
            }
        }
    }
    verdicts
}

fn compare(nodes: usize, slow: usize, delay: Duration, seeds: u64, time: Duration) -> (usize, usize) {
    let (well, sick) = verdicts(nodes, slow, delay, 7, seeds, time);
    let (well_without, sick_without) = verdicts(nodes, slow, delay, 0, seeds, time);
    println!(
        "{nodes} nodes, {slow} with {} ms of delay, {} s: verdicts over the well {well} (without stretching {well_without}), over the slow {sick} ({sick_without})",
        delay.as_millis(),
        time.as_secs() * seeds,
    );
    (well, well_without)
}

#[test]
fn slow_nodes_do_not_get_healthy_ones_declared_dead() {
    let (with, without) = compare(8, 2, Duration::from_secs(8), 1, Duration::from_secs(60));
    assert!(without > 0, "the delay is too short to show anything");
    assert!(with * 4 <= without, "{with} with stretching, {without} without");
}

#[test]
#[ignore = "minutes; run it when the protocol or its settings change"]
fn slow_nodes_in_a_larger_cluster() {
    for slow in [2, 4] {
        for delay in [3000, 5000, 8000] {
            compare(8, slow, Duration::from_millis(delay), 1, Duration::from_secs(200));
        }
    }
}
