//! The RPCs of subscriptions: names checked, messages translated.

use super::placement;
use crate::cluster::ownership::Kind;
use crate::error::{Class, Result, ServerError};
use crate::node::context::NodeContext;
use crate::stream::check_name;
use crate::subscription::{Caller, Fetch, NewSubscription, PolicyChange, Subscriptions};
use futures::{Stream, StreamExt as _};
use hstreamdb_proto::api::{
    CheckSubscriptionExistRequest, CheckSubscriptionExistResponse, DeleteSubscriptionRequest,
    GetSubscriptionRequest, GetSubscriptionResponse, ListConsumersRequest, ListConsumersResponse,
    ListSubscriptionsRequest, ListSubscriptionsResponse, ListSubscriptionsWithPrefixRequest,
    StreamingFetchRequest, Subscription, SubscriptionOffset,
};
use hstreamdb_proto::metadata;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

/// Longest name of a consumer in bytes. The node keeps it as long as the consumer is there.
const MAX_CONSUMER_NAME: usize = 1024;

/// Longest wait for the first message of a fetch.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// `CreateSubscription`: the request plus its creation time.
///
/// # Errors
/// For names, metadata and offsets that are none; those of [`Subscriptions::create`].
pub async fn create(
    subscriptions: &Arc<Subscriptions>,
    keys: &MetadataMap,
    request: Subscription,
) -> Result<Subscription> {
    check_name(Class::InvalidSubscriptionId, &request.subscription_id)?;
    check_name(Class::InvalidStreamName, &request.stream_name)?;
    let policy = policy(keys)?;
    let new = NewSubscription {
        id: request.subscription_id,
        stream_name: request.stream_name,
        ack_timeout_secs: request.ack_timeout_seconds,
        max_unacked: request.max_unacked_records,
        offset: request.offset,
        policy,
    };
    let definition = subscriptions.create(new).await?;
    Ok(definition.to_wire(&definition.stream_name))
}

pub(super) async fn create_at(
    node: &Arc<NodeContext>,
    request: Request<Subscription>,
) -> Result<Response<Subscription>> {
    let (keys, _, request) = request.into_parts();
    create(&node.subscriptions, &keys, request).await.map(Response::new)
}

/// What the request's metadata ask for beyond the message.
fn policy(keys: &MetadataMap) -> Result<PolicyChange> {
    let malformed = |key: &str, form: &str| {
        ServerError::new(Class::InvalidRequest, format!("metadata {key} must be {form}"))
    };
    let redeliver_on_disconnect =
        match keys.get(metadata::REDELIVER_ON_DISCONNECT).map(|value| value.as_bytes()) {
            None => None,
            Some(b"true") => Some(true),
            Some(b"false") => Some(false),
            Some(_) => return Err(malformed(metadata::REDELIVER_ON_DISCONNECT, "true or false")),
        };
    let limit = keys.get(metadata::MAX_DELIVERIES).map(|value| value.to_str().ok()?.parse().ok());
    let max_deliveries = match limit {
        Some(None) => return Err(malformed(metadata::MAX_DELIVERIES, "a decimal number below 2^32")),
        Some(limit) => limit,
        None => None,
    };
    let name = keys.get_bin(metadata::DEAD_LETTER_STREAM).map(|value| value.to_bytes());
    let dead_letter_stream = match name {
        None => None,
        Some(name) => {
            let name = name.ok().and_then(|name| String::from_utf8(name.to_vec()).ok());
            Some(name.ok_or_else(|| malformed(metadata::DEAD_LETTER_STREAM, "a stream's name in UTF-8"))?)
        }
    };
    Ok(PolicyChange { redeliver_on_disconnect, max_deliveries, dead_letter_stream })
}

/// As created, with the durable checkpoints; its incarnation is in the metadata.
pub(super) async fn get(
    node: &Arc<NodeContext>,
    request: Request<GetSubscriptionRequest>,
) -> Result<Response<GetSubscriptionResponse>> {
    let id = request.into_inner().id;
    let subscriptions = &node.subscriptions;
    // Whether it exists is known everywhere, and needs no other node.
    let definition = subscriptions.get(&id)?;
    placement::here(node, Kind::Subscription, &id).await?;
    let offsets = subscriptions.checkpoints(&id).await?;
    let offsets =
        offsets.into_iter().map(|(shard_id, batch_id)| SubscriptionOffset { shard_id, batch_id }).collect();
    let stream_name = subscriptions.stream_name_inside(&definition);
    let subscription = Some(definition.to_wire(&stream_name));
    let mut response = Response::new(GetSubscriptionResponse { subscription, offsets });
    response.metadata_mut().insert(metadata::SUBSCRIPTION_INCARNATION, definition.incarnation.into());
    Ok(response)
}

/// All, in name order.
pub(super) async fn list(
    node: &Arc<NodeContext>,
    _: ListSubscriptionsRequest,
) -> Result<ListSubscriptionsResponse> {
    Ok(listed(&node.subscriptions, ""))
}

/// Those whose id starts with the prefix, which must be a valid name.
pub(super) async fn list_with_prefix(
    node: &Arc<NodeContext>,
    request: ListSubscriptionsWithPrefixRequest,
) -> Result<ListSubscriptionsResponse> {
    check_name(Class::InvalidSubscriptionId, &request.prefix)?;
    Ok(listed(&node.subscriptions, &request.prefix))
}

fn listed(subscriptions: &Subscriptions, prefix: &str) -> ListSubscriptionsResponse {
    let subscription = subscriptions
        .with_prefix(prefix)
        .iter()
        .map(|definition| definition.to_wire(&subscriptions.stream_name(definition)))
        .collect();
    ListSubscriptionsResponse { subscription }
}

/// Never an error.
pub(super) async fn check_exist(
    node: &Arc<NodeContext>,
    request: CheckSubscriptionExistRequest,
) -> Result<CheckSubscriptionExistResponse> {
    Ok(CheckSubscriptionExistResponse { exists: node.subscriptions.exists(&request.subscription_id) })
}

/// Those attached right now.
pub(super) async fn list_consumers(
    node: &Arc<NodeContext>,
    request: ListConsumersRequest,
) -> Result<ListConsumersResponse> {
    let id = request.subscription_id;
    node.subscriptions.get(&id)?;
    placement::here(node, Kind::Subscription, &id).await?;
    Ok(ListConsumersResponse { consumers: node.subscriptions.consumers(&id)? })
}

pub(super) async fn delete(node: &Arc<NodeContext>, request: DeleteSubscriptionRequest) -> Result<()> {
    let id = request.subscription_id;
    check_name(Class::InvalidSubscriptionId, &id)?;
    node.subscriptions.get(&id)?;
    placement::here(node, Kind::Subscription, &id).await?;
    node.subscriptions.delete(&id, request.force).await
}

/// The first message of a consumer names its subscription, later ones acknowledge.
pub(super) async fn first_message<S>(requests: &mut S) -> Result<StreamingFetchRequest>
where
    S: Stream<Item = Result<StreamingFetchRequest, Status>> + Send + Unpin,
{
    let first = match tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, requests.next()).await {
        Ok(Some(Ok(first))) => first,
        Ok(None) => {
            let text = "the call was closed before its first message";
            return Err(ServerError::new(Class::StreamReadClose, text));
        }
        Ok(Some(Err(status))) => return Err(ServerError::new(Class::StreamReadError, status.message())),
        Err(_) => {
            let text = format!("no message arrived within {FIRST_MESSAGE_TIMEOUT:?}");
            return Err(ServerError::new(Class::StreamReadError, text));
        }
    };
    if first.consumer_name.len() > MAX_CONSUMER_NAME {
        let text = format!("the name of a consumer may have at most {MAX_CONSUMER_NAME} bytes");
        return Err(ServerError::new(Class::InvalidRequest, text));
    }
    Ok(first)
}

/// `StreamingFetch` of a subscription that is served from here.
///
/// The returned stream ends with OK after the consumer closed its side and everything it acknowledged is durable.
///
/// # Errors
/// For a call that does not begin as it should; those of [`Subscriptions::fetch`].
pub async fn streaming_fetch<S>(
    subscriptions: &Arc<Subscriptions>,
    mut requests: S,
    caller: Caller,
) -> Result<Fetch>
where
    S: Stream<Item = Result<StreamingFetchRequest, Status>> + Send + Unpin + 'static,
{
    let first = first_message(&mut requests).await?;
    subscriptions.fetch(first, requests, caller).await
}
