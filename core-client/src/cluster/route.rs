//! Finding the node of a call: the owner as cached or looked up, or whichever is well.

use super::{Cluster, NodeAddress, Patience, Resource, asking::first_answer};
use crate::{
    error::{Error, ErrorKind, Result},
    retry::Operation,
};
use hstreamdb_proto::api::{
    LookupResourceRequest, LookupShardRequest, LookupSubscriptionRequest, ResourceType, ServerNode,
};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::timeout;

/// Nodes asked for an owner in one try.
const LOOKUP_NODES: usize = 3;
/// A node that has not answered a lookup for this long gets company.
const LOOKUP_PATIENCE: Duration = Duration::from_millis(500);

/// Where a call goes.
#[derive(Debug, Clone)]
pub(crate) enum Target<'a> {
    /// Any node can answer.
    Any,
    /// This node only.
    Node(NodeAddress),
    /// The node the shard's load is put on; any other will do.
    Shard(u64),
    /// The owner of the subscription; another refuses.
    Subscription(&'a str),
    /// The owner of a query, view or connector; another refuses, or does not know it.
    Named(ResourceType, &'a str),
}

impl Target<'_> {
    /// Whether only one node can answer, and the cluster says which.
    pub(super) fn has_owner(&self) -> bool {
        matches!(self, Target::Subscription(_) | Target::Named(..))
    }

    pub(super) fn resource(&self) -> Option<Resource> {
        match self {
            Target::Any | Target::Node(_) => None,
            Target::Shard(id) => Some(Resource::Shard(*id)),
            Target::Subscription(id) => Some(Resource::Subscription((*id).to_owned())),
            Target::Named(kind, id) => Some(Resource::Named(*kind, (*id).to_owned())),
        }
    }
}

/// What a try does, or did when it was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Stage {
    /// Makes a connection.
    #[default]
    Connecting,
    /// Asks who the owner is.
    LookingUp,
    /// Waits for the answer: the server may have done it.
    Sent,
    /// Was left because the node says nothing at all.
    Silent,
}

/// How far one try has come, readable after its deadline dropped it.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<(Option<NodeAddress>, Stage)>);

impl Progress {
    pub(super) fn at(&self, address: &NodeAddress, stage: Stage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Some(address.clone()), stage);
    }

    pub(super) fn get(&self) -> (Option<NodeAddress>, Stage) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Cluster {
    /// The node a call goes to; owners come from the cache or are looked up.
    pub(super) async fn route(
        &self,
        target: &Target<'_>,
        tried: &[NodeAddress],
        progress: &Progress,
    ) -> Result<NodeAddress> {
        match target {
            Target::Node(node) => Ok(node.clone()),
            Target::Any => self.any_node(tried),
            Target::Shard(id) => {
                let owner = self.owner(Resource::Shard(*id), progress).await;
                match owner {
                    Ok(owner) if !tried.contains(&owner) && !self.is_poor(&owner) => Ok(owner),
                    // The lookup only spreads load: every node accepts the call.
                    Ok(_) => self.any_node(tried),
                    Err(error) if error.is_retryable() => self.any_node(tried),
                    Err(error) => Err(error),
                }
            }
            Target::Subscription(id) => self.owner(Resource::Subscription((*id).to_owned()), progress).await,
            Target::Named(kind, id) => self.owner(Resource::Named(*kind, (*id).to_owned()), progress).await,
        }
    }

    /// Whether another node is the better choice where any will do.
    fn is_poor(&self, node: &NodeAddress) -> bool {
        self.is_suspect(node) || self.0.members.is_out(node)
    }

    pub(super) fn candidates(&self) -> Vec<NodeAddress> {
        // The shift spreads clients over nodes; `prefer` then keeps each at its first.
        let shift = (self.random_unit() * 1024.0) as usize;
        self.0.members.candidates(shift)
    }

    fn any_node(&self, tried: &[NodeAddress]) -> Result<NodeAddress> {
        let candidates = self.candidates();
        candidates
            .iter()
            .find(|node| !tried.contains(node))
            .or(candidates.first())
            .cloned()
            .ok_or_else(no_node)
    }

    async fn owner(&self, resource: Resource, progress: &Progress) -> Result<NodeAddress> {
        if let Some(owner) = self.0.owners.get(&resource) {
            return Ok(owner);
        }
        let asked: Vec<NodeAddress> = self.candidates().into_iter().take(LOOKUP_NODES).collect();
        let found = first_answer(asked, LOOKUP_PATIENCE, |node| {
            let resource = &resource;
            async move {
                progress.at(&node, Stage::LookingUp);
                match self.lookup_at(&node, resource).await {
                    Err(error) if error.is_transport() => {
                        self.mark_suspect(&node, &error);
                        Err(error)
                    }
                    // A refusal is an answer: another node would say the same.
                    answer => Ok(answer),
                }
            }
        });
        match found.await {
            Ok((node, Ok(owner))) => {
                self.prefer_if_free(&node);
                self.0.owners.put(resource, owner.clone());
                Ok(owner)
            }
            Ok((_, Err(refusal))) => Err(refusal),
            Err(failures) => Err(failures.into_iter().next_back().map_or_else(no_node, |(_, error)| error)),
        }
    }

    async fn lookup_at(&self, node: &NodeAddress, resource: &Resource) -> Result<NodeAddress> {
        self.metrics().lookups.add(1);
        // A patient call is not patient with this.
        let limit = self.request_timeout();
        let found = timeout(limit, self.ask_for_owner(node, resource, limit)).await;
        found.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, "look up owner")
                .with_node(node)
                .with_message(format!("nobody said who the owner is within {limit:?}"))
                .with_transport(true))
        })
    }

    async fn ask_for_owner(
        &self,
        node: &NodeAddress,
        resource: &Resource,
        limit: Duration,
    ) -> Result<NodeAddress> {
        let contact = self.reached(node, self.0.pool.client(node, limit)).await?;
        let mut client = contact.client.clone();
        let call = async {
            match resource {
                Resource::Shard(id) => client
                    .lookup_shard(LookupShardRequest { shard_id: *id })
                    .await
                    .map(|response| response.into_inner().server_node),
                Resource::Subscription(id) => client
                    .lookup_subscription(LookupSubscriptionRequest { subscription_id: id.clone() })
                    .await
                    .map(|response| response.into_inner().server_node),
                Resource::Named(kind, id) => client
                    .lookup_resource(LookupResourceRequest { res_type: *kind as i32, res_id: id.clone() })
                    .await
                    .map(|response| Some(response.into_inner())),
            }
        };
        let owner = self.answered(node, &contact, Patience::Brief, call).await.map_err(not_applied)?;
        // A lookup changes nothing, so nothing is open after it failed.
        let owner = owner.map_err(|status| {
            Error::from_status("look up owner", &status).with_node(node).with_may_have_been_applied(false)
        })?;
        self.address_of(owner.as_ref()).map_err(|error| error.with_node(node))
    }

    /// The address of a node that a server named.
    pub(crate) fn address_of(&self, node: Option<&ServerNode>) -> Result<NodeAddress> {
        node.and_then(|node| self.settings().host_mapping.node(node)).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "look up owner")
                .with_message("the answer names no usable address")
        })
    }

    /// The owner of a subscription, freshly looked up.
    ///
    /// # Errors
    /// As [`call`](Self::call); `NotFound` when the subscription does not exist, where servers check that.
    pub(crate) async fn owner_of_subscription(&self, id: &str) -> Result<NodeAddress> {
        let request = LookupSubscriptionRequest { subscription_id: id.to_owned() };
        let response = self
            .call(Operation::read("look up subscription"), Some(id), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.lookup_subscription(request).await }
            })
            .await?;
        let owner = self.address_of(response.server_node.as_ref())?;
        self.0.owners.put(Resource::Subscription(id.to_owned()), owner.clone());
        Ok(owner)
    }

    /// The node a shard's load is put on: cached, looked up, or any healthy one when that one failed lately. For
    /// producers and readers, which keep their own retry loops; call again after a failure for another node.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub(crate) async fn node_for_shard(&self, shard: u64) -> Result<NodeAddress> {
        let progress = Progress::default();
        let limit = self.settings().request_timeout;
        let target = Target::Shard(shard);
        let routed = timeout(limit, self.route(&target, &[], &progress));
        let result = tokio::select! {
            biased;
            () = self.closed() => Err(self.closed_error("look up shard")),
            result = routed => result.unwrap_or_else(|_| {
                let error = self.too_late(Operation::read("look up shard"), &progress, limit);
                if let (Some(node), _) = progress.get() {
                    self.mark_suspect(&node, &error);
                }
                // The lookup only spreads load.
                self.any_node(&[])
            }),
        };
        result.map_err(|error| error.with_operation("look up shard").with_resource(shard.to_string()))
    }

    /// Forgets a cached owner after it refused or failed.
    pub(crate) fn forget_owner(&self, resource: &Resource) {
        self.0.owners.forget(resource);
    }
}

/// A lookup changes nothing.
fn not_applied(error: Error) -> Error {
    error.with_operation("look up owner").with_may_have_been_applied(false)
}

fn no_node() -> Error {
    Error::new(ErrorKind::Unavailable, "find a node").with_message("no node is known")
}
