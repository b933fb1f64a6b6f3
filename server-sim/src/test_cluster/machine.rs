//! What one run of a node runs on.

use super::error::TestClusterError;
use super::pause::Pause;
use super::store::SharedStore;
use super::threads::Threads;
use crate::net::Net;
use crate::node::{Doors, Node, NodeConfig, Stores};
use crate::store::StoreLink;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a worker may be at something before a pause gives up waiting for it.
const STILL_WITHIN: Duration = Duration::from_secs(10);

/// A computer of its own for one run of a node: one worker thread, its own network and its own way to the store.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) net: Net,
    pub(super) link: StoreLink,
    /// Where clients and where other nodes reach it.
    pub(super) client: SocketAddr,
    pub(super) internal: SocketAddr,
    stores: Stores,
    pause: Pause,
    /// Open and not yet served.
    doors: Option<Doors>,
    node: Option<Node>,
    threads: Threads,
}

/// What is left of a machine that was switched off.
#[derive(Debug)]
pub(super) struct Remains {
    net: Net,
    ended: oneshot::Receiver<()>,
}

impl Machine {
    /// Starts the threads and opens the sockets, so that its addresses are known before any node runs. The configuration
    /// gets the ports that were taken.
    pub(super) async fn boot(
        config: &mut NodeConfig,
        store: &SharedStore,
    ) -> Result<Machine, TestClusterError> {
        let node = config.server_id;
        let threads = Threads::start(format!("hstream-node-{node}"), 1, Some(node))?;
        let net = Net::new();
        let doors = {
            let (config, net) = (config.clone(), net.clone());
            run(&threads, async move { Doors::open(&config, &net) }).await?
        };
        let doors = doors.map_err(|source| TestClusterError::Start { node, source })?;
        doors.fix_ports(config);
        let client = doors.address;
        // There always is one, because there are seeds.
        let internal = doors.internal.as_ref().map_or(client, |internal| internal.address);
        let link = StoreLink::new(store.log.clone(), store.meta.clone(), None);
        let stores = Stores { log: link.log(), meta: link.meta() };
        let (pause, node) = (Pause::default(), None);
        Ok(Machine { net, link, client, internal, stores, pause, doors: Some(doors), node, threads })
    }

    /// Starts the node.
    pub(super) async fn start(&mut self, config: NodeConfig) -> Result<(), TestClusterError> {
        let node = config.server_id;
        let Some(doors) = self.doors.take() else { return Ok(()) };
        let (net, stores) = (self.net.clone(), self.stores.clone());
        let started = run(&self.threads, Node::open(config, net, doors, stores, None)).await?;
        self.node = Some(started.map_err(|source| TestClusterError::Start { node, source })?);
        Ok(())
    }

    pub(super) fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Makes everything on it stand still.
    pub(super) async fn hold(&self) -> Result<(), TestClusterError> {
        let Some(runtime) = self.threads.handle() else { return Ok(()) };
        let still = self.pause.hold(runtime);
        match tokio::time::timeout(STILL_WITHIN, still).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(TestClusterError::Died { what: "a node's runtime", reason: "it ended".into() }),
            Err(_) => {
                self.pause.release();
                Err(TestClusterError::Timeout {
                    what: "a pause".into(),
                    within: STILL_WITHIN,
                    last: "the node's worker is still at what it was at".into(),
                })
            }
        }
    }

    /// Lets it go on.
    pub(super) fn release(&self) {
        self.pause.release();
    }

    /// Stops the node in an orderly way and then ends the threads.
    pub(super) async fn stop(mut self, grace: Duration) -> Result<(), TestClusterError> {
        let node = self.node.take();
        let stopped = run(&self.threads, async move {
            if let Some(node) = node {
                node.shutdown(grace).await;
            }
        })
        .await;
        self.end().ended().await;
        stopped
    }

    /// Switches it off as a power cut does: nothing it was at is finished, nobody is told, its sockets stay as they are.
    pub(super) fn kill(self) -> Remains {
        self.net.kill();
        self.link.cut();
        self.end()
    }

    /// Ends the threads without a word to the node.
    fn end(self) -> Remains {
        let Machine { net, pause, doors, node, threads, .. } = self;
        // The node's own end comes after that of its tasks: it cannot tell them to clean up any more.
        let ended = threads.end((doors, node));
        // Only now, so that a worker that was held finds that it is to end.
        pause.release();
        Remains { net, ended }
    }
}

impl Remains {
    /// Waits until nothing of it runs.
    pub(super) async fn ended(&mut self) {
        // An error means that nobody could wait.
        let _ = (&mut self.ended).await;
    }

    /// Waits until nothing of it runs and closes its sockets.
    pub(super) async fn clear(mut self) {
        self.ended().await;
        self.net.close_buried();
    }
}

async fn run<T: Send + 'static>(
    threads: &Threads,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, TestClusterError> {
    let died = |reason: String| TestClusterError::Died { what: "a task of a node", reason };
    let runtime = threads.handle().ok_or_else(|| died("its runtime has ended".into()))?;
    runtime.spawn(work).await.map_err(|error| died(error.to_string()))
}
