//! Gossip between real processes, each in a network namespace of its own. All that they tell each other goes through a
//! relay in one more namespace, which delays, loses and blocks it.
//!
//! Skipped, with a line that says why, where namespaces cannot be made.
#![cfg(target_os = "linux")]

mod cluster;
mod namespaces;
mod node;
mod process;
mod relay;

use cluster::Cluster;
use relay::Way;
use std::time::{Duration, Instant};

/// How long anything may take that happens within seconds on a machine with time.
const DEADLINE: Duration = Duration::from_secs(60);
/// Default settings: three probe intervals of half a second for each ceil(ln(nodes + 1)), which is 2 for five nodes.
const SUSPICION: Duration = Duration::from_secs(3);
/// Longest that a probe of a dead node was ever awaited by one of five nodes: nine intervals, and the one of the verdict.
const FIRST_PROBE: Duration = Duration::from_secs(5);
/// Factor for a machine on which other tests run, too.
const GENEROUS: u32 = 3;

/// A network such as nobody would run a cluster on.
const BAD: Way = Way { delay_ms: 20, jitter_ms: 10, loss: 0.05, blocked: false };

#[test]
fn a_bad_network_keeps_nobody_away_and_hides_no_death() {
    let Some(mut cluster) = Cluster::start(5, BAD) else { return };
    cluster.until_all("everybody alive", |seen| seen.count("Alive") == 5);

    let killed = Instant::now();
    cluster.kill(3);
    cluster.until_all("node 3 down", |seen| seen.state(3) == "Down");
    let noticed = killed.elapsed();
    println!("a node killed with SIGKILL is down for all four others after {noticed:?}");
    assert!(noticed <= GENEROUS * (FIRST_PROBE + SUSPICION), "only after {noticed:?}");
    assert!(noticed >= SUSPICION / 2, "nobody can have been so sure after {noticed:?}");

    let left = Instant::now();
    cluster.terminate(5);
    cluster.until_all("node 5 gone", |seen| seen.state(5) == "Left");
    println!("a node stopped with SIGTERM has left for all three others after {:?}", left.elapsed());
    for node in [1, 2, 4] {
        let states = cluster.history(node, 5);
        assert_eq!(states.last().map(String::as_str), Some("Left"));
        assert!(!states.iter().any(|state| state == "Down"), "node {node} saw node 5 {states:?}");
    }
    // The others are what they were.
    cluster.until_all("three nodes alive", |seen| seen.count("Alive") == 3);
}

#[test]
fn a_process_that_stands_still_is_suspected_and_comes_back() {
    let Some(mut cluster) = Cluster::start(5, Way::GOOD) else { return };
    cluster.until_all("everybody alive", |seen| seen.count("Alive") == 5);

    // Too short for a verdict: it goes on as soon as somebody suspects it.
    cluster.pause(2);
    cluster.until_any("node 2 suspected", |seen| seen.state(2) == "Suspect");
    cluster.go_on(2);
    cluster.until_all("everybody alive", |seen| seen.count("Alive") == 5);
    for node in [1, 3, 4, 5] {
        let states = cluster.history(node, 2);
        assert!(!states.iter().any(|state| state == "Down"), "node {node} saw node 2 {states:?}");
    }

    // What it has missed it does not hold against the others.
    for other in [1, 3, 4, 5] {
        let states = cluster.history(2, other);
        assert!(!states.iter().any(|state| state == "Down"), "node 2 saw node {other} {states:?}");
    }

    // Long enough to be declared dead.
    cluster.pause(4);
    cluster.until_all("node 4 down", |seen| seen.state(4) == "Down");
    cluster.go_on(4);
    let back = Instant::now();
    cluster.until_all("everybody alive", |seen| seen.count("Alive") == 5);
    println!("a node that was declared dead by mistake is back for all after {:?}", back.elapsed());
}

#[test]
fn a_node_that_one_other_cannot_hear_is_kept_alive_by_the_rest() {
    let Some(mut cluster) = Cluster::start(5, Way::GOOD) else { return };
    cluster.until_all("everybody alive", |seen| seen.count("Alive") == 5);
    // What node 2 says does not reach node 1; the other direction works.
    let before = cluster.seen(1).indirect_probes;
    cluster.block(2, 1);
    cluster.until(1, "indirect probes", |seen| seen.indirect_probes >= before + 8 * 3);
    for node in [1, 3, 4, 5] {
        let states = cluster.history(node, 2);
        assert!(!states.iter().any(|state| state == "Down"), "node {node} saw node 2 {states:?}");
    }
    // It is the others' answers that keep it alive: without them node 1 suspects it at each of its eight probes, and it has
    // to refute.
    let suspected = cluster.history(1, 2).iter().filter(|state| *state == "Suspect").count();
    assert!(suspected <= 2, "suspected {suspected} times in eight probes");
    cluster.until_all("everybody alive", |seen| seen.count("Alive") == 5);
}

#[test]
fn both_sides_of_a_partition_find_each_other_again() {
    let Some(mut cluster) = Cluster::start(5, Way::GOOD) else { return };
    cluster.until_all("everybody alive", |seen| seen.count("Alive") == 5);
    let (left, right) = ([1, 2], [3, 4, 5]);
    for (one, other) in left.iter().flat_map(|one| right.map(|other| (*one, other))) {
        cluster.block(one, other);
        cluster.block(other, one);
    }
    for node in left {
        cluster.until(node, "the others down", |seen| right.iter().all(|id| seen.state(*id) == "Down"));
    }
    for node in right {
        cluster.until(node, "the others down", |seen| left.iter().all(|id| seen.state(*id) == "Down"));
    }
    cluster.heal();
    let healed = Instant::now();
    cluster.until_all("everybody alive", |seen| seen.count("Alive") == 5);
    println!("a partition that ends is healed for all after {:?}", healed.elapsed());
}

/// Not a test: what a process does that a test has started.
#[test]
#[ignore = "started by the tests"]
fn be_a_node() {
    node::run();
}

/// Not a test: what a process does that a test has started.
#[test]
#[ignore = "started by the tests"]
fn be_the_relay() {
    relay::run();
}
