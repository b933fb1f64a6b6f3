//! The place of one node in the cluster, whatever becomes of its runs.

use super::error::TestClusterError;
use super::machine::{Machine, Remains};
use super::store::SharedStore;
use crate::cluster::Members;
use crate::node::NodeConfig;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a node of a test cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeStatus {
    /// It runs.
    Running,
    /// It stands still; see [`TestCluster::pause`](super::TestCluster::pause).
    Paused,
    /// It was stopped in an orderly way.
    Stopped,
    /// It was switched off; see [`TestCluster::kill`](super::TestCluster::kill).
    Killed,
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NodeStatus::Running => "running",
            NodeStatus::Paused => "paused",
            NodeStatus::Stopped => "stopped",
            NodeStatus::Killed => "killed",
        })
    }
}

/// One node: what stays when it is started again, and what runs now.
#[derive(Debug)]
pub(super) struct Seat {
    /// With the ports that were taken at the first start, so that a restart takes the same ones.
    pub(super) config: NodeConfig,
    pub(super) client: SocketAddr,
    pub(super) internal: SocketAddr,
    /// Whether its way to the store is cut, in this run and in later ones.
    cut: AtomicBool,
    /// Nodes it is parted from.
    parted: Mutex<BTreeSet<u32>>,
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug)]
enum State {
    Running(Machine),
    Paused(Machine),
    Stopped,
    Killed(Remains),
}

impl State {
    fn status(&self) -> NodeStatus {
        match self {
            State::Running(_) => NodeStatus::Running,
            State::Paused(_) => NodeStatus::Paused,
            State::Stopped => NodeStatus::Stopped,
            State::Killed(_) => NodeStatus::Killed,
        }
    }

    fn machine(&self) -> Option<&Machine> {
        match self {
            State::Running(machine) | State::Paused(machine) => Some(machine),
            State::Stopped | State::Killed(_) => None,
        }
    }

    fn take(&mut self) -> State {
        std::mem::replace(self, State::Stopped)
    }
}

impl Seat {
    pub(super) fn new(config: NodeConfig, machine: Machine) -> Seat {
        Seat {
            config,
            client: machine.client,
            internal: machine.internal,
            cut: AtomicBool::new(false),
            parted: Mutex::default(),
            state: tokio::sync::Mutex::new(State::Running(machine)),
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.config.server_id
    }

    /// Where other nodes reach it.
    pub(super) fn addresses(&self) -> [SocketAddr; 2] {
        [self.client, self.internal]
    }

    fn parted(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.parted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cannot(&self, what: &'static str, state: &State) -> TestClusterError {
        TestClusterError::Status { what, node: self.id(), status: state.status() }
    }

    pub(super) async fn status(&self) -> NodeStatus {
        self.state.lock().await.status()
    }

    /// Whom it sees, and whether it is ready; nothing unless it runs.
    pub(super) async fn view(&self) -> Option<(Members, bool)> {
        match &*self.state.lock().await {
            State::Running(machine) => machine.node().map(|node| (node.members(), node.is_ready())),
            _ => None,
        }
    }

    pub(super) async fn stop(&self, grace: Duration) -> Result<(), TestClusterError> {
        let mut state = self.state.lock().await;
        match state.take() {
            State::Running(machine) => machine.stop(grace).await,
            other => {
                let error = self.cannot("stop", &other);
                *state = other;
                Err(error)
            }
        }
    }

    pub(super) async fn kill(&self) -> Result<(), TestClusterError> {
        let mut state = self.state.lock().await;
        match state.take() {
            State::Running(machine) | State::Paused(machine) => {
                *state = State::Killed(machine.kill());
                Ok(())
            }
            other => {
                let error = self.cannot("kill", &other);
                *state = other;
                Err(error)
            }
        }
    }

    pub(super) async fn pause(&self) -> Result<(), TestClusterError> {
        let mut state = self.state.lock().await;
        match state.take() {
            State::Running(machine) => {
                let held = machine.hold().await;
                *state = if held.is_ok() { State::Paused(machine) } else { State::Running(machine) };
                held
            }
            other => {
                let error = self.cannot("pause", &other);
                *state = other;
                Err(error)
            }
        }
    }

    pub(super) async fn resume(&self) -> Result<(), TestClusterError> {
        let mut state = self.state.lock().await;
        match state.take() {
            State::Paused(machine) => {
                machine.release();
                *state = State::Running(machine);
                Ok(())
            }
            other => {
                let error = self.cannot("resume", &other);
                *state = other;
                Err(error)
            }
        }
    }

    /// Starts it again on its ports; one that runs is stopped first.
    pub(super) async fn restart(
        &self,
        store: &SharedStore,
        others: &[Seat],
        grace: Duration,
    ) -> Result<(), TestClusterError> {
        let mut state = self.state.lock().await;
        match state.take() {
            State::Running(machine) => machine.stop(grace).await?,
            State::Killed(remains) => remains.clear().await,
            State::Stopped => {}
            paused @ State::Paused(_) => {
                let error = self.cannot("restart", &paused);
                *state = paused;
                return Err(error);
            }
        }
        let mut machine = Machine::boot(&mut self.config.clone(), store).await?;
        // What is broken around it is so before it wakes up.
        machine.net.block(self.of_parted(others));
        if self.cut.load(Ordering::SeqCst) {
            machine.link.cut();
        }
        machine.start(self.config.clone()).await?;
        *state = State::Running(machine);
        Ok(())
    }

    fn of_parted(&self, others: &[Seat]) -> Vec<SocketAddr> {
        let parted = self.parted();
        others.iter().filter(|other| parted.contains(&other.id())).flat_map(Seat::addresses).collect()
    }

    /// Loses packets to and from these nodes from now on.
    pub(super) async fn part_from(&self, others: &[&Seat]) {
        self.parted().extend(others.iter().map(|other| other.id()));
        if let Some(machine) = self.state.lock().await.machine() {
            machine.net.block(others.iter().flat_map(|other| other.addresses()));
        }
    }

    /// Ends that for all nodes.
    pub(super) async fn rejoin(&self, others: &[Seat]) {
        let parted = self.of_parted(others);
        self.parted().clear();
        if let Some(machine) = self.state.lock().await.machine() {
            machine.net.unblock(parted);
        }
    }

    /// Cuts or heals its way to the store.
    pub(super) async fn set_store(&self, open: bool) -> Result<(), TestClusterError> {
        self.cut.store(!open, Ordering::SeqCst);
        if let Some(machine) = self.state.lock().await.machine() {
            if open { machine.link.heal() } else { machine.link.cut() }
        }
        Ok(())
    }

    /// Ends whatever runs, without a word to anybody, and waits for it.
    pub(super) async fn end(&self) {
        let state = self.state.lock().await.take();
        let remains = match state {
            State::Running(machine) | State::Paused(machine) => machine.kill(),
            State::Killed(remains) => remains,
            State::Stopped => return,
        };
        remains.clear().await;
    }
}
