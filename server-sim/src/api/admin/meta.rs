//! What is stored about resources.

use super::answer::Answer;
use super::sub;
use crate::cluster::ownership::Kind as Owned;
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
    pub(super) async fn run(self, node: &NodeContext) -> Result<Answer> {
        match self {
            Meta::List { resource } => Ok(list(node, resource)),
            Meta::Get(One { resource: Kind::Subscription, id }) => match node.subscriptions.get(&id) {
                Ok(definition) => Ok(sub::describe(node, [definition])),
                Err(error) if error.class() == Some(Class::SubscriptionNotFound) => Ok(Answer::not_found()),
                Err(error) => Err(error),
            },
            // No other kind has entries here.
            Meta::Get(_) => Ok(Answer::not_found()),
            Meta::GetTask(One { resource, id }) => task(node, resource, id).await,
            Meta::Info => {
                let row = ["file".to_owned(), node.config.data_dir.display().to_string()];
                Ok(Answer::table(["Meta Type", "Connection Info"], [row]))
            }
            Meta::CleanConnectors => Ok(Answer::ok()),
        }
    }
}

/// The node that a resource belongs to, once one has begun to serve it. A node that is alone owns everything and stores
/// nothing about that.
async fn task(node: &NodeContext, kind: Kind, id: String) -> Result<Answer> {
    let kind = match kind {
        Kind::Subscription => Owned::Subscription,
        Kind::ShardReader => Owned::ShardReader,
        Kind::Stream => Owned::Stream,
        Kind::Shard => Owned::Shard,
        Kind::Query | Kind::QueryInfo | Kind::QueryStatus => Owned::Query,
        Kind::View | Kind::ViewInfo | Kind::QvRelation => Owned::View,
        Kind::Connector | Kind::ConnectorInfo => Owned::Connector,
    };
    let owner = node.ownership.stored_owner_of(kind, &id).await?;
    Ok(match owner {
        Some(owner) => Answer::table(["Resource ID", "Node ID"], [[id, owner.to_string()]]),
        None => Answer::not_found(),
    })
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
