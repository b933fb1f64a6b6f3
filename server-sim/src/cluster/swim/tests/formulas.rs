//! Measured figures beside the formulas of the papers. Printed by
//!
//! ```text
//! cargo test -p hstream-server --lib swim::tests::formulas -- --nocapture
//! cargo test -p hstream-server --lib swim::tests::formulas -- --nocapture --ignored    (up to 128 nodes, minutes)
//! ```

use super::measure::{Deaths, deaths, mean, most, quiet};
use crate::cluster::swim::GossipSettings;

/// Mean periods until somebody picks a given node, by the formula, whole periods counted. Nodes are not in step and judge
/// at the end of a probe's period, so what is measured is up to half a period more; it has to be flat all the same.
fn picked_after(nodes: usize) -> f64 {
    let others = nodes as f64 - 1.0;
    1.0 / (1.0 - (1.0 - 1.0 / others).powf(others))
}

fn print_head() {
    println!(
        "\n                |          first suspicion, T         | spread to all, T | verdict, T       | known to all, T   |     per member and period, no loss\n\
         nodes  deaths |  mean   max   picked after (formula) |  mean      ln n  | mean   formula   |  mean    max      | messages (2)    bytes"
    );
}

fn print(nodes: usize, times: usize, deaths: &Deaths, packets: f64, bytes: f64) {
    println!(
        "{nodes:>5} {times:>7} | {:>5.2} {:>5.2}   {:>22.2} | {:>5.2}    {:>6.2}  | {:>4.1}   {:>7}   | {:>5.1}  {:>5.1}      | {packets:>12.2} {bytes:>8.0}",
        mean(&deaths.detection),
        most(&deaths.detection),
        picked_after(nodes),
        mean(&deaths.spread),
        (nodes as f64).ln(),
        mean(&deaths.verdict),
        suspicion(nodes),
        mean(&deaths.known),
        most(&deaths.known),
    );
}

/// In periods.
fn suspicion(nodes: usize) -> u32 {
    let settings = GossipSettings::default();
    (settings.suspicion(nodes).as_secs_f64() / settings.probe_interval.as_secs_f64()).round() as u32
}

/// One line of the table, and what has to hold in it.
fn hold(nodes: usize, times: usize) -> f64 {
    let deaths = deaths(nodes, times, nodes as u64);
    let quiet = quiet(nodes, 100, 0.0, false, nodes as u64);
    let packets = quiet.probes + quiet.gossip;
    print(nodes, times, &deaths, packets, quiet.bytes);
    let detection = mean(&deaths.detection);
    assert!(detection <= 2.2, "{nodes} nodes need {detection} periods to notice a death");
    assert!(mean(&deaths.spread) <= (nodes as f64).ln() + 1.0, "{nodes} nodes: {:?}", deaths.spread);
    let expected = f64::from(suspicion(nodes));
    assert!(
        deaths.verdict.iter().all(|verdict| *verdict >= expected - 0.01),
        "{nodes} nodes: {:?}",
        deaths.verdict
    );
    assert!(mean(&deaths.verdict) <= expected * 1.1, "{nodes} nodes: {:?}", deaths.verdict);
    // Announcing to a dead node and comparing by TCP come on top, rarely.
    assert!((1.95..=2.05).contains(&packets), "{nodes} nodes send {packets} packets");
    assert_eq!((quiet.downs, quiet.suspicions), (0, 0));
    detection
}

fn hold_all(sizes: &[(usize, usize)]) {
    print_head();
    let means: Vec<f64> = sizes.iter().map(|(nodes, times)| hold(*nodes, *times)).collect();
    let (least, greatest) = (means.iter().copied().fold(f64::MAX, f64::min), most(&means));
    assert!(greatest - least <= 0.8, "not flat in the number of nodes: {means:?}");
}

/// No false verdict in so many periods at 5 % loss, and many without suspicion.
fn lose(sizes: &[usize], periods: u32) {
    println!(
        "\n{periods} periods at 5 % loss, per member and period: probes (at most 3.2) | news | bytes | suspicions | false verdicts | without suspicion"
    );
    for nodes in sizes.iter().copied() {
        let careful = quiet(nodes, periods, 0.05, false, nodes as u64);
        let rash = quiet(nodes, periods, 0.05, true, nodes as u64);
        println!(
            "{nodes:>51} {:>20.2} | {:>4.2} | {:>5.0} | {:>10} | {:>14} | {:>17}",
            careful.probes, careful.gossip, careful.bytes, careful.suspicions, careful.downs, rash.downs
        );
        assert_eq!(careful.downs, 0, "{nodes} nodes found dead who is not");
        assert!(careful.agree && careful.probes <= 3.2, "{nodes} nodes: {careful:?}");
    }
}

#[test]
fn detection_is_flat_spread_is_logarithmic_and_two_messages_do() {
    hold_all(&[(3, 60), (5, 60), (8, 40), (16, 30), (32, 10)]);
}

#[test]
fn five_per_cent_loss_kills_nobody() {
    lose(&[3, 8, 16], 500);
}

#[test]
#[ignore = "minutes; run it when the protocol or its settings change"]
fn detection_and_load_up_to_128_nodes() {
    hold_all(&[(3, 200), (5, 200), (8, 200), (16, 200), (32, 200), (64, 60), (128, 60)]);
}

#[test]
#[ignore = "minutes; run it when the protocol or its settings change"]
fn loss_up_to_128_nodes() {
    lose(&[3, 5, 8, 16, 32, 64, 128], 500);
    let bad = quiet(100, 500, 0.10, false, 1);
    println!("\n100 nodes, 500 periods at 10 % loss: {bad:?}");
    assert!(bad.agree, "somebody is still thought dead");
}
