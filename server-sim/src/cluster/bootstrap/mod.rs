//! Founding a cluster and coming to one: when a node may serve resources.
//!
//! The cluster is founded by one record in the metadata, written once. Every node follows that record, so a node that
//! was not there when somebody said `hstream init` knows it as soon as it comes, and a cluster that was down as a whole
//! comes back without a word. Membership only says who is up.

mod decision;
mod driver;
mod markers;
mod record;
#[cfg(test)]
mod tests;

pub use decision::Role;
pub use markers::{extra_listener, started};

use super::{Members, NodeId, Phase, Seed};
use crate::store::{MetaStore, StoreError};
use record::{Record, now_ms};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Milliseconds between "it may serve" and serving.
const EXTRA_DELAY: &str = "HSTREAM_INTERNAL_STARTUP_EXTRA_DELAY_MS";

/// What a node that begins needs to know.
#[derive(Debug)]
pub struct BootstrapStart {
    /// Number of this node.
    pub me: NodeId,
    /// Name of its cluster.
    pub cluster_name: String,
    /// What it is among the seeds; see [`role`].
    pub role: Role,
    /// The seeds.
    pub seeds: Vec<Seed>,
    /// Whether the seeds found the cluster as soon as all of them are up.
    pub auto_init: bool,
    /// Pause before it serves; see [`extra_delay`].
    pub delay: Duration,
    /// How long a lease that nobody renews lasts, drift included.
    pub lapse: Duration,
    /// The metadata of the cluster.
    pub meta: Arc<dyn MetaStore>,
    /// Who is there.
    pub members: watch::Receiver<Members>,
}

/// Why a node can be no member of this cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The store is another cluster's.
    #[error(
        "the store belongs to the cluster {theirs:?}, this node to {ours:?}: give --cluster-name {theirs}, or another \
         store"
    )]
    OtherCluster {
        /// Name of this node's cluster.
        ours: String,
        /// Name the store carries.
        theirs: String,
    },
    /// What is stored cannot be read.
    #[error("the record of the cluster in the metadata is damaged: {0}")]
    Corrupt(String),
    /// The store does not answer.
    #[error("the metadata cannot be used: {0}")]
    Store(StoreError),
}

/// How far this node is on its way into the cluster.
#[derive(Debug)]
pub struct Bootstrap {
    name: String,
    /// `None`: a node without seeds, which writes nothing.
    meta: Option<Arc<dyn MetaStore>>,
    progress: Arc<Progress>,
    _stop: DropGuard,
}

/// What the handle and the task behind it share.
#[derive(Debug)]
struct Progress {
    me: NodeId,
    phase: watch::Sender<Phase>,
    record: OnceLock<Record>,
    began: Instant,
    /// This node itself has written the record.
    look: Notify,
}

impl Bootstrap {
    /// A node without seeds: it serves at once, or after `delay`.
    pub fn single(me: NodeId, delay: Duration) -> Self {
        let stop = CancellationToken::new();
        let progress = Progress::new(me);
        markers::alone(me);
        if delay.is_zero() {
            progress.serve();
        } else {
            let (progress, stop) = (progress.clone(), stop.clone());
            tokio::spawn(async move {
                markers::delaying(me, delay);
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(delay) => progress.serve(),
                }
            });
        }
        Bootstrap { name: String::new(), meta: None, progress, _stop: stop.drop_guard() }
    }

    /// Sets a node with seeds on its way. It goes on in the background until this is dropped.
    ///
    /// # Errors
    /// [`BootstrapError`].
    pub async fn begin(start: BootstrapStart) -> Result<Self, BootstrapError> {
        // Before the first look, so that nothing is missed.
        let changes = start.meta.watch(record::KEY);
        let progress = Progress::new(start.me);
        if let Some(known) = record::read(&*start.meta, &start.cluster_name).await? {
            progress.learn(known);
        }
        let stop = CancellationToken::new();
        let bootstrap = Bootstrap {
            name: start.cluster_name.clone(),
            meta: Some(start.meta.clone()),
            progress: progress.clone(),
            _stop: stop.clone().drop_guard(),
        };
        driver::spawn(start, changes, progress, stop);
        Ok(bootstrap)
    }

    /// Founds the cluster; fine if that was done before. Every node may be told.
    ///
    /// # Errors
    /// [`BootstrapError`]; after [`BootstrapError::Store`] it may have been founded nevertheless, and asking again is safe.
    pub async fn init(&self) -> Result<(), BootstrapError> {
        let Some(meta) = &self.meta else { return Ok(()) };
        self.progress.learn(record::found(&**meta, &self.name).await?);
        self.progress.look.notify_one();
        Ok(())
    }

    /// What this node says about itself, as it changes.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.progress.phase.subscribe()
    }

    /// Whether this node may serve and place resources now.
    pub fn is_ready(&self) -> bool {
        *self.progress.phase.borrow() == Phase::Running
    }

    /// Waits until it may, or may no more. Cancellation loses nothing.
    pub async fn ready(&self) {
        // The sender is in `self`.
        let _ = self.phase().wait_for(|phase| *phase != Phase::Starting).await;
    }

    /// This node is about to stop and takes nothing new.
    pub fn drain(&self) {
        self.progress.phase.send_replace(Phase::Draining);
    }

    /// Whether the cluster was founded, as far as this node knows.
    pub fn is_founded(&self) -> bool {
        self.meta.is_none() || self.progress.is_founded()
    }

    /// How long the cluster has existed: since it was founded; zero before. A node without seeds counts its own time.
    pub fn up_time(&self) -> Duration {
        match (&self.meta, self.progress.record.get()) {
            (None, _) => self.progress.began.elapsed(),
            (Some(_), None) => Duration::ZERO,
            (Some(_), Some(record)) => Duration::from_millis(now_ms().saturating_sub(record.founded_ms)),
        }
    }
}

impl Progress {
    fn new(me: NodeId) -> Arc<Self> {
        Arc::new(Progress {
            me,
            phase: watch::Sender::new(Phase::Starting),
            record: OnceLock::new(),
            began: Instant::now(),
            look: Notify::new(),
        })
    }

    fn is_founded(&self) -> bool {
        self.record.get().is_some()
    }

    fn learn(&self, record: Record) {
        // It never changes.
        let _ = self.record.set(record);
    }

    fn serve(&self) {
        let now = self.phase.send_if_modified(|phase| {
            let starting = *phase == Phase::Starting;
            if starting {
                *phase = Phase::Running;
            }
            starting
        });
        if now {
            markers::ready(self.me);
        }
    }
}

/// The pause before serving that the environment asks for; none by default.
///
/// The original waits five seconds, because it places resources by whatever list of nodes it has and moves them when that
/// list changes. Here a placement is stored, guarded by a lease and stays, so an early one costs nothing.
pub fn extra_delay() -> Duration {
    let given = std::env::var(EXTRA_DELAY).ok().and_then(|text| text.trim().parse().ok());
    Duration::from_millis(given.unwrap_or_default())
}

/// What a node is among the seeds: the one that others reach at `internal` and that listens at `bind`.
pub async fn role(seeds: &[Seed], internal: SocketAddr, bind: IpAddr) -> Role {
    let mut here = 0;
    for seed in seeds {
        let addresses = seed.resolve().await.unwrap_or_default();
        if addresses.iter().any(|address| is_here(*address, internal, bind)) {
            here += 1;
        }
    }
    match here {
        all if all == seeds.len() => Role::Alone,
        0 => Role::Joiner,
        _ => Role::Seed,
    }
}

fn is_here(address: SocketAddr, internal: SocketAddr, bind: IpAddr) -> bool {
    let ip = address.ip();
    address.port() == internal.port()
        && (ip == internal.ip() || ip == bind || (ip.is_loopback() && bind.is_unspecified()))
}
