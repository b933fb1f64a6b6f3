//! The cluster as a whole: who is in it, does it answer, and its operator's command line.

use crate::{
    client::Client,
    cluster::{Node, NodeAddress, Target, nodes_of},
    error::Result,
    retry::Operation,
};
use hstreamdb_proto::api::{AdminCommandRequest, EchoRequest};

/// What a node says about its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDescription {
    /// Version of the protocol the cluster speaks.
    pub protocol_version: String,
    /// All nodes, those that are not running included.
    pub nodes: Vec<Node>,
    /// Seconds since the cluster started.
    pub uptime_secs: u64,
}

impl Client {
    /// Asks a node who is in the cluster; [`nodes`](Client::nodes) gives the last known answer without asking.
    ///
    /// # Errors
    /// `Unavailable` or `Timeout` when no node answers, `Closed`.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription> {
        let response = self.cluster.describe(Target::Any).await?;
        Ok(ClusterDescription {
            nodes: nodes_of(&response, &self.cluster.settings().host_mapping),
            protocol_version: response.protocol_version,
            uptime_secs: response.cluster_up_time,
        })
    }

    /// Sends a text to a node, which sends it back.
    ///
    /// # Errors
    /// As [`describe_cluster`](Client::describe_cluster).
    pub async fn echo(&self, message: &str) -> Result<String> {
        let request = EchoRequest { msg: message.to_owned() };
        let (node, response) = self
            .cluster
            .call_response(Operation::read("echo"), None, Target::Any, |mut client| {
                let request = request.clone();
                async move { client.echo(request).await }
            })
            .await?;
        self.cluster.note_capabilities(&node, response.metadata());
        Ok(response.into_inner().msg)
    }

    /// Runs a command of the operator's command line, such as `server stats stream_counter appends`, at any node; the
    /// answer is JSON text, to be read as [`AdminAnswer`](crate::AdminAnswer). It is not repeated when its outcome is open.
    ///
    /// # Errors
    /// `Internal` with the usage for a command that is none, `OutcomeUnknown`, and what the command itself raises.
    pub async fn admin_command(&self, command: &str) -> Result<String> {
        self.run_admin_command(command, Target::Any).await
    }

    /// The same at one node: statistics are those of the node that is asked.
    ///
    /// # Errors
    /// As [`admin_command`](Client::admin_command).
    pub async fn admin_command_at(&self, node: &NodeAddress, command: &str) -> Result<String> {
        self.run_admin_command(command, Target::Node(node.clone())).await
    }

    async fn run_admin_command(&self, command: &str, target: Target<'_>) -> Result<String> {
        let request = AdminCommandRequest { command: command.to_owned() };
        let response = self
            .cluster
            .call(Operation::once("admin command"), Some(command), target, |mut client| {
                let request = request.clone();
                async move { client.send_admin_command(request).await }
            })
            .await?;
        Ok(response.result)
    }
}
