//! This node's own lease.
//!
//! A [`Term`] is valid until a moment of this node's own clock that lies one lease behind the moment just *before* its
//! last successful renewal was sent. Others begin to wait when they see that renewal, which is later, and wait longer.
//! A term that was not renewed in time is over for good: whatever comes later cannot bring it back, and the next one
//! has a higher generation.

use super::lease::{LeaseRecord, key, wait_for};
use crate::cluster::NodeId;
use crate::store::{Expect, MetaStore, StoreError, Versioned};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Renewals in the time of a lease.
const RENEWALS: u32 = 3;
/// Pauses after a failure in the time of a lease.
const RETRIES: u32 = 20;
/// Writes of a lease without an answer that are remembered.
const MAX_TRIED: usize = 1024;
/// Deadline of a term that never ends.
const NEVER: u64 = u64::MAX;

/// The time from a session's begin to its end.
#[derive(Debug, Clone)]
pub struct Term(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    generation: u64,
    lease: Duration,
    /// Zero of the deadline.
    zero: Instant,
    /// Nanoseconds after `zero`; 0 once it is over.
    deadline: AtomicU64,
    over: CancellationToken,
}

impl Term {
    fn until(generation: u64, lease: Duration, deadline: Option<Instant>) -> Self {
        let zero = Instant::now();
        let deadline = deadline.map_or(NEVER, |deadline| nanos(deadline.saturating_duration_since(zero)));
        let over = CancellationToken::new();
        Term(Arc::new(Inner { generation, lease, zero, deadline: deadline.into(), over }))
    }

    /// Which session; later ones of the same node are higher.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// How long it goes on without being renewed.
    pub fn lease(&self) -> Duration {
        self.0.lease
    }

    /// Whether what this node owns may be served this very moment: one atomic load and a look at the clock.
    pub fn is_valid(&self) -> bool {
        match self.0.deadline.load(Ordering::Acquire) {
            NEVER => true,
            deadline => nanos(self.0.zero.elapsed()) < deadline,
        }
    }

    /// Cancelled when it is over; a moment after [`Term::is_valid`] says so.
    pub fn over(&self) -> &CancellationToken {
        &self.0.over
    }

    fn deadline(&self) -> Instant {
        match self.0.deadline.load(Ordering::Acquire) {
            NEVER => self.0.zero + Duration::from_secs(u32::MAX.into()),
            deadline => self.0.zero + Duration::from_nanos(deadline),
        }
    }

    /// Goes on for a lease after `sent`; false if it was over before.
    fn extend(&self, sent: Instant) -> bool {
        if !self.is_valid() {
            return false;
        }
        let deadline = sent.saturating_duration_since(self.0.zero) + self.0.lease;
        self.0.deadline.store(nanos(deadline), Ordering::Release);
        true
    }

    fn end(&self) {
        self.0.deadline.store(0, Ordering::Release);
        self.0.over.cancel();
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER - 1)
}

/// What a session needs to begin.
#[derive(Debug, Clone)]
pub struct SessionStart {
    /// Where leases are kept.
    pub meta: Arc<dyn MetaStore>,
    /// Number of this node.
    pub node: NodeId,
    /// Where other nodes find it; tells two nodes of the same number apart.
    pub address: String,
    /// How long it may serve without having renewed its lease.
    pub lease: Duration,
}

/// Why a session did not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// Another process runs as this node.
    #[error(
        "node {node} runs already, at {address}: give this one another --server-id, or stop that one first"
    )]
    Running {
        /// The number both have.
        node: NodeId,
        /// Where the other one is.
        address: String,
    },
    /// The store failed.
    #[error("cannot take the lease of this node: {0}")]
    Store(#[from] StoreError),
}

/// The right of this process to serve as one node. Dropping it lets its lease run out; [`Session::release`] gives it back.
#[derive(Debug)]
pub struct Session {
    node: NodeId,
    terms: watch::Receiver<Term>,
    renewal: Option<Renewal>,
}

#[derive(Debug)]
struct Renewal {
    release: CancellationToken,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    patience: Duration,
    _abandon: DropGuard,
}

impl Session {
    /// Begins to serve as a node: writes its lease and renews it from now on.
    ///
    /// # Errors
    /// [`BeginError::Running`] if another process, elsewhere, renews the lease of this number; what the store reports.
    pub async fn begin(start: SessionStart) -> Result<Session, BeginError> {
        check_free(&start).await?;
        let (term, held) = take(&start).await?;
        let (sender, terms) = watch::channel(term);
        let (release, abandon) = (CancellationToken::new(), CancellationToken::new());
        let (node, patience) = (start.node, start.lease);
        let keeper = Keeper { start, held, terms: sender, release: release.clone() };
        let given_up = abandon.clone();
        let task = tokio::spawn(async move {
            let terms = keeper.terms.clone();
            tokio::select! {
                () = given_up.cancelled() => {}
                () = keeper.run() => {}
            }
            terms.borrow().end();
        });
        let task = tokio::sync::Mutex::new(Some(task));
        let renewal = Renewal { release, task, patience, _abandon: abandon.drop_guard() };
        Ok(Session { node, terms, renewal: Some(renewal) })
    }

    /// The session of a node that has its store to itself: never over, nothing is written.
    pub fn exclusive(node: NodeId) -> Session {
        let (_, terms) = watch::channel(Term::until(now_ms(), Duration::MAX, None));
        Session { node, terms, renewal: None }
    }

    /// Number of the node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Whether nobody else can use the store.
    pub fn is_exclusive(&self) -> bool {
        self.renewal.is_none()
    }

    /// Which session it is now; higher than all before it, of this process and of earlier ones.
    pub fn generation(&self) -> u64 {
        self.terms.borrow().generation()
    }

    /// The newest term, which may be over.
    pub fn term(&self) -> Term {
        self.terms.borrow().clone()
    }

    /// The newest term as it changes.
    pub fn terms(&self) -> watch::Receiver<Term> {
        self.terms.clone()
    }

    /// Ends the session and tells the others, so that they need not wait. To be called when nothing is served any more;
    /// takes at most one lease.
    pub async fn release(&self) {
        let Some(renewal) = &self.renewal else { return };
        renewal.release.cancel();
        let Some(mut task) = renewal.task.lock().await.take() else { return };
        if tokio::time::timeout(renewal.patience, &mut task).await.is_err() {
            task.abort();
            self.terms.borrow().end();
            tracing::warn!(node = %self.node, "the lease was not given back; others wait until it runs out");
        }
    }
}

/// This node's lease as it was written last.
#[derive(Debug, Clone)]
struct Held {
    record: LeaseRecord,
    /// `None` after a write whose outcome is not known.
    version: Option<u64>,
}

/// How a term ended.
enum End {
    /// It was not renewed in time, or its lease was taken away.
    Lapsed,
    /// Another process runs as this node.
    Replaced,
    /// It was given back.
    Released,
}

struct Keeper {
    start: SessionStart,
    held: Held,
    terms: watch::Sender<Term>,
    release: CancellationToken,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let term = self.terms.borrow().clone();
            let end = self.keep(&term).await;
            term.end();
            match end {
                End::Released => return self.give_back().await,
                End::Lapsed => {
                    tracing::warn!(node = %self.start.node, "the lease ran out; nothing is served until there is a new one");
                }
                End::Replaced => {}
            }
            let release = self.release.clone();
            let next = tokio::select! {
                () = release.cancelled() => return,
                next = self.next_term(term.generation()) => next,
            };
            tracing::info!(node = %self.start.node, "this node has a lease again");
            self.terms.send_replace(next);
        }
    }

    /// Renews the lease until that fails.
    async fn keep(&mut self, term: &Term) -> End {
        let every = self.start.lease / RENEWALS;
        let mut next = Instant::now() + every;
        loop {
            let deadline = term.deadline();
            tokio::select! {
                biased;
                () = self.release.cancelled() => return End::Released,
                () = tokio::time::sleep_until(next.min(deadline)) => {}
            }
            let sent = Instant::now();
            if sent >= deadline {
                return End::Lapsed;
            }
            // Not longer than to the next one: an answer may be lost.
            let attempt = tokio::time::timeout_at(deadline.min(sent + every), self.renew()).await;
            match attempt {
                Ok(Ok(Renewed::Yes)) => {
                    if !term.extend(sent) {
                        return End::Lapsed;
                    }
                    next = sent + every;
                }
                Ok(Ok(Renewed::Gone)) => return End::Lapsed,
                Ok(Ok(Renewed::Replaced)) => return End::Replaced,
                Ok(Err(error)) => {
                    tracing::warn!(node = %self.start.node, %error, "the lease was not renewed, trying again");
                    next = Instant::now() + self.start.lease / RETRIES;
                }
                Err(_) => {
                    tracing::warn!(node = %self.start.node, "the store does not answer a renewal, trying again");
                    next = Instant::now();
                }
            }
        }
    }

    async fn renew(&mut self) -> Result<Renewed, StoreError> {
        loop {
            let version = match self.held.version.take() {
                Some(version) => version,
                None => match self.look().await? {
                    Ok(version) => version,
                    Err(renewed) => return Ok(renewed),
                },
            };
            self.held.record.beat += 1;
            match self.write(version).await {
                Ok(version) => {
                    self.held.version = Some(version);
                    return Ok(Renewed::Yes);
                }
                // By an earlier write of our own that was late, or by somebody else.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The version of our own lease in the store, or why it is not ours any more.
    async fn look(&mut self) -> Result<Result<u64, Renewed>, StoreError> {
        let Some(found) = self.start.meta.get(&key(self.start.node)).await? else {
            return Ok(Err(Renewed::Gone));
        };
        Ok(match LeaseRecord::decode(&found.value) {
            Some(record) if record.generation == self.held.record.generation && !record.released => {
                self.held.record.beat = self.held.record.beat.max(record.beat);
                Ok(found.version)
            }
            _ => Err(Renewed::Replaced),
        })
    }

    async fn write(&self, version: u64) -> Result<u64, StoreError> {
        let value = self.held.record.encode()?;
        self.start.meta.put(&key(self.start.node), value, Expect::Version(version)).await
    }

    /// Takes a new lease once no other process runs as this node.
    async fn next_term(&mut self, ended: u64) -> Term {
        // Written under an outcome that is not known.
        let mut tried = vec![ended];
        let mut other: Option<(u64, Instant)> = None;
        loop {
            match self.try_next(ended, &mut tried, &mut other).await {
                Ok(Some((term, held))) => {
                    self.held = held;
                    return term;
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(node = %self.start.node, %error, "no new lease, trying again"),
            }
            tokio::time::sleep(self.start.lease / RETRIES).await;
        }
    }

    /// Takes a new lease; `None` while another process renews it, of which `other` keeps what was seen last.
    async fn try_next(
        &self,
        ended: u64,
        tried: &mut Vec<u64>,
        other: &mut Option<(u64, Instant)>,
    ) -> Result<Option<(Term, Held)>, StoreError> {
        let found = self.start.meta.get(&key(self.start.node)).await?;
        let before = found.as_ref().and_then(|found| LeaseRecord::decode(&found.value));
        let foreign =
            before.as_ref().filter(|record| !record.released && !tried.contains(&record.generation));
        if let (Some(record), Some(found)) = (foreign, &found) {
            match other {
                Some((version, since)) if *version == found.version => {
                    if since.elapsed() < wait_for(record.lease()) {
                        return Ok(None);
                    }
                }
                _ => {
                    if other.is_none() {
                        tracing::error!(
                            node = %self.start.node,
                            address = record.address,
                            "another process runs as this node; this one serves nothing until that one has stopped"
                        );
                    }
                    *other = Some((found.version, Instant::now()));
                    return Ok(None);
                }
            }
        }
        let offer = offer(&self.start, Some(ended), before.as_ref());
        if tried.len() < MAX_TRIED {
            tried.push(offer.generation);
        }
        match put(&self.start, offer, found.as_ref()).await {
            Ok(taken) => Ok(Some(taken)),
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Marks the lease as released.
    async fn give_back(&mut self) {
        self.held.record.released = true;
        loop {
            let version = match self.held.version.take() {
                Some(version) => version,
                None => {
                    self.held.record.released = false;
                    match self.look().await {
                        Ok(Ok(version)) => {
                            self.held.record.released = true;
                            version
                        }
                        Ok(Err(_)) => return,
                        Err(_) => {
                            tokio::time::sleep(self.start.lease / RETRIES).await;
                            continue;
                        }
                    }
                }
            };
            self.held.record.beat += 1;
            match self.write(version).await {
                Ok(_) => return,
                Err(_) => tokio::time::sleep(self.start.lease / RETRIES).await,
            }
        }
    }
}

/// What became of a renewal.
enum Renewed {
    Yes,
    /// The lease is not there any more, so others take it for over.
    Gone,
    /// It is another process's.
    Replaced,
}

/// Takes the lease of a node that begins.
async fn take(start: &SessionStart) -> Result<(Term, Held), StoreError> {
    loop {
        let found = start.meta.get(&key(start.node)).await?;
        let before = found.as_ref().and_then(|found| LeaseRecord::decode(&found.value));
        match put(start, offer(start, None, before.as_ref()), found.as_ref()).await {
            Err(StoreError::Conflict { .. }) => {}
            taken => return taken,
        }
    }
}

/// A lease with a generation above the one `before`. `ended` is a session of this process that is over.
fn offer(start: &SessionStart, ended: Option<u64>, before: Option<&LeaseRecord>) -> LeaseRecord {
    let generation = now_ms().max(before.map_or(1, |before| before.generation.saturating_add(1)));
    let over = before.filter(|before| before.released || ended == Some(before.generation));
    LeaseRecord::new(generation, start.address.clone(), start.lease, over.map(|before| before.generation))
}

/// Writes a lease in place of what was found.
async fn put(
    start: &SessionStart,
    record: LeaseRecord,
    found: Option<&Versioned>,
) -> Result<(Term, Held), StoreError> {
    let expect = found.map_or(Expect::Absent, |found| Expect::Version(found.version));
    let sent = Instant::now();
    let version = start.meta.put(&key(start.node), record.encode()?, expect).await?;
    let term = Term::until(record.generation, start.lease, Some(sent + start.lease));
    Ok((term, Held { record, version: Some(version) }))
}

/// Looks whether another process renews this node's lease. Only a courtesy towards it: a second process of the same
/// number ends the first one's session, whatever this says.
async fn check_free(start: &SessionStart) -> Result<(), BeginError> {
    let key = key(start.node);
    let read = |found: Option<Versioned>| {
        found.and_then(|found| Some((LeaseRecord::decode(&found.value)?, found.version)))
    };
    let Some((record, version)) = read(start.meta.get(&key).await?) else { return Ok(()) };
    // Whoever had our address does not have it any more.
    if record.released || record.address == start.address {
        return Ok(());
    }
    tokio::time::sleep(record.lease() / 2).await;
    match read(start.meta.get(&key).await?) {
        Some((now, later)) if later != version && !now.released => {
            Err(BeginError::Running { node: start.node, address: now.address })
        }
        _ => Ok(()),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
