//! Looking for the seeds, for ever: at first eagerly, then now and then.

use super::error::GossipError;
use super::exchange::{Failure, Visit, Visitor};
use super::pause::pause;
use crate::cluster::{MemberState, Members, NodeId, Seed};
use crate::limits::Notice;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long [`join`] waits for seeds that do not answer.
const FIRST_ROUND: Duration = Duration::from_secs(2);
/// How long it waits for a run of this node at another address to be found dead.
const SUCCESSION: Duration = Duration::from_secs(30);

/// How long a name may take to be resolved.
const RESOLVE_WITHIN: Duration = Duration::from_secs(3);
/// Addresses of a name that are tried.
const MOST_ADDRESSES: usize = 16;

/// What is known of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedStatus {
    /// As it was given, with its port.
    pub seed: String,
    /// Nodes that live behind it, perhaps this one; empty while none was reached.
    pub nodes: Vec<NodeId>,
    /// What went wrong at the last try.
    pub trouble: Option<String>,
    tries: u32,
    verdict: Option<GossipError>,
    /// Where a run of this node is believed to live.
    predecessor: Option<SocketAddr>,
}

/// Starts looking for all of them.
pub(super) fn look_for(
    seeds: &[Seed],
    visitor: &Arc<Visitor>,
    members: &watch::Receiver<Members>,
    stop: &CancellationToken,
    rng: &mut StdRng,
) -> watch::Receiver<Vec<SeedStatus>> {
    let unknown = |seed: &Seed| SeedStatus {
        seed: seed.to_string(),
        nodes: Vec::new(),
        trouble: None,
        tries: 0,
        verdict: None,
        predecessor: None,
    };
    let (statuses, view) = watch::channel(seeds.iter().map(unknown).collect());
    let statuses = Arc::new(statuses);
    for (position, seed) in seeds.iter().enumerate() {
        let search = Search {
            seed: seed.clone(),
            position,
            visitor: visitor.clone(),
            members: members.clone(),
            statuses: statuses.clone(),
            rng: StdRng::seed_from_u64(rng.random()),
            notice: Notice::default(),
        };
        let stop = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = search.run() => {}
            }
        });
    }
    view
}

/// Waits until some seed is reached, or until it is clear that none of them is there now.
///
/// # Errors
/// Why this node must not take part.
pub(super) async fn join(
    mut statuses: watch::Receiver<Vec<SeedStatus>>,
    me: NodeId,
    stop: &CancellationToken,
) -> Result<(), GossipError> {
    let started = Instant::now();
    loop {
        let waited = started.elapsed();
        if let Some(outcome) = judge(&statuses.borrow_and_update(), me, waited) {
            return outcome;
        }
        let next = if waited < FIRST_ROUND { FIRST_ROUND } else { SUCCESSION };
        tokio::select! {
            () = stop.cancelled() => return Err(GossipError::Stopped),
            _ = statuses.changed() => {}
            () = tokio::time::sleep_until(started + next) => {}
        }
    }
}

/// What to make of the seeds after that time; nothing while something may still change.
fn judge(seeds: &[SeedStatus], me: NodeId, waited: Duration) -> Option<Result<(), GossipError>> {
    let verdicts = || seeds.iter().filter_map(|seed| seed.verdict.as_ref());
    if let Some(duplicate) = verdicts().find(|verdict| matches!(verdict, GossipError::DuplicateId { .. })) {
        return Some(Err(duplicate.clone()));
    }
    if seeds.iter().any(|seed| seed.nodes.iter().any(|node| *node != me)) {
        return Some(Ok(()));
    }
    if waited < FIRST_ROUND && seeds.iter().any(|seed| seed.tries == 0) {
        return None;
    }
    if let Some(stranger) = verdicts().next() {
        return Some(Err(stranger.clone()));
    }
    match seeds.iter().find_map(|seed| seed.predecessor) {
        Some(_) if waited < SUCCESSION => None,
        Some(address) => Some(Err(GossipError::IdLives { id: me, address })),
        None => Some(Ok(())),
    }
}

/// The search for one seed.
struct Search {
    seed: Seed,
    position: usize,
    visitor: Arc<Visitor>,
    members: watch::Receiver<Members>,
    statuses: Arc<watch::Sender<Vec<SeedStatus>>>,
    rng: StdRng,
    notice: Notice,
}

impl Search {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            let found = self.look().await;
            failures = if found { 0_u32 } else { failures.saturating_add(1) };
            tokio::time::sleep(pause(failures, &mut self.rng)).await;
        }
    }

    /// Whether there is a node.
    async fn look(&mut self) -> bool {
        let mut nodes = Vec::new();
        let (mut trouble, mut verdict, mut predecessor) = (None, None, None);
        match self.resolve().await {
            Err(reason) => trouble = Some(reason),
            Ok(addresses) => {
                let visits = addresses.into_iter().map(|address| self.visit(address));
                for (address, outcome) in join_all(visits).await {
                    match outcome {
                        Ok(node) => nodes.push(node),
                        Err(failure) => {
                            verdict = verdict.or(failure.verdict(address, &self.visitor.me));
                            if let Failure::IdLives(address) = &failure {
                                predecessor = Some(*address);
                            }
                            trouble = Some(failure.to_string());
                        }
                    }
                }
            }
        }
        if let Some(trouble) = &trouble
            && nodes.is_empty()
            && let Some(times) = self.notice.due()
        {
            let seed = &self.seed;
            tracing::info!("seed {seed} is not reached: {trouble} ({times} since the last such line)");
        }
        let found = !nodes.is_empty();
        nodes.sort_unstable();
        self.statuses.send_if_modified(|statuses| {
            let Some(status) = statuses.get_mut(self.position) else { return false };
            let tries = status.tries.saturating_add(1);
            let news = SeedStatus { seed: status.seed.clone(), nodes, trouble, tries, verdict, predecessor };
            let first = status.tries == 0;
            let changed = SeedStatus { tries, ..status.clone() } != news;
            *status = news;
            first || changed
        });
        found
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        let found = tokio::time::timeout(RESOLVE_WITHIN, self.seed.resolve()).await;
        let mut addresses = match found {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("its name was not resolved within {RESOLVE_WITHIN:?}")),
        };
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MOST_ADDRESSES);
        if addresses.is_empty() { Err("its name has no address".to_owned()) } else { Ok(addresses) }
    }

    async fn visit(&self, address: SocketAddr) -> (SocketAddr, Result<NodeId, Failure>) {
        let known = self.members.borrow().nodes.values().find_map(|member| {
            let lives = matches!(member.state, MemberState::Alive | MemberState::Suspect);
            let other = member.id != self.visitor.me.run().id;
            (lives && other && member.internal == address).then_some(member.id)
        });
        if let Some(node) = known {
            return (address, Ok(node));
        }
        let outcome = self.visitor.visit(address).await.map(|visit| match visit {
            Visit::Done(peer) => peer.run.id,
            Visit::Myself => self.visitor.me.run().id,
        });
        (address, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);

    fn seed(tries: u32, nodes: &[u32]) -> SeedStatus {
        SeedStatus {
            seed: "a:1".to_owned(),
            nodes: nodes.iter().map(|id| NodeId(*id)).collect(),
            trouble: None,
            tries,
            verdict: None,
            predecessor: None,
        }
    }

    fn stranger() -> GossipError {
        GossipError::Stranger {
            address: SocketAddr::from(([10, 0, 0, 1], 1)),
            id: NodeId(7),
            difference: "is a node over another store".to_owned(),
        }
    }

    #[test]
    fn a_node_has_joined_when_one_other_knows_it() {
        let early = Duration::from_millis(1);
        assert_eq!(judge(&[seed(0, &[]), seed(1, &[2])], ME, early), Some(Ok(())));
        let refused = SeedStatus { verdict: Some(stranger()), ..seed(1, &[]) };
        assert_eq!(judge(&[refused, seed(1, &[2])], ME, early), Some(Ok(())));
    }

    #[test]
    fn absent_seeds_are_waited_for_once_and_not_for_ever() {
        let seeds = [seed(1, &[1]), seed(0, &[])];
        assert_eq!(judge(&seeds, ME, Duration::ZERO), None);
        assert_eq!(judge(&seeds, ME, FIRST_ROUND), Some(Ok(())));
        assert_eq!(judge(&[seed(1, &[1]), seed(1, &[])], ME, Duration::ZERO), Some(Ok(())));
    }

    #[test]
    fn a_node_whom_all_refuse_does_not_take_part() {
        let refused = SeedStatus { verdict: Some(stranger()), ..seed(1, &[]) };
        let seeds = [seed(1, &[1]), refused];
        assert_eq!(judge(&seeds, ME, Duration::ZERO), Some(Err(stranger())));
    }

    #[test]
    fn a_taken_number_is_refused_whoever_else_lets_the_node_in() {
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        let duplicate = GossipError::DuplicateId { id: ME, address };
        let refused = SeedStatus { verdict: Some(duplicate.clone()), ..seed(1, &[]) };
        assert_eq!(judge(&[seed(1, &[2]), refused], ME, Duration::ZERO), Some(Err(duplicate)));
    }

    #[test]
    fn a_run_that_others_still_believe_in_is_waited_for() {
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        let seeds = [SeedStatus { predecessor: Some(address), ..seed(3, &[]) }];
        assert_eq!(judge(&seeds, ME, FIRST_ROUND), None);
        let outcome = judge(&seeds, ME, SUCCESSION);
        assert_eq!(outcome, Some(Err(GossipError::IdLives { id: ME, address })));
    }
}
