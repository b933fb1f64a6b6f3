//! Consumers that acknowledge when they please, leave and come back.

use super::{
    plan::{Plan, SubscriptionPlan},
    producing::id,
};
use hstream_testkit::history::{History, Id, record_of};
use hstreamdb::{Client, Consumer, RecordId};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::timeout};

/// What a consumer that leaves in order is given, at the end of everything.
const PATIENCE: Duration = Duration::from_secs(20);
/// A session that says nothing for so long is asked whether it still is one.
const PROBE_MS: u32 = 200;
/// How long a last consumer waits for what must not come.
const QUIET: Duration = Duration::from_millis(300);

/// What the members of a round are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Whatever they like.
    Chaos,
    /// Acknowledge everything.
    Drain,
    /// Leave in order.
    Leave,
}

/// Restarts of a server that ignores what is acknowledged before it has delivered it again; none counts otherwise. What
/// was acknowledged before one of those may come again however orderly a consumer leaves.
#[derive(Debug, Clone)]
pub struct Restarts(pub Option<Arc<AtomicU32>>);

impl Restarts {
    fn count(&self) -> u32 {
        self.0.as_ref().map_or(0, |count| count.load(Ordering::Acquire))
    }
}

/// One subscription of the plan.
pub struct Consuming {
    pub name: String,
    number: u32,
    client: Client,
    history: Arc<History>,
    acked: Mutex<BTreeSet<Id>>,
    restarts: Restarts,
    /// What must not have happened and is not for the history to say.
    pub complaints: Mutex<Vec<String>>,
}

impl Consuming {
    pub fn new(name: String, number: u32, client: Client, history: Arc<History>, restarts: Restarts) -> Self {
        let (acked, complaints) = (Mutex::default(), Mutex::default());
        Consuming { name, number, client, history, acked, restarts, complaints }
    }

    /// Whether all of these are acknowledged.
    pub fn has_acked(&self, all: &[(Id, u64)]) -> bool {
        let acked = self.acked.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().all(|(id, _)| acked.contains(id))
    }

    pub fn acked(&self) -> usize {
        self.acked.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn complain(&self, words: String) {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).push(words);
    }

    /// All members, until they are told to leave.
    pub async fn run(&self, plan: &Plan, of: &SubscriptionPlan, phase: &watch::Receiver<Phase>) {
        let members = (0..of.members).map(|member| {
            let seed = plan.seed ^ (u64::from(self.number) << 16) ^ (u64::from(member) << 24) ^ 0xC0;
            self.member(plan.calm_consumers, of, StdRng::seed_from_u64(seed), phase.clone())
        });
        futures::future::join_all(members).await;
    }

    async fn member(
        &self,
        calm: bool,
        of: &SubscriptionPlan,
        mut random: StdRng,
        phase: watch::Receiver<Phase>,
    ) {
        while *phase.borrow() != Phase::Leave {
            let builder = self
                .client
                .consumer(&self.name)
                .ack_max_age(Duration::from_millis(random.random_range(0..60)))
                .ack_max_records(random.random_range(1..200))
                .prefetch_batches(of.prefetch_batches)
                .set("probe_interval_ms", PROBE_MS)
                .unwrap();
            let number = self.history.attach(self.number, calm);
            let restarts = self.restarts.count();
            match builder.start().await {
                Ok(consumer) => {
                    let mut member = Member { all: self, consumer, number, restarts, later: Vec::new() };
                    member.run(calm, &mut random, &phase).await;
                }
                Err(error) => self.complain(format!("consumer {number} did not start: {error}")),
            }
        }
    }

    /// After everybody has left, what is confirmed does not come to anybody.
    pub async fn look_for_leftovers(&self) {
        let number = self.history.attach(self.number, false);
        let restarts = self.restarts.count();
        let consumer = self.client.consumer(&self.name).start().await.unwrap();
        let mut member = Member { all: self, consumer, number, restarts, later: Vec::new() };
        let end = tokio::time::Instant::now() + QUIET;
        while tokio::time::timeout_at(end, member.next()).await == Ok(true) {}
        member.leave(PATIENCE).await;
    }
}

struct Member<'a> {
    all: &'a Consuming,
    consumer: Consumer,
    number: u32,
    /// Restarts of the server when it began.
    restarts: u32,
    /// Shown and not acknowledged yet.
    later: Vec<RecordId>,
}

impl Member<'_> {
    async fn run(&mut self, calm: bool, random: &mut StdRng, phase: &watch::Receiver<Phase>) {
        loop {
            match *phase.borrow() {
                Phase::Chaos => {}
                Phase::Drain => self.ack_all(),
                Phase::Leave => {
                    self.ack_all();
                    return self.leave(PATIENCE).await;
                }
            }
            // A wait that is given up loses nothing.
            let pause = Duration::from_millis(random.random_range(1..30));
            if timeout(pause, self.next()).await == Ok(false) {
                return;
            }
            if *phase.borrow() != Phase::Chaos {
                continue;
            }
            match random.random_range(0..10) {
                0..=4 => self.ack_all(),
                5..=7 => {
                    self.later.shuffle(random);
                    let kept = self.later.len() / 2;
                    let some = self.later.split_off(kept);
                    self.ack(&some);
                }
                _ => {}
            }
            if !calm && random.random_ratio(1, 60) {
                if random.random() {
                    self.leave(Duration::from_millis(random.random_range(0..500))).await;
                }
                // Otherwise it is just dropped.
                return;
            }
        }
    }

    /// Takes a batch; false at the end, which must not come by itself.
    async fn next(&mut self) -> bool {
        let batch = match self.consumer.next_batch().await {
            Ok(Some(batch)) => batch,
            Ok(None) => {
                self.all.complain(format!("consumer {} came to an end", self.number));
                return false;
            }
            Err(error) => {
                self.all.complain(format!("consumer {} ended: {error}", self.number));
                return false;
            }
        };
        match batch.decoded() {
            Ok(records) => {
                let shown: Vec<(Id, u64)> = records
                    .iter()
                    .map(|record| (id(record.id), record_of(&record.payload).unwrap_or(u64::MAX)))
                    .collect();
                self.all.history.deliver(self.number, &shown);
            }
            Err(error) => self.all.complain(format!("consumer {} cannot read a batch: {error}", self.number)),
        }
        self.later.extend(batch.ids());
        true
    }

    fn ack_all(&mut self) {
        let all = std::mem::take(&mut self.later);
        self.ack(&all);
    }

    fn ack(&mut self, ids: &[RecordId]) {
        if ids.is_empty() {
            return;
        }
        if let Err(error) = self.consumer.ack(ids) {
            self.all.complain(format!("consumer {} cannot acknowledge: {error}", self.number));
            return;
        }
        let ids: Vec<Id> = ids.iter().copied().map(id).collect();
        self.all.history.ack(self.number, &ids);
        self.all.acked.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
    }

    async fn leave(&mut self, limit: Duration) {
        self.all.history.leave(self.number);
        let stopped = timeout(limit + PATIENCE, self.consumer.stop(limit)).await;
        let Ok(Ok(report)) = stopped else {
            return self.all.complain(format!("consumer {} did not stop: {stopped:?}", self.number));
        };
        if report.clean && report.unsent_acks == 0 {
            if self.restarts == self.all.restarts.count() {
                self.all.history.confirm(self.number);
            }
        } else if limit == PATIENCE {
            let complaint = format!("consumer {} did not leave cleanly: {report:?}", self.number);
            self.all.complain(complaint);
        }
    }
}
