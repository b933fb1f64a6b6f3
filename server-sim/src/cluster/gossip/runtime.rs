//! Gossip of one node, from its start to its leave.

use super::error::GossipError;
use super::exchange::Visitor;
use super::hello::Myself;
use super::inbox::{Inbox, Message};
use super::joining::{self, SeedStatus};
use super::key::GossipKey;
use super::owner::Owner;
use super::refusal::Refusals;
use super::seal::{Circle, Run, Seal};
use super::service::InternalService;
use super::stats::GossipStats;
use super::timers::Timers;
use crate::cluster::swim::{GossipSettings, Membership, SwimStats};
use crate::cluster::{Member, Members, NodeId, Phase, Seed};
use crate::limits::Notice;
use crate::net::{Datagrams, Net};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Most seeds there may be; every one of them is looked for as long as the node runs.
const MOST_SEEDS: usize = 64;
/// How long leaving may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// What gossip of a node begins with.
#[derive(Debug)]
pub struct GossipStart {
    /// The node as others are to see it. Its generation is its session in the metadata store; its internal address is
    /// where others reach `socket`, and the internal service under the same number.
    pub me: Member,
    /// Where to look for others; this node itself may be among them.
    pub seeds: Vec<Seed>,
    /// How fast it notices.
    pub settings: GossipSettings,
    /// Nodes of other clusters are strangers.
    pub cluster_name: String,
    /// Nodes over other stores are strangers.
    pub store_id: u128,
    /// What nodes prove with that they belong to the cluster; without one whoever reaches the port does.
    pub key: Option<GossipKey>,
    /// The node's network.
    pub net: Net,
    /// Bound to the internal port.
    pub socket: Datagrams,
    /// All randomness comes from it.
    pub seed: u64,
}

/// Gossip of one node. Clones are the same; when the last one is dropped it ends without a word, as a crash would.
#[derive(Debug, Clone)]
pub struct Gossip {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    me: Arc<Myself>,
    inbox: Inbox,
    members: watch::Receiver<Members>,
    stats: Arc<Mutex<SwimStats>>,
    refusals: Arc<Refusals>,
    visitor: Arc<Visitor>,
    seeds: Vec<Seed>,
    searches: OnceLock<watch::Receiver<Vec<SeedStatus>>>,
    rng: Mutex<StdRng>,
    /// Cancelled when the socket is closed.
    ended: CancellationToken,
    stop: CancellationToken,
    _end: DropGuard,
}

impl Gossip {
    /// Begins to listen and to answer; looks for nobody until [`Gossip::join`]. The internal service should be served in
    /// between, so that nodes that start together find each other at once. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`GossipError`] about the settings, the seeds or the description of the node.
    pub fn start(start: GossipStart) -> Result<Gossip, GossipError> {
        let GossipStart { me, seeds, settings, cluster_name, store_id, key, net, socket, seed } = start;
        settings.check().map_err(GossipError::Settings)?;
        if seeds.len() > MOST_SEEDS {
            return Err(GossipError::Seeds(seeds.len()));
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let run = Run { id: me.id, generation: me.generation };
        let circle = Circle::new(&cluster_name, store_id, key.as_ref());
        let myself = Arc::new(Myself::new(run, me.internal, cluster_name, store_id, circle.clone()));
        let (membership, first) = Membership::new(&me, settings, rng.random(), Instant::now().into_std())
            .map_err(|error| GossipError::Description(error.to_string()))?;
        let (inbox, messages) = Inbox::new();
        let nonces = StdRng::seed_from_u64(rng.random());
        let visitor = Arc::new(Visitor::new(net, myself.clone(), inbox.clone(), nonces));
        let (sender, members) = watch::channel(Members::alone(me));
        let (stats, refusals) = (Arc::new(Mutex::new(SwimStats::default())), Arc::new(Refusals::default()));
        let stop = CancellationToken::new();
        let owner = Owner {
            membership,
            seal: Seal::new(circle, run),
            socket,
            inbox: messages,
            timers: Timers::new(),
            members: sender,
            counted: SwimStats::default(),
            stats: stats.clone(),
            refusals: refusals.clone(),
            visitor: visitor.clone(),
            visits: Owner::places_for_visits(),
            stop: stop.clone(),
            lost: Notice::default(),
            doubles: Notice::default(),
        };
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard();
        tokio::spawn(async move {
            owner.run(first).await;
            drop(end);
        });
        let inner = Inner {
            me: myself,
            inbox,
            members,
            stats,
            refusals,
            visitor,
            seeds,
            searches: OnceLock::new(),
            rng: Mutex::new(rng),
            ended,
            _end: stop.clone().drop_guard(),
            stop,
        };
        Ok(Gossip { inner: Arc::new(inner) })
    }

    /// Looks for the seeds, from now on and for ever. Resolves when another node has let this one in or when it is clear
    /// that none of the seeds is there now, after two seconds at most; while a node at another address seems to be an
    /// earlier run of this one, after thirty.
    ///
    /// # Errors
    /// [`GossipError::DuplicateId`] and [`GossipError::IdLives`] when another node has the same number, and
    /// [`GossipError::Stranger`] when the seeds that answered are none of us. This node must stop then.
    pub async fn join(&self) -> Result<(), GossipError> {
        let inner = &self.inner;
        joining::join(self.seeds(), inner.me.run().id, &inner.stop).await
    }

    /// What is known of each seed, in the order in which they were given; the search begins with the first call.
    pub fn seeds(&self) -> watch::Receiver<Vec<SeedStatus>> {
        let inner = &self.inner;
        let searches = inner.searches.get_or_init(|| {
            let mut rng = inner.rng.lock().unwrap_or_else(PoisonError::into_inner);
            joining::look_for(&inner.seeds, &inner.visitor, &inner.members, &inner.stop, &mut rng)
        });
        searches.clone()
    }

    /// The nodes, as they change.
    pub fn members(&self) -> watch::Receiver<Members> {
        self.inner.members.clone()
    }

    /// Tells everybody how far this node is.
    pub async fn set_phase(&self, phase: Phase) {
        self.inner.inbox.tell(Message::Phase(phase)).await;
    }

    /// Goes on under a new session of the metadata store; lower generations than the present one are ignored.
    pub async fn set_generation(&self, generation: u64) {
        if self.inner.me.renew(generation) {
            self.inner.inbox.tell(Message::Generation(generation)).await;
        }
    }

    /// Says that the session of a run of a node is over, by the metadata store. If it is a suspect, it is found dead by that;
    /// otherwise this changes nothing.
    pub async fn session_over(&self, node: NodeId, generation: u64) {
        self.inner.inbox.tell(Message::SessionOver(node, generation)).await;
    }

    /// Says goodbye and closes the socket. Takes two seconds at most; a second call waits for the first.
    pub async fn leave(&self) {
        let told = async {
            let _ = self.inner.inbox.ask(|reply| Message::Leave { reply }).await;
            self.inner.ended.cancelled().await;
        };
        if tokio::time::timeout(LEAVE_WITHIN, told).await.is_err() {
            tracing::warn!("other nodes could not be told in time that this one leaves; they find out");
        }
        self.inner.stop.cancel();
        self.inner.ended.cancelled().await;
    }

    /// Counters.
    pub fn stats(&self) -> GossipStats {
        let inner = &self.inner;
        let (visits, failed_visits) = inner.visitor.counts();
        GossipStats {
            swim: *inner.stats.lock().unwrap_or_else(PoisonError::into_inner),
            refused: inner.refusals.counts(),
            visits,
            failed_visits,
        }
    }

    /// The service `hstream.internal.Node`, to be served on the internal port.
    pub fn service(&self) -> InternalService {
        InternalService {
            me: self.inner.me.clone(),
            inbox: self.inner.inbox.clone(),
            members: self.inner.members.clone(),
            refusals: self.inner.refusals.clone(),
            fetch: None,
        }
    }
}
