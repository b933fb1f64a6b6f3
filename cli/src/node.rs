//! `hstream node`.

use crate::table::table;
use anyhow::{Result, bail};
use clap::Subcommand;
use hstreamdb::{Client, Node as Member, NodeState};
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Number and address of every node that is there
    List,
    /// State, address and version of all nodes or of one, dead ones included
    Status {
        /// Number of the node
        #[arg(conflicts_with = "id")]
        node: Option<u32>,
        /// The same, as published tools spell it
        #[arg(long)]
        id: Option<u32>,
    },
    /// Whether all nodes run; exit code 1 if not
    CheckRunning {
        /// How many nodes have to run at least
        #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 1)]
        minimum_running: usize,
    },
}

impl Node {
    pub(crate) async fn run(&self, client: &Client) -> Result<ExitCode> {
        let mut nodes = client.describe_cluster().await?.nodes;
        nodes.sort_by_key(|node| node.id);
        match self {
            Node::List => {
                let there = nodes.iter().filter(|node| node.state != NodeState::Dead);
                let rows = there.map(|node| [node.id.to_string(), node.address.to_string()]);
                println!("{}", table(["Server Id", "Address"], rows));
            }
            Node::Status { node, id } => println!("{}", status(&nodes, node.or(*id))?),
            Node::CheckRunning { minimum_running } => match check_running(&nodes, *minimum_running) {
                Ok(text) => println!("{text}"),
                Err(text) => bail!(text),
            },
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn status(nodes: &[Member], id: Option<u32>) -> Result<String> {
    let wanted: Vec<_> = nodes.iter().filter(|node| id.is_none_or(|id| node.id == id)).collect();
    if let (Some(id), true) = (id, wanted.is_empty()) {
        let known: Vec<_> = nodes.iter().map(|node| node.id.to_string()).collect();
        bail!("there is no node {id} in this cluster; there are {}", known.join(", "));
    }
    let rows = wanted.into_iter().map(|node| {
        let state = word(node.state).to_owned();
        [node.id.to_string(), state, node.address.to_string(), node.version.clone(), node.commit.clone()]
    });
    Ok(table(["Server Id", "State", "Address", "Version", "Commit"], rows))
}

fn word(state: NodeState) -> &'static str {
    match state {
        NodeState::Starting => "Starting",
        NodeState::Running => "Running",
        NodeState::Unavailable => "Unavailable",
        NodeState::Dead => "Dead",
        _ => "Unknown",
    }
}

fn check_running(nodes: &[Member], minimum: usize) -> Result<String, String> {
    let (running, others): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.state == NodeState::Running);
    if !others.is_empty() {
        let others: Vec<_> = others
            .iter()
            .map(|node| format!("node {} at {} is {}", node.id, node.address, word(node.state)))
            .collect();
        return Err(format!("{} of {} nodes are running: {}", running.len(), nodes.len(), others.join(", ")));
    }
    if running.len() < minimum {
        return Err(format!("{} nodes are running, at least {minimum} have to", running.len()));
    }
    Ok(format!("All {} nodes in the cluster are running.", running.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hstreamdb::NodeAddress;

    fn node(id: u32, state: NodeState) -> Member {
        let address = NodeAddress::new("10.0.0.1", 6570);
        Member { id, address, state, version: "0.1.0".into(), commit: String::new() }
    }

    #[test]
    fn a_cluster_runs_when_all_nodes_do_and_there_are_enough() {
        let running = [node(1, NodeState::Running), node(2, NodeState::Running)];
        assert_eq!(check_running(&running, 2).unwrap(), "All 2 nodes in the cluster are running.");
        assert_eq!(check_running(&running, 3).unwrap_err(), "2 nodes are running, at least 3 have to");
        let [one, two] = running;
        for (state, word) in [
            (NodeState::Starting, "Starting"),
            (NodeState::Unavailable, "Unavailable"),
            (NodeState::Dead, "Dead"),
        ] {
            let nodes = [one.clone(), two.clone(), node(3, state)];
            let text = check_running(&nodes, 1).unwrap_err();
            assert_eq!(text, format!("2 of 3 nodes are running: node 3 at 10.0.0.1:6570 is {word}"));
        }
    }

    #[test]
    fn one_node_is_shown_alone_and_an_unknown_one_refused_with_the_known_ones() {
        let nodes = [node(1, NodeState::Running), node(2, NodeState::Dead)];
        let both = status(&nodes, None).unwrap();
        assert!(both.contains("Running") && both.contains("Dead"), "{both}");
        let two = status(&nodes, Some(2)).unwrap();
        assert!(!two.contains("Running") && two.contains("Dead"), "{two}");
        let error = status(&nodes, Some(7)).unwrap_err().to_string();
        assert_eq!(error, "there is no node 7 in this cluster; there are 1, 2");
    }
}
