//! What the owner of a subscription is asked beside the session, over the same connection.

use super::quiet::Question;
use crate::cluster::{Cluster, Contact, NodeAddress, Patience};
use crate::error::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use hstreamdb_proto::api::{
    EchoRequest, GetSubscriptionRequest, GetSubscriptionResponse, ListConsumersRequest,
};
use std::time::Duration;
use tonic::{Response, Status};

/// What it said.
pub(super) enum Answer {
    /// The subscription and its committed checkpoints.
    Subscription(Box<Response<GetSubscriptionResponse>>),
    /// Whether the consumer is attached.
    Attached(bool),
    /// That it is there.
    Alive,
}

/// The owner, over the session's own connection: an answer shows that the connection works.
pub(super) struct Owner {
    pub cluster: Cluster,
    pub contact: Contact,
    pub address: NodeAddress,
    pub subscription: String,
    /// For one question.
    pub timeout: Duration,
}

impl Owner {
    /// Asks. `name` is the consumer's.
    pub fn ask(&self, question: Question, name: String) -> BoxFuture<'static, Result<Answer>> {
        let (mut client, id) = (self.contact.client.clone(), self.subscription.clone());
        match question {
            Question::Subscription => self.within("get subscription", async move {
                let answer = client.get_subscription(GetSubscriptionRequest { id }).await?;
                Ok(Answer::Subscription(Box::new(answer)))
            }),
            Question::Attached => self.within("list consumers", async move {
                let answer = client.list_consumers(ListConsumersRequest { subscription_id: id }).await?;
                Ok(Answer::Attached(answer.get_ref().consumers.iter().any(|consumer| consumer.name == name)))
            }),
            Question::Alive => self.within("echo", async move {
                client.echo(EchoRequest { msg: String::new() }).await?;
                Ok(Answer::Alive)
            }),
        }
    }

    /// Resolves when nothing has been heard of the node for long, or something else failed on the way to it.
    pub fn owes_a_word(&self) -> BoxFuture<'static, ()> {
        let (cluster, address) = (self.cluster.clone(), self.address.clone());
        let line = self.contact.line.clone();
        Box::pin(async move { cluster.owes_a_word(&address, &line).await })
    }

    fn within(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<Answer, Status>> + Send + 'static,
    ) -> BoxFuture<'static, Result<Answer>> {
        let (timeout, address, subscription) =
            (self.timeout, self.address.clone(), self.subscription.clone());
        let (cluster, contact) = (self.cluster.clone(), self.contact.clone());
        Box::pin(async move {
            let answered = cluster.answered(&address, &contact, Patience::Session, call);
            let error = match tokio::time::timeout(timeout, answered).await {
                Ok(Ok(Ok(answer))) => {
                    cluster.trust(&address);
                    return Ok(answer);
                }
                Ok(Ok(Err(status))) => Error::from_status(operation, &status),
                Ok(Err(silent)) => silent.with_operation(operation),
                Err(_) => Error::new(ErrorKind::Timeout, operation)
                    .with_message(format!("no answer within {timeout:?}"))
                    .with_transport(true)
                    .with_retryable(true),
            };
            // Whatever it said, it is there.
            if !error.is_transport() {
                cluster.trust(&address);
            }
            // Asking changes nothing.
            Err(error.with_node(address).with_resource(subscription).with_may_have_been_applied(false))
        })
    }
}
