//! One unary call: finds its node, keeps its deadline, and is tried again where that is safe.

use super::{ApiClient, Cluster, NodeAddress, Resource};
use crate::{
    error::{Error, ErrorKind, Result},
    retry::{self, Decision, Operation},
};
use hstreamdb_proto::api::{LookupShardRequest, LookupSubscriptionRequest, ServerNode};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, timeout};

/// Nodes asked for an owner in one try.
const LOOKUP_NODES: usize = 3;

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
}

impl Target<'_> {
    fn resource(&self) -> Option<Resource> {
        match self {
            Target::Any | Target::Node(_) => None,
            Target::Shard(id) => Some(Resource::Shard(*id)),
            Target::Subscription(id) => Some(Resource::Subscription((*id).to_owned())),
        }
    }
}

/// How far one try has come, readable after its deadline dropped it.
#[derive(Debug, Default)]
struct Progress(Mutex<(Option<NodeAddress>, bool)>);

impl Progress {
    fn at(&self, address: &NodeAddress, sent: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Some(address.clone()), sent);
    }

    fn get(&self) -> (Option<NodeAddress>, bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Cluster {
    /// Runs a unary call: finds the node, applies the request timeout to every try, repeats after failures that
    /// allow it with the client's back-off, at another node where one is left.
    ///
    /// `resource` is what errors name. `f` is called once per try.
    ///
    /// # Errors
    /// The last try's, with the number of tries. `OutcomeUnknown` when the operation must not be repeated and it is open
    /// whether it was applied. `Closed` when the client is closed before an answer came.
    pub(crate) async fn call<T, F, Fut>(
        &self,
        operation: Operation,
        resource: Option<&str>,
        target: Target<'_>,
        f: F,
    ) -> Result<T>
    where
        F: Fn(ApiClient) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        self.call_response(operation, resource, target, f).await.map(|(_, response)| response.into_inner())
    }

    /// [`call`](Self::call) with the answering node and the answer's metadata.
    pub(crate) async fn call_response<T, F, Fut>(
        &self,
        operation: Operation,
        resource: Option<&str>,
        target: Target<'_>,
        f: F,
    ) -> Result<(NodeAddress, tonic::Response<T>)>
    where
        F: Fn(ApiClient) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        self.metrics().calls.add(1);
        let started = Instant::now();
        let mut pauses = self.backoff();
        let mut tried: Vec<NodeAddress> = Vec::new();
        let mut tries = 0;
        loop {
            tries += 1;
            let progress = Progress::default();
            let result = tokio::select! {
                biased;
                () = self.closed() => Err(self.closed_in(operation, &progress)),
                result = timeout(self.settings().request_timeout, self.try_once(operation, &target, &tried, &progress, &f)) => {
                    result.unwrap_or_else(|_| Err(self.too_late(operation, &progress)))
                }
            };
            let error = match result {
                Ok(answer) => {
                    self.metrics().call_duration.observe(started.elapsed());
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let (node, _) = progress.get();
            if error.is_transport()
                && let Some(node) = &node
            {
                self.mark_suspect(node, &error);
            }
            let decision = retry::decide(operation.effect, &error);
            if decision != Decision::Fail {
                if let Some(owned) = target.resource() {
                    self.forget_owner(&owned);
                }
                if let Some(node) = node
                    && !tried.contains(&node)
                {
                    tried.push(node);
                }
                if let Some(pause) = pauses.next() {
                    self.metrics().call_retries.add(1);
                    // Somewhere else nothing has failed yet, so there is nothing to wait for.
                    let elsewhere = matches!(target, Target::Any | Target::Shard(_))
                        && self
                            .candidates()
                            .iter()
                            .any(|node| !tried.contains(node) && !self.is_suspect(node));
                    if !elsewhere {
                        tokio::select! {
                            biased;
                            () = self.closed() => {}
                            () = tokio::time::sleep(pause) => {}
                        }
                        // Everyone has had a turn and a rest.
                        tried.clear();
                    }
                    continue;
                }
            }
            self.metrics().call_failures.add(1);
            self.metrics().call_duration.observe(started.elapsed());
            let mut error = retry::conclude(operation.effect, error)
                .with_operation(operation.name)
                .with_tries(tries, started.elapsed());
            if let Some(resource) = resource {
                error = error.with_resource(resource);
            }
            return Err(error);
        }
    }

    async fn try_once<T, F, Fut>(
        &self,
        operation: Operation,
        target: &Target<'_>,
        tried: &[NodeAddress],
        progress: &Progress,
        f: &F,
    ) -> Result<(NodeAddress, tonic::Response<T>)>
    where
        F: Fn(ApiClient) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let node = self.route(target, tried, progress).await?;
        progress.at(&node, false);
        let client = self.0.pool.client(&node, self.settings().request_timeout).await?;
        progress.at(&node, true);
        match f(client).await {
            Ok(response) => {
                if matches!(target, Target::Any) {
                    self.0.members.prefer(&node);
                } else {
                    self.0.members.trust(&node);
                }
                Ok((node, response))
            }
            Err(status) => Err(Error::from_status(operation.name, &status).with_node(&node)),
        }
    }

    /// The node a call goes to; owners come from the cache or are looked up.
    async fn route(
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
                    Ok(owner) if !tried.contains(&owner) && !self.is_suspect(&owner) => Ok(owner),
                    // The lookup only spreads load: every node accepts the call.
                    Ok(_) => self.any_node(tried),
                    Err(error) if error.is_retryable() => self.any_node(tried),
                    Err(error) => Err(error),
                }
            }
            Target::Subscription(id) => self.owner(Resource::Subscription((*id).to_owned()), progress).await,
        }
    }

    fn candidates(&self) -> Vec<NodeAddress> {
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
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "find a node").with_message("no node is known"))
    }

    async fn owner(&self, resource: Resource, progress: &Progress) -> Result<NodeAddress> {
        if let Some(owner) = self.0.resolver.get(&resource) {
            return Ok(owner);
        }
        let mut last = None;
        for node in self.candidates().into_iter().take(LOOKUP_NODES) {
            progress.at(&node, false);
            match self.lookup_at(&node, &resource).await {
                Ok(owner) => {
                    self.0.resolver.put(resource, owner.clone());
                    return Ok(owner);
                }
                Err(error) if error.is_transport() => {
                    self.mark_suspect(&node, &error);
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| {
            Error::new(ErrorKind::Unavailable, "look up owner").with_message("no node is known")
        }))
    }

    async fn lookup_at(&self, node: &NodeAddress, resource: &Resource) -> Result<NodeAddress> {
        self.metrics().lookups.add(1);
        let mut client = self.0.pool.client(node, self.settings().request_timeout).await?;
        let owner = match resource {
            Resource::Shard(id) => client
                .lookup_shard(LookupShardRequest { shard_id: *id })
                .await
                .map(|response| response.into_inner().server_node),
            Resource::Subscription(id) => client
                .lookup_subscription(LookupSubscriptionRequest { subscription_id: id.clone() })
                .await
                .map(|response| response.into_inner().server_node),
        };
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
        self.0.resolver.put(Resource::Subscription(id.to_owned()), owner.clone());
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
                let error = self.too_late(Operation::read("look up shard"), &progress);
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
        self.0.resolver.forget(resource);
    }

    fn too_late(&self, operation: Operation, progress: &Progress) -> Error {
        let limit = self.settings().request_timeout;
        let (node, sent) = progress.get();
        let error = if sent {
            Error::new(ErrorKind::Timeout, operation.name)
                .with_message(format!("no answer within {}", show(limit)))
                .with_may_have_been_applied(true)
                .with_retryable(true)
        } else {
            Error::new(ErrorKind::Unavailable, operation.name)
                .with_message(format!("no connection within {}", show(limit)))
        };
        let error = error.with_transport(true);
        match node {
            Some(node) => error.with_node(node),
            None => error,
        }
    }

    fn closed_in(&self, operation: Operation, progress: &Progress) -> Error {
        let (_, sent) = progress.get();
        let error = self.closed_error(operation.name).with_retryable(false);
        error.with_may_have_been_applied(sent)
    }
}

fn show(duration: Duration) -> String {
    format!("{duration:?}")
}
