//! A consumer's call, passed on to the owner of its subscription.
//!
//! One message at a time is under way in each direction, and what goes to the consumer is charged to the memory for
//! deliveries, so a consumer that does not read holds up its owner and nobody else. The call ends when either side does,
//! and as soon as the owner is found dead.

use super::{Call, Responses, unavailable};
use crate::cluster::{Members, NodeId};
use crate::limits::{Charge, hand_over};
use crate::node::context::NodeContext;
use futures::StreamExt as _;
use hstreamdb_proto::api::{StreamingFetchRequest, StreamingFetchResponse};
use hstreamdb_proto::internal::node_client::NodeClient;
use prost::Message as _;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// How long the owner may take until it serves: it may have to wait until the one before it certainly does not.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How the end of the call comes to the consumer, or a message with what it is charged.
type Relayed = Result<(StreamingFetchResponse, Charge), Status>;

/// The owner, as it was when the call was passed on.
struct Owner {
    node: Arc<NodeContext>,
    id: NodeId,
    generation: u64,
}

pub(super) async fn relay(
    node: &Arc<NodeContext>,
    owner: NodeId,
    call: Call,
) -> Result<Response<Responses>, Status> {
    let place = node.peers.place().ok_or_else(|| {
        unavailable(
            "this node passes on as many consumers as it can; look the subscription up and call its node",
        )
    })?;
    let Some(member) = node.members().get(owner).cloned() else {
        return Err(unavailable(format!(
            "node {owner} serves the subscription, and this node does not know it yet"
        )));
    };
    let owner = Owner { node: node.clone(), id: owner, generation: member.generation };
    let channel = node.peers.channel(member.internal).map_err(|error| owner.gone(&error.to_string()))?;
    let mut client =
        NodeClient::new(channel).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);

    let broken = CancellationToken::new();
    let keys = call.origin.passed_on();
    let mut request = Request::new(forward(call.first, call.rest, broken.clone()));
    *request.metadata_mut() = keys;
    let answer = tokio::select! {
        answer = tokio::time::timeout(ANSWER_WITHIN, client.streaming_fetch(request)) => match answer {
            Ok(answer) => answer.map_err(|status| owner.told(status))?,
            Err(_) => return Err(owner.gone(&format!("no answer within {ANSWER_WITHIN:?}"))),
        },
        status = owner.lost() => return Err(status),
        () = broken.cancelled() => return Err(Status::cancelled("the consumer went away")),
    };
    let (keys, messages, _) = answer.into_parts();
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(pass_back(owner, messages, broken, sender, place));
    let mut response = Response::new(responses(receiver));
    *response.metadata_mut() = keys;
    Ok(response)
}

/// What the consumer sends. If it breaks off this never ends: an end would tell the owner that it left in order.
fn forward(
    first: StreamingFetchRequest,
    rest: Streaming<StreamingFetchRequest>,
    broken: CancellationToken,
) -> impl futures::Stream<Item = StreamingFetchRequest> + Send + 'static {
    let rest = futures::stream::unfold((rest, broken), |(mut rest, broken)| async move {
        match rest.next().await {
            Some(Ok(message)) => Some((message, (rest, broken))),
            None => None,
            Some(Err(_)) => {
                broken.cancel();
                std::future::pending().await
            }
        }
    });
    futures::stream::iter([first]).chain(rest)
}

/// Passes on what the owner sends, until either side ends. Dropping `messages` cancels the call at the owner.
async fn pass_back(
    owner: Owner,
    mut messages: Streaming<StreamingFetchResponse>,
    broken: CancellationToken,
    sender: mpsc::Sender<Relayed>,
    _place: OwnedSemaphorePermit,
) {
    let pass = async {
        loop {
            let message = match messages.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(status) => {
                    // Fails if nobody listens.
                    let _ = sender.send(Err(owner.told(status))).await;
                    return;
                }
            };
            let charge = owner.node.deliveries.reserve(message.encoded_len()).await;
            if sender.send(Ok((message, charge))).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = pass => {}
        () = broken.cancelled() => {}
        () = sender.closed() => {}
        status = owner.lost() => {
            let _ = sender.send(Err(status)).await;
        }
    }
}

fn responses(receiver: mpsc::Receiver<Relayed>) -> Responses {
    futures::stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await? {
            Ok((message, charge)) => {
                hand_over(charge);
                Some((Ok(message), Some(receiver)))
            }
            Err(status) => Some((Err(status), None)),
        }
    })
    .boxed()
}

impl Owner {
    /// Resolves when there is no hearing from it any more, or when this node stops.
    async fn lost(&self) -> Status {
        let mut members = self.node.members.clone();
        let another = |members: &Members| {
            members.is_gone(self.id)
                || members.get(self.id).is_none_or(|member| member.generation != self.generation)
        };
        let gone = async { members.wait_for(another).await.is_ok() };
        tokio::select! {
            () = self.node.stop.cancelled() => unavailable("the server is stopping"),
            told = gone => match told {
                true => self.gone("it is down, or has begun anew"),
                // Nobody tells any more; the stop follows.
                false => std::future::pending().await,
            },
        }
    }

    /// What the owner said, as it was said; what the way to it did is ours to tell.
    fn told(&self, status: Status) -> Status {
        match status.source() {
            None => status,
            Some(_) => self.gone(status.message()),
        }
    }

    fn gone(&self, why: &str) -> Status {
        unavailable(format!("node {}, which serves the subscription, cannot be reached: {why}", self.id))
    }
}
