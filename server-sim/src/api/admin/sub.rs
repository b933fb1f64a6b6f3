//! Subscriptions.

use super::super::subscription as calls;
use super::answer::Answer;
use super::beyond::Beyond;
use crate::error::{Class, Result};
use crate::node::context::NodeContext;
use crate::reader::timestamp;
use crate::subscription::Definition;
use clap::{Subcommand, ValueEnum};
use hstreamdb_proto::api::{DeleteSubscriptionRequest, SpecialOffset, Subscription};
use std::sync::Arc;
use tonic::metadata::MetadataMap;

#[derive(Debug, Subcommand)]
pub(super) enum Sub {
    /// All subscriptions
    List,
    /// Create a subscription
    Create {
        /// Its id
        id: String,
        /// The stream it reads
        #[arg(long)]
        stream: String,
        /// Seconds until a record that was not acknowledged is delivered again
        #[arg(long, default_value_t = 60, allow_negative_numbers = true)]
        ack_timeout: i32,
        /// Most records in flight
        #[arg(long, default_value_t = 10_000, allow_negative_numbers = true)]
        max_unacked_records: i32,
        /// Where it begins
        #[arg(long, value_enum, ignore_case = true, default_value_t = Offset::Latest)]
        offset: Offset,
    },
    /// One subscription
    Describe {
        /// Its id
        id: String,
    },
    /// Delete a subscription
    Delete {
        /// Its id
        id: String,
        /// Even if consumers are attached
        #[arg(short, long)]
        force: bool,
    },
    #[command(flatten)]
    Beyond(Beyond),
    /// Delete all subscriptions
    #[command(name = "deleteall")]
    DeleteAll {
        /// Even if consumers are attached
        #[arg(short, long)]
        force: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Offset {
    Earliest,
    Latest,
}

impl Sub {
    pub(super) async fn run(self, node: &Arc<NodeContext>) -> Result<Answer> {
        let subscriptions = &node.subscriptions;
        match self {
            Sub::List => {
                let rows = subscriptions.with_prefix("").into_iter().map(|definition| {
                    [definition.id.clone(), subscriptions.stream_name(&definition), created(&definition)]
                });
                Ok(Answer::table(["Subscription ID", "Stream Name", "CreatedTime"], rows))
            }
            Sub::Create { id, stream, ack_timeout, max_unacked_records, offset } => {
                let offset = match offset {
                    Offset::Earliest => SpecialOffset::Earliest,
                    Offset::Latest => SpecialOffset::Latest,
                };
                let subscription = Subscription {
                    subscription_id: id,
                    stream_name: stream,
                    ack_timeout_seconds: ack_timeout,
                    max_unacked_records,
                    offset: offset as i32,
                    creation_time: None,
                };
                calls::create(subscriptions, &MetadataMap::new(), subscription).await.map(|_| Answer::ok())
            }
            Sub::Beyond(command) => command.run(node).await,
            Sub::Describe { id } => Ok(describe(node, [subscriptions.get(&id)?])),
            Sub::Delete { id, force } => {
                let request = DeleteSubscriptionRequest { subscription_id: id, force };
                calls::delete(node, request).await.map(|()| Answer::ok())
            }
            Sub::DeleteAll { force } => {
                let mut outcome = Ok(Answer::ok());
                // One that has to stay is no reason to keep the others.
                for definition in subscriptions.with_prefix("") {
                    match subscriptions.delete(&definition.id, force).await {
                        Err(error) if error.class() == Some(Class::SubscriptionNotFound) => {}
                        Err(error) if outcome.is_ok() => outcome = Err(error),
                        _ => {}
                    }
                }
                outcome
            }
        }
    }
}

/// Everything an operator may want to know about subscriptions.
pub(super) fn describe(node: &NodeContext, definitions: impl IntoIterator<Item = Arc<Definition>>) -> Answer {
    let headers = ["Subscription ID", "Stream Name", "Timeout", "Max Unacked", "CreatedTime", "Sub Offset"];
    let row = |definition: Arc<Definition>| {
        [
            definition.id.clone(),
            node.subscriptions.stream_name(&definition),
            definition.ack_timeout_secs.to_string(),
            definition.max_unacked.to_string(),
            created(&definition),
            match SpecialOffset::try_from(definition.offset) {
                Ok(offset) => offset.as_str_name().to_owned(),
                Err(_) => definition.offset.to_string(),
            },
        ]
    };
    Answer::table(headers, definitions.into_iter().map(row))
}

/// When a subscription was created, in RFC 3339.
fn created(definition: &Definition) -> String {
    timestamp(definition.created_ms).to_string()
}
