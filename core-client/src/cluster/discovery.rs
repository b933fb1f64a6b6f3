//! Finding the nodes: once at connect, then in the background, never in the way of a call.

use super::{Cluster, Inner, NodeAddress, Settings, Target, nodes_of};
use crate::{
    error::{Error, ErrorKind, Result},
    events::ClientEvent,
    retry::Operation,
};
use futures::{StreamExt as _, stream};
use hstreamdb_proto::api::DescribeClusterResponse;
use std::{sync::Weak, time::Duration};
use tokio::time::{Instant, timeout};

/// Bootstrap addresses tried at the same time.
const PARALLEL_CONNECTS: usize = 16;
/// Least time between two refreshes, however many calls fail.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

impl Cluster {
    /// Connects: all bootstrap addresses are tried at once, and the first that describes its cluster decides.
    ///
    /// # Errors
    /// Within the connect timeout: `Unauthenticated` or `PermissionDenied` when a node said so, otherwise
    /// `Unavailable` with what each address failed with.
    pub(crate) async fn connect(settings: Settings) -> Result<Cluster> {
        let cluster = Cluster::new(settings);
        let limit = cluster.settings().connect_timeout;
        let started = Instant::now();
        let bootstrap = cluster.0.members.bootstrap().to_vec();
        let mut answers = stream::iter(bootstrap.clone())
            .map(|address| {
                let cluster = &cluster;
                async move {
                    let answer = timeout(limit, cluster.describe_once(&address)).await;
                    let answer = answer.unwrap_or_else(|_| {
                        Err(Error::new(ErrorKind::Unavailable, "connect")
                            .with_node(&address)
                            .with_message(format!("no answer within {limit:?}")))
                    });
                    (address, answer)
                }
            })
            .buffer_unordered(PARALLEL_CONNECTS);
        let mut failures: Vec<(NodeAddress, Error)> = Vec::new();
        while let Ok(Some((address, answer))) =
            timeout(limit.saturating_sub(started.elapsed()), answers.next()).await
        {
            match answer {
                Ok(response) => {
                    drop(answers);
                    cluster.0.members.prefer(&address);
                    cluster.take_description(&response);
                    cluster.start_discovery();
                    return Ok(cluster);
                }
                Err(error) => failures.push((address, error)),
            }
        }
        drop(answers);
        Err(connect_error(&bootstrap, failures, limit))
    }

    fn start_discovery(&self) {
        let (weak, closed, refresh) =
            (std::sync::Arc::downgrade(&self.0), self.0.closed.clone(), self.0.refresh.clone());
        let interval = self.settings().discovery_interval;
        tokio::spawn(async move {
            let work = async {
                loop {
                    tokio::select! {
                        () = tokio::time::sleep(interval) => {}
                        // A node failed; it does not pay to ask more often than things can change.
                        () = refresh.notified() => tokio::time::sleep(MIN_INTERVAL.min(interval)).await,
                    }
                    let Some(inner) = Weak::<Inner>::upgrade(&weak) else { return };
                    Cluster(inner).refresh_nodes().await;
                }
            };
            tokio::select! {
                biased;
                () = closed.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Asks nodes in turn until one describes the cluster; the old list stays when none does.
    async fn refresh_nodes(&self) {
        self.metrics().discovery_refreshes.add(1);
        let limit = self.settings().request_timeout;
        let mut last = None;
        for address in self.0.members.candidates(0) {
            let answer = timeout(limit, self.describe_once(&address)).await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Timeout, "describe cluster")
                    .with_node(&address)
                    .with_message(format!("no answer within {limit:?}"))
                    .with_transport(true))
            });
            match answer {
                Ok(response) => {
                    self.0.members.prefer(&address);
                    self.take_description(&response);
                    return;
                }
                Err(error) => {
                    if error.is_transport() && !self.is_suspect(&address) {
                        self.mark_suspect(&address, &error);
                    }
                    last = Some(error);
                }
            }
        }
        self.metrics().discovery_failures.add(1);
        if let Some(error) = last {
            tracing::warn!(%error, "no node answered when the node list was refreshed");
            self.events().send(ClientEvent::DiscoveryFailed(error));
        }
    }

    async fn describe_once(&self, address: &NodeAddress) -> Result<DescribeClusterResponse> {
        let mut client = self.0.pool.client(address, self.settings().request_timeout).await?;
        let response = client.describe_cluster(()).await.map_err(|status| {
            Error::from_status("describe cluster", &status)
                .with_node(address)
                .with_may_have_been_applied(false)
        })?;
        self.note_capabilities(address, response.metadata());
        Ok(response.into_inner())
    }

    /// Describes the cluster through a call with retries, and takes what it says.
    pub(crate) async fn describe(&self, target: Target<'_>) -> Result<DescribeClusterResponse> {
        let (address, response) = self
            .call_response(Operation::read("describe cluster"), None, target, |mut client| async move {
                client.describe_cluster(()).await
            })
            .await?;
        self.note_capabilities(&address, response.metadata());
        let response = response.into_inner();
        self.take_description(&response);
        Ok(response)
    }

    fn take_description(&self, response: &DescribeClusterResponse) {
        let nodes = nodes_of(response, &self.settings().host_mapping);
        if nodes.is_empty() {
            // A node that knows nobody is no reason to forget everybody.
            return;
        }
        let known: Vec<NodeAddress> = nodes.iter().map(|node| node.address.clone()).collect();
        let changes = self.0.members.replace(nodes);
        for node in changes.removed {
            self.0.resolver.forget_node(&node.address);
            self.events().send(ClientEvent::NodeRemoved(node));
        }
        for node in changes.added {
            self.events().send(ClientEvent::NodeAdded(node));
        }
        let bootstrap = self.0.members.bootstrap();
        self.0.pool.retain(|address| known.contains(address) || bootstrap.contains(address));
    }
}

fn connect_error(bootstrap: &[NodeAddress], failures: Vec<(NodeAddress, Error)>, limit: Duration) -> Error {
    let telling = failures
        .iter()
        .map(|(_, error)| error)
        .find(|error| matches!(error.kind(), ErrorKind::Unauthenticated | ErrorKind::PermissionDenied));
    let kind = telling.map_or(ErrorKind::Unavailable, Error::kind);
    let mut reasons: Vec<String> = bootstrap
        .iter()
        .map(|address| match failures.iter().find(|(failed, _)| failed == address) {
            Some((_, error)) if error.message().is_empty() => (address, error.kind().name().to_owned()),
            Some((_, error)) => (address, error.message().to_owned()),
            None => (address, format!("no answer within {limit:?}")),
        })
        .map(|(address, reason)| if bootstrap.len() == 1 { reason } else { format!("{address}: {reason}") })
        .collect();
    if reasons.len() > 4 {
        let more = reasons.len() - 3;
        reasons.truncate(3);
        reasons.push(format!("and {more} more"));
    }
    let shown: Vec<String> = bootstrap.iter().take(4).map(ToString::to_string).collect();
    let error = Error::new(kind, "connect to")
        .with_resource(shown.join(","))
        .with_message(format!("{}; check the address and that a server listens there", reasons.join("; ")));
    match failures.into_iter().next() {
        Some((_, first)) => error.with_source(first),
        None => error,
    }
}
