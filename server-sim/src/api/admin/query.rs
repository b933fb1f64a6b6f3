//! Queries, of which this server has none.

use super::answer::Answer;
use crate::error::{Class, Result, ServerError};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(super) enum Query {
    /// All queries
    List,
    /// Whether a query runs
    Status(One),
    /// One query
    Describe(One),
    /// Run a query again
    Resume(One),
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The query's id
    #[arg(short, long)]
    id: String,
}

impl Query {
    pub(super) fn run(self) -> Result<Answer> {
        match self {
            Query::List => Ok(Answer::table(["Query ID", "Type", "Status", "CreatedTime", "SQL"], [])),
            Query::Status(One { id }) => Ok(Answer::Error(format!("query {id} is not found"))),
            Query::Describe(One { id }) | Query::Resume(One { id }) => {
                Err(ServerError::new(Class::QueryNotFound, id))
            }
        }
    }
}
