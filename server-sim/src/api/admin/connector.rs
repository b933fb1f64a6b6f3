//! Connectors, of which this server has none.

use super::answer::Answer;
use crate::error::{Class, Result, ServerError};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(super) enum Connector {
    /// All connectors
    List,
    /// One connector
    Describe(One),
    /// Run a connector again
    Resume(One),
    /// Delete a connector
    Delete(One),
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The connector's name
    #[arg(short, long)]
    id: String,
}

impl Connector {
    pub(super) fn run(self) -> Result<Answer> {
        match self {
            Connector::List => {
                let headers = ["Connector Name", "Type", "Target", "Task ID", "Status", "CreatedTime"];
                Ok(Answer::table(headers, []))
            }
            Connector::Describe(One { id })
            | Connector::Resume(One { id })
            | Connector::Delete(One { id }) => Err(ServerError::new(Class::ConnectorNotFound, id)),
        }
    }
}
