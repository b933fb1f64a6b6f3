//! Scenarios as lists of operations.

use super::World;
use std::time::Duration;

/// What is done to a cluster.
#[derive(Debug, Clone)]
pub enum Op {
    Start(usize),
    /// It is gone from one moment to the next.
    Crash(usize),
    Pause(usize),
    Resume(usize),
    Leave(usize),
    /// Cuts these off from the others.
    CutOff(Vec<usize>),
    Heal,
    Loss(f64),
    Wait(Duration),
}

impl World {
    pub fn play(&mut self, script: impl IntoIterator<Item = Op>) {
        script.into_iter().for_each(|op| self.perform(op));
    }

    pub fn perform(&mut self, op: Op) {
        match op {
            Op::Start(node) => self.start(node),
            Op::Crash(node) => self.crash(node),
            Op::Pause(node) => self.pause(node),
            Op::Resume(node) => self.resume(node),
            Op::Leave(node) => self.leave(node),
            Op::CutOff(nodes) => self.network.side = nodes.into_iter().map(|node| (node, 1)).collect(),
            Op::Heal => self.network.side.clear(),
            Op::Loss(loss) => self.network.loss = loss,
            Op::Wait(time) => self.run(time),
        }
    }
}
