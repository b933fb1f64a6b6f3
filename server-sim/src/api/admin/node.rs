//! The nodes of the cluster: their states, `init` and `ready`.

use super::answer::Answer;
use super::cluster;
use crate::cluster::bootstrap::BootstrapError;
use crate::error::{Class, Result, ServerError};
use crate::node::context::NodeContext;
use hstreamdb_proto::api::NodeState;
use tonic::Code;

pub(super) fn status(node: &NodeContext, through: Option<&str>) -> Answer {
    let rows = cluster::nodes(node).into_iter().filter_map(|(member, state)| {
        let address = member.advertised.through(through).into_iter().next()?;
        Some([member.id.to_string(), word(state).to_owned(), address.to_string()])
    });
    Answer::table(["Node ID", "State", "Address"], rows)
}

fn word(state: NodeState) -> &'static str {
    match state {
        NodeState::Starting => "Starting",
        NodeState::Running => "Running",
        NodeState::Unavailable => "Unavailable",
        NodeState::Dead => "Dead",
    }
}

/// Founds the cluster, or finds it founded.
pub(super) async fn init(node: &NodeContext) -> Result<Answer> {
    node.bootstrap.init().await.map_err(|error| {
        let text = error.to_string();
        match error {
            BootstrapError::Store(_) => ServerError::new(Class::ServerNotAvailable, text),
            _ => ServerError::plain(Code::FailedPrecondition, text),
        }
    })?;
    Ok(Answer::Plain("Server successfully received init signal".to_owned()))
}

pub(super) fn ready(node: &NodeContext) -> Answer {
    if node.bootstrap.is_ready() {
        Answer::Plain("Cluster is ready".to_owned())
    } else {
        Answer::Error("Cluster is not ready!".to_owned())
    }
}
