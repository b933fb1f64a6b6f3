//! What the owner of a subscription is asked beside the session, over the same connection.

use super::quiet::Question;
use crate::cluster::{ApiClient, NodeAddress};
use crate::error::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use hstreamdb_proto::api::{GetSubscriptionRequest, GetSubscriptionResponse, ListConsumersRequest};
use std::time::Duration;
use tonic::{Response, Status};

/// What it said.
pub(super) enum Answer {
    /// The subscription and its committed checkpoints.
    Subscription(Box<Response<GetSubscriptionResponse>>),
    /// Whether the consumer is attached.
    Attached(bool),
}

/// The owner, over the session's own connection: an answer shows that the connection works.
pub(super) struct Owner {
    pub client: ApiClient,
    pub address: NodeAddress,
    pub subscription: String,
    /// For one question.
    pub timeout: Duration,
}

impl Owner {
    /// Asks. `name` is the consumer's.
    pub fn ask(&self, question: Question, name: String) -> BoxFuture<'static, Result<Answer>> {
        let (mut client, id) = (self.client.clone(), self.subscription.clone());
        match question {
            Question::Subscription => self.within("get subscription", async move {
                let answer = client.get_subscription(GetSubscriptionRequest { id }).await?;
                Ok(Answer::Subscription(Box::new(answer)))
            }),
            Question::Attached => self.within("list consumers", async move {
                let answer = client.list_consumers(ListConsumersRequest { subscription_id: id }).await?;
                Ok(Answer::Attached(answer.get_ref().consumers.iter().any(|consumer| consumer.name == name)))
            }),
        }
    }

    fn within(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<Answer, Status>> + Send + 'static,
    ) -> BoxFuture<'static, Result<Answer>> {
        let (timeout, address, subscription) =
            (self.timeout, self.address.clone(), self.subscription.clone());
        Box::pin(async move {
            let error = match tokio::time::timeout(timeout, call).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => Error::from_status(operation, &status),
                Err(_) => Error::new(ErrorKind::Timeout, operation)
                    .with_message(format!("no answer within {timeout:?}"))
                    .with_transport(true)
                    .with_retryable(true),
            };
            // Asking changes nothing.
            Err(error.with_node(address).with_resource(subscription).with_may_have_been_applied(false))
        })
    }
}
