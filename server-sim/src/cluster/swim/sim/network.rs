//! What the simulated network does to packets.

use rand_0_10::RngExt as _;
use rand_0_10::rngs::SmallRng;
use std::collections::BTreeMap;
use std::time::Duration;

/// A network without loss, 0.2 ms from node to node.
#[derive(Debug, Clone)]
pub struct Network {
    pub latency: Duration,
    /// Probability that a packet is lost, one way.
    pub loss: f64,
    /// Of single links, from node to node, instead of that.
    pub loss_of: BTreeMap<(usize, usize), f64>,
    /// Delay of what comes in to single nodes, on average; from half of it to half as much again.
    pub slow: BTreeMap<usize, Duration>,
    /// To which side of a partition nodes belong; those that are not named are on side 0.
    pub side: BTreeMap<usize, u32>,
}

impl Default for Network {
    fn default() -> Self {
        Network {
            latency: Duration::from_micros(200),
            loss: 0.0,
            loss_of: BTreeMap::new(),
            slow: BTreeMap::new(),
            side: BTreeMap::new(),
        }
    }
}

impl Network {
    pub fn connects(&self, from: usize, to: usize) -> bool {
        let side = |node| self.side.get(&node).copied().unwrap_or_default();
        side(from) == side(to)
    }

    /// How long a packet takes, if it arrives.
    pub fn carry(&self, from: usize, to: usize, rng: &mut SmallRng) -> Option<Duration> {
        let loss = self.loss_of.get(&(from, to)).copied().unwrap_or(self.loss);
        // Drawn in any case, so that a lost packet does not change what becomes of the others.
        let (luck, patience): (f64, f64) = (rng.random(), rng.random());
        if !self.connects(from, to) || luck < loss {
            return None;
        }
        let slow = self.slow.get(&to).copied().unwrap_or_default();
        Some(self.latency + slow.mul_f64(0.5 + patience))
    }
}
