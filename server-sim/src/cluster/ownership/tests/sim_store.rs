//! Metadata shared by simulated nodes: requests and answers travel, get lost and come late.
//!
//! The engine itself is a map, because one on disk has threads whose time nobody can stop. Compare-and-set, guards,
//! versions and watches behave as `store::MetaStore` says.

use crate::store::{
    Expect, Guard, MetaChange, MetaFeeds, MetaStore, MetaWatch, Result, StoreError, Versioned,
};
use async_trait::async_trait;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a node waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// More changes than a watch holds.
const TOO_MANY: usize = 1100;

/// Milliseconds of the world, which are nobody's clock.
pub(super) type Ms = u64;

#[derive(Debug, Clone)]
enum Op {
    Get(String),
    List(String),
    Put { key: String, value: Bytes, expect: Expect },
    PutMany { values: Vec<(String, Bytes)>, guard: Option<Guard> },
    Delete { key: String, expect: Expect },
}

#[derive(Debug)]
enum Answer {
    One(Option<Versioned>),
    Many(Vec<(String, Versioned)>),
    Version(u64),
}

#[derive(Debug)]
struct Request {
    node: usize,
    op: Op,
    arrives: Ms,
    answer: oneshot::Sender<Result<Answer>>,
}

#[derive(Debug)]
struct Reply {
    node: usize,
    arrives: Ms,
    result: Result<Answer>,
    to: oneshot::Sender<Result<Answer>>,
}

#[derive(Debug, Default)]
struct Way {
    cut: bool,
    /// How much longer answers take.
    answers: Ms,
    feeds: Arc<MetaFeeds>,
    /// Changes on their way to the watches.
    changes: VecDeque<(Ms, MetaChange)>,
    missed: bool,
}

/// One write, in the order in which they took effect.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) node: usize,
    pub(super) key: String,
    pub(super) after: Bytes,
}

#[derive(Debug)]
struct Core {
    now: Ms,
    rng: StdRng,
    /// Longest way of a request or an answer, most of the time.
    slow: Ms,
    /// How many of a thousand requests, and of a thousand answers, take longer than any node waits, or nearly.
    late: u32,
    data: BTreeMap<String, Versioned>,
    version: u64,
    requests: Vec<Request>,
    replies: Vec<Reply>,
    ways: Vec<Way>,
    written: Vec<Written>,
}

/// The store of a world.
#[derive(Debug, Clone)]
pub(super) struct SimStore(Arc<Mutex<Core>>);

impl SimStore {
    pub(super) fn new(seed: u64, nodes: usize, slow: Ms) -> Self {
        SimStore(Arc::new(Mutex::new(Core {
            now: 0,
            rng: StdRng::seed_from_u64(seed),
            slow,
            late: 0,
            data: BTreeMap::new(),
            version: 0,
            requests: Vec::new(),
            replies: Vec::new(),
            ways: (0..nodes).map(|_| Way::default()).collect(),
            written: Vec::new(),
        })))
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.0.lock().unwrap()
    }

    /// The store as one node reaches it.
    pub(super) fn link(&self, node: usize) -> Arc<dyn MetaStore> {
        Arc::new(SimLink { store: self.clone(), node })
    }

    /// Lets so many of a thousand requests and answers come late.
    pub(super) fn late(&self, of_a_thousand: u32) {
        self.core().late = of_a_thousand;
    }

    /// Lets answers to one node take so much longer.
    pub(super) fn answers_late(&self, node: usize, by: Ms) {
        self.core().ways[node].answers = by;
    }

    /// Cuts or heals one node's way.
    pub(super) fn cut(&self, node: usize, cut: bool) {
        let mut core = self.core();
        let way = &mut core.ways[node];
        way.cut = cut;
        if cut {
            way.changes.clear();
            way.missed = true;
        }
    }

    /// What was written since the last time.
    pub(super) fn written(&self) -> Vec<Written> {
        std::mem::take(&mut self.core().written)
    }

    /// What is there right now.
    pub(super) fn get(&self, key: &str) -> Option<Versioned> {
        self.core().data.get(key).cloned()
    }

    /// Lets time pass: what arrives takes effect.
    pub(super) fn step(&self, now: Ms) {
        let mut core = self.core();
        core.now = now;
        let mut waiting = Vec::new();
        let mut arrived = Vec::new();
        for request in std::mem::take(&mut core.requests) {
            if request.arrives > now {
                waiting.push(request);
            } else if core.ways[request.node].cut {
                // Lost, or under way until the cut is healed.
                if core.rng.random_bool(0.5) {
                    let late = core.rng.random_range(100..2000);
                    waiting.push(Request { arrives: now + late, ..request });
                }
            } else {
                arrived.push(request);
            }
        }
        core.requests = waiting;
        // Requests of one moment take effect in any order.
        while !arrived.is_empty() {
            let next = core.rng.random_range(0..arrived.len());
            let Request { node, op, answer: to, .. } = arrived.swap_remove(next);
            let result = core.apply(node, op);
            let arrives = now + core.call_time() + core.ways[node].answers;
            core.replies.push(Reply { node, arrives, result, to });
        }
        for reply in std::mem::take(&mut core.replies) {
            if reply.arrives > now {
                core.replies.push(reply);
            } else if !core.ways[reply.node].cut {
                let _ = reply.to.send(reply.result);
            }
        }
        for way in &mut core.ways {
            if way.cut {
                continue;
            }
            if std::mem::take(&mut way.missed) {
                let junk = |prefix: &str| MetaChange { key: format!("{prefix}-"), value: None, version: 1 };
                for prefix in ["lease/", "owner/"] {
                    way.feeds.tell(&vec![junk(prefix); TOO_MANY]);
                }
            }
            while way.changes.front().is_some_and(|(arrives, _)| *arrives <= now) {
                let (_, change) = way.changes.pop_front().unwrap();
                way.feeds.tell(&[change]);
            }
        }
    }
}

impl Core {
    fn call_time(&mut self) -> Ms {
        if self.late > 0 && self.rng.random_ratio(self.late, 1000) {
            return self.rng.random_range(500..4_000);
        }
        self.way_time()
    }

    fn way_time(&mut self) -> Ms {
        let slow = self.slow;
        self.rng.random_range(0..=slow)
    }

    fn apply(&mut self, node: usize, op: Op) -> Result<Answer> {
        match op {
            Op::Get(key) => Ok(Answer::One(self.data.get(&key).cloned())),
            Op::List(prefix) => {
                let found = self.data.range(prefix.clone()..);
                let found = found.take_while(|(key, _)| key.starts_with(&prefix));
                Ok(Answer::Many(found.map(|(key, value)| (key.clone(), value.clone())).collect()))
            }
            Op::Put { key, value, expect } => {
                self.check(&key, expect)?;
                Ok(Answer::Version(self.put(node, key, value)))
            }
            Op::PutMany { values, guard } => {
                if let Some(Guard { key, version }) = guard {
                    self.check(&key, Expect::Version(version))?;
                }
                for (key, value) in values {
                    self.put(node, key, value);
                }
                Ok(Answer::Version(0))
            }
            Op::Delete { key, expect } => {
                self.check(&key, expect)?;
                if self.data.remove(&key).is_some() {
                    self.version += 1;
                    self.tell(MetaChange { key, value: None, version: self.version });
                }
                Ok(Answer::Version(0))
            }
        }
    }

    fn check(&self, key: &str, expect: Expect) -> Result<()> {
        let version = self.data.get(key).map(|found| found.version);
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => version.is_none(),
            Expect::Version(wanted) => version == Some(wanted),
        };
        if holds { Ok(()) } else { Err(StoreError::Conflict { key: key.to_owned() }) }
    }

    fn put(&mut self, node: usize, key: String, value: Bytes) -> u64 {
        self.version += 1;
        let version = self.version;
        self.data.insert(key.clone(), Versioned { value: value.clone(), version });
        self.written.push(Written { node, key: key.clone(), after: value.clone() });
        self.tell(MetaChange { key, value: Some(value), version });
        version
    }

    fn tell(&mut self, change: MetaChange) {
        for node in 0..self.ways.len() {
            let arrives = self.now + self.way_time();
            let way = &mut self.ways[node];
            // In order: a later change does not arrive earlier.
            let arrives = way.changes.back().map_or(arrives, |(last, _)| arrives.max(*last));
            if !way.cut {
                way.changes.push_back((arrives, change.clone()));
            }
        }
    }
}

#[derive(Debug)]
struct SimLink {
    store: SimStore,
    node: usize,
}

impl SimLink {
    async fn ask(&self, op: Op) -> Result<Answer> {
        let (answer, answered) = oneshot::channel();
        {
            let mut core = self.store.core();
            let arrives = core.now + core.call_time();
            core.requests.push(Request { node: self.node, op, arrives, answer });
        }
        match tokio::time::timeout(TIMEOUT, answered).await {
            Ok(Ok(answer)) => answer,
            // Lost on the way: nobody says so.
            Ok(Err(_)) => {
                tokio::time::sleep(TIMEOUT).await;
                Err(StoreError::Unreachable("no answer".into()))
            }
            Err(_) => Err(StoreError::Unreachable("no answer".into())),
        }
    }
}

#[async_trait]
impl MetaStore for SimLink {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        match self.ask(Op::Get(key.to_owned())).await? {
            Answer::One(found) => Ok(found),
            _ => unreachable!("an answer to something else"),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        match self.ask(Op::List(prefix.to_owned())).await? {
            Answer::Many(found) => Ok(found),
            _ => unreachable!("an answer to something else"),
        }
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64> {
        match self.ask(Op::Put { key: key.to_owned(), value, expect }).await? {
            Answer::Version(version) => Ok(version),
            _ => unreachable!("an answer to something else"),
        }
    }

    async fn put_many(&self, values: Vec<(String, Bytes)>, guard: Option<Guard>) -> Result<()> {
        self.ask(Op::PutMany { values, guard }).await.map(|_| ())
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<()> {
        self.ask(Op::Delete { key: key.to_owned(), expect }).await.map(|_| ())
    }

    fn watch(&self, prefix: &str) -> MetaWatch {
        self.store.core().ways[self.node].feeds.watch(prefix)
    }
}
