//! Every call passes here: it takes its place among the calls of the node, and its bodies are charged.

use super::Limits;
use super::budget::Budget;
use super::request::{Message, RequestBody};
use super::response::{ResponseBody, answer_charge};
use crate::connection::Peer;
use crate::error::{Class, ServerError};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tower::{Layer, Service};

/// Calls that last as long as their client wants, by the last part of their path.
const LONG: [&str; 5] =
    ["StreamingFetch", "ReadStreamByKey", "ReadStream", "ReadShardStream", "ReadSingleShardStream"];
/// Those of them whose requests keep coming.
const STREAMING: [&str; 2] = ["StreamingFetch", "ReadStreamByKey"];

/// Calls whose answers grow with what there is on the node.
const LISTS: [&str; 12] = [
    "ListStreams",
    "ListStreamsWithPrefix",
    "ListShards",
    "ListShardReaders",
    "ListSubscriptions",
    "ListSubscriptionsWithPrefix",
    "ListConsumers",
    "GetSubscription",
    "GetStats",
    "PerStreamTimeSeriesStats",
    "PerStreamTimeSeriesStatsAll",
    "SendAdminCommand",
];
/// What one of them is charged until its size is known; clients take no more than 4 MiB.
const LIST_BYTES: usize = 4 << 20;

/// Applies the limits of a node to its calls.
#[derive(Debug, Clone)]
pub struct CallLimits {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
    key_reads: Arc<Semaphore>,
    requests: Arc<Budget>,
    lists: Arc<Budget>,
    most: usize,
    limits: Limits,
}

impl CallLimits {
    /// Takes messages of up to `most` bytes.
    pub fn new(limits: &Limits, most: usize) -> Self {
        CallLimits {
            short: Arc::new(Semaphore::new(limits.max_short_calls as usize)),
            long: Arc::new(Semaphore::new(limits.max_long_calls as usize)),
            key_reads: Arc::new(Semaphore::new(limits.max_key_reads as usize)),
            requests: Budget::new(limits.request_memory, limits.stall),
            lists: Budget::new(limits.response_memory, limits.stall),
            most,
            limits: limits.clone(),
        }
    }
}

impl<S> Layer<S> for CallLimits {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner, limits: self.clone() }
    }
}

/// See [`CallLimits`].
#[derive(Debug, Clone)]
pub struct Limited<S> {
    inner: S,
    limits: CallLimits,
}

impl<S> Service<http::Request<Body>> for Limited<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let limits = &self.limits;
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        let long = LONG.contains(&method);
        let list = LISTS.contains(&method);
        let (streaming, append) = (STREAMING.contains(&method), method == "Append");
        let (calls, most, kind) = match (long, method) {
            (true, "ReadStreamByKey") => (&limits.key_reads, limits.limits.max_key_reads, "reads by key"),
            (true, _) => (&limits.long, limits.limits.max_long_calls, "reads and consumers"),
            (false, _) => (&limits.short, limits.limits.max_short_calls, "short calls"),
        };
        let Ok(call) = calls.clone().try_acquire_owned() else {
            let text = format!("all {most} places for {kind} on this node are taken; try again later");
            let refused = crate::api::status::status(ServerError::new(Class::ResourceExhausted, text));
            return Box::pin(async move { Ok(refused.into_http()) });
        };
        let connection = request.extensions().get::<Peer>().map(|peer| peer.close.clone());
        let charges = Arc::default();
        let request = request.map(|inner| {
            Body::new(RequestBody {
                inner,
                budget: limits.requests.clone(),
                charges: Arc::clone(&charges),
                most: limits.most,
                complete_within: limits.limits.complete_within,
                streaming,
                append,
                message: Message::default(),
                waiting: None,
                deadline: None,
            })
        });
        let lists = list.then(|| limits.lists.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            // Nothing of the call has run yet: it runs when it is polled.
            let list = match lists {
                Some(lists) => Some(lists.reserve(LIST_BYTES).await),
                None => None,
            };
            let mut response = answer.await?;
            if !streaming {
                drop(charges);
            }
            let connection = connection.unwrap_or_default();
            let answer = answer_charge(&mut response).or(list);
            Ok(response.map(|inner| Body::new(ResponseBody { inner, connection, answer, _call: call })))
        })
    }
}
