//! Which node serves what.

use super::super::lookup;
use super::answer::Answer;
use crate::error::Result;
use crate::listener::ListenerKey;
use crate::node::context::NodeContext;
use clap::{Args, ValueEnum};
use hstreamdb_proto::api::{LookupResourceRequest, ResourceType};
use std::sync::Arc;

#[derive(Debug, Args)]
pub(super) struct Lookup {
    /// What kind of thing
    kind: Kind,
    /// Its name or id
    id: String,
}

/// Kinds of things that are served by one node.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Kind {
    Stream,
    Subscription,
    Query,
    View,
    Connector,
    Shard,
    ShardReader,
}

impl Kind {
    fn to_wire(self) -> ResourceType {
        match self {
            Kind::Stream => ResourceType::ResStream,
            Kind::Subscription => ResourceType::ResSubscription,
            Kind::Query => ResourceType::ResQuery,
            Kind::View => ResourceType::ResView,
            Kind::Connector => ResourceType::ResConnector,
            Kind::Shard => ResourceType::ResShard,
            Kind::ShardReader => ResourceType::ResShardReader,
        }
    }
}

impl Lookup {
    pub(super) async fn run(self, node: &Arc<NodeContext>, through: Option<ListenerKey>) -> Result<Answer> {
        let request = LookupResourceRequest { res_type: self.kind.to_wire() as i32, res_id: self.id.clone() };
        let owner = lookup::resource(node, through, request).await?;
        Ok(Answer::table(["Resource ID", "Host", "Port"], [[self.id, owner.host, owner.port.to_string()]]))
    }
}
