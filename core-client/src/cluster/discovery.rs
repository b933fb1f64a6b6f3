//! Finding the nodes: once at connect, then in the background, never in the way of a call.

use super::{
    ClientEvent, Cluster, Inner, NodeAddress, Patience, Settings, Target, asking::first_answer, nodes_of,
};
use crate::{
    error::{Error, ErrorKind, Result},
    retry::Operation,
};
use hstreamdb_proto::api::DescribeClusterResponse;
use std::{sync::Weak, time::Duration};
use tokio::time::timeout;

/// Least time between two refreshes, however many calls fail.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The same while the cluster still counts on a node that fails: until it does not, calls that only the owner answers wait.
const FOLLOWING: Duration = Duration::from_millis(300);
/// A node that has not described the cluster for this long gets company.
const REFRESH_PATIENCE: Duration = Duration::from_secs(1);

impl Cluster {
    /// Connects: all bootstrap addresses are tried at once, and the first that describes its cluster decides.
    ///
    /// # Errors
    /// Within the connect timeout: `Unauthenticated` or `PermissionDenied` when a node said so, otherwise
    /// `Unavailable` with what each address failed with.
    pub(crate) async fn connect(settings: Settings) -> Result<Cluster> {
        let cluster = Cluster::new(settings);
        let limit = cluster.settings().connect_timeout;
        let bootstrap = cluster.0.members.bootstrap().to_vec();
        let answer = first_answer(bootstrap.clone(), Duration::ZERO, |address| {
            let cluster = &cluster;
            async move {
                timeout(limit, cluster.describe_once(&address, limit, Patience::Stays)).await.unwrap_or_else(
                    |_| {
                        Err(Error::new(ErrorKind::Unavailable, "connect")
                            .with_node(&address)
                            .with_message(format!("no answer within {limit:?}")))
                    },
                )
            }
        })
        .await;
        match answer {
            Ok((address, response)) => {
                // What the others have come to is not needed.
                cluster.0.pool.retain(|other| *other == address);
                cluster.prefer(&address);
                cluster.take_description(&response);
                cluster.start_discovery();
                Ok(cluster)
            }
            Err(failures) => Err(connect_error(&bootstrap, failures)),
        }
    }

    fn start_discovery(&self) {
        let (weak, closed, refresh) =
            (std::sync::Arc::downgrade(&self.0), self.0.closed.clone(), self.0.refresh.clone());
        let interval = self.settings().discovery_interval;
        tokio::spawn(async move {
            let work = async {
                if let Some(inner) = Weak::<Inner>::upgrade(&weak) {
                    Cluster(inner).choose_home().await;
                }
                loop {
                    let following = weak.upgrade().is_some_and(|inner| inner.members.is_unsettled());
                    tokio::select! {
                        () = tokio::time::sleep(FOLLOWING.min(interval)), if following => {}
                        () = tokio::time::sleep(interval), if !following => {}
                        // A node failed; it does not pay to ask more often than things can change.
                        () = refresh.notified(), if !following => {
                            let following = weak.upgrade().is_some_and(|inner| inner.members.is_unsettled());
                            let pause = if following { FOLLOWING } else { MIN_INTERVAL };
                            tokio::time::sleep(pause.min(interval)).await;
                        }
                    }
                    let Some(inner) = Weak::<Inner>::upgrade(&weak) else { return };
                    // The failure was told as an event.
                    let _ = Cluster(inner).refresh_nodes().await;
                }
            };
            tokio::select! {
                biased;
                () = closed.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Clients that were given the same address must not all stay there: each takes a running node by chance, once that
    /// node has answered. Until then, and where it cannot be reached, calls go where the client connected.
    async fn choose_home(&self) {
        let chance = (self.random_unit() * 1024.0) as usize;
        let Some(home) = self.0.members.other_home(chance) else { return };
        match self.describe_in_time(&home, Patience::Brief).await {
            Ok(response) => {
                self.prefer(&home);
                self.take_description(&response);
            }
            Err(error) if error.is_transport() => self.mark_suspect(&home, &error),
            Err(error) => {
                tracing::debug!(node = %home, %error, "a node of the cluster refused to describe it")
            }
        }
    }

    /// Asks nodes until one describes the cluster, the silent ones side by side; the old list stays when none does.
    ///
    /// # Errors
    /// `Unavailable` or `Timeout`, the last node's; `Closed`.
    pub(crate) async fn refresh_nodes(&self) -> Result<()> {
        self.metrics().discovery_refreshes.add(1);
        let asked = first_answer(self.0.members.candidates(0), REFRESH_PATIENCE, |address| async move {
            let answer = self.describe_in_time(&address, Patience::Brief).await;
            if let Err(error) = &answer
                && error.is_transport()
            {
                self.mark_suspect(&address, error);
            }
            answer
        });
        let answer = tokio::select! {
            biased;
            () = self.closed() => return Err(self.closed_error("refresh nodes")),
            answer = asked => answer,
        };
        match answer {
            Ok((address, response)) => {
                // Calls go on where they went: this one may only have been the last to answer.
                self.trust(&address);
                self.take_description(&response);
                Ok(())
            }
            Err(failures) => {
                let error = failures.into_iter().next_back().map_or_else(
                    || Error::new(ErrorKind::Unavailable, "refresh nodes").with_message("no node is known"),
                    |(_, error)| error.with_operation("refresh nodes"),
                );
                self.metrics().discovery_failures.add(1);
                tracing::warn!(%error, "no node answered when the node list was refreshed");
                self.events().send(ClientEvent::DiscoveryFailed(error.clone()));
                Err(error)
            }
        }
    }

    /// Drops the connections that calls share and what is known of owners, and finds the nodes again. Calls under way keep
    /// their connections.
    ///
    /// # Errors
    /// As [`refresh_nodes`](Self::refresh_nodes).
    pub(crate) async fn reconnect(&self) -> Result<()> {
        self.0.pool.retain(|_| false);
        self.0.owners.clear();
        self.lock_capabilities().clear();
        self.refresh_nodes().await
    }

    /// [`describe_once`](Self::describe_once) within the request timeout.
    pub(super) async fn describe_in_time(
        &self,
        address: &NodeAddress,
        patience: Patience,
    ) -> Result<DescribeClusterResponse> {
        let limit = self.request_timeout();
        timeout(limit, self.describe_once(address, limit, patience)).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, "describe cluster")
                .with_node(address)
                .with_message(format!("no answer within {limit:?}"))
                .with_retryable(true)
                .with_transport(true))
        })
    }

    async fn describe_once(
        &self,
        address: &NodeAddress,
        limit: Duration,
        patience: Patience,
    ) -> Result<DescribeClusterResponse> {
        match self.describe_at(address, limit, patience).await {
            // There is no loop around this one that would go on with another token.
            Err(error) if error.is_retryable() && !error.is_transport() && self.asks_for_tokens() => {
                self.describe_at(address, limit, patience).await
            }
            result => result,
        }
    }

    fn asks_for_tokens(&self) -> bool {
        self.settings().connection.headers.tokens().is_some()
    }

    async fn describe_at(
        &self,
        address: &NodeAddress,
        limit: Duration,
        patience: Patience,
    ) -> Result<DescribeClusterResponse> {
        let contact = self.0.pool.client(address, limit).await?;
        let mut client = contact.client.clone();
        let answer = self.answered(address, &contact, patience, client.describe_cluster(())).await?;
        let response = answer.map_err(|status| {
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

    pub(super) fn take_description(&self, response: &DescribeClusterResponse) {
        let nodes = nodes_of(response, &self.settings().host_mapping);
        if nodes.is_empty() {
            // A node that knows nobody is no reason to forget everybody.
            return;
        }
        let known: Vec<NodeAddress> = nodes.iter().map(|node| node.address.clone()).collect();
        let changes = self.0.members.replace(nodes);
        for (node, before) in changes.changed {
            self.events().send(ClientEvent::NodeStateChanged { node, before });
        }
        for node in changes.removed {
            self.0.owners.forget_node(&node.address);
            self.events().send(ClientEvent::NodeRemoved(node));
        }
        for node in changes.added {
            self.events().send(ClientEvent::NodeAdded(node));
        }
        let bootstrap = self.0.members.bootstrap();
        self.0.pool.retain(|address| known.contains(address) || bootstrap.contains(address));
    }
}

fn connect_error(bootstrap: &[NodeAddress], failures: Vec<(NodeAddress, Error)>) -> Error {
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
            None => (address, "not asked".to_owned()),
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
