//! Streams.

use super::super::stream as calls;
use super::answer::Answer;
use crate::error::{Class, Result, ServerError};
use crate::node::context::NodeContext;
use clap::Subcommand;
use hstreamdb_proto::api as wire;
use std::sync::Arc;

#[derive(Debug, Subcommand)]
pub(super) enum Stream {
    /// All streams
    List,
    /// Create a stream
    Create {
        /// Its name
        name: String,
        /// Copies of each record
        #[arg(short, long, default_value_t = 1)]
        replication_factor: u32,
        /// Seconds for which records are kept; 0 is for ever
        #[arg(short, long, default_value_t = 604_800)]
        backlog_duration: u32,
        /// Number of shards
        #[arg(short, long, default_value_t = 1)]
        shards: u32,
    },
    /// One stream
    Describe {
        /// Its name
        name: String,
    },
    /// Delete a stream
    Delete {
        /// Its name
        name: String,
        /// Even if subscriptions read it
        #[arg(short, long)]
        force: bool,
    },
}

impl Stream {
    pub(super) async fn run(self, node: &Arc<NodeContext>) -> Result<Answer> {
        match self {
            Stream::List => {
                let streams = node.streams.with_prefix("");
                Ok(table(streams.iter().map(|stream| (stream.name.clone(), stream.replication_factor))))
            }
            Stream::Create { name, replication_factor, backlog_duration, shards } => {
                let stream = wire::Stream {
                    stream_name: name,
                    replication_factor,
                    backlog_duration,
                    shard_count: shards,
                    creation_time: None,
                };
                calls::create(node, stream).await.map(|_| Answer::ok())
            }
            Stream::Describe { name } => {
                let stream = node
                    .streams
                    .find(&name)
                    .await?
                    .ok_or_else(|| ServerError::new(Class::StreamNotFound, name))?;
                Ok(table([(stream.name.clone(), stream.replication_factor)]))
            }
            Stream::Delete { name, force } => {
                let request = wire::DeleteStreamRequest { stream_name: name, force, ignore_non_exist: false };
                calls::delete(node, request).await.map(|()| Answer::ok())
            }
        }
    }
}

fn table(streams: impl IntoIterator<Item = (String, u32)>) -> Answer {
    let rows = streams.into_iter().map(|(name, factor)| [name, factor.to_string()]);
    Answer::table(["Stream Name", "Replication Factor"], rows)
}
