//! One unary call: finds its node, keeps its deadline, and is tried again where that is safe.

use super::{
    ApiClient, Cluster, NodeAddress, Patience,
    route::{Progress, Stage, Target},
};
use crate::{
    error::{Error, ErrorKind, Result},
    retry::{self, Decision, Effect, Operation},
};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tracing::{Instrument as _, Span, field};

/// Longest pause before the owner of something is looked up again because the one that was named is silent.
const OWNER_PAUSE: Duration = Duration::from_millis(300);

impl Cluster {
    /// Runs a unary call: finds the node, applies the request timeout to every try and the total timeout to all, repeats
    /// after failures that allow it with the client's back-off, at another node where one is left.
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
        let span = tracing::debug_span!(
            "hstreamdb.call",
            operation = operation.name,
            resource,
            node = field::Empty,
            tries = field::Empty,
        );
        self.metrics().calls.add(1);
        let started = Instant::now();
        let result = self.try_until_done(operation, &target, &f, &span).instrument(span.clone()).await;
        self.metrics().call_duration.observe(started.elapsed());
        result.map_err(|error| {
            self.metrics().call_failures.add(1);
            match resource {
                Some(resource) => error.with_resource(resource),
                None => error,
            }
        })
    }

    async fn try_until_done<T, F, Fut>(
        &self,
        operation: Operation,
        target: &Target<'_>,
        f: &F,
        span: &Span,
    ) -> Result<(NodeAddress, tonic::Response<T>)>
    where
        F: Fn(ApiClient) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let started = Instant::now();
        let total = self.settings().total_timeout;
        let mut pauses = self.backoff();
        let mut tried: Vec<NodeAddress> = Vec::new();
        let most = self.retry_policy().max_attempts;
        let (mut tries, mut looks) = (0, 0);
        loop {
            tries += 1;
            // What nobody else may or can answer is waited for.
            let repeatable = operation.effect != Effect::Once
                && (target.has_owner() || !matches!(target, Target::Node(_)) && tries - looks < most);
            let patience = if repeatable { Patience::Brief } else { Patience::Stays };
            let limit =
                self.request_timeout().max(operation.patience).min(total.saturating_sub(started.elapsed()));
            let progress = Progress::default();
            let result = tokio::select! {
                biased;
                () = self.closed() => Err(self.closed_in(operation, &progress)),
                result = timeout(limit, self.try_once(operation, target, &tried, &progress, f, (limit, patience))) => {
                    result.unwrap_or_else(|_| Err(self.too_late(operation, &progress, limit)))
                }
            };
            let (node, stage) = progress.get();
            if !span.is_disabled() {
                span.record("tries", tries);
                if let Some(node) = &node {
                    span.record("node", field::display(node));
                }
            }
            let error = match result {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.is_transport()
                && let Some(node) = &node
            {
                self.mark_suspect(node, &error);
            }
            let left = || total.saturating_sub(started.elapsed());
            let again = retry::decide(operation.effect, &error) != Decision::Fail
                && match node {
                    // Not one of the tries: it is for the cluster to notice, which takes as long as it takes.
                    Some(owner) if stage == Stage::Silent && target.has_owner() => {
                        looks += 1;
                        self.may_look_again(target, &owner, left()).await
                    }
                    node => self.may_try_again(target, node, &mut tried, &mut pauses, left).await,
                };
            if !again {
                return Err(retry::conclude(operation.effect, error)
                    .with_operation(operation.name)
                    .with_tries(tries, started.elapsed()));
            }
            self.metrics().call_retries.add(1);
        }
    }

    /// Prepares the next try and waits for its turn. `false` when there is none: all are used up, or `left` has no time
    /// for it.
    async fn may_try_again(
        &self,
        target: &Target<'_>,
        node: Option<NodeAddress>,
        tried: &mut Vec<NodeAddress>,
        pauses: &mut impl Iterator<Item = Duration>,
        left: impl Fn() -> Duration,
    ) -> bool {
        if let Some(owned) = target.resource() {
            self.forget_owner(&owned);
        }
        if let Some(node) = node {
            self.0.members.leave(&node);
            if !tried.contains(&node) {
                tried.push(node);
            }
        }
        let Some(pause) = pauses.next() else { return false };
        // Somewhere else nothing has failed yet, so there is nothing to wait for.
        let elsewhere = matches!(target, Target::Any | Target::Shard(_))
            && self.candidates().iter().any(|node| !tried.contains(node) && !self.is_suspect(node));
        if elsewhere {
            return !left().is_zero();
        }
        if pause >= left() {
            return false;
        }
        tokio::select! {
            biased;
            () = self.closed() => {}
            () = tokio::time::sleep(pause) => {}
        }
        // Everyone has had a turn and a rest.
        tried.clear();
        true
    }

    /// Waits until the owner of something may be another one, or the same one answer again. `false` when there is no time
    /// for it.
    async fn may_look_again(&self, target: &Target<'_>, owner: &NodeAddress, left: Duration) -> bool {
        if let Some(owned) = target.resource() {
            self.forget_owner(&owned);
        }
        let pause = OWNER_PAUSE.mul_f64(0.5 + 0.5 * self.random_unit());
        if pause >= left {
            return false;
        }
        tokio::select! {
            biased;
            () = self.closed() => {}
            () = self.standing_changes(owner) => {}
            () = tokio::time::sleep(pause) => {}
        }
        true
    }

    async fn try_once<T, F, Fut>(
        &self,
        operation: Operation,
        target: &Target<'_>,
        tried: &[NodeAddress],
        progress: &Progress,
        f: &F,
        (limit, patience): (Duration, Patience),
    ) -> Result<(NodeAddress, tonic::Response<T>)>
    where
        F: Fn(ApiClient) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let node = self.route(target, tried, progress).await?;
        if target.has_owner() && self.is_newly_suspect(&node) && self.has_other(&node) {
            progress.at(&node, Stage::Silent);
            return Err(unheard(&node));
        }
        progress.at(&node, Stage::Connecting);
        let contact = self.reached(&node, self.0.pool.client(&node, limit)).await?;
        progress.at(&node, Stage::Sent);
        let answer = self.answered(&node, &contact, patience, f(contact.client.clone())).await;
        let answer = answer.inspect_err(|_| progress.at(&node, Stage::Silent));
        match answer.map_err(|error| error.with_operation(operation.name))? {
            Ok(response) => {
                if matches!(target, Target::Any) {
                    self.prefer_if_free(&node);
                } else {
                    self.trust(&node);
                }
                Ok((node, response))
            }
            Err(status) => Err(Error::from_status(operation.name, &status).with_node(&node)),
        }
    }

    pub(super) fn too_late(&self, operation: Operation, progress: &Progress, limit: Duration) -> Error {
        let (node, stage) = progress.get();
        let unavailable = |what| {
            Error::new(ErrorKind::Unavailable, operation.name)
                .with_message(format!("{what} within {limit:?}"))
        };
        let error = match stage {
            Stage::Sent | Stage::Silent => Error::new(ErrorKind::Timeout, operation.name)
                .with_message(format!("no answer within {limit:?}"))
                .with_may_have_been_applied(true)
                .with_retryable(true),
            Stage::Connecting => unavailable("no connection"),
            Stage::LookingUp => unavailable("nobody said who the owner is"),
        };
        let error = error.with_transport(true);
        match node {
            Some(node) => error.with_node(node),
            None => error,
        }
    }

    fn closed_in(&self, operation: Operation, progress: &Progress) -> Error {
        let (_, stage) = progress.get();
        let error = self.closed_error(operation.name).with_retryable(false);
        error.with_may_have_been_applied(stage == Stage::Sent)
    }
}

/// The error of what was not even sent, as its node is known to be silent.
pub(crate) fn unheard(owner: &NodeAddress) -> Error {
    Error::new(ErrorKind::Unavailable, "call")
        .with_node(owner)
        .with_message("the owner does not answer, and the cluster has not named another one yet")
}
