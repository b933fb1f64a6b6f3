//! How a test cluster is set up.

use super::error::TestClusterError;
use super::machine::Machine;
use super::seat::Seat;
use super::store::SharedStore;
use super::threads::Threads;
use super::{Inner, TestCluster};
use crate::cluster::GossipSettings;
use crate::node::NodeConfig;
use crate::store::jetstream::JetStreamOptions;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Nodes of one cluster; more would only be slow in one process.
const MOST_NODES: u32 = 64;
/// Between the ports of one node and the next.
const PORT_STEP: u16 = 10;
/// Threads that the store and the control of the cluster run on.
const WORKERS: usize = 2;

/// Sets up a [`TestCluster`].
#[derive(Debug, Clone)]
pub struct TestClusterBuilder {
    nodes: u32,
    config: NodeConfig,
    data_dir: Option<PathBuf>,
    seed: Option<u64>,
    ready_within: Duration,
}

impl Default for TestClusterBuilder {
    fn default() -> Self {
        let mut config = NodeConfig { port: 0, internal_port: 0, ..NodeConfig::default() };
        config.cluster.auto_init = true;
        TestClusterBuilder {
            nodes: 3,
            config,
            data_dir: None,
            seed: None,
            ready_within: Duration::from_secs(60),
        }
    }
}

impl TestClusterBuilder {
    /// How many nodes, 1 to 64; default 3. Their numbers are those from 1 on.
    #[must_use]
    pub fn nodes(mut self, nodes: u32) -> Self {
        self.nodes = nodes;
        self
    }

    /// Client port of the first node; the internal port is the one behind it, and those of the next node are ten higher.
    /// Default 0: free ports.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.config.port = port;
        self.config.internal_port = if port == 0 { 0 } else { port.saturating_add(1) };
        self
    }

    /// Where the data live; they stay. Default a folder of its own, which goes with the cluster.
    #[must_use]
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// A store that is reached through NATS; default an embedded one, in the folder where the data live.
    #[must_use]
    pub fn store(mut self, store: JetStreamOptions) -> Self {
        self.config.store = Some(store);
        self
    }

    /// How fast nodes notice what happens to others; default as a server has it.
    #[must_use]
    pub fn gossip(mut self, settings: GossipSettings) -> Self {
        self.config.cluster.gossip = settings;
        self
    }

    /// How long a node may serve what it owns without having renewed its lease; default 3 s.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.config.cluster.lease = lease;
        self
    }

    /// Whether the nodes found their cluster by themselves; default true. If not, starting does not wait for it.
    #[must_use]
    pub fn auto_init(mut self, auto_init: bool) -> Self {
        self.config.cluster.auto_init = auto_init;
        self
    }

    /// Where chance comes from: the same number gives the same choices of whom to probe and whom to tell. Default another
    /// one every time.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// How long starting may wait until the cluster is ready; default 60 s.
    #[must_use]
    pub fn ready_within(mut self, within: Duration) -> Self {
        self.ready_within = within;
        self
    }

    /// What all nodes have in common: addresses, TLS, tokens, limits, the number of the first node, all that the other
    /// settings of this builder do not name. Ports of the extra listeners rise like the others. Replaces settings made
    /// before.
    #[must_use]
    pub fn config(mut self, config: NodeConfig) -> Self {
        self.data_dir = Some(config.data_dir.clone());
        self.config = config;
        self
    }

    /// Starts the nodes and waits until each of them serves and sees all others do so.
    ///
    /// # Errors
    /// [`TestClusterError`]; nothing runs then.
    pub async fn start(self) -> Result<TestCluster, TestClusterError> {
        let threads = Threads::start("hstream-cluster".into(), WORKERS, None)?;
        let (founded, ready_within) = (self.config.cluster.auto_init || self.nodes == 1, self.ready_within);
        let died = |reason: String| TestClusterError::Died { what: "the start of a test cluster", reason };
        let runtime = threads.handle().cloned().ok_or_else(|| died("there is no runtime".into()))?;
        let inner = runtime.spawn(self.open()).await.map_err(|error| died(error.to_string()))?;
        let cluster = TestCluster { inner: Arc::new(inner?), threads: Some(threads) };
        if founded {
            cluster.await_ready(ready_within).await?;
        }
        Ok(cluster)
    }

    /// On the runtime of the cluster.
    async fn open(mut self) -> Result<Inner, TestClusterError> {
        if !(1..=MOST_NODES).contains(&self.nodes) {
            let text = format!("a test cluster has 1 to {MOST_NODES} nodes, not {}", self.nodes);
            return Err(TestClusterError::Settings(text));
        }
        let folder = match &self.data_dir {
            Some(_) => None,
            None => Some(folder()?),
        };
        if let Some(path) = folder.as_ref().map(|folder| folder.path().to_owned()).or(self.data_dir.take()) {
            self.config.data_dir = path;
        }
        // All ports are taken before a store is opened and before a node looks for others.
        self.config.cluster.seed_nodes = vec!["known once all sockets are open".to_owned()];
        let mut places = Vec::new();
        let store = SharedStore::open(&self.config).await?;
        for number in 0..self.nodes {
            let mut config = self.config_of(number)?;
            let machine = Machine::boot(&mut config, &store).await?;
            places.push((config, machine));
        }
        let seeds: Vec<String> = places.iter().map(|(_, machine)| machine.internal.to_string()).collect();
        let starting = places.into_iter().map(async |(mut config, mut machine)| {
            config.cluster.seed_nodes.clone_from(&seeds);
            machine.start(config.clone()).await?;
            Ok(Seat::new(config, machine))
        });
        let seats = futures::future::try_join_all(starting).await;
        match seats {
            Ok(seats) => Ok(Inner { seats, store, _folder: folder }),
            Err(error) => {
                store.close().await;
                Err(error)
            }
        }
    }

    /// Of the node that has this many before it.
    fn config_of(&self, number: u32) -> Result<NodeConfig, TestClusterError> {
        let mut config = self.config.clone();
        let beyond =
            |what: &str| TestClusterError::Settings(format!("there are no {what} for {} nodes", self.nodes));
        config.server_id = config.server_id.checked_add(number).ok_or_else(|| beyond("server ids"))?;
        let rise = |port: u16| match port {
            0 => Some(0),
            port => u16::try_from(number).ok()?.checked_mul(PORT_STEP)?.checked_add(port),
        };
        config.port = rise(config.port).ok_or_else(|| beyond("ports"))?;
        config.internal_port = rise(config.internal_port).ok_or_else(|| beyond("internal ports"))?;
        for listener in &mut config.extra_listeners {
            listener.port = rise(listener.port).ok_or_else(|| beyond("ports of listeners"))?;
        }
        if let Some(seed) = self.seed {
            config.cluster.random_seed = Some(seed.wrapping_add(u64::from(number)));
        }
        Ok(config)
    }
}

fn folder() -> Result<tempfile::TempDir, TestClusterError> {
    let prefix = format!("hstream-test-cluster-{}-", std::process::id());
    let made = tempfile::Builder::new().prefix(&prefix).tempdir();
    made.map_err(|source| TestClusterError::Machine { what: "make a folder for the data", source })
}
