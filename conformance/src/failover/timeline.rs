//! What every node says about every subscription, all the time: it tells afterwards where a long wait went.

use anyhow::{Context as _, Result};
use hstreamdb_proto::api::{
    ListConsumersRequest, LookupSubscriptionRequest, h_stream_api_client::HStreamApiClient,
};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};

/// Between two questions to one node about one subscription.
const LOOK: Duration = Duration::from_millis(100);
/// A node that has not answered for this long is silent.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Changes that are told of one wait.
const MOST: usize = 60;

/// A node says something else than before.
#[derive(Debug, Clone)]
struct Change {
    at: Instant,
    node: u32,
    says: String,
}

type Changes = Arc<Mutex<HashMap<String, Vec<Change>>>>;

/// Asks until it is dropped.
#[derive(Debug)]
pub(super) struct Timeline {
    changes: Changes,
    tasks: Vec<JoinHandle<()>>,
    _end: DropGuard,
}

impl Timeline {
    pub(super) fn watch(nodes: Vec<(u32, SocketAddr)>, subscriptions: Vec<String>) -> Result<Timeline> {
        let changes = Changes::default();
        let end = CancellationToken::new();
        let mut tasks = Vec::new();
        for (node, address) in nodes {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(ANSWER_WITHIN);
            let api = HStreamApiClient::new(endpoint.connect_lazy());
            for subscription in &subscriptions {
                let asking = ask(node, api.clone(), subscription.clone(), changes.clone());
                let ended = end.clone();
                tasks.push(tokio::spawn(async move {
                    tokio::select! {
                        () = ended.cancelled() => {}
                        () = asking => {}
                    }
                }));
            }
        }
        Ok(Timeline { changes, tasks, _end: end.drop_guard() })
    }

    /// What changed between two moments, in seconds after `zero`, with what was so before.
    pub(super) fn told(&self, subscription: &str, zero: Instant, until: Instant) -> String {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let all = changes.get(subscription).map_or(&[][..], Vec::as_slice);
        let begin = zero.checked_sub(Duration::from_millis(500)).unwrap_or(zero);
        let mut shown: Vec<&Change> = Vec::new();
        let nodes: std::collections::BTreeSet<u32> = all.iter().map(|change| change.node).collect();
        // How it was when it began.
        shown.extend(
            nodes
                .iter()
                .filter_map(|node| all.iter().rev().find(|change| change.node == *node && change.at < begin)),
        );
        shown.extend(all.iter().filter(|change| change.at >= begin && change.at <= until).take(MOST));
        let line = |change: &&Change| {
            let seconds = match change.at.checked_duration_since(zero) {
                Some(after) => after.as_secs_f64(),
                None => -zero.duration_since(change.at).as_secs_f64(),
            };
            format!("    {seconds:7.2} s: node {} {}", change.node, change.says)
        };
        shown.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn ask(node: u32, api: HStreamApiClient<Channel>, subscription: String, changes: Changes) {
    let mut last = String::new();
    loop {
        let says = match timeout(ANSWER_WITHIN, answer(node, api.clone(), &subscription)).await {
            Ok(Ok(says)) => says,
            Ok(Err(error)) => format!("refuses: {error:#}"),
            Err(_) => "says nothing".to_owned(),
        };
        if says != last {
            last.clone_from(&says);
            let mut changes = changes.lock().unwrap_or_else(PoisonError::into_inner);
            let change = Change { at: Instant::now(), node, says };
            changes.entry(subscription.clone()).or_default().push(change);
        }
        sleep(LOOK).await;
    }
}

async fn answer(node: u32, mut api: HStreamApiClient<Channel>, subscription: &str) -> Result<String> {
    let request = LookupSubscriptionRequest { subscription_id: subscription.to_owned() };
    let owner = api.lookup_subscription(request).await?.into_inner();
    let owner = owner.server_node.context("the owner is nobody")?.id;
    if owner != node {
        return Ok(format!("names node {owner}"));
    }
    let request = ListConsumersRequest { subscription_id: subscription.to_owned() };
    let consumers = api.list_consumers(request).await?.into_inner().consumers;
    let names: Vec<String> = consumers.into_iter().map(|consumer| consumer.name).collect();
    Ok(format!(
        "names itself and serves {}",
        if names.is_empty() { "nobody".into() } else { names.join(", ") }
    ))
}
