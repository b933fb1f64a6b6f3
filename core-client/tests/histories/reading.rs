//! Readers: one that follows the stream all the time, others that read what there is.

use super::producing::id;
use hstream_testkit::history::{Event, History, Id, record_of};
use hstreamdb::{Client, Offset, ReaderBuilder, ReceivedBatch};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::timeout};

/// A reader of what there is comes to its end this soon, whatever happens in between.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Reading {
    pub client: Client,
    pub stream: String,
    pub history: Arc<History>,
    /// Records the present follower has given.
    pub followed: AtomicUsize,
    /// Readers that came to their end, and those that failed.
    pub finished: AtomicU32,
    pub failed: AtomicU32,
}

impl Reading {
    pub fn new(client: Client, stream: &str, history: Arc<History>) -> Self {
        let (finished, failed) = (AtomicU32::new(0), AtomicU32::new(0));
        Reading {
            client,
            stream: stream.to_owned(),
            history,
            followed: AtomicUsize::new(0),
            finished,
            failed,
        }
    }

    /// Follows the stream from its beginning until it is over.
    pub async fn follow(&self, mut over: watch::Receiver<bool>) {
        let over = over.wait_for(|over| *over);
        tokio::select! {
            _ = over => {}
            () = self.follow_for_ever() => {}
        }
    }

    async fn follow_for_ever(&self) {
        loop {
            let number = self.history.open(None);
            self.followed.store(0, Ordering::Release);
            match self.probing(self.client.stream_reader(&self.stream)).open().await {
                Ok(reader) => {
                    while let Ok(Some(batch)) = reader.next_batch().await {
                        self.note(number, &batch);
                        self.followed.fetch_add(batch.len(), Ordering::AcqRel);
                    }
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
            self.failed.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Reads what there is, again and again.
    pub async fn look(&self, seed: u64, shards: &[u64], over: watch::Receiver<bool>) {
        let random = &mut StdRng::seed_from_u64(seed ^ 0x4EAD);
        while !*over.borrow() {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..150))).await;
            let shard = shards.choose(random).copied().filter(|_| random.random());
            let builder = match shard {
                Some(shard) => self.client.shard_reader(&self.stream, shard),
                None => self.client.stream_reader(&self.stream),
            };
            let number = self.history.open(shard);
            let Ok(reader) = self.probing(builder).until(Offset::Latest).open().await else { continue };
            let read = async {
                while let Some(batch) = reader.next_batch().await? {
                    self.note(number, &batch);
                }
                Ok::<_, hstreamdb::Error>(())
            };
            match timeout(PATIENCE, read).await.expect("a read of what there is comes to its end") {
                Ok(()) => {
                    self.history.note(Event::Finished { reader: number });
                    self.finished.fetch_add(1, Ordering::AcqRel);
                }
                Err(_) => {
                    self.failed.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
    }

    /// A connection that says nothing for a while is tried.
    fn probing(&self, builder: ReaderBuilder) -> ReaderBuilder {
        builder.set("probe_interval_ms", 200).unwrap()
    }

    fn note(&self, reader: u32, batch: &ReceivedBatch) {
        self.history.read(reader, &records(batch));
    }
}

/// Everything that is stored, shard after shard.
pub async fn everything(client: &Client, stream: &str) -> Vec<(Id, u64)> {
    let mut all = Vec::new();
    for shard in client.list_shards(stream).await.unwrap() {
        let reader = client.shard_reader(stream, shard.id).until(Offset::Latest).open().await.unwrap();
        let read = async {
            while let Some(batch) = reader.next_batch().await.unwrap() {
                all.extend(records(&batch));
            }
        };
        timeout(PATIENCE, read).await.expect("the final look comes to its end");
    }
    all
}

fn records(batch: &ReceivedBatch) -> Vec<(Id, u64)> {
    let records = batch.decoded().expect("every batch can be read");
    records.iter().map(|record| (id(record.id), record_of(&record.payload).unwrap_or(u64::MAX))).collect()
}
