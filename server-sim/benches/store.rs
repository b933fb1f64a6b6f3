//! Figures of the storage engine on this machine, each beside the ceiling measured in the same run.
//!
//! `cargo bench -p hstream-server --bench store [-- SECTION ...]` with sections `append`, `read`, `open` and
//! `idle`; all without one. Everything goes to a directory below `HSTREAM_BENCH_DIR` (default: the system's
//! temporary directory; it must be on a real disk) and is removed afterwards.
//!
//! | variable | default | meaning |
//! | --- | --- | --- |
//! | `HSTREAM_BENCH_MIB` | 256 | MiB appended per round of `append` and `read` |
//! | `HSTREAM_BENCH_ROUNDS` | 3 | rounds; the alternatives take turns and the median counts |
//! | `HSTREAM_BENCH_OPEN_MIB` | 1024 | MiB in the log that `open` opens |

use bytes::Bytes;
use hstream_server::store::disk::{Disk, LocalDisk};
use hstream_server::store::embedded::{EmbeddedOptions, EmbeddedStore};
use hstream_server::store::{FIRST_LSN, LogStore, NewBatch, ReadLimits, ShardSpec};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    if wants("idle") {
        runtime.block_on(idle());
    }
    if wants("append") {
        runtime.block_on(append());
    }
    if wants("read") {
        runtime.block_on(read());
    }
    if wants("open") {
        runtime.block_on(open());
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn directory() -> tempfile::TempDir {
    let base = std::env::var_os("HSTREAM_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(base).expect("a directory for the benchmark")
}

async fn store_in(path: &Path) -> EmbeddedStore {
    let disk = Arc::new(LocalDisk::open(path).expect("the directory can be used")) as Arc<dyn Disk>;
    EmbeddedStore::open(disk, EmbeddedOptions::default()).await.expect("the store opens")
}

fn specs(shards: u64) -> Vec<ShardSpec> {
    (1..=shards).map(|shard| ShardSpec { shard, retention_secs: 0, replicas: 1 }).collect()
}

/// Bytes that do not compress to nothing on the way, different for each batch.
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

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn mib_per_s(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / MIB as f64 / took.as_secs_f64()
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4096
}

/// How a load looks: `in_flight` callers, each with one batch of `batch` bytes under way.
#[derive(Clone, Copy)]
struct Load {
    batch: u64,
    in_flight: u64,
    shards: u64,
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>3} KiB x {:>3} in flight, {:>5} shards", self.batch / KIB, self.in_flight, self.shards)
    }
}

/// What the disk takes: as much as is in flight in one write, then `fdatasync`, again and again.
fn ceiling(load: Load, bytes: u64) -> f64 {
    let dir = directory();
    let file = File::create(dir.path().join("ceiling")).expect("a file");
    let group = payload((load.batch * load.in_flight) as usize, 7);
    let start = Instant::now();
    let mut at = 0;
    while at < bytes {
        file.write_all_at(&group, at).expect("writes");
        file.sync_data().expect("syncs");
        at += group.len() as u64;
    }
    mib_per_s(at, start.elapsed())
}

async fn append_all(log: &Arc<dyn LogStore>, load: Load, bytes: u64) -> f64 {
    let left = Arc::new(AtomicU64::new(bytes / load.batch));
    let start = Instant::now();
    let callers = (0..load.in_flight).map(|caller| {
        let (log, left) = (Arc::clone(log), Arc::clone(&left));
        let bytes = payload(load.batch as usize, caller + 1);
        tokio::spawn(async move {
            let mut shard = caller;
            while left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok() {
                let batch = NewBatch { bytes: bytes.clone(), records: 1, producer: None };
                log.append(1 + shard % load.shards, batch).await.expect("is stored");
                shard += load.in_flight;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("ends well");
    }
    mib_per_s(bytes / load.batch * load.batch, start.elapsed())
}

/// One round of a load on a store of its own.
async fn append_round(load: Load, bytes: u64) -> f64 {
    let dir = directory();
    let store = store_in(dir.path()).await;
    let log = store.log();
    log.create_shards(&specs(load.shards)).await.expect("creates");
    let rate = append_all(&log, load, bytes).await;
    store.close().await;
    rate
}

async fn append() {
    println!("durable append, MiB/s (median; ceiling: the same bytes in one write and fdatasync)");
    let bytes = setting("HSTREAM_BENCH_MIB", 256) * MIB;
    let large = Load { batch: 256 * KIB, in_flight: 8, shards: 8 };
    let many = Load { batch: KIB, in_flight: 256, shards: 10_000 };
    let few = Load { shards: 10, ..many };
    let mut rates = [vec![], vec![], vec![]];
    let mut ceilings = [vec![], vec![]];
    for _ in 0..setting("HSTREAM_BENCH_ROUNDS", 3) {
        ceilings[0].push(ceiling(large, bytes));
        rates[0].push(append_round(large, bytes).await);
        ceilings[1].push(ceiling(many, bytes));
        rates[1].push(append_round(many, bytes).await);
        rates[2].push(append_round(few, bytes).await);
    }
    let [of_large, of_many, of_few] = rates.map(median);
    let [large_ceiling, small_ceiling] = ceilings.map(median);
    for (load, rate, ceiling) in
        [(large, of_large, large_ceiling), (many, of_many, small_ceiling), (few, of_few, small_ceiling)]
    {
        println!("  {load}: {rate:7.1} of {ceiling:7.1} = {:3.0} %", 100.0 * rate / ceiling);
    }
    println!("  10,000 shards against 10: {:3.0} %", 100.0 * of_many / of_few);
}

/// Reads a shard from its first batch to its tail.
async fn read_shard(log: &Arc<dyn LogStore>, shard: u64) -> u64 {
    let limits = ReadLimits { max_batches: 1024, max_bytes: 1 << 20 };
    let (mut from, mut bytes) = (FIRST_LSN, 0);
    loop {
        let chunk = log.read(shard, from, limits).await.expect("reads");
        assert!(chunk.gap.is_none(), "nothing is lost");
        if chunk.next == from {
            return bytes;
        }
        bytes += chunk.batches.iter().map(|batch| batch.bytes.len() as u64).sum::<u64>();
        from = chunk.next;
    }
}

async fn read() {
    println!("read from the page cache, 1 MiB at a time, MiB/s (ceiling: the same bytes by pread)");
    let bytes = setting("HSTREAM_BENCH_MIB", 256) * MIB;
    for load in [
        Load { batch: 256 * KIB, in_flight: 8, shards: 1 },
        Load { batch: 256 * KIB, in_flight: 8, shards: 8 },
        Load { batch: KIB, in_flight: 256, shards: 1 },
        Load { batch: KIB, in_flight: 256, shards: 10 },
    ] {
        let dir = directory();
        let store = store_in(dir.path()).await;
        let log = store.log();
        log.create_shards(&specs(load.shards)).await.expect("creates");
        append_all(&log, load, bytes).await;
        let (mut rates, mut ceilings) = (vec![], vec![]);
        for _ in 0..setting("HSTREAM_BENCH_ROUNDS", 3) {
            ceilings.push(read_plainly(dir.path()));
            let start = Instant::now();
            let mut found = 0;
            for shard in 1..=load.shards {
                found += read_shard(&log, shard).await;
            }
            assert_eq!(found, bytes, "all of it is read");
            rates.push(mib_per_s(found, start.elapsed()));
        }
        let (rate, ceiling) = (median(rates), median(ceilings));
        let Load { batch, shards, .. } = load;
        println!(
            "  {:>3} KiB batches, {shards:>2} shards: {rate:7.1} of {ceiling:7.1} = {:3.0} %",
            batch / KIB,
            100.0 * rate / ceiling
        );
        store.close().await;
    }
}

fn read_plainly(path: &Path) -> f64 {
    let start = Instant::now();
    let mut total = 0;
    for entry in std::fs::read_dir(path).expect("lists").map(|entry| entry.expect("lists").path()) {
        if entry.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let file = File::open(entry).expect("opens");
        let len = file.metadata().expect("has a length").len();
        let mut at = 0;
        while at < len {
            let mut buffer = vec![0; MIB.min(len - at) as usize];
            file.read_exact_at(&mut buffer, at).expect("reads");
            std::hint::black_box(&buffer);
            at += buffer.len() as u64;
        }
        total += len;
    }
    mib_per_s(total, start.elapsed())
}

async fn open() {
    let bytes = setting("HSTREAM_BENCH_OPEN_MIB", 1024) * MIB;
    println!("open a log of {} MiB and 10,000 shards", bytes / MIB);
    for batch in [KIB, 64 * KIB] {
        let dir = directory();
        let load = Load { batch, in_flight: 256, shards: 10_000 };
        let store = store_in(dir.path()).await;
        store.log().create_shards(&specs(load.shards)).await.expect("creates");
        append_all(&store.log(), load, bytes).await;
        // What is done in the background after a segment is full.
        tokio::time::sleep(Duration::from_secs(2)).await;
        store.close().await;
        drop(store);
        for cache in ["warm", "cold"] {
            if cache == "cold" {
                forget_cached(dir.path());
            }
            let before = resident();
            let start = Instant::now();
            let store = store_in(dir.path()).await;
            let took = start.elapsed();
            let grown = resident().saturating_sub(before);
            println!(
                "  {:>2} KiB batches, {cache} cache: {:6.3} s, {:4} MiB of memory",
                batch / KIB,
                took.as_secs_f64(),
                grown / MIB
            );
            store.close().await;
        }
    }
}

/// Drops what the kernel holds of the files in `path`.
fn forget_cached(path: &Path) {
    for entry in std::fs::read_dir(path).expect("lists") {
        let file = File::open(entry.expect("lists").path()).expect("opens");
        file.sync_all().expect("syncs");
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

async fn idle() {
    println!("memory per idle shard");
    let dir = directory();
    let store = store_in(dir.path()).await;
    let log = store.log();
    let shards: u64 = 10_000;
    let before = resident();
    for chunk in specs(shards).chunks(10_000) {
        log.create_shards(chunk).await.expect("creates");
    }
    println!("  never written: {:5} bytes", resident().saturating_sub(before) / shards);
    let stamp = |id, sequence| hstream_server::store::ProducerStamp { id, epoch: 0, sequence };
    // Each shard gets a full window of one producer.
    for sequence in 0..65 {
        let rounds = (1..=shards).map(|shard| {
            let producer = Some(stamp(u128::from(shard), sequence));
            let log = Arc::clone(&log);
            async move {
                let batch = NewBatch { bytes: Bytes::from_static(b"x"), records: 1, producer };
                log.append(shard, batch).await.expect("is stored");
            }
        });
        futures::stream::StreamExt::for_each_concurrent(futures::stream::iter(rounds), 8192, |f| f).await;
    }
    println!("  65 batches of one producer: {:5} bytes", resident().saturating_sub(before) / shards);
    store.close().await;
}
