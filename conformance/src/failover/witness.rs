//! What only somebody who looks from outside notices: owners that overlap, checkpoints that go back.

use super::PATIENCE;
use anyhow::{Context as _, Result, ensure};
use hstreamdb::{Client, Consumer, ConsumerEvent};
use hstreamdb_proto::api::{LookupSubscriptionRequest, h_stream_api_client::HStreamApiClient};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Of its subscription.
pub(super) const NAME: &str = "witness";
/// How long a node may serve what it owns without having renewed its lease: the default of a server.
pub(super) const LEASE: Duration = Duration::from_secs(3);
/// The same over a store that is replicated.
pub(super) const LEASE_OVER_STORE: Duration = Duration::from_secs(10);
/// Consumers of the watched subscription: when it moves, one of them may still be served by the old owner.
const CONSUMERS: usize = 2;
/// Between two looks at the checkpoints.
const LOOK: Duration = Duration::from_millis(200);

/// The number of the node that the cluster names as the owner.
pub(super) async fn owner_of(address: SocketAddr, subscription: &str) -> Result<u32> {
    let mut node = HStreamApiClient::connect(format!("http://{address}")).await?;
    let request = LookupSubscriptionRequest { subscription_id: subscription.to_owned() };
    let answer = node.lookup_subscription(request).await?.into_inner();
    Ok(answer.server_node.context("the owner is nobody")?.id)
}

/// Everything that one node delivered over one session.
#[derive(Debug, Clone)]
struct Served {
    node: String,
    first: Instant,
    last: Instant,
}

/// Two consumers of one subscription that remember who served them.
pub(super) struct Witness {
    client: Client,
    served: Arc<Mutex<Vec<Served>>>,
    ended: CancellationToken,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Witness {
    pub(super) async fn start(url: &str, subscription: &str) -> Result<Witness> {
        let client = Client::connect(url).await?;
        let served = Arc::<Mutex<Vec<Served>>>::default();
        let ended = CancellationToken::new();
        let mut tasks = Vec::new();
        for _ in 0..CONSUMERS {
            let node = Arc::<Mutex<Option<(String, u64)>>>::default();
            let now = node.clone();
            let consumer = client.consumer(subscription).on_event(move |event| {
                if let ConsumerEvent::Connected { node, .. } = event {
                    let mut now = now.lock().unwrap_or_else(PoisonError::into_inner);
                    let session = now.as_ref().map_or(0, |(_, session)| session + 1);
                    *now = Some((node.clone(), session));
                }
            });
            let consumer = consumer.start().await?;
            let task = follow(consumer, node, served.clone(), ended.clone());
            tasks.push(tokio::spawn(task));
        }
        Ok(Witness { client, served, ended, tasks })
    }

    /// How often the subscription moved, and the longest time in which two nodes served it.
    /// Longer than a lease it must not be.
    pub(super) async fn end(self, lease: Duration) -> Result<(usize, Duration)> {
        self.ended.cancel();
        for task in self.tasks {
            task.await??;
        }
        self.client.close(PATIENCE).await?;
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner).clone();
        served.sort_by_key(|served| served.first);
        let moves = served.windows(2).filter(|pair| pair[0].node != pair[1].node).count();
        let overlap = longest_overlap(&served);
        ensure!(
            overlap <= lease,
            "two nodes served one subscription for {overlap:.1?}, a lease is {lease:?}"
        );
        Ok((moves, overlap))
    }
}

async fn follow(
    consumer: Consumer,
    node: Arc<Mutex<Option<(String, u64)>>>,
    served: Arc<Mutex<Vec<Served>>>,
    ended: CancellationToken,
) -> Result<()> {
    let mut current: Option<(u64, usize)> = None;
    loop {
        let batch = tokio::select! {
            batch = consumer.next_batch() => batch?,
            () = ended.cancelled() => break,
        };
        let Some(batch) = batch else { break };
        consumer.ack_batch(&batch)?;
        let Some((node, session)) = node.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
            continue;
        };
        let mut served = served.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match current.filter(|(of, _)| *of == session).and_then(|(_, place)| served.get_mut(place)) {
            Some(served) => served.last = now,
            None => {
                current = Some((session, served.len()));
                served.push(Served { node, first: now, last: now });
            }
        }
    }
    consumer.stop(PATIENCE).await?;
    Ok(())
}

/// The longest time in which two of different nodes were both going on.
fn longest_overlap(served: &[Served]) -> Duration {
    let mut longest = Duration::ZERO;
    for (place, one) in served.iter().enumerate() {
        for other in served.iter().skip(place + 1).filter(|other| other.node != one.node) {
            let (from, until) = (one.first.max(other.first), one.last.min(other.last));
            longest = longest.max(until.saturating_duration_since(from));
        }
    }
    longest
}

/// Looks at the checkpoints of subscriptions all the time.
pub(super) struct Checkpoints {
    ended: CancellationToken,
    task: JoinHandle<Result<usize>>,
}

impl Checkpoints {
    pub(super) fn watch(client: Client, subscriptions: Vec<String>) -> Checkpoints {
        let ended = CancellationToken::new();
        let task = tokio::spawn(look(client, subscriptions, ended.clone()));
        Checkpoints { ended, task }
    }

    /// How many looks there were.
    pub(super) async fn end(self) -> Result<usize> {
        self.ended.cancel();
        self.task.await?
    }
}

async fn look(client: Client, subscriptions: Vec<String>, ended: CancellationToken) -> Result<usize> {
    let mut known: HashMap<(usize, u64), u64> = HashMap::new();
    let mut looks = 0;
    while !ended.is_cancelled() {
        for (number, id) in subscriptions.iter().enumerate() {
            // Nobody may know while the owner is away.
            let Ok((_, checkpoints)) = client.get_subscription(id).await else { continue };
            looks += 1;
            for (shard, batch) in checkpoints {
                let before = known.insert((number, shard), batch).unwrap_or(0);
                ensure!(
                    before <= batch,
                    "the checkpoint of {id} went back from {before} to {batch} on shard {shard}"
                );
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(looks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(node: &str, first: u64, last: u64, base: Instant) -> Served {
        let at = |seconds| base + Duration::from_secs(seconds);
        Served { node: node.into(), first: at(first), last: at(last) }
    }

    #[test]
    fn two_nodes_overlap_while_both_go_on() {
        let base = Instant::now();
        let apart = [served("a", 0, 5, base), served("b", 6, 9, base), served("a", 10, 12, base)];
        assert_eq!(longest_overlap(&apart), Duration::ZERO);
        let same = [served("a", 0, 5, base), served("a", 1, 9, base)];
        assert_eq!(longest_overlap(&same), Duration::ZERO, "two consumers of one owner");
        let both = [served("a", 0, 5, base), served("b", 3, 9, base), served("b", 4, 12, base)];
        assert_eq!(longest_overlap(&both), Duration::from_secs(2));
    }
}
