//! Everything that a client can have open, at work.

use hstream_server::test_cluster::TestCluster;
use hstream_testkit::history::{Event, History, Id, Outcome, Promise, payload, record_of};
use hstreamdb::{
    Client, Consumer, ErrorKind, Offset, PolledReader, Reader, ReceivedBatch, Record, StartFrom,
    StreamOptions, SubscriptionOptions,
};
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

const STREAM: &str = "s";
const SUBSCRIPTION: &str = "sub";
const SHARDS: u32 = 3;
/// Between two appends of one producer.
const PAUSE: Duration = Duration::from_millis(30);
/// Everything goes on within this time, whatever happened.
const PATIENCE: Duration = Duration::from_secs(40);

/// Number of the newest record that somebody has handled, plus one.
#[derive(Debug, Default)]
struct Mark(AtomicU64);

impl Mark {
    fn set(&self, record: u64) {
        self.0.fetch_max(record + 1, Ordering::AcqRel);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A client and all that goes on through it.
pub struct Load {
    url: String,
    client: Client,
    history: Arc<History>,
    marks: Vec<(String, Arc<Mark>)>,
    acked: Arc<Mutex<HashSet<Id>>>,
    stop_appending: CancellationToken,
    stop: CancellationToken,
    appending: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

impl Load {
    /// Two producers, two consumers, and a reader of every kind.
    pub async fn start(cluster: &TestCluster) -> Load {
        let client = Client::connect(&cluster.url()).await.unwrap();
        client.create_stream(STREAM, StreamOptions::new().shard_count(SHARDS)).await.unwrap();
        let options = SubscriptionOptions::new().offset(StartFrom::Earliest).ack_timeout_secs(15);
        client.create_subscription(SUBSCRIPTION, STREAM, options).await.unwrap();
        let mut load = Load {
            url: cluster.url(),
            client: client.clone(),
            history: Arc::default(),
            marks: Vec::new(),
            acked: Arc::default(),
            stop_appending: CancellationToken::new(),
            stop: CancellationToken::new(),
            appending: Vec::new(),
            others: Vec::new(),
        };
        for number in 0..2 {
            let mark = load.mark(format!("producer {number}"));
            let producer =
                client.producer(STREAM).batch_max_age(Duration::from_millis(5)).build().await.unwrap();
            let (history, stop) = (load.history.clone(), load.stop_appending.clone());
            load.appending.push(tokio::spawn(append(producer, history, mark, stop)));
        }
        // Which of the two gets something is the server's business, so they share a mark.
        let mark = load.mark("consumers".into());
        for _ in 0..2 {
            let consumer = client.consumer(SUBSCRIPTION).start().await.unwrap();
            let (history, stop) = (load.history.clone(), load.stop.clone());
            load.others.push(tokio::spawn(consume(
                consumer,
                history,
                load.acked.clone(),
                mark.clone(),
                stop,
            )));
        }
        let mark = load.mark("stream reader".into());
        let reader = client.stream_reader(STREAM).open().await.unwrap();
        load.others.push(tokio::spawn(read(reader, load.history.clone(), None, mark, load.stop.clone())));
        let (shards, polled) = (load.mark("shard readers".into()), load.mark("polled readers".into()));
        for shard in client.list_shards(STREAM).await.unwrap() {
            let reader = client.shard_reader(STREAM, shard.id).open().await.unwrap();
            let (history, stop) = (load.history.clone(), load.stop.clone());
            load.others.push(tokio::spawn(read(reader, history, Some(shard.id), shards.clone(), stop)));
            let reader = client.polled_reader(STREAM, shard.id).timeout(Duration::from_millis(200));
            let reader = reader.open().await.unwrap();
            let (history, stop) = (load.history.clone(), load.stop.clone());
            load.others.push(tokio::spawn(poll(reader, history, shard.id, polled.clone(), stop)));
        }
        load
    }

    fn mark(&mut self, name: String) -> Arc<Mark> {
        let mark = Arc::<Mark>::default();
        self.marks.push((name, mark.clone()));
        mark
    }

    /// The server forgets from here on what it had not made durable, and has done so when this is called again.
    pub fn note_fault(&self) {
        self.history.note(Event::Restarted);
    }

    /// Waits until everybody has handled a record that was appended after this call.
    pub async fn goes_on(&self) {
        self.goes_on_for(|_| true).await;
    }

    /// The same for producers and consumers only.
    pub async fn writing_goes_on(&self) {
        self.goes_on_for(|name| !name.contains("reader")).await;
    }

    async fn goes_on_for(&self, concerned: impl Fn(&str) -> bool) {
        // Numbers are given in the order of the appends.
        let newest = self.marks.iter().map(|(_, mark)| mark.get()).max().unwrap_or_default();
        let begun = Instant::now();
        loop {
            let behind: Vec<_> = self
                .marks
                .iter()
                .filter(|(name, mark)| concerned(name) && mark.get() <= newest + 10)
                .collect();
            if behind.is_empty() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "for {PATIENCE:?} nothing came of {behind:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends everything in order, and checks that nothing happened that must not.
    pub async fn end(self) -> hstream_testkit::history::Summary {
        self.stop_appending.cancel();
        for task in self.appending {
            timeout(PATIENCE, task).await.expect("a producer hangs").unwrap();
        }
        let stored = everything(&self.url).await;
        let begun = Instant::now();
        loop {
            let left = {
                let acked = self.acked.lock().unwrap();
                stored.iter().filter(|(id, _)| !acked.contains(id)).count()
            };
            if left == 0 {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{left} of {} records were not consumed", stored.len());
            sleep(Duration::from_millis(20)).await;
        }
        self.history.note(Event::Drained { subscription: 0 });
        self.history.keep(&stored);
        self.stop.cancel();
        for task in self.others {
            timeout(PATIENCE, task).await.expect("a consumer or reader hangs").unwrap();
        }
        // A key reader ends with what there is.
        let keyed = self.client.key_reader(STREAM, "key-0").until(Offset::Latest).open().await.unwrap();
        let mut seen = 0;
        while let Some(batch) = timeout(PATIENCE, keyed.next_batch()).await.unwrap().unwrap() {
            seen += batch.len();
        }
        assert!(seen > 0, "the key reader gave nothing");
        self.client.close(PATIENCE).await.unwrap();
        self.history.check().unwrap_or_else(|violations| panic!("{violations}"))
    }
}

async fn append(
    producer: hstreamdb::Producer,
    history: Arc<History>,
    mark: Arc<Mark>,
    stop: CancellationToken,
) {
    let lane = history.lane(Promise::ExactlyOnce);
    let mut turn = 0;
    while !stop.is_cancelled() {
        let mut waiting = Vec::new();
        for _ in 0..5 {
            let record = history.invoke(lane);
            turn += 1;
            let content = Record::raw(payload(record, 60)).with_key(format!("key-{}", turn % 7));
            waiting.push((record, producer.append(content).await.unwrap()));
        }
        for (record, receipt) in waiting {
            // Within the delivery timeout of two minutes every node is back.
            let id = receipt.await.unwrap();
            let id = Id { shard: id.shard_id, batch: id.batch_id, index: id.batch_index };
            history.resolve(record, Outcome::Stored(id));
            mark.set(record);
        }
        sleep(PAUSE).await;
    }
}

async fn consume(
    consumer: Consumer,
    history: Arc<History>,
    acked: Arc<Mutex<HashSet<Id>>>,
    mark: Arc<Mark>,
    stop: CancellationToken,
) {
    let number = history.attach(0, false);
    loop {
        let batch = tokio::select! {
            batch = consumer.next_batch() => batch.unwrap().expect("the consumer goes on"),
            () = stop.cancelled() => break,
        };
        let records = records_of(&batch);
        history.deliver(number, &records);
        consumer.ack_batch(&batch).unwrap();
        let ids: Vec<Id> = records.iter().map(|(id, _)| *id).collect();
        history.ack(number, &ids);
        acked.lock().unwrap().extend(ids);
        records.iter().for_each(|(_, record)| mark.set(*record));
    }
    history.leave(number);
    assert!(consumer.stop(PATIENCE).await.unwrap().clean);
    history.confirm(number);
}

async fn read(
    reader: Reader,
    history: Arc<History>,
    shard: Option<u64>,
    mark: Arc<Mark>,
    stop: CancellationToken,
) {
    let number = history.open(shard);
    loop {
        let batch = tokio::select! {
            batch = reader.next_batch() => batch.unwrap().expect("the reader goes on"),
            () = stop.cancelled() => return,
        };
        let records = records_of(&batch);
        history.read(number, &records);
        records.iter().for_each(|(_, record)| mark.set(*record));
    }
}

async fn poll(
    reader: PolledReader,
    history: Arc<History>,
    shard: u64,
    mark: Arc<Mark>,
    stop: CancellationToken,
) {
    let number = history.open(Some(shard));
    while !stop.is_cancelled() {
        let batches = match reader.read(100).await {
            Ok(batches) => batches,
            // It has tried as often as calls are; whoever wants more tries again.
            Err(error) if error.is_retryable() || error.kind() == ErrorKind::Timeout => continue,
            Err(error) => panic!("{error}"),
        };
        for batch in batches {
            let records = records_of(&batch);
            history.read(number, &records);
            records.iter().for_each(|(_, record)| mark.set(*record));
        }
    }
    reader.close().await.unwrap();
}

fn records_of(batch: &ReceivedBatch) -> Vec<(Id, u64)> {
    let record = |record: &hstreamdb::ReceivedRecord| {
        let id = Id { shard: record.id.shard_id, batch: record.id.batch_id, index: record.id.batch_index };
        (id, record_of(&record.payload).expect("what was appended"))
    };
    batch.records().unwrap().iter().map(record).collect()
}

/// All that is stored, in its order.
async fn everything(url: &str) -> Vec<(Id, u64)> {
    let client = Client::connect(url).await.unwrap();
    let mut stored = Vec::new();
    for shard in client.list_shards(STREAM).await.unwrap() {
        let reader = client.shard_reader(STREAM, shard.id).until(Offset::Latest).open().await.unwrap();
        while let Some(batch) = timeout(PATIENCE, reader.next_batch()).await.unwrap().unwrap() {
            stored.extend(records_of(&batch));
        }
    }
    client.close(PATIENCE).await.unwrap();
    stored
}
