//! What a scenario happens on: one server process behind a proxy, or a cluster; on the store that `HSTREAM_TEST_STORE` names.

use crate::scenario::Victim;
use anyhow::{Context as _, Result, ensure};
use hstream_server::{
    store::jetstream::JetStreamOptions,
    test_cluster::{NodeStatus, TestCluster},
};
use hstream_testkit::{Fault, RpcProxy, ServerOptions, ServerProcess, Store};
use hstreamdb_proto::api::{LookupSubscriptionRequest, h_stream_api_client::HStreamApiClient};
use std::{sync::Arc, time::Duration};

/// A node that was started again serves within this time.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// See the module.
pub(super) enum Place {
    /// A process; the proxy hides that it is another one after a restart.
    Server {
        options: Box<ServerOptions>,
        server: Option<ServerProcess>,
        proxy: RpcProxy,
        _folder: tempfile::TempDir,
    },
    /// Several nodes in this process. Clients talk to them directly, unless they are to be a broken cluster.
    Cluster { cluster: Arc<Nodes> },
}

/// The nodes of a cluster and what is done to them.
pub(super) struct Nodes {
    cluster: TestCluster,
    _folder: tempfile::TempDir,
    /// Stands for all nodes where the cluster is a broken one.
    proxy: Option<RpcProxy>,
}

impl Place {
    pub(super) async fn start(nodes: u32, broken: Option<Fault>) -> Result<Place> {
        if nodes > 1 {
            let folder = tempfile::tempdir()?;
            let mut builder = TestCluster::builder().nodes(nodes);
            if let Some(url) = Store::Chosen.url(folder.path())? {
                builder = builder.store(JetStreamOptions::new(url.parse().map_err(anyhow::Error::msg)?));
            }
            let cluster = builder.start().await?;
            let port = cluster.addresses().first().context("no node")?.port();
            let proxy = match broken {
                Some(fault) => Some(RpcProxy::start_broken(port, fault).await?),
                None => None,
            };
            return Ok(Place::Cluster { cluster: Arc::new(Nodes { cluster, _folder: folder, proxy }) });
        }
        let folder = tempfile::tempdir()?;
        let options = ServerOptions::new(folder.path().join("data"));
        let server = ServerProcess::start(&options)?;
        let proxy = RpcProxy::start_broken(server.port(), broken.unwrap_or(Fault::None)).await?;
        Ok(Place::Server { options: Box::new(options), server: Some(server), proxy, _folder: folder })
    }

    /// For clients.
    pub(super) fn url(&self) -> String {
        match self {
            Place::Server { proxy, .. } => proxy.url(),
            Place::Cluster { cluster } => {
                cluster.proxy.as_ref().map_or_else(|| cluster.cluster.url(), RpcProxy::url)
            }
        }
    }

    /// The proxy before the only server.
    pub(super) fn proxy(&self) -> Result<&RpcProxy> {
        match self {
            Place::Server { proxy, .. } => Ok(proxy),
            Place::Cluster { .. } => anyhow::bail!("a cluster has no proxy to do that"),
        }
    }

    /// A port of a server, past the proxy.
    pub(super) async fn port(&self) -> Result<u16> {
        match self {
            Place::Server { server, .. } => Ok(server.as_ref().context("the server is down")?.port()),
            Place::Cluster { cluster } => cluster.running_port().await,
        }
    }

    /// SIGKILL, then a start on the same directory.
    pub(super) fn kill_server(&mut self) -> Result<()> {
        let Place::Server { options, server, proxy, .. } = self else {
            anyhow::bail!("a cluster has no server process; kill a node")
        };
        if let Some(server) = server.take() {
            server.kill()?;
        }
        // The port of the old one may be taken by now; the proxy hides that it is another.
        let started = ServerProcess::start(options)?;
        proxy.point_at(started.port())?;
        *server = Some(started);
        Ok(())
    }

    /// The nodes of a cluster.
    pub(super) fn nodes(&self) -> Result<Arc<Nodes>> {
        match self {
            Place::Cluster { cluster } => Ok(cluster.clone()),
            Place::Server { .. } => anyhow::bail!("the scenario has one node only; give it `nodes`"),
        }
    }
}

impl Nodes {
    async fn with_status(&self, wanted: NodeStatus) -> Result<Vec<u32>> {
        let mut nodes = Vec::new();
        for node in self.cluster.nodes() {
            if self.cluster.status(node).await? == wanted {
                nodes.push(node);
            }
        }
        Ok(nodes)
    }

    async fn running_port(&self) -> Result<u16> {
        let running = self.with_status(NodeStatus::Running).await?;
        Ok(self.cluster.address(*running.first().context("no node runs")?)?.port())
    }

    /// Switches a node off without a word.
    pub(super) async fn kill(&self, victim: Victim, subscription: &str) -> Result<()> {
        let node = match victim {
            Victim::Owner => self.owner(subscription).await?,
            Victim::Any => *self.with_status(NodeStatus::Running).await?.last().context("no node runs")?,
        };
        self.cluster.kill(node).await?;
        if let Some(proxy) = &self.proxy {
            proxy.point_at(self.running_port().await?)?;
        }
        Ok(())
    }

    async fn owner(&self, subscription: &str) -> Result<u32> {
        let port = self.running_port().await?;
        let mut node = HStreamApiClient::connect(format!("http://127.0.0.1:{port}")).await?;
        let request = LookupSubscriptionRequest { subscription_id: subscription.to_owned() };
        let owner = node.lookup_subscription(request).await?.into_inner().server_node;
        Ok(owner.context("the owner is nobody")?.id)
    }

    /// Starts what is down, and waits until all serve.
    pub(super) async fn start_again(&self) -> Result<()> {
        let killed = self.with_status(NodeStatus::Killed).await?;
        ensure!(!killed.is_empty(), "all nodes run");
        for node in killed {
            self.cluster.restart(node).await?;
        }
        Ok(self.cluster.await_ready(READY_WITHIN).await?)
    }

    /// Stops every node in order and starts it again, one after the other.
    pub(super) async fn roll(&self) -> Result<()> {
        for node in self.cluster.nodes() {
            self.cluster.stop(node).await?;
            if let Some(proxy) = &self.proxy {
                proxy.point_at(self.running_port().await?)?;
            }
            self.cluster.restart(node).await?;
            self.cluster.await_ready(READY_WITHIN).await?;
        }
        Ok(())
    }
}
