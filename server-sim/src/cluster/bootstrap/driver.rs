//! Takes a node from its start to the moment it serves.

use super::decision::{Awaited, Next, Role, View, decide};
use super::record::{self, Record};
use super::{BootstrapError, BootstrapStart, Progress, markers};
use crate::cluster::{MemberState, Members, NodeId, Seed};
use crate::store::{MetaStore, MetaWatch, Seen};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Leases of nodes, `lease/<node id>`.
const LEASES: &str = "lease/";
/// What nobody tells about is looked at this often: addresses of seeds, leases, a store that did not answer.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The log says this often what a node still waits for.
const REMIND: Duration = Duration::from_secs(10);

struct Driver {
    start: BootstrapStart,
    changes: MetaWatch,
    progress: Arc<Progress>,
    /// What was said last, and when.
    said: Option<(Said, Instant)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Awaited(Awaited),
    Error(BootstrapError),
}

pub(super) fn spawn(
    start: BootstrapStart,
    changes: MetaWatch,
    progress: Arc<Progress>,
    stop: CancellationToken,
) {
    let mut driver = Driver { start, changes, progress, said: None };
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = driver.run() => {}
        }
    });
}

impl Driver {
    async fn run(&mut self) {
        loop {
            match decide(&self.view().await) {
                Next::Serve => break,
                Next::Found => {
                    let founded = record::found(&*self.start.meta, &self.start.cluster_name).await;
                    if !self.learn(founded.map(Some)) {
                        tokio::time::sleep(LOOK_AGAIN).await;
                    }
                }
                Next::Await(awaited) => {
                    self.tell(Said::Awaited(awaited));
                    self.wait().await;
                }
            }
        }
        match self.start.role {
            Role::Alone => markers::alone(self.start.me),
            Role::Seed | Role::Joiner => markers::founded(self.start.me),
        }
        if !self.start.delay.is_zero() {
            markers::delaying(self.start.me, self.start.delay);
            tokio::time::sleep(self.start.delay).await;
        }
        self.progress.serve();
    }

    async fn view(&mut self) -> View {
        let members = self.start.members.borrow_and_update().clone();
        let mut others = members.nodes.values().filter(|member| member.id != members.me);
        let company = others.any(|member| member.state == MemberState::Alive);
        let founded = self.progress.is_founded();
        let patient = self.progress.began.elapsed() >= self.start.lapse;
        View {
            role: self.start.role,
            auto_init: self.start.auto_init,
            founded,
            // These two cost calls, so they are made only where they decide something.
            seeds_up: !founded && self.start.auto_init && all_up(&self.start.seeds, &members).await,
            strangers: founded && !patient && strangers(&*self.start.meta, &members).await,
            company,
            patient,
        }
    }

    /// Until something may have changed.
    async fn wait(&mut self) {
        let name = &self.start.cluster_name;
        let looked = tokio::select! {
            () = self.progress.look.notified() => Ok(None),
            () = tokio::time::sleep(LOOK_AGAIN) => Ok(None),
            changed = self.start.members.changed() => match changed {
                Ok(()) => Ok(None),
                // Nobody tells any more: the node is stopping.
                Err(_) => std::future::pending().await,
            },
            seen = self.changes.next() => match seen {
                Some(Seen::Change(change)) if change.key == record::KEY => {
                    change.value.map(|bytes| Record::decode(&bytes, name)).transpose()
                }
                Some(Seen::Change(_)) => Ok(None),
                Some(Seen::Missed) => record::read(&*self.start.meta, name).await,
                // The store is closed: the node is stopping.
                None => std::future::pending().await,
            },
        };
        self.learn(looked);
    }

    /// Takes a record, or says why there is none; false in that case.
    fn learn(&mut self, outcome: Result<Option<Record>, BootstrapError>) -> bool {
        match outcome {
            Ok(record) => record.into_iter().for_each(|record| self.progress.learn(record)),
            Err(error) => {
                self.tell(Said::Error(error));
                return false;
            }
        }
        true
    }

    fn tell(&mut self, what: Said) {
        if let Some((said, when)) = &self.said
            && *said == what
            && when.elapsed() < REMIND
        {
            return;
        }
        let node = self.start.me;
        let seeds = self.start.seeds.iter().map(Seed::to_string).collect::<Vec<_>>().join(",");
        match &what {
            Said::Awaited(Awaited::Init) => {
                tracing::info!(%node, "waiting for `hstream init`, once for the whole cluster");
            }
            Said::Awaited(Awaited::Seeds) => {
                tracing::info!(%node, "waiting until all seeds are up: {seeds}");
            }
            Said::Awaited(Awaited::Company) => {
                tracing::warn!(%node, "no other node answers yet, this one cannot join: seeds {seeds}");
            }
            Said::Awaited(Awaited::Peers) => {
                tracing::info!(%node, "waiting for the nodes that hold leases, or for their leases to lapse");
            }
            Said::Error(error) => tracing::error!(%node, "this node cannot serve yet: {error}"),
        }
        self.said = Some((what, Instant::now()));
    }
}

/// Whether a live node gossips at an address of every seed.
async fn all_up(seeds: &[Seed], members: &Members) -> bool {
    let alive = |address: SocketAddr| {
        members.nodes.values().any(|node| node.state == MemberState::Alive && node.internal == address)
    };
    for seed in seeds {
        let Ok(addresses) = seed.resolve().await else { return false };
        if !addresses.into_iter().any(alive) {
            return false;
        }
    }
    true
}

/// Whether somebody holds a lease whom this node does not know. Without an answer it is better to wait.
async fn strangers(meta: &dyn MetaStore, members: &Members) -> bool {
    let Ok(leases) = meta.list(LEASES).await else { return true };
    let mut holders = leases.iter().filter_map(|(key, _)| key.strip_prefix(LEASES)?.parse().ok().map(NodeId));
    holders.any(|holder| members.get(holder).is_none())
}
