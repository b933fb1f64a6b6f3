//! The node itself: its state, `init` and `ready`.

use super::answer::Answer;
use super::cluster;
use crate::error::Result;
use crate::node::context::NodeContext;

pub(super) fn status(node: &NodeContext, through: Option<&str>) -> Result<Answer> {
    let this = cluster::this(node, through)?;
    let row = [this.id.to_string(), "Running".to_owned(), format!("{}:{}", this.host, this.port)];
    Ok(Answer::table(["Node ID", "State", "Address"], [row]))
}

/// A single node needs no bootstrapping, so there is nothing to do.
pub(super) fn init() -> Answer {
    Answer::Plain("Server successfully received init signal".to_owned())
}

/// A node answers no calls before it is ready.
pub(super) fn ready() -> Answer {
    Answer::Plain("Cluster is ready".to_owned())
}
