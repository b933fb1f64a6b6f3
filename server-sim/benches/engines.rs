//! What the replicated engine costs beside the embedded one and beside publishing the same batches to JetStream with nothing
//! around it.
//!
//! `cargo bench -p hstream-server --bench engines [-- SHAPE ...]` with shapes such as `1x64` (one shard, 64 KiB batches); all
//! without one. It starts NATS servers of its own: `make setup` installs the binary.
//!
//! | variable | default | meaning |
//! | --- | --- | --- |
//! | `HSTREAM_BENCH_MIB` | 64 | MiB appended per round, less for small batches |
//! | `HSTREAM_BENCH_ROUNDS` | 3 | rounds; the alternatives take turns and the median counts |
//! | `HSTREAM_BENCH_PEERS` | 1,3 | a lone server with one copy, three peers with three copies |
//! | `HSTREAM_BENCH_SYNC` | default,always | `sync_interval` of the servers |

use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use hstream_server::store::disk::{Disk, LocalDisk};
use hstream_server::store::embedded::{EmbeddedOptions, EmbeddedStore};
use hstream_server::store::jetstream::{JetStreamOptions, JetStreamStore};
use hstream_server::store::{FIRST_LSN, LogStore, NewBatch, ReadLimits, ShardSpec};
use hstream_testkit::nats::{Nats, NatsOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const KIB: usize = 1 << 10;
const MIB: u64 = 1 << 20;
/// Batches of a round, at most.
const MOST_BATCHES: u64 = 40_000;

/// How a load looks: `in_flight` callers, each with one batch of `batch` bytes under way.
#[derive(Debug, Clone, Copy)]
struct Shape {
    shards: u64,
    batch: usize,
    in_flight: u64,
}

impl Shape {
    const ALL: [Shape; 6] = [
        Shape { shards: 1, batch: KIB, in_flight: 256 },
        Shape { shards: 8, batch: KIB, in_flight: 256 },
        Shape { shards: 1, batch: 64 * KIB, in_flight: 16 },
        Shape { shards: 8, batch: 64 * KIB, in_flight: 16 },
        Shape { shards: 1, batch: 256 * KIB, in_flight: 8 },
        Shape { shards: 8, batch: 256 * KIB, in_flight: 8 },
    ];

    fn name(self) -> String {
        format!("{}x{}", self.shards, self.batch / KIB)
    }

    fn batches(self, bytes: u64) -> u64 {
        (bytes / self.batch as u64).min(MOST_BATCHES)
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let shapes: Vec<Shape> =
        Shape::ALL.into_iter().filter(|shape| wanted.is_empty() || wanted.contains(&shape.name())).collect();
    for peers in list("HSTREAM_BENCH_PEERS", "1,3") {
        for sync in list("HSTREAM_BENCH_SYNC", "default,always") {
            runtime.block_on(compare(peers.parse().expect("a number of peers"), &sync, &shapes));
        }
    }
}

fn list(name: &str, default: &str) -> Vec<String> {
    let text = std::env::var(name).unwrap_or_else(|_| default.to_owned());
    text.split(',').map(str::to_owned).collect()
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn compare(peers: usize, sync: &str, shapes: &[Shape]) {
    let copies = if peers == 1 { "one server, one copy" } else { "three peers, three copies" };
    println!("{copies}, sync_interval {sync}: appended and acknowledged, MiB/s (batches/s); read, MiB/s");
    println!(
        "| shards x batch, in flight | plain publishing | JetStream engine | of plain | embedded (fdatasync) | read: plain | read: engine |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let options = NatsOptions {
        peers,
        sync_interval: (sync != "default").then(|| sync.to_owned()),
        ..NatsOptions::for_nodes()
    };
    let nats = Nats::start(options).expect("NATS starts");
    let mut number = 0;
    for shape in shapes {
        let batches = shape.batches(setting("HSTREAM_BENCH_MIB", 64) * MIB);
        let mut rates: [Vec<f64>; 5] = Default::default();
        for _ in 0..setting("HSTREAM_BENCH_ROUNDS", 3) {
            number += 1;
            let plain = plain(&nats, *shape, batches, number).await;
            let engine = engine(&nats, *shape, batches, number).await;
            let embedded = embedded(*shape, batches).await;
            for (rates, rate) in rates.iter_mut().zip([plain.0, engine.0, embedded, plain.1, engine.1]) {
                rates.push(rate);
            }
        }
        let [plain, engine, embedded, plain_read, engine_read] = rates.map(median);
        let each = |rate: f64| format!("{rate:.1} ({:.0})", rate * MIB as f64 / shape.batch as f64);
        println!(
            "| {} x {} KiB, {} | {} | {} | {:.0} % | {} | {plain_read:.0} | {engine_read:.0} |",
            shape.shards,
            shape.batch / KIB,
            shape.in_flight,
            each(plain),
            each(engine),
            100.0 * engine / plain,
            each(embedded),
        );
    }
    println!();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Bytes that do not compress, different for each caller.
fn payload(len: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    Bytes::from(words.take(len.div_ceil(8)).flatten().take(len).collect::<Vec<u8>>())
}

fn rate(shape: Shape, batches: u64, took: Duration) -> f64 {
    (batches * shape.batch as u64) as f64 / MIB as f64 / took.as_secs_f64()
}

/// Runs so many callers, each of which does one thing after the other until there is nothing left to do; MiB/s.
async fn all<F>(shape: Shape, batches: u64, call: impl Fn(u64, Bytes) -> F + Clone + Send + 'static) -> f64
where
    F: Future<Output = ()> + Send,
{
    let left = Arc::new(AtomicU64::new(batches));
    let start = Instant::now();
    let callers = (0..shape.in_flight).map(|caller| {
        let (left, call, bytes) = (left.clone(), call.clone(), payload(shape.batch, caller + 1));
        tokio::spawn(async move {
            let mut turn = caller;
            while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                call(1 + turn % shape.shards, bytes.clone()).await;
                turn += shape.in_flight + 1;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("ends well");
    }
    rate(shape, batches, start.elapsed())
}

/// Each batch as one message, acknowledged by JetStream; then all of them from a consumer.
async fn plain(nats: &Nats, shape: Shape, batches: u64, number: u32) -> (f64, f64) {
    let client = async_nats::connect(nats.urls()).await.expect("connects");
    let context = jetstream::new(client.clone());
    let config = stream::Config {
        name: format!("PLAIN_{number}"),
        subjects: vec![format!("plain.{number}.>")],
        num_replicas: nats.peers(),
        ..Default::default()
    };
    let stream = context.create_stream(config).await.expect("a stream");
    nats.ready().await.expect("leaders");
    let publishing = context.clone();
    let written = all(shape, batches, move |shard, bytes| {
        let context = publishing.clone();
        async move {
            let sent = context.publish(format!("plain.{number}.{shard}"), bytes).await.expect("is sent");
            sent.await.expect("is acknowledged");
        }
    });
    let written = written.await;
    let start = Instant::now();
    let consumer = jetstream::consumer::pull::OrderedConfig::default();
    let consumer = stream.create_consumer(consumer).await.expect("a consumer");
    let mut messages = consumer.messages().await.expect("messages");
    for _ in 0..batches {
        let message = futures::StreamExt::next(&mut messages).await.expect("goes on").expect("comes");
        assert_eq!(message.payload.len(), shape.batch);
    }
    let read = rate(shape, batches, start.elapsed());
    drop(messages);
    context.delete_stream(format!("PLAIN_{number}")).await.expect("is deleted");
    (written, read)
}

async fn append_all(log: &Arc<dyn LogStore>, shape: Shape, batches: u64) -> f64 {
    let log = log.clone();
    all(shape, batches, move |shard, bytes| {
        let log = log.clone();
        async move {
            let batch = NewBatch { bytes, records: 1, producer: None };
            log.append(shard, batch).await.expect("is stored");
        }
    })
    .await
}

fn specs(shape: Shape, replicas: usize) -> Vec<ShardSpec> {
    let replicas = u32::try_from(replicas).unwrap_or(1);
    (1..=shape.shards).map(|shard| ShardSpec { shard, retention_secs: 0, replicas }).collect()
}

async fn engine(nats: &Nats, shape: Shape, batches: u64, number: u32) -> (f64, f64) {
    let open = || {
        let url = nats.store_url(&format!("bench-{number}")).parse().expect("an address");
        JetStreamStore::open(JetStreamOptions::new(url))
    };
    let store = open().await.expect("the store opens");
    let log = store.log();
    log.create_shards(&specs(shape, nats.peers())).await.expect("creates");
    nats.ready().await.expect("leaders");
    let written = append_all(&log, shape, batches).await;
    // Another node: it has nothing in memory that it appended itself.
    let other = open().await.expect("the store opens again");
    let shards: Vec<_> = (1..=shape.shards).collect();
    other.log().catch_up(&shards).await.expect("catches up");
    let start = Instant::now();
    let reads = (1..=shape.shards).map(|shard| tokio::spawn(read_shard(other.log(), shard)));
    let mut bytes = 0;
    for read in reads.collect::<Vec<_>>() {
        bytes += read.await.expect("ends well");
    }
    assert_eq!(bytes, batches * shape.batch as u64, "nothing is lost or doubled");
    let read = rate(shape, batches, start.elapsed());
    log.delete_shards(&shards).await.expect("deletes");
    other.close().await;
    store.close().await;
    (written, read)
}

/// Reads a shard from its first batch to its tail; how many bytes.
async fn read_shard(log: Arc<dyn LogStore>, shard: u64) -> u64 {
    let limits = ReadLimits { max_batches: 1024, max_bytes: 1 << 20 };
    let tail = log.tail(shard).expect("a tail");
    let (mut from, mut bytes) = (FIRST_LSN, 0);
    while from <= tail {
        let chunk = log.read(shard, from, limits).await.expect("reads");
        assert!(chunk.gap.is_none_or(|gap| gap.from == FIRST_LSN), "nothing is lost: {:?}", chunk.gap);
        bytes += chunk.batches.iter().map(|batch| batch.bytes.len() as u64).sum::<u64>();
        assert!(chunk.next > from, "it goes on");
        from = chunk.next;
    }
    bytes
}

async fn embedded(shape: Shape, batches: u64) -> f64 {
    let base = std::env::var_os("HSTREAM_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(base).expect("a directory for the benchmark");
    let disk = Arc::new(LocalDisk::open(dir.path()).expect("the directory can be used")) as Arc<dyn Disk>;
    let store = EmbeddedStore::open(disk, EmbeddedOptions::default()).await.expect("the store opens");
    let log = store.log();
    log.create_shards(&specs(shape, 1)).await.expect("creates");
    let written = append_all(&log, shape, batches).await;
    store.close().await;
    written
}
