//! What is stored about resources.

use super::answer::Answer;
use super::sub;
use crate::error::{Class, Result};
use crate::node::context::NodeContext;
use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(super) enum Meta {
    /// Everything of a kind
    List {
        /// The kind
        #[arg(short, long)]
        resource: Listed,
    },
    /// One entry
    Get(One),
    /// Where everything is stored
    Info,
    /// The node that a resource was given to
    GetTask(One),
    /// Remove what deleted connectors left
    CleanConnectors,
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The kind
    #[arg(short, long)]
    resource: Kind,
    /// Its id
    #[arg(short, long)]
    id: String,
}

/// Kinds that can be listed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Listed {
    Subscription,
    QueryInfo,
    ViewInfo,
    QvRelation,
    Connectors,
    ConnectorInfos,
}

/// Kinds that can be asked for one by one.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Kind {
    Subscription,
    QueryInfo,
    QueryStatus,
    ViewInfo,
    QvRelation,
    #[value(alias = "connectors")]
    Connector,
    #[value(alias = "connector-infos")]
    ConnectorInfo,
    Stream,
    Shard,
    ShardReader,
    Query,
    View,
}

impl Meta {
    pub(super) fn run(self, node: &NodeContext) -> Result<Answer> {
        match self {
            Meta::List { resource } => Ok(list(node, resource)),
            Meta::Get(One { resource: Kind::Subscription, id }) => match node.subscriptions.get(&id) {
                Ok(definition) => Ok(sub::describe(node, [definition])),
                Err(error) if error.class() == Some(Class::SubscriptionNotFound) => Ok(Answer::not_found()),
                Err(error) => Err(error),
            },
            // No other kind has entries here; and a single node gives nothing away, so it stores no allocation.
            Meta::Get(_) | Meta::GetTask(_) => Ok(Answer::not_found()),
            Meta::Info => {
                let row = ["file".to_owned(), node.config.data_dir.display().to_string()];
                Ok(Answer::table(["Meta Type", "Connection Info"], [row]))
            }
            Meta::CleanConnectors => Ok(Answer::ok()),
        }
    }
}

fn list(node: &NodeContext, kind: Listed) -> Answer {
    match kind {
        Listed::Subscription => sub::describe(node, node.subscriptions.with_prefix("")),
        Listed::QueryInfo | Listed::ViewInfo => Answer::Plain(String::new()),
        Listed::QvRelation => Answer::table(["Query ID", "View ID"], []),
        Listed::Connectors => Answer::table(["Connector Name", "Task ID"], []),
        Listed::ConnectorInfos => {
            Answer::table(["Task ID", "Connector Name", "Type", "Target", "Status"], [])
        }
    }
}
