//! Callers that append in every way there is, and note what they were told.

use super::plan::{Plan, ProducerPlan};
use futures::FutureExt as _;
use hstream_testkit::{
    eventually,
    history::{History, Id, Outcome, Promise, payload},
};
use hstreamdb::{AppendOutcome, Client, Producer, Record, RecordBatch, RecordId, Result};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::timeout};

/// Whatever was appended is answered this long after everything works again, at the latest.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a producer that is closed in the middle of it all is given.
const SHORT: Duration = Duration::from_millis(300);

pub fn id(id: RecordId) -> Id {
    Id { shard: id.shard_id, batch: id.batch_id, index: id.batch_index }
}

/// One producer of the plan.
pub struct Producing {
    producer: Producer,
    number: u32,
    closes_early: bool,
    ledger: Arc<Ledger>,
}

/// What its callers were told.
struct Ledger {
    history: Arc<History>,
    /// Records the producer took on.
    accepted: AtomicU64,
    /// Answers that are still to come.
    open: AtomicUsize,
}

impl Ledger {
    fn tell(&self, record: u64, result: &Result<RecordId>) {
        let outcome = match result {
            Ok(stored) => Outcome::Stored(id(*stored)),
            Err(error) if error.may_have_been_applied() => Outcome::Unknown,
            Err(_) => Outcome::Failed,
        };
        self.history.resolve(record, outcome);
    }

    fn tell_all(&self, records: &[u64], outcome: &AppendOutcome) {
        assert_eq!(outcome.ids.len(), records.len(), "one place per record");
        let mut told = vec![false; records.len()];
        for (place, stored) in outcome.ids.iter().enumerate().filter_map(|(at, id)| Some((at, (*id)?))) {
            told[place] = true;
            self.tell(records[place], &Ok(stored));
        }
        for (range, error) in &outcome.errors {
            for place in range.clone() {
                // One that has an id and an error is told twice, which the check notices.
                told[place] = true;
                self.tell(records[place], &Err(error.clone()));
            }
        }
    }
}

impl Producing {
    pub async fn start(
        client: &Client,
        stream: &str,
        plan: &ProducerPlan,
        number: u32,
        history: &Arc<History>,
    ) -> Self {
        let producer = client
            .producer(stream)
            .batch_max_records(plan.batch_max_records)
            .batch_max_bytes(plan.batch_max_bytes)
            .batch_max_age(plan.batch_max_age)
            .compression(plan.compression)
            .max_inflight_per_shard(plan.max_inflight)
            .flow_control_records(plan.flow_records)
            .when_full(plan.when_full)
            .delivery_timeout(plan.delivery_timeout)
            .allow_duplicates(plan.allow_duplicates);
        let producer = eventually("a producer", PATIENCE, || producer.clone().build().map(Result::ok)).await;
        let ledger =
            Ledger { history: history.clone(), accepted: AtomicU64::new(0), open: AtomicUsize::new(0) };
        Producing { producer, number, closes_early: plan.closes_early, ledger: Arc::new(ledger) }
    }

    /// Runs the callers until the chaos is over; then they have appended everything they will.
    pub async fn append(&self, plan: &Plan, of: &ProducerPlan, over: &watch::Receiver<bool>) {
        let promise = match (plan.capable, of.allow_duplicates) {
            (true, _) => Promise::ExactlyOnce,
            (false, false) => Promise::AtMostOnce,
            (false, true) => Promise::Duplicates,
        };
        let lanes = (0..of.lanes).map(|lane| {
            let seed = plan.seed ^ (u64::from(self.number) << 32) ^ (u64::from(lane) << 40);
            let caller = Caller {
                producer: self.producer.clone(),
                ledger: self.ledger.clone(),
                lane: self.ledger.history.lane(promise),
                // A record larger than flow control allows is refused, which is another test.
                most: of.flow_records.min(25),
                random: StdRng::seed_from_u64(seed),
            };
            caller.run(over.clone())
        });
        futures::future::join_all(lanes).await;
    }

    /// Ends a producer that is closed before everything works again.
    pub async fn close_early(&self) {
        if self.closes_early {
            let closed = timeout(PATIENCE, self.producer.close(SHORT)).await;
            closed.expect("a close with a deadline ends").unwrap();
        }
    }

    /// Ends the producer, and checks that everybody was told and nothing is held.
    pub async fn finish(self) {
        // The first error of a record is none of the flush.
        let _ = timeout(PATIENCE, self.producer.flush()).await.expect("a flush ends");
        eventually("an answer for every append", PATIENCE, || async {
            (self.ledger.open.load(Ordering::Acquire) == 0).then_some(())
        })
        .await;
        let pending = self.producer.pending();
        self.ledger.history.idle(self.number, pending.records, pending.bytes);
        let report = timeout(PATIENCE, self.producer.close(SHORT))
            .await
            .expect("a close with a deadline ends")
            .unwrap();
        let accounted = report.acknowledged + report.failed + report.unresolved;
        assert_eq!(
            accounted,
            self.ledger.accepted.load(Ordering::Acquire),
            "{report:?} of producer {}",
            self.number
        );
    }
}

/// One caller: what it appends comes one after the other.
struct Caller {
    producer: Producer,
    ledger: Arc<Ledger>,
    lane: u32,
    most: usize,
    random: StdRng,
}

impl Caller {
    async fn run(mut self, over: watch::Receiver<bool>) {
        while !*over.borrow() {
            match self.random.random_range(0..20) {
                0..=5 => self.append().await,
                6..=10 => self.append_many().await,
                11 | 12 => self.try_append(),
                13..=15 => self.try_append_many(),
                16 => self.append_and_think_better_of_it(),
                17 => self.append_and_forget().await,
                18 => {
                    let limit = Duration::from_millis(self.random.random_range(0..20));
                    // Given up or not, successful or not: only the wait is.
                    let _ = timeout(limit, self.producer.flush()).await;
                }
                _ => {}
            }
            let pause = self.random.random_range(0..12);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn record(&mut self) -> (u64, Record) {
        let number = self.ledger.history.invoke(self.lane);
        let length = if self.random.random_ratio(1, 50) {
            self.random.random_range(0..30_000)
        } else {
            self.random.random_range(0..300)
        };
        let key = format!("key{}", self.random.random_range(0..12));
        (number, Record::raw(payload(number, length)).with_key(key))
    }

    fn batch(&mut self) -> (Vec<u64>, RecordBatch) {
        let mut batch = RecordBatch::default();
        let numbers = (0..self.random.random_range(1..=self.most)).map(|_| {
            let (number, record) = self.record();
            batch.push_record(&record);
            number
        });
        (numbers.collect(), batch)
    }

    fn accept(&self, records: usize) {
        self.ledger.accepted.fetch_add(records as u64, Ordering::AcqRel);
    }

    /// Notes what the future says, whenever it does.
    fn await_answer<F>(&self, answer: F, note: impl FnOnce(&Ledger, F::Output) + Send + 'static)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let ledger = self.ledger.clone();
        ledger.open.fetch_add(1, Ordering::AcqRel);
        tokio::spawn(async move {
            let answer = answer.await;
            note(&ledger, answer);
            ledger.open.fetch_sub(1, Ordering::AcqRel);
        });
    }

    async fn append(&mut self) {
        let (number, record) = self.record();
        match self.producer.append(record).await {
            Ok(receipt) => {
                self.accept(1);
                self.await_answer(receipt, move |ledger, result| ledger.tell(number, &result));
            }
            Err(error) => self.refused(number, &error),
        }
    }

    fn try_append(&mut self) {
        let (number, record) = self.record();
        match self.producer.try_append(record) {
            Ok(receipt) => {
                self.accept(1);
                self.await_answer(receipt, move |ledger, result| ledger.tell(number, &result));
            }
            Err(error) => self.refused(number, &error),
        }
    }

    fn refused(&self, number: u64, error: &hstreamdb::Error) {
        assert!(!error.may_have_been_applied(), "what was not taken on cannot be stored: {error}");
        self.ledger.history.resolve(number, Outcome::Failed);
    }

    async fn append_many(&mut self) {
        let (numbers, batch) = self.batch();
        match self.producer.append_many(batch).await {
            Ok(receipt) => {
                self.accept(numbers.len());
                self.await_answer(receipt, move |ledger, outcome| ledger.tell_all(&numbers, &outcome));
            }
            Err(error) => numbers.iter().for_each(|number| self.refused(*number, &error)),
        }
    }

    fn try_append_many(&mut self) {
        let (numbers, batch) = self.batch();
        let ledger = self.ledger.clone();
        ledger.open.fetch_add(1, Ordering::AcqRel);
        let told = numbers.clone();
        let done = Box::new(move |outcome: AppendOutcome| {
            ledger.tell_all(&told, &outcome);
            ledger.open.fetch_sub(1, Ordering::AcqRel);
        });
        match self.producer.try_append_many(batch, done) {
            Ok(()) => self.accept(numbers.len()),
            Err((error, batch, _)) => {
                assert_eq!(batch.len(), numbers.len(), "the batch comes back whole");
                self.ledger.open.fetch_sub(1, Ordering::AcqRel);
                numbers.iter().for_each(|number| self.refused(*number, &error));
            }
        }
    }

    /// Drops the append before it has found room, if there is none.
    fn append_and_think_better_of_it(&mut self) {
        let (number, record) = self.record();
        let producer = self.producer.clone();
        let polled = pin!(producer.append(record)).now_or_never();
        match polled {
            None => self.ledger.history.resolve(number, Outcome::Failed),
            Some(Ok(receipt)) => {
                self.accept(1);
                self.await_answer(receipt, move |ledger, result| ledger.tell(number, &result));
            }
            Some(Err(error)) => self.refused(number, &error),
        }
    }

    /// Drops the receipt.
    async fn append_and_forget(&mut self) {
        let (number, record) = self.record();
        match self.producer.append(record).await {
            Ok(receipt) => {
                self.accept(1);
                self.ledger.history.release(number);
                drop(receipt);
            }
            Err(error) => self.refused(number, &error),
        }
    }
}
