//! Which node owns what.

use crate::{
    client::Client,
    cluster::{Node, NodeState, Target},
    error::{Error, ErrorKind, Result},
    retry::Operation,
};
use hstreamdb_proto::api::{
    LookupKeyRequest, LookupResourceRequest, LookupShardReaderRequest, LookupShardRequest,
    LookupSubscriptionRequest, ResourceType, ServerNode,
};

/// Kinds of things that have an owner.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResourceKind {
    /// A stream by name.
    Stream,
    /// A subscription by id.
    Subscription,
    /// A shard by id in decimal.
    Shard,
    /// A shard reader by id.
    ShardReader,
    /// A connector by name.
    Connector,
    /// A query by id.
    Query,
    /// A view by name.
    View,
}

impl ResourceKind {
    /// All kinds.
    pub const ALL: &'static [ResourceKind] = &[
        ResourceKind::Stream,
        ResourceKind::Subscription,
        ResourceKind::Shard,
        ResourceKind::ShardReader,
        ResourceKind::Connector,
        ResourceKind::Query,
        ResourceKind::View,
    ];

    /// Name in snake case.
    pub fn name(self) -> &'static str {
        match self {
            ResourceKind::Stream => "stream",
            ResourceKind::Subscription => "subscription",
            ResourceKind::Shard => "shard",
            ResourceKind::ShardReader => "shard_reader",
            ResourceKind::Connector => "connector",
            ResourceKind::Query => "query",
            ResourceKind::View => "view",
        }
    }

    /// The kind of that [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<ResourceKind> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    fn to_wire(self) -> ResourceType {
        match self {
            ResourceKind::Stream => ResourceType::ResStream,
            ResourceKind::Subscription => ResourceType::ResSubscription,
            ResourceKind::Shard => ResourceType::ResShard,
            ResourceKind::ShardReader => ResourceType::ResShardReader,
            ResourceKind::Connector => ResourceType::ResConnector,
            ResourceKind::Query => ResourceType::ResQuery,
            ResourceKind::View => ResourceType::ResView,
        }
    }
}

impl Client {
    /// The node a shard's load is put on.
    ///
    /// # Errors
    /// `NotFound` when no such shard exists, `Unavailable`, `Timeout`, `Closed`; so for all lookups.
    pub async fn lookup_shard(&self, shard_id: u64) -> Result<Node> {
        let request = LookupShardRequest { shard_id };
        let response = self
            .cluster
            .call(
                Operation::read("look up shard"),
                Some(&shard_id.to_string()),
                Target::Any,
                |mut client| async move { client.lookup_shard(request).await },
            )
            .await?;
        self.owner(response.server_node)
    }

    /// The node that owns a subscription.
    ///
    /// # Errors
    /// As [`lookup_shard`](Client::lookup_shard).
    pub async fn lookup_subscription(&self, id: &str) -> Result<Node> {
        let request = LookupSubscriptionRequest { subscription_id: id.to_owned() };
        let response = self
            .cluster
            .call(Operation::read("look up subscription"), Some(id), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.lookup_subscription(request).await }
            })
            .await?;
        self.owner(response.server_node)
    }

    /// The node that a polled shard reader is placed on. Published servers keep that place for ever, whether such a
    /// reader exists or not; so for subscriptions and [`lookup_resource`](Client::lookup_resource).
    ///
    /// # Errors
    /// As [`lookup_shard`](Client::lookup_shard).
    pub async fn lookup_shard_reader(&self, id: &str) -> Result<Node> {
        let request = LookupShardReaderRequest { reader_id: id.to_owned() };
        let operation = Operation::read("look up shard reader");
        let response = self
            .unary(operation, Some(id), Target::Any, request, |mut client, request| async move {
                client.lookup_shard_reader(request).await
            })
            .await?;
        self.owner(response.server_node)
    }

    /// The node that a key is placed on.
    ///
    /// # Errors
    /// As [`lookup_shard`](Client::lookup_shard).
    pub async fn lookup_key(&self, key: &str) -> Result<Node> {
        let request = LookupKeyRequest { partition_key: key.to_owned() };
        let response = self
            .cluster
            .call(Operation::read("look up key"), Some(key), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.lookup_key(request).await }
            })
            .await?;
        self.owner(Some(response))
    }

    /// The node that owns a resource.
    ///
    /// # Errors
    /// As [`lookup_shard`](Client::lookup_shard).
    pub async fn lookup_resource(&self, kind: ResourceKind, id: &str) -> Result<Node> {
        let request = LookupResourceRequest { res_type: kind.to_wire() as i32, res_id: id.to_owned() };
        let response = self
            .cluster
            .call(Operation::read("look up resource"), Some(id), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.lookup_resource(request).await }
            })
            .await?;
        self.owner(Some(response))
    }

    fn owner(&self, node: Option<ServerNode>) -> Result<Node> {
        let address = self.cluster.address_of(node.as_ref())?;
        let node = node.ok_or_else(|| Error::new(ErrorKind::Internal, "look up owner"))?;
        let version = node.version.unwrap_or_default();
        Ok(Node {
            id: node.id,
            address,
            // Lookups name running nodes only.
            state: NodeState::Running,
            version: version.version,
            commit: version.commit,
        })
    }
}
