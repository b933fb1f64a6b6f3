//! Look-ups and claims.

use super::claim::{Claim, ClaimError};
use super::decision::{Decision, View, decide, whereabouts};
use super::lease::{LEASES, Leases, wait_for};
use super::placement::{place, place_resource};
use super::record::{Holder, OwnerRecord};
use super::resource::{Kind, OWNERS, Resource};
use super::session::{Session, Term};
use super::table::{self, Table};
use crate::cluster::{Members, NodeId};
use crate::store::{Expect, MetaChange, MetaStore, MetaWatch, Seen, StoreError};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a store may take over one answer of a claim.
const STORE_PATIENCE: Duration = Duration::from_secs(5);
/// Pause after the store failed in the background.
const RETRY: Duration = Duration::from_millis(200);

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
    leases: Leases,
    table: Mutex<Table>,
    /// Held while the table is filled.
    filling: tokio::sync::Mutex<()>,
    claims: Mutex<HashMap<Resource, Claim>>,
    /// Claims, hand-overs and the like of one resource take turns.
    turns: Mutex<HashMap<Resource, Arc<Turn>>>,
    pub(super) draining: AtomicBool,
}

#[derive(Debug, Default)]
struct Turn {
    lock: tokio::sync::Mutex<()>,
    /// Its owner record has changed.
    news: Notify,
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
            turns: Mutex::default(),
            draining: AtomicBool::new(false),
            session: session.clone(),
            meta,
            members,
        });
        let (leases, owners) = (state.meta.watch(LEASES), state.meta.watch(OWNERS));
        state.leases.list(&*state.meta).await?;
        state.catch_up().await?;
        let (driver, stopped) = (state.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = driver.follow(leases, owners) => {}
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
        state.catch_up().await?;
        let record = state.table().get(&resource).map(|(record, _)| record.clone());
        whereabouts(record.as_ref(), &state.view(&resource)).ok_or(ClaimError::NoTaker)
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

    /// The claim this node has on a resource.
    pub fn held(&self, kind: Kind, id: &str) -> Option<Claim> {
        let Shared { state, .. } = self.shared.as_ref()?;
        state.held(&Resource::new(kind, id))
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
struct Known<'a> {
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

    fn view<'a>(&'a self, resource: &'a Resource) -> Known<'a> {
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

    fn turns(&self) -> MutexGuard<'_, HashMap<Resource, Arc<Turn>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
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

    async fn claim(self: Arc<Self>, resource: Resource, insist: bool) -> Result<Claim, ClaimError> {
        // In a task: a caller that goes away must not leave a claim behind that nobody knows of.
        let work = async move {
            self.in_turn(&resource, async |news: &Notify| self.take(&resource, insist, news).await).await
        };
        tokio::spawn(work)
            .await
            .unwrap_or_else(|error| Err(ClaimError::NotYet(format!("the claim ended early: {error}"))))
    }

    /// Takes a resource if it may be taken; the caller has its turn.
    async fn take(&self, resource: &Resource, insist: bool, news: &Notify) -> Result<Claim, ClaimError> {
        let key = resource.key();
        let wait = wait_for(self.session.term().lease());
        let start = Instant::now();
        // An owner that gossip holds for dead and that renews its lease all the same gets that long to come back.
        let mut force_at = Some(start + wait);
        let give_up = start + wait * 3;
        loop {
            if let Some(claim) = self.held(resource) {
                return Ok(claim);
            }
            let mut members = self.members.clone();
            members.mark_unchanged();
            let term = self.session.term();
            if !term.is_valid() {
                return Err(ClaimError::NotYet(format!(
                    "node {} has no lease right now; try again",
                    self.me()
                )));
            }
            let found = bounded(self.meta.get(&key)).await?;
            let found = found.map(|found| OwnerRecord::found(&key, &found)).transpose()?;
            let (epoch, version) =
                found.as_ref().map_or((0, None), |(record, version)| (record.epoch, Some(*version)));
            let expect = version.map_or(Expect::Absent, Expect::Version);
            let holder = match decide(found.as_ref().map(|(record, _)| record), &self.view(resource), insist)
            {
                Decision::Elsewhere(node) => return Err(ClaimError::Elsewhere(node)),
                Decision::NoTaker => return Err(ClaimError::NoTaker),
                Decision::PassOn(node) => {
                    let holder = found.and_then(|(record, _)| record.holder());
                    let previous = holder.filter(|holder| !self.is_ours(holder, &term));
                    match self.write(&key, &OwnerRecord::assigned(epoch + 1, node, previous), expect).await {
                        Ok(_) => return Err(ClaimError::Elsewhere(node)),
                        Err(StoreError::Conflict { .. }) => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
                Decision::Take(holder) => holder.filter(|holder| !self.is_ours(holder, &term)),
            };
            if let Some(holder) = holder {
                tokio::select! {
                    over = self.leases.over(&*self.meta, &holder) => over?,
                    () = news.notified() => continue,
                    Ok(()) = members.changed() => continue,
                    () = tokio::time::sleep_until(force_at.unwrap_or(give_up)) => {
                        if force_at.take().is_none() {
                            return Err(ClaimError::NotYet(format!(
                                "{resource} is still held by node {}; try again", holder.node
                            )));
                        }
                        if holder.node != self.me() {
                            // It is told to let go by that, and says when it has.
                            let wanted = OwnerRecord::assigned(epoch + 1, self.me(), Some(holder));
                            match self.write(&key, &wanted, expect).await {
                                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                                Err(error) => return Err(error.into()),
                            }
                        }
                        continue;
                    }
                }
            }
            let claimed = OwnerRecord::claimed(epoch + 1, self.holder(&term));
            match self.write(&key, &claimed, expect).await {
                Ok(version) => return self.register(Claim::new(resource.clone(), term, Some(version))),
                Err(StoreError::Conflict { .. }) => {}
                // Should it have been written all the same, the next claim finds it to be ours.
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn is_ours(&self, holder: &Holder, term: &Term) -> bool {
        holder.node == self.me() && holder.session == term.generation()
    }

    fn holder(&self, term: &Term) -> Holder {
        let lease_ms = u64::try_from(term.lease().as_millis()).unwrap_or(u64::MAX);
        Holder { node: self.me(), session: term.generation(), lease_ms }
    }

    pub(super) async fn write(
        &self,
        key: &str,
        record: &OwnerRecord,
        expect: Expect,
    ) -> Result<u64, StoreError> {
        bounded(self.meta.put(key, record.encode()?, expect)).await
    }

    fn register(&self, claim: Claim) -> Result<Claim, ClaimError> {
        self.claims().insert(claim.resource().clone(), claim.clone());
        // What was written between our write and this line found no claim to end.
        let known = {
            let mut table = self.table();
            table.catch_up();
            table.get(claim.resource()).cloned()
        };
        if let Some((record, version)) = known {
            self.compare(&claim, Some(&record), version);
        }
        if claim.is_valid() {
            return Ok(claim);
        }
        Err(ClaimError::NotYet(format!("{} went elsewhere at once; try again", claim.resource())))
    }

    /// Ends a claim if its owner record, in a later version, says something else. True if it goes on.
    fn compare(&self, claim: &Claim, record: Option<&OwnerRecord>, version: u64) -> bool {
        let later = claim.version().is_some_and(|held| held < version);
        let ours = record.is_some_and(|record| {
            record.session.is_some()
                && record.holder().is_some_and(|holder| self.is_ours(&holder, claim.term()))
        });
        if !later || ours {
            return true;
        }
        self.end(claim);
        false
    }

    /// Ends a claim on this node.
    pub(super) fn end(&self, claim: &Claim) {
        claim.revoke();
        let mut claims = self.claims();
        if claims.get(claim.resource()).is_some_and(|there| there.is(claim)) {
            claims.remove(claim.resource());
        }
    }

    async fn renew_guard(&self, claim: &Claim) -> Result<(), StoreError> {
        let key = claim.resource().key();
        self.in_turn(claim.resource(), async |_: &Notify| {
            let found = bounded(self.meta.get(&key)).await?;
            let found = found.map(|found| OwnerRecord::found(&key, &found)).transpose()?;
            let lost = || StoreError::Conflict { key: key.clone() };
            let Some((record, version)) = found.filter(|_| claim.is_valid()) else {
                self.end(claim);
                return Err(lost());
            };
            if !self.compare(claim, Some(&record), version) {
                return Err(lost());
            }
            let next = OwnerRecord::claimed(record.epoch + 1, self.holder(claim.term()));
            match self.write(&key, &next, Expect::Version(version)).await {
                Ok(version) => {
                    claim.set_version(version);
                    Ok(())
                }
                Err(error) => {
                    if matches!(error, StoreError::Conflict { .. }) {
                        self.end(claim);
                    }
                    Err(error)
                }
            }
        })
        .await
    }

    async fn forget(&self, claim: &Claim) -> Result<(), StoreError> {
        let Some(version) = claim.version() else { return Ok(()) };
        self.in_turn(claim.resource(), async |_: &Notify| {
            self.end(claim);
            match bounded(self.meta.delete(&claim.resource().key(), Expect::Version(version))).await {
                Ok(()) | Err(StoreError::Conflict { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Follows leases and owner records as long as the node lives.
    async fn follow(self: Arc<Self>, mut leases: MetaWatch, mut owners: MetaWatch) {
        let mut terms = self.session.terms();
        loop {
            tokio::select! {
                seen = leases.next() => match seen {
                    Some(Seen::Change(MetaChange { key, value, version })) => {
                        self.leases.note(&key, value.as_deref(), version);
                    }
                    Some(Seen::Missed) => {
                        while let Err(error) = self.leases.list(&*self.meta).await {
                            tracing::debug!(%error, "cannot list the leases, trying again");
                            tokio::time::sleep(RETRY).await;
                        }
                    }
                    None => return,
                },
                seen = owners.next() => match seen {
                    Some(Seen::Change(change)) => self.changed(&change),
                    Some(Seen::Missed) => self.compare_all().await,
                    None => return,
                },
                changed = terms.changed() => match changed {
                    // Claims of the term that ended are worth nothing any more.
                    Ok(()) => self.claims().retain(|_, claim| claim.is_valid()),
                    Err(_) => return,
                },
            }
        }
    }

    fn changed(self: &Arc<Self>, change: &MetaChange) {
        let Some(resource) = Resource::parse(&change.key) else { return };
        let record = match change.value.as_ref().map(|value| OwnerRecord::decode(&change.key, value)) {
            Some(Ok(record)) => Some(record),
            Some(Err(_)) | None => None,
        };
        self.compare_one(&resource, record.as_ref(), change.version);
        if let Some(turn) = self.turns().get(&resource) {
            turn.news.notify_one();
        }
    }

    fn compare_one(self: &Arc<Self>, resource: &Resource, record: Option<&OwnerRecord>, version: u64) {
        let held = self.claims().get(resource).cloned();
        if let Some(claim) = held
            && !self.compare(&claim, record, version)
        {
            tracing::info!(%resource, "another node takes over");
        }
        let previous = record.and_then(|record| record.previous);
        if previous.is_some_and(|previous| self.is_ours(&previous, &self.session.term())) {
            tokio::spawn(self.clone().let_go(resource.clone()));
        }
    }

    /// Says that we do not serve any more what was given to another node.
    async fn let_go(self: Arc<Self>, resource: Resource) {
        let key = resource.key();
        loop {
            let term = self.session.term();
            let done = self
                .in_turn(&resource, async |_: &Notify| {
                    let Some(found) = bounded(self.meta.get(&key)).await? else { return Ok(()) };
                    let (record, version) = OwnerRecord::found(&key, &found)?;
                    let ours = |previous: &Holder| self.is_ours(previous, &term);
                    if !record.previous.as_ref().is_some_and(ours) || self.held(&resource).is_some() {
                        return Ok(());
                    }
                    let free = OwnerRecord::assigned(record.epoch + 1, record.node, None);
                    match self.write(&key, &free, Expect::Version(version)).await {
                        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
                        Err(error) => Err(error),
                    }
                })
                .await;
            match done {
                Err(error) if term.is_valid() => {
                    tracing::debug!(%resource, %error, "cannot say that this was let go, trying again");
                    tokio::time::sleep(RETRY).await;
                }
                Ok(()) | Err(_) => return,
            }
        }
    }

    /// Compares all claims with the store after changes were missed.
    async fn compare_all(self: &Arc<Self>) {
        let listed = loop {
            match table::list(&*self.meta).await {
                Ok(listed) => break listed,
                Err(error) => {
                    tracing::debug!(%error, "cannot list the owner records, trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let mut held: HashMap<Resource, Claim> = self.claims().clone();
        for (resource, record, version) in &listed {
            self.compare_one(resource, Some(record), *version);
            held.remove(resource);
        }
        // Those that are not there any more; one claimed just now is found by its write.
        for (resource, claim) in held {
            if let Ok(None) = bounded(self.meta.get(&resource.key())).await {
                self.end(&claim);
            }
        }
        for turn in self.turns().values() {
            turn.news.notify_one();
        }
    }
}

async fn bounded<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(STORE_PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::Io(format!(
            "the metadata store has not answered within {STORE_PATIENCE:?}; whether it did what was asked is not known"
        ))),
    }
}
