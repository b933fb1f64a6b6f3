//! What one language does all the time: one process appends, another one consumes.

use super::{PATIENCE, STREAM, subscription};
use crate::adapter::{Adapter, AdapterCommand, Failure};
use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hstream_testkit::history::{Event, History, Id, Outcome, Promise, payload, record_of};
use hstreamdb::Client;
use serde_json::{Map, Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::watch, time::sleep};

/// Between two appends of one language.
const PAUSE: Duration = Duration::from_millis(40);
/// Shards that one append goes to. Every record is a batch, and every consumer takes one batch at a time: more of them than the
/// slowest language can take on a busy machine would measure that.
const AT_A_TIME: usize = 2;
/// A consumer that has had something that was appended so lately has had everything before.
const UP_TO_DATE: Duration = Duration::from_secs(1);
/// Longest wait for one batch.
const RECEIVE: Duration = Duration::from_millis(500);
/// Of every payload.
const BYTES: usize = 100;
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// How far the run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Phase {
    /// Everything goes on.
    Load,
    /// Nothing is appended any more.
    Drain,
    /// Consumers leave.
    Leave,
}

/// When each record was appended.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<HashMap<u64, Instant>>);

impl Clock {
    fn invoked(&self, record: u64, at: Instant) {
        lock(&self.0).insert(record, at);
    }

    fn newest(&self, records: &[(Id, u64)]) -> Option<Instant> {
        let times = lock(&self.0);
        records.iter().filter_map(|(_, record)| times.get(record).copied()).max()
    }
}

/// What all of it has in common.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub url: String,
    pub history: Arc<History>,
    pub clock: Arc<Clock>,
    /// One of every shard.
    pub keys: Arc<Vec<String>>,
    pub phases: watch::Receiver<Phase>,
}

/// A key for every shard of the stream.
pub(super) async fn keys(client: &Client, stream: &str) -> Result<Vec<String>> {
    let map = client.shard_map(stream).await?;
    let key_of = |id| (0..10_000).map(|n| format!("key-{n}")).find(|key| map.shard_for_key(key) == Some(id));
    map.shard_ids().map(|id| key_of(id).context("a shard that no key is of")).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The appends of one language.
#[derive(Debug)]
pub struct Appending {
    /// Which.
    pub language: String,
    /// When each append began, and when it was acknowledged.
    successes: Mutex<Vec<(Instant, Instant)>>,
    ended: AtomicBool,
}

impl Appending {
    pub(super) fn new(language: &str) -> Arc<Appending> {
        let (successes, ended) = Default::default();
        Arc::new(Appending { language: language.into(), successes, ended })
    }

    /// How long after this moment an append was acknowledged that began then or later.
    pub(super) fn first_after(&self, moment: Instant) -> Option<Duration> {
        let successes = lock(&self.successes);
        let first = successes.iter().find(|(begun, _)| *begun >= moment);
        first.map(|(_, done)| done.duration_since(moment))
    }

    /// Appends one record to some of the shards, again and again.
    pub(super) async fn run(self: Arc<Self>, command: AdapterCommand, load: Load) -> Result<()> {
        let mut adapter = Adapter::start(&command)?;
        adapter.done(&json!({ "do": "connect", "url": load.url })).await?;
        let options = json!({ "batch_max_age_ms": 5 });
        adapter.done(&json!({ "do": "producer", "stream": STREAM, "options": options })).await?;
        let lane = load.history.lane(Promise::ExactlyOnce);
        let mut turns = load.keys.chunks(AT_A_TIME).cycle();
        while *load.phases.borrow() == Phase::Load {
            let keys = turns.next().context("no shards")?;
            let numbers: Vec<u64> = keys.iter().map(|_| load.history.invoke(lane)).collect();
            let records: Vec<Value> = numbers
                .iter()
                .zip(keys)
                .map(|(number, key)| json!([key, BASE64.encode(payload(*number, BYTES))]))
                .collect();
            let begun = Instant::now();
            numbers.iter().for_each(|number| load.clock.invoked(*number, begun));
            let answer = adapter.call(&json!({ "do": "append", "records": records })).await?;
            let done = Instant::now();
            let answer = answer.map_err(|failure| failed(&self.language, "append", &failure))?;
            let ids = answer.get("ids").and_then(Value::as_array).context("no ids")?;
            ensure!(ids.len() == numbers.len(), "{} ids for {} records", ids.len(), numbers.len());
            for (number, id) in numbers.iter().zip(ids) {
                load.history.resolve(*number, Outcome::Stored(id_of(id)?));
            }
            lock(&self.successes).push((begun, done));
            sleep(PAUSE).await;
        }
        self.ended.store(true, Ordering::Release);
        adapter.done(&json!({ "do": "close" })).await?;
        Ok(())
    }
}

/// Against a cluster that tells repeats and comes back within the delivery timeout, nothing may fail.
fn failed(language: &str, what: &str, failure: &Failure) -> anyhow::Error {
    anyhow::anyhow!("{language}: {what} failed: {}: {}", failure.kind, failure.message)
}

/// The deliveries of one language.
#[derive(Debug)]
pub struct Consuming {
    /// Which.
    pub language: String,
    number: u32,
    /// When each batch came, and when the newest of its records was appended.
    deliveries: Mutex<Vec<(Instant, Instant)>>,
    acked: Mutex<HashSet<Id>>,
}

impl Consuming {
    pub(super) fn new(language: &str, number: u32) -> Arc<Consuming> {
        let (deliveries, acked) = Default::default();
        Arc::new(Consuming { language: language.into(), number, deliveries, acked })
    }

    /// How long after this moment a record came that was appended then or later.
    pub(super) fn first_after(&self, moment: Instant) -> Option<Duration> {
        let deliveries = lock(&self.deliveries);
        let first = deliveries.iter().find(|(_, appended)| *appended >= moment);
        first.map(|(came, _)| came.duration_since(moment))
    }

    fn is_up_to_date(&self) -> bool {
        lock(&self.deliveries).last().is_some_and(|(_, appended)| appended.elapsed() < UP_TO_DATE)
    }

    /// What came between this moment and the end of a wait: it tells a subscription that stood still from a consumer that
    /// was busy with what is older.
    pub(super) fn between(&self, moment: Instant, waited: Duration) -> String {
        let deliveries = lock(&self.deliveries);
        let before = deliveries.iter().take_while(|(came, _)| *came < moment);
        let newest = before.map(|(_, appended)| *appended).max();
        let behind = newest.map_or(Duration::ZERO, |newest| moment.saturating_duration_since(newest));
        let within = deliveries.iter().map(|(came, _)| *came).filter(|came| *came >= moment);
        let within: Vec<Instant> = within.take_while(|came| *came < moment + waited).collect();
        let marks: Vec<Instant> =
            [moment].into_iter().chain(within.iter().copied()).chain([moment + waited]).collect();
        let silence = marks
            .windows(2)
            .filter_map(|pair| Some((*pair.first()?, *pair.last()?)))
            .max_by_key(|(from, until)| until.duration_since(*from));
        let (from, until) = silence.unwrap_or((moment, moment));
        format!(
            "it was {:.1} s behind when that began; {} older batches came meanwhile, and nothing at all from {:.2} s to {:.2} s",
            behind.as_secs_f64(),
            within.len(),
            from.duration_since(moment).as_secs_f64(),
            until.duration_since(moment).as_secs_f64(),
        )
    }

    /// Receives and acknowledges until everybody leaves.
    pub(super) async fn run(self: Arc<Self>, command: AdapterCommand, load: Load) -> Result<()> {
        let mut adapter = Adapter::start(&command)?;
        adapter.done(&json!({ "do": "connect", "url": load.url })).await?;
        let attach = json!({
            "do": "attach", "subscription": subscription(&self.language), "consumer": "main", "options": {}
        });
        adapter.done(&attach).await?;
        let consumer = load.history.attach(self.number, false);
        while *load.phases.borrow() < Phase::Leave {
            let receive = json!({ "do": "receive", "consumer": "main", "timeout_ms": RECEIVE.as_millis() as u64, "ack": true });
            let answer = adapter.call(&receive).await?;
            let answer = answer.map_err(|failure| failed(&self.language, "receive", &failure))?;
            let records = records_of(&answer)?;
            if records.is_empty() {
                continue;
            }
            let ids: Vec<Id> = records.iter().map(|(id, _)| *id).collect();
            load.history.deliver(consumer, &records);
            load.history.ack(consumer, &ids);
            if let Some(appended) = load.clock.newest(&records) {
                lock(&self.deliveries).push((Instant::now(), appended));
            }
            lock(&self.acked).extend(ids);
        }
        load.history.note(Event::Leaving { consumer });
        let report = adapter.done(&json!({ "do": "detach", "consumer": "main" })).await?;
        ensure!(
            report.get("clean") == Some(&Value::Bool(true)),
            "{}: the consumer did not leave cleanly",
            self.language
        );
        load.history.note(Event::Confirmed { consumer });
        adapter.done(&json!({ "do": "close" })).await?;
        Ok(())
    }
}

fn records_of(answer: &Map<String, Value>) -> Result<Vec<(Id, u64)>> {
    if let Some(unreadable) = answer.get("unreadable") {
        bail!("a batch cannot be read: {unreadable}");
    }
    let records = answer.get("records").and_then(Value::as_array).context("no records")?;
    let record = |record: &Value| {
        let bytes = BASE64.decode(record["payload"].as_str().context("no payload")?)?;
        let id = id_of(&record["id"])?;
        Ok((id, record_of(&bytes).with_context(|| format!("record {id} was altered"))?))
    };
    records.iter().map(record).collect()
}

fn id_of(id: &Value) -> Result<Id> {
    let text = id.as_str().context("an id is no text")?;
    let mut parts = text.split('-');
    let mut part = || parts.next().with_context(|| format!("{text:?} is no id"));
    Ok(Id { shard: part()?.parse()?, batch: part()?.parse()?, index: part()?.parse()? })
}

/// Waits until every language has appended and received something.
pub(super) async fn begun(appending: &[Arc<Appending>], consuming: &[Arc<Consuming>]) -> Result<()> {
    within(PATIENCE, || {
        let waits = appending
            .iter()
            .filter(|of| lock(&of.successes).is_empty())
            .map(|of| format!("{} has appended nothing", of.language));
        let idle = consuming
            .iter()
            .filter(|of| lock(&of.deliveries).is_empty())
            .map(|of| format!("{} has received nothing", of.language));
        waits.chain(idle).collect()
    })
    .await
}

/// Waits until nothing is appended any more.
pub(super) async fn ended(appending: &[Arc<Appending>]) -> Result<()> {
    within(PATIENCE, || {
        let goes_on = appending.iter().filter(|of| !of.ended.load(Ordering::Acquire));
        goes_on.map(|of| format!("{} still appends", of.language)).collect()
    })
    .await
}

/// Waits until every subscription has had and acknowledged everything.
pub(super) async fn drained(consuming: &[Arc<Consuming>], stored: &[(Id, u64)]) -> Result<()> {
    within(PATIENCE, || {
        let left = |of: &Consuming| {
            let acked = lock(&of.acked);
            stored.iter().filter(|(id, _)| !acked.contains(id)).count()
        };
        let behind = consuming.iter().map(|of| (of, left(of))).filter(|(_, left)| *left > 0);
        behind
            .map(|(of, left)| format!("{} has not had {left} of {} records", of.language, stored.len()))
            .collect()
    })
    .await
}

/// Waits until every subscription has what was appended lately, but not for long.
pub(super) async fn caught_up(consuming: &[Arc<Consuming>], limit: Duration) {
    let end = Instant::now() + limit;
    while Instant::now() < end && !consuming.iter().all(|of| of.is_up_to_date()) {
        sleep(LOOK).await;
    }
}

async fn within(limit: Duration, complaints: impl Fn() -> Vec<String>) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let left = complaints();
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < end, "after {limit:?} {}", left.join(", "));
        sleep(LOOK).await;
    }
}
