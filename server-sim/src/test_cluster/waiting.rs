//! Waiting until a cluster is as a test needs it.

use super::error::TestClusterError;
use super::{Inner, TestCluster};
use crate::cluster::{MemberState, Members, NodeId};
use std::time::Duration;
use tokio::time::Instant;

/// How often is looked. Members change a few times a second.
const LOOK: Duration = Duration::from_millis(2);

impl TestCluster {
    /// Waits until every node that runs serves and sees all others that run do so. Nodes that are parted from others never do.
    ///
    /// # Errors
    /// [`TestClusterError::Timeout`] with what was missing.
    pub async fn await_ready(&self, within: Duration) -> Result<(), TestClusterError> {
        self.await_views("the cluster being ready", within, |views| {
            for (seer, members, ready) in views {
                if !ready {
                    return Err(format!("node {seer} does not serve yet"));
                }
                for (seen, _, _) in views {
                    if !members.get(NodeId(*seen)).is_some_and(|seen| seen.takes_resources()) {
                        return Err(describe(*seer, *seen, members));
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// Waits until every other node that runs sees this one so. That a node is parted from others does not count: see
    /// [`TestCluster::await_seen_by`].
    ///
    /// # Errors
    /// [`TestClusterError::UnknownNode`]; [`TestClusterError::Timeout`] with who sees it how.
    pub async fn await_seen(
        &self,
        node: u32,
        state: MemberState,
        within: Duration,
    ) -> Result<(), TestClusterError> {
        let others: Vec<u32> = self.nodes().filter(|other| *other != node).collect();
        self.await_seen_by(&others, node, state, within).await
    }

    /// Waits until those of the nodes `seers` that run see this one so.
    ///
    /// # Errors
    /// [`TestClusterError::UnknownNode`]; [`TestClusterError::Timeout`] with who sees it how.
    pub async fn await_seen_by(
        &self,
        seers: &[u32],
        node: u32,
        state: MemberState,
        within: Duration,
    ) -> Result<(), TestClusterError> {
        for known in seers.iter().chain([&node]) {
            self.inner.seat(*known)?;
        }
        let seers = seers.to_vec();
        self.await_views(&format!("node {node} being seen as {state:?}"), within, move |views| {
            for (seer, members, _) in views.iter().filter(|(seer, _, _)| seers.contains(seer)) {
                if members.get(NodeId(node)).map(|member| member.state) != Some(state) {
                    return Err(describe(*seer, node, members));
                }
            }
            Ok(())
        })
        .await
    }

    async fn await_views(
        &self,
        what: &str,
        within: Duration,
        holds: impl Fn(&[View]) -> Result<(), String> + Send + 'static,
    ) -> Result<(), TestClusterError> {
        let what = what.to_owned();
        self.run(async move |inner: std::sync::Arc<Inner>| {
            let deadline = Instant::now() + within;
            loop {
                let mut views = Vec::new();
                for seat in &inner.seats {
                    if let Some((members, ready)) = seat.view().await {
                        views.push((seat.id(), members, ready));
                    }
                }
                match holds(&views) {
                    Ok(()) => return Ok(()),
                    Err(last) if Instant::now() >= deadline => {
                        return Err(TestClusterError::Timeout { what, within, last });
                    }
                    Err(_) => tokio::time::sleep(LOOK).await,
                }
            }
        })
        .await
    }
}

/// A node, whom it sees, whether it serves.
type View = (u32, Members, bool);

fn describe(seer: u32, seen: u32, members: &Members) -> String {
    match members.get(NodeId(seen)) {
        None => format!("node {seer} does not know node {seen}"),
        Some(member) => format!("node {seer} sees node {seen} as {:?}, {:?}", member.state, member.phase),
    }
}
