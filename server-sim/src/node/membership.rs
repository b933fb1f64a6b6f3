//! A node's place in its cluster: its right to serve, who else is there, how far it is.

use super::config::NodeConfig;
use super::doors::Internal;
use super::internal::InternalServer;
use super::start_error::StartError;
use super::verdicts;
use crate::cluster::bootstrap::{self, Bootstrap, BootstrapStart};
use crate::cluster::gossip::{FetchForOthers, Gossip, GossipStart};
use crate::cluster::ownership::{Ownership, Session, SessionStart, renewed_by_others};
use crate::cluster::{Member, MemberState, Members, NodeId, Phase, Seed};
use crate::limits::Limits;
use crate::listener::{Address, Advertised};
use crate::net::{Listener, Net};
use crate::store::{MetaStore, StoreId};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A lease that nobody renews may look alive to others for a tenth longer, and for this long at least.
const LEAST_DRIFT: Duration = Duration::from_millis(100);

/// What connects a node with its cluster, or holds the place of that in a node that is alone.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) session: Arc<Session>,
    /// Who is there.
    pub(super) members: watch::Receiver<Members>,
    pub(super) link: Link,
}

#[derive(Debug)]
pub(super) enum Link {
    /// A node without seeds knows of itself only.
    Alone(Arc<watch::Sender<Members>>),
    /// With the listener that the internal service is to be served on.
    Cluster { gossip: Gossip, calls: Option<Listener>, seeds: Vec<Seed>, internal: SocketAddr },
}

impl Membership {
    /// Begins the session of this node and, if it has seeds, to gossip. Nobody is looked for yet. A node whose store is not
    /// exclusive has a lease, whether it knows of others or not.
    pub(super) async fn begin(
        config: &NodeConfig,
        advertised: &Advertised,
        internal: Option<Internal>,
        meta: &Arc<dyn MetaStore>,
        exclusive: bool,
        net: &Net,
    ) -> Result<Membership, StartError> {
        let node = NodeId(config.server_id);
        let describe = |generation, internal| Member {
            id: node,
            generation,
            internal,
            state: MemberState::Alive,
            phase: Phase::Starting,
            advertised: advertised.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: String::new(),
        };
        let Some(Internal { calls, gossip: socket, address }) = internal else {
            let session = match exclusive {
                true => Session::exclusive(node),
                false => {
                    check_alone(meta, node, config.cluster.lease).await?;
                    let Address { host, port } = &advertised.main;
                    let (meta, address, lease) =
                        (meta.clone(), format!("{host}:{port}"), config.cluster.lease);
                    let start = SessionStart { meta, node, address, lease };
                    Session::begin(start).await.map_err(StartError::Session)?
                }
            };
            let internal = SocketAddr::new(config.bind_address, config.internal_port);
            let alone = Members::alone(describe(session.generation(), internal));
            let alone = Arc::new(watch::Sender::new(alone));
            let (session, members) = (Arc::new(session), alone.subscribe());
            return Ok(Membership { session, members, link: Link::Alone(alone) });
        };
        let cluster = &config.cluster;
        let seeds = cluster.seed_nodes.iter().map(|seed| Seed::parse(seed, address.port()));
        let seeds = seeds.collect::<Result<Vec<Seed>, _>>().map_err(StartError::Seeds)?;
        let internal = reachable(config, address).await?;
        let store_id = StoreId::of(&**meta).await.map_err(StartError::Metadata)?;
        let session =
            SessionStart { meta: meta.clone(), node, address: internal.to_string(), lease: cluster.lease };
        let session = Arc::new(Session::begin(session).await.map_err(StartError::Session)?);
        let gossip = Gossip::start(GossipStart {
            me: describe(session.generation(), internal),
            seeds: seeds.clone(),
            settings: cluster.gossip.clone(),
            cluster_name: cluster.cluster_name.clone(),
            store_id: store_id.0,
            key: cluster.gossip_key.clone(),
            net: net.clone(),
            socket,
            seed: cluster.random_seed.unwrap_or_else(rand::random),
        })
        .map_err(StartError::Gossip)?;
        let members = gossip.members();
        Ok(Membership {
            session,
            members,
            link: Link::Cluster { gossip, calls: Some(calls), seeds, internal },
        })
    }

    /// Sets the node on its way to serving.
    pub(super) async fn bootstrap(
        &self,
        config: &NodeConfig,
        meta: &Arc<dyn MetaStore>,
    ) -> Result<Bootstrap, StartError> {
        let me = NodeId(config.server_id);
        let delay = bootstrap::extra_delay();
        let Link::Cluster { seeds, internal, .. } = &self.link else {
            return Ok(Bootstrap::single(me, delay));
        };
        let cluster = &config.cluster;
        let start = BootstrapStart {
            me,
            cluster_name: cluster.cluster_name.clone(),
            role: bootstrap::role(seeds, *internal, config.bind_address).await,
            seeds: seeds.clone(),
            auto_init: cluster.auto_init,
            delay,
            lapse: cluster.lease + (cluster.lease / 10).max(LEAST_DRIFT),
            meta: meta.clone(),
            members: self.members.clone(),
        };
        Bootstrap::begin(start).await.map_err(StartError::Bootstrap)
    }

    /// Lets other nodes in; nothing without seeds.
    pub(super) fn listen(
        &mut self,
        limits: &Limits,
        fetch: Arc<dyn FetchForOthers>,
    ) -> Option<InternalServer> {
        let Link::Cluster { gossip, calls, .. } = &mut self.link else { return None };
        Some(InternalServer::start(calls.take()?, gossip.service().with_fetch(fetch), limits))
    }

    /// Looks for the others; from now on they hear how far this node is and under which session it serves.
    pub(super) async fn join(
        &self,
        bootstrap: &Bootstrap,
        ownership: &Arc<Ownership>,
        stop: &CancellationToken,
    ) -> Result<(), StartError> {
        let (phase, session, until) = (bootstrap.phase(), self.session.clone(), stop.clone());
        match &self.link {
            Link::Alone(members) => {
                tokio::spawn(tell(Ear::Alone(members.clone()), phase, session, until));
                Ok(())
            }
            Link::Cluster { gossip, .. } => {
                tokio::spawn(tell(Ear::Gossip(gossip.clone()), phase, session, until));
                tokio::spawn(verdicts::confirm(gossip.clone(), ownership.clone(), stop.clone()));
                gossip.join().await.map_err(StartError::Gossip)
            }
        }
    }

    /// Says goodbye.
    pub(super) async fn leave(&self) {
        if let Link::Cluster { gossip, .. } = &self.link {
            gossip.leave().await;
        }
    }
}

/// Who hears what changes about this node.
enum Ear {
    Gossip(Gossip),
    Alone(Arc<watch::Sender<Members>>),
}

impl Ear {
    async fn hear(&self, phase: Phase, generation: u64) {
        match self {
            Ear::Gossip(gossip) => {
                gossip.set_generation(generation).await;
                gossip.set_phase(phase).await;
            }
            Ear::Alone(members) => members.send_modify(|members| {
                if let Some(me) = Arc::make_mut(&mut members.nodes).get_mut(&members.me) {
                    (me.phase, me.generation) = (phase, generation);
                }
            }),
        }
    }
}

/// Passes on what changes about this node.
async fn tell(ear: Ear, mut phase: watch::Receiver<Phase>, session: Arc<Session>, stop: CancellationToken) {
    let mut terms = session.terms();
    loop {
        let (now, generation) = (*phase.borrow_and_update(), terms.borrow_and_update().generation());
        ear.hear(now, generation).await;
        tokio::select! {
            () = stop.cancelled() => return,
            changed = phase.changed() => if changed.is_err() { return },
            changed = terms.changed() => if changed.is_err() { return },
        }
    }
}

/// Looks whether other nodes use the store, which a node without seeds would not know of.
async fn check_alone(meta: &Arc<dyn MetaStore>, node: NodeId, lease: Duration) -> Result<(), StartError> {
    match renewed_by_others(&**meta, node, lease).await.map_err(StartError::Metadata)? {
        Some((node, address)) => Err(StartError::NotAlone { node, address }),
        None => Ok(()),
    }
}

/// Where others reach the internal port.
async fn reachable(config: &NodeConfig, bound: SocketAddr) -> Result<SocketAddr, StartError> {
    let (flag, host) = match (&config.cluster.gossip_address, &config.advertised_address) {
        (Some(host), _) => ("--gossip-address", Some(host)),
        (None, _) if !bound.ip().is_unspecified() => return Ok(bound),
        (None, host) => ("--advertised-address", host.as_ref()),
    };
    let Some(host) = host else {
        tracing::warn!(
            "other nodes are told to connect to this machine only; set --gossip-address for others"
        );
        let local =
            if bound.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
        return Ok(SocketAddr::new(local, bound.port()));
    };
    let failed = |reason: String| StartError::Unreachable { flag, host: host.clone(), reason };
    let found = tokio::net::lookup_host((host.as_str(), bound.port())).await;
    let mut found = found.map_err(|error| failed(error.to_string()))?;
    found
        .find(|address| address.is_ipv4() == bound.is_ipv4())
        .ok_or_else(|| failed("it has no address of the family of --bind-address".to_owned()))
}
