//! Three NATS peers and three nodes, each a process.

use super::{super::witness, COPIES, subscription};
use anyhow::{Context as _, Result, bail};
use futures::future::join_all;
use hstream_testkit::{
    ServerOptions, ServerProcess, Store, free_port,
    nats::{Nats, NatsOptions},
};
use hstreamdb_proto::api::{NodeState, h_stream_api_client::HStreamApiClient};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

const NODES: u32 = 3;
/// A folder for the logs of the nodes, if somebody wants to read them.
const LOGS: &str = "HSTREAM_FAILOVER_LOGS";
/// Everything that runs is well again within this time.
const WELL_WITHIN: Duration = Duration::from_secs(90);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Of one call to one node.
const CALL: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Machines {
    pub(super) nats: Nats,
    nodes: Vec<Node>,
    _folder: tempfile::TempDir,
}

struct Node {
    options: ServerOptions,
    process: Mutex<Option<ServerProcess>>,
}

impl Machines {
    pub(super) async fn start(sync_interval: Option<String>, binary: Option<PathBuf>) -> Result<Machines> {
        let options = NatsOptions { peers: COPIES as usize, sync_interval, ..NatsOptions::for_nodes() };
        let nats = tokio::task::spawn_blocking(|| Nats::start(options)).await??;
        let folder = tempfile::tempdir()?;
        let logs = std::env::var_os(LOGS).map(PathBuf::from);
        let internal: Vec<u16> = (0..NODES).map(|_| free_port()).collect();
        let seeds: Vec<String> = internal.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let nodes: Vec<Node> = (1..=NODES)
            .zip(&internal)
            .map(|(id, internal_port)| {
                let mut options = ServerOptions::new(folder.path().join(format!("node-{id}")));
                if let Some(binary) = &binary {
                    options.binary.clone_from(binary);
                }
                options.store = Store::At(nats.store_url("rounds"));
                options.port = free_port();
                options.internal_port = *internal_port;
                options.log = logs.as_ref().map(|folder| folder.join(format!("node-{id}.log")));
                let flags = ["--server-id", &id.to_string(), "--seed-nodes", &seeds.join(","), "--auto-init"];
                options.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
                Node { options, process: Mutex::default() }
            })
            .collect();
        let machines = Machines { nats, nodes, _folder: folder };
        // Each waits for the others.
        let starts = machines.nodes.iter().map(Node::start);
        join_all(starts).await.into_iter().collect::<Result<Vec<()>>>()?;
        machines.well().await?;
        Ok(machines)
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Node::address).collect()
    }

    /// For clients.
    pub(super) fn url(&self) -> String {
        let addresses: Vec<String> = self.addresses().iter().map(ToString::to_string).collect();
        format!("hstream://{}", addresses.join(","))
    }

    /// SIGKILL.
    pub(super) fn kill(&self, node: usize) -> Result<()> {
        let process = self.node(node)?.lock().take();
        process.context("the node does not run")?.kill()
    }

    /// SIGSTOP.
    pub(super) fn pause(&self, node: usize) -> Result<()> {
        self.node(node)?.lock().as_ref().context("the node does not run")?.pause()
    }

    /// SIGCONT.
    pub(super) fn resume(&self, node: usize) -> Result<()> {
        self.node(node)?.lock().as_ref().context("the node does not run")?.resume()
    }

    /// Starts a killed node again and waits until it serves.
    pub(super) async fn start_again(&self, node: usize) -> Result<()> {
        self.node(node)?.start().await
    }

    fn node(&self, number: usize) -> Result<&Node> {
        self.nodes.get(number).with_context(|| format!("there is no node {number}"))
    }

    /// Waits until every peer and every node is there, and everybody knows it.
    pub(super) async fn well(&self) -> Result<()> {
        self.nats.ready().await?;
        let end = Instant::now() + WELL_WITHIN;
        loop {
            let looks = join_all(self.nodes.iter().map(|node| seen_by(node.address()))).await;
            let missing = looks.into_iter().find_map(Result::err);
            let Some(missing) = missing else { return Ok(()) };
            if Instant::now() > end {
                bail!("the nodes are not well after {WELL_WITHIN:?}: {missing:#}");
            }
            sleep(LOOK).await;
        }
    }

    /// Who owns the subscription of each language: a place among the nodes, or nobody knows just now.
    pub(super) async fn owners(&self, names: &[String]) -> Result<Vec<(String, usize)>> {
        let mut owners = Vec::new();
        for name in names {
            for address in self.addresses() {
                let asked = timeout(CALL, witness::owner_of(address, &subscription(name))).await;
                if let Ok(Ok(owner)) = asked {
                    owners.push((name.clone(), owner.saturating_sub(1) as usize));
                    break;
                }
            }
        }
        Ok(owners)
    }
}

impl Node {
    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.options.port).into()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ServerProcess>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn start(&self) -> Result<()> {
        let options = Arc::new(self.options.clone());
        let process = tokio::task::spawn_blocking(move || ServerProcess::start(&options)).await??;
        *self.lock() = Some(process);
        Ok(())
    }
}

/// An error unless this node sees all of them running.
async fn seen_by(address: SocketAddr) -> Result<()> {
    let ask = async {
        let mut node = HStreamApiClient::connect(format!("http://{address}")).await?;
        Ok::<_, anyhow::Error>(node.describe_cluster(()).await?.into_inner())
    };
    let described = timeout(CALL, ask).await.with_context(|| format!("{address} does not answer"))??;
    let running =
        described.server_nodes_status.iter().filter(|node| node.state == NodeState::Running as i32).count();
    if running < NODES as usize {
        bail!("{address} sees {running} running nodes of {NODES}");
    }
    Ok(())
}
