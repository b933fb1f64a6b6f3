//! Look-ups and claims.

use super::claim::{Claim, ClaimError};
use super::decision::{View, stays, whereabouts};
use super::lease::{LEASES, Leases};
use super::placement::{place, place_resource};
use super::record::Holder;
use super::resource::{Kind, OWNERS, Resource};
use super::session::Session;
use super::table::{self, Table};
use crate::cluster::{Members, NodeId};
use crate::store::{MetaStore, StoreError};
use async_trait::async_trait;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What serves the resources of one kind on this node.
#[async_trait]
pub trait Keeper: Send + Sync + fmt::Debug + 'static {
    /// Whether nobody would notice if this resource moved.
    fn is_idle(&self, id: &str) -> bool;

    /// Stops serving a resource whose claim has just ended: on return, what is to be kept has been written, or cannot be.
    async fn let_go(&self, id: &str);
}

/// Who serves what, as one node sees it, and what this node serves itself.
#[derive(Debug)]
pub struct Ownership {
    session: Arc<Session>,
    /// `None` on a node that has its store to itself: it owns everything and writes nothing about that.
    shared: Option<Shared>,
}

/// What it takes to share a store.
#[derive(Debug)]
struct Shared {
    state: Arc<State>,
    _driver: DropGuard,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) session: Arc<Session>,
    pub(super) meta: Arc<dyn MetaStore>,
    pub(super) members: watch::Receiver<Members>,
    pub(super) leases: Leases,
    table: Mutex<Table>,
    /// Held while the table is filled.
    filling: tokio::sync::Mutex<()>,
    claims: Mutex<HashMap<Resource, Claim>>,
    /// What is being given to another node.
    leaving: Mutex<HashMap<Resource, NodeId>>,
    /// Writers of one owner record take turns.
    turns: Mutex<HashMap<Resource, Arc<Turn>>>,
    keepers: Mutex<BTreeMap<Kind, Weak<dyn Keeper>>>,
    pub(super) draining: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct Turn {
    lock: tokio::sync::Mutex<()>,
    /// Its owner record has changed.
    pub(super) news: Notify,
}

impl Ownership {
    /// Ownership of a node that has its store to itself.
    pub fn alone(session: Arc<Session>) -> Arc<Ownership> {
        Arc::new(Ownership { session, shared: None })
    }

    /// Ownership among the nodes that use `meta`, followed from now on. An exclusive session is alone.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn start(
        session: Arc<Session>,
        meta: Arc<dyn MetaStore>,
        members: watch::Receiver<Members>,
    ) -> Result<Arc<Ownership>, StoreError> {
        if session.is_exclusive() {
            return Ok(Ownership::alone(session));
        }
        let stop = CancellationToken::new();
        let state = Arc::new(State {
            leases: Leases::new(session.term().lease()),
            table: Mutex::new(Table::new(&*meta)),
            filling: tokio::sync::Mutex::default(),
            claims: Mutex::default(),
            leaving: Mutex::default(),
            turns: Mutex::default(),
            keepers: Mutex::default(),
            draining: AtomicBool::new(false),
            session: session.clone(),
            meta,
            members,
        });
        let (leases, owners) = (state.meta.watch(LEASES), state.meta.watch(OWNERS));
        state.leases.list(&*state.meta).await?;
        state.catch_up().await?;
        let (follower, spreader, stopped) = (state.clone(), state.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = follower.follow(leases, owners) => {}
                () = spreader.spread() => {}
            }
        });
        Ok(Arc::new(Ownership { session, shared: Some(Shared { state, _driver: stop.drop_guard() }) }))
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.session.node()
    }

    /// The session everything of this node hangs on.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The node that serves a resource, or would if it were claimed now. Nothing is written: until somebody claims it,
    /// the answer follows from who is there, and all nodes that agree on that agree on the answer.
    ///
    /// # Errors
    /// [`ClaimError::NoTaker`]; what the store reports.
    pub async fn owner_of(&self, kind: Kind, id: &str) -> Result<NodeId, ClaimError> {
        let Some(Shared { state, .. }) = &self.shared else { return Ok(self.me()) };
        let resource = Resource::new(kind, id);
        // It is not served here any more, and the store is about to say where it will be.
        if let Some(&to) = state.leaving().get(&resource) {
            return Ok(to);
        }
        state.catch_up().await?;
        let record = state.table().get(&resource).map(|(record, _)| record.clone());
        let owner = whereabouts(record.as_ref(), &state.view(&resource)).ok_or(ClaimError::NoTaker)?;
        if owner == state.me() && !state.session.term().is_valid() {
            // Others may know by now who serves it instead, and whoever asks should ask them.
            return Err(ClaimError::NotYet(format!("node {owner} has no lease right now; ask another node")));
        }
        Ok(owner)
    }

    /// The node that a resource belongs to as the store has it, if that node is there. Unlike
    /// [`Ownership::owner_of`] this does not depend on whom else this node knows.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn stored_owner_of(&self, kind: Kind, id: &str) -> Result<Option<NodeId>, StoreError> {
        let Some(Shared { state, .. }) = &self.shared else { return Ok(None) };
        let resource = Resource::new(kind, id);
        state.catch_up().await?;
        let record = state.table().get(&resource).map(|(record, _)| record.clone());
        Ok(stays(record.as_ref(), &state.view(&resource)))
    }

    /// The node for something that every node can serve. `None` if no node takes anything right now.
    pub fn stateless(&self, key: &str) -> Option<NodeId> {
        match &self.shared {
            None => Some(self.me()),
            Some(Shared { state, .. }) => place(key, state.takers()),
        }
    }

    /// The right to serve a resource, taken if need be. Waits, for a bounded time, until whoever had it certainly serves
    /// it no more; that is usually so already when a node is found dead.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub async fn claim(&self, kind: Kind, id: &str) -> Result<Claim, ClaimError> {
        self.claim_if(kind, id, false).await
    }

    /// As [`Ownership::claim`], for what another node has sent here: it is taken if nobody has it, wherever this node
    /// would place it.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub async fn claim_here(&self, kind: Kind, id: &str) -> Result<Claim, ClaimError> {
        self.claim_if(kind, id, true).await
    }

    async fn claim_if(&self, kind: Kind, id: &str, insist: bool) -> Result<Claim, ClaimError> {
        let resource = Resource::new(kind, id);
        match &self.shared {
            None => Ok(Claim::new(resource, self.session.term(), None)),
            Some(Shared { state, .. }) => match state.held(&resource) {
                Some(claim) => Ok(claim),
                None => state.clone().claim(resource, insist).await,
            },
        }
    }

    /// Waits until a session of a node is certainly over, as the store has it: nothing is served under it any more. Never
    /// resolves while this node itself has no lease: then what it sees of others may be old.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn session_over(&self, node: NodeId, session: u64) -> Result<(), StoreError> {
        let Some(Shared { state, .. }) = &self.shared else { return std::future::pending().await };
        let mut terms = state.session.terms();
        // What it may last if its lease does not say: as long as that of this node.
        let lease = u64::try_from(state.session.term().lease().as_millis()).unwrap_or(u64::MAX);
        let holder = Holder { node, session, lease_ms: lease };
        loop {
            state.leases.over(&*state.meta, &holder).await?;
            let valid = terms.borrow_and_update().is_valid();
            if valid {
                return Ok(());
            }
            if terms.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Names what serves the resources of a kind here. It is asked to let go of those that move to another node.
    pub fn keep(&self, kind: Kind, keeper: Weak<dyn Keeper>) {
        if let Some(Shared { state, .. }) = &self.shared {
            state.keepers.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, keeper);
        }
    }

    /// Before a planned stop: takes nothing any more and gives everything to other nodes, in at most `patience`. Where no
    /// other node takes anything, what is served here goes on.
    pub async fn drain(&self, patience: Duration) {
        if let Some(Shared { state, .. }) = &self.shared {
            state.drain(patience).await;
        }
    }

    /// The claim this node has on a resource.
    pub fn held(&self, kind: Kind, id: &str) -> Option<Claim> {
        let Shared { state, .. } = self.shared.as_ref()?;
        state.held(&Resource::new(kind, id))
    }

    /// Ends a claim whose guard was refused, even before the owner record is seen.
    pub fn fenced(&self, claim: &Claim) {
        if let Some(Shared { state, .. }) = &self.shared {
            state.end(claim);
        }
    }

    /// Gives a claim a new guard. To be called after a guarded write whose outcome is not known, before the next one:
    /// the first can then not land after the second.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the resource is not ours any more; the claim has ended then. What the store reports.
    pub async fn renew_guard(&self, claim: &Claim) -> Result<(), StoreError> {
        match &self.shared {
            None => Ok(()),
            Some(Shared { state, .. }) => state.renew_guard(claim).await,
        }
    }

    /// Forgets who owns a resource that is deleted; its claim ends.
    ///
    /// # Errors
    /// What the store reports; what remains is taken over by a later resource of the same name.
    pub async fn forget(&self, claim: &Claim) -> Result<(), StoreError> {
        match &self.shared {
            None => Ok(()),
            Some(Shared { state, .. }) => state.forget(claim).await,
        }
    }
}

/// What this node knows, for one resource.
pub(super) struct Known<'a> {
    state: &'a State,
    members: Members,
    resource: &'a Resource,
    now: Instant,
}

impl View for Known<'_> {
    fn me(&self) -> NodeId {
        self.state.me()
    }

    fn is_gone(&self, node: NodeId) -> bool {
        self.members.is_gone(node) || self.state.leases.silent(node, self.now)
    }

    fn favourite(&self) -> Option<NodeId> {
        place_resource(self.resource, self.state.takers_among(&self.members, self.now))
    }

    fn draining(&self) -> bool {
        self.state.draining.load(Ordering::Acquire)
    }
}

impl State {
    pub(super) fn me(&self) -> NodeId {
        self.session.node()
    }

    pub(super) fn view<'a>(&'a self, resource: &'a Resource) -> Known<'a> {
        Known { state: self, members: self.members.borrow().clone(), resource, now: Instant::now() }
    }

    /// Nodes that resources may be placed on.
    pub(super) fn takers(&self) -> Vec<NodeId> {
        self.takers_among(&self.members.borrow(), Instant::now())
    }

    /// A node without a lease cannot take anything, and one that drains does not.
    fn takers_among(&self, members: &Members, now: Instant) -> Vec<NodeId> {
        let takes = |&node: &NodeId| match node == self.me() {
            true => !self.draining.load(Ordering::Acquire),
            false => !self.leases.silent(node, now),
        };
        members.takers().map(|member| member.id).filter(takes).collect()
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn claims(&self) -> MutexGuard<'_, HashMap<Resource, Claim>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn turns(&self) -> MutexGuard<'_, HashMap<Resource, Arc<Turn>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn leaving(&self) -> MutexGuard<'_, HashMap<Resource, NodeId>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn keeper(&self, kind: Kind) -> Option<Arc<dyn Keeper>> {
        let keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        keepers.get(&kind).and_then(Weak::upgrade)
    }

    pub(super) fn held(&self, resource: &Resource) -> Option<Claim> {
        self.claims().get(resource).filter(|claim| claim.is_valid()).cloned()
    }

    /// Brings the table up to what the store says.
    pub(super) async fn catch_up(&self) -> Result<(), StoreError> {
        if self.table().catch_up() {
            return Ok(());
        }
        let _filling = self.filling.lock().await;
        {
            let mut table = self.table();
            if table.catch_up() {
                return Ok(());
            }
            table.restart(&*self.meta);
        }
        let listed = table::list(&*self.meta).await?;
        let mut table = self.table();
        table.fill(listed);
        table.catch_up();
        Ok(())
    }

    /// Waits for its turn with a resource, for as long as `work` takes.
    pub(super) async fn in_turn<T>(&self, resource: &Resource, work: impl AsyncFnOnce(&Notify) -> T) -> T {
        let turn = self.turns().entry(resource.clone()).or_default().clone();
        let done = {
            let _held = turn.lock.lock().await;
            work(&turn.news).await
        };
        let mut turns = self.turns();
        // The map's and ours: nobody else waits.
        if Arc::strong_count(&turn) == 2 {
            turns.remove(resource);
        }
        done
    }
}
