//! Why something could not be done with a test cluster.

use super::NodeStatus;
use crate::node::StartError;
use std::io;
use std::time::Duration;

/// Why something could not be done with a test cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestClusterError {
    /// The settings contradict each other.
    #[error("{0}")]
    Settings(String),
    /// There is no such node.
    #[error("there is no node {node}; this cluster has the nodes {first} to {last}")]
    UnknownNode {
        /// What was asked for.
        node: u32,
        /// Lowest number there is.
        first: u32,
        /// Highest number there is.
        last: u32,
    },
    /// The node is not in a state in which this can be done.
    #[error("cannot {what} node {node}, which is {status}{}", hint(*.status))]
    Status {
        /// What was asked for, as a verb.
        what: &'static str,
        /// The node.
        node: u32,
        /// How it is.
        status: NodeStatus,
    },
    /// A node did not start.
    #[error("node {node} did not start: {source}")]
    Start {
        /// The node.
        node: u32,
        /// Why.
        source: StartError,
    },
    /// The store that all nodes share could not be opened.
    #[error("the store of the cluster cannot be used: {0}")]
    Store(StartError),
    /// There are no threads or no folder to run in.
    #[error("cannot {what}: {source}")]
    Machine {
        /// What was tried, as a verb.
        what: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// What was waited for did not come.
    #[error("{what} did not happen within {within:?}: {last}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        within: Duration,
        /// What was missing at the end.
        last: String,
    },
    /// A task of the cluster died; that is a defect.
    #[error("{what} died: {reason}")]
    Died {
        /// Which.
        what: &'static str,
        /// Its last words.
        reason: String,
    },
}

fn hint(status: NodeStatus) -> &'static str {
    match status {
        NodeStatus::Running => "",
        NodeStatus::Paused => ": resume it first, or kill it",
        NodeStatus::Stopped | NodeStatus::Killed => ": restart it first",
    }
}
