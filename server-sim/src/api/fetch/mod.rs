//! `StreamingFetch`: at the owner of the subscription, wherever its consumer came.
//!
//! No status makes all published clients look a subscription up again, so a consumer that came to another node is passed
//! on: this node opens the same call at the owner and hands everything through, both ways.

mod for_others;
mod origin;
mod relay;

pub use for_others::ForOthers;

use super::status::status;
use super::{announce, placement, subscription};
use crate::cluster::ownership::Kind;
use crate::error::{Class, ServerError};
use crate::node::context::NodeContext;
use crate::subscription::{Caller, Claiming, NotServed, Serving};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use hstreamdb_proto::api::{StreamingFetchRequest, StreamingFetchResponse};
use hstreamdb_proto::metadata;
use origin::Origin;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// Batches for a consumer.
pub(super) type Responses = BoxStream<'static, Result<StreamingFetchResponse, Status>>;

/// A consumer's call with its first message.
struct Call {
    origin: Origin,
    first: StreamingFetchRequest,
    rest: Streaming<StreamingFetchRequest>,
}

/// A call of a client.
pub(super) async fn fetch(
    node: &Arc<NodeContext>,
    request: Request<Streaming<StreamingFetchRequest>>,
) -> Result<Response<Responses>, Status> {
    let call = Call::begin(request).await?;
    let id = &call.first.subscription_id;
    // Whether it exists is known everywhere; where it is may have to wait for this node to be ready.
    node.subscriptions.get(id).map_err(status)?;
    placement::owner(node, Kind::Subscription, id).await.map_err(status)?;
    match node.subscriptions.serve(id, Claiming::IfPlacedHere).await {
        Ok(serving) => call.attach(node, serving),
        Err(NotServed::Elsewhere(owner)) => relay::relay(node, owner, call).await,
        Err(NotServed::Refused(error)) => Err(status(error)),
    }
}

/// A call that another node passed on. It is never passed on again: two nodes that disagree about the owner would send it
/// to and fro.
async fn fetch_for_other(
    node: &Arc<NodeContext>,
    request: Request<Streaming<StreamingFetchRequest>>,
) -> Result<Response<Responses>, Status> {
    let call = Call::begin(request).await?;
    match node.subscriptions.serve(&call.first.subscription_id, Claiming::Anyhow).await {
        Ok(serving) => call.attach(node, serving),
        Err(NotServed::Elsewhere(owner)) => {
            let text = format!("the subscription is moving, to node {owner} as node {} sees it", node.me());
            Err(unavailable(text))
        }
        Err(NotServed::Refused(error)) => Err(status(error)),
    }
}

impl Call {
    async fn begin(request: Request<Streaming<StreamingFetchRequest>>) -> Result<Self, Status> {
        let origin = Origin::of(&request);
        let mut rest = request.into_inner();
        let first = subscription::first_message(&mut rest).await.map_err(status)?;
        Ok(Call { origin, first, rest })
    }

    fn attach(self, node: &NodeContext, serving: Serving) -> Result<Response<Responses>, Status> {
        let caller = Caller {
            uri: self.origin.uri,
            user_agent: self.origin.user_agent,
            confirm: self.origin.confirm,
            incarnation: self.origin.incarnation,
            instance: self.origin.instance,
            memory: Some(node.deliveries.clone()),
        };
        let fetch = serving.attach(&self.first, self.rest, caller).map_err(status)?;
        let incarnation = fetch.incarnation();
        let mut response = announce(Response::new(fetch.boxed()));
        response.metadata_mut().insert(metadata::SUBSCRIPTION_INCARNATION, incarnation.into());
        Ok(response)
    }
}

/// What makes every client look the subscription up again.
fn unavailable(text: impl Into<String>) -> Status {
    status(ServerError::new(Class::ServerNotAvailable, text.into()))
}
