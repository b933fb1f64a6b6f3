//! What appending costs: batching alone, over gRPC to a handler that keeps nothing, and to a durable node.
//!
//! `cargo bench -p hstreamdb --bench append [-- SECTION ...]` with sections `batching`, `handler` and `node`; all
//! without one. Client and server share this process, so CPU in `handler` and `node` is that of both.
//!
//! | variable | default | meaning |
//! | --- | --- | --- |
//! | `HSTREAM_BENCH_RECORDS` | 400000 | records per round |
//! | `HSTREAM_BENCH_ROUNDS` | 3 | rounds; the alternatives take turns and the median counts |
//! | `HSTREAM_BENCH_DIR` | the system's temporary directory | where the node keeps its data |

mod handler;

use handler::NullHandler;
use hstream_server::node::{Node, NodeConfig};
use hstreamdb::{Client, ManyReceipt, Offset, Producer, Receipt, Record, RecordBatch, StreamOptions};
use hstreamdb_proto::api::{
    AppendRequest, BatchHStreamRecords, BatchedRecord, HStreamRecord, HStreamRecordHeader,
    h_stream_api_client::HStreamApiClient,
};
use prost::Message as _;
use std::{
    collections::VecDeque,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Records per `append_many`.
const CALL: u64 = 100;
/// Calls whose outcome is not awaited yet.
const AHEAD: usize = 64;
const SHARDS: u32 = 4;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if wants("batching") {
            batching().await;
        }
        if wants("handler") {
            over_grpc().await;
        }
        if wants("node") {
            to_a_node().await;
        }
    });
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Seconds of CPU that this process has used, in steps of 10 ms.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: Vec<f64> = after_name.split_whitespace().skip(11).take(2).flat_map(str::parse).collect();
    ticks.iter().sum::<f64>() / 100.0
}

/// What one round took per record, in microseconds: of the clock and of the CPU.
#[derive(Debug, Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
}

async fn measured(records: u64, work: impl Future<Output = ()>) -> Cost {
    let (start, cpu_before) = (Instant::now(), cpu());
    work.await;
    let per_record = 1e6 / records as f64;
    Cost { wall: start.elapsed().as_secs_f64() * per_record, cpu: (cpu() - cpu_before) * per_record }
}

fn median(mut costs: Vec<Cost>) -> Cost {
    let middle = costs.len() / 2;
    costs.sort_by(|a, b| a.cpu.total_cmp(&b.cpu));
    let cpu = costs[middle].cpu;
    costs.sort_by(|a, b| a.wall.total_cmp(&b.wall));
    Cost { wall: costs[middle].wall, cpu }
}

fn show(what: &str, costs: Vec<Cost>) -> Cost {
    let cost = median(costs);
    println!("  {what:<34} {:>10.0} records/s   {:6.3} us CPU per record", 1e6 / cost.wall, cost.cpu);
    cost
}

/// The payload of a record: its number, a check of that, and filling.
fn payload(number: u64, out: &mut [u8]) {
    out[..8].copy_from_slice(&number.to_le_bytes());
    out[8..16].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
}

fn number_of(payload: &[u8]) -> u64 {
    let word = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().expect("8 bytes"));
    assert_eq!(word(8), word(0).wrapping_mul(0x9e37_79b9_7f4a_7c15), "a record is damaged");
    word(0)
}

fn keys() -> Vec<String> {
    (0..1000).map(|number| format!("sensor-{number}")).collect()
}

async fn append_many(producer: &Producer, records: u64, size: usize) {
    let keys = keys();
    let mut receipts: VecDeque<ManyReceipt> = VecDeque::new();
    let mut bytes = vec![b'x'; size];
    for start in (0..records).step_by(CALL as usize) {
        let mut batch = RecordBatch::with_capacity(CALL as usize, CALL as usize * size);
        for number in start..start + CALL {
            payload(number, &mut bytes);
            batch.push(&keys[number as usize % keys.len()], &bytes);
        }
        receipts.push_back(producer.append_many(batch).await.expect("is accepted"));
        if receipts.len() > AHEAD {
            let receipt = receipts.pop_front().expect("there are some");
            receipt.await.into_result().expect("is stored");
        }
    }
    for receipt in receipts {
        receipt.await.into_result().expect("is stored");
    }
}

async fn append_one_by_one(producer: &Producer, records: u64, size: usize) {
    let keys = keys();
    let mut receipts: VecDeque<Receipt> = VecDeque::new();
    for number in 0..records {
        let mut bytes = vec![b'x'; size];
        payload(number, &mut bytes);
        let record = Record::raw(bytes).with_key(keys[number as usize % keys.len()].as_str());
        receipts.push_back(producer.append(record).await.expect("is accepted"));
        if receipts.len() > AHEAD * CALL as usize {
            receipts.pop_front().expect("there are some").await.expect("is stored");
        }
    }
    for receipt in receipts {
        receipt.await.expect("is stored");
    }
}

async fn batching() {
    let (records, rounds) = (setting("HSTREAM_BENCH_RECORDS", 400_000), setting("HSTREAM_BENCH_ROUNDS", 3));
    let handler = NullHandler::start(SHARDS).await;
    let client = Client::connect(&handler.url()).await.expect("connects");
    for size in [100, 1024] {
        println!("batching alone, {size} B, {SHARDS} shards");
        let (mut many, mut single, mut filling) = (vec![], vec![], vec![]);
        for _ in 0..rounds {
            let producer = client.producer("nowhere").build_to_nowhere(SHARDS).expect("builds");
            many.push(measured(records, append_many(&producer, records, size)).await);
            let producer = client.producer("nowhere").build_to_nowhere(SHARDS).expect("builds");
            single.push(measured(records, append_one_by_one(&producer, records, size)).await);
            filling.push(measured(records, fill(records, size)).await);
        }
        let many = show("append_many", many);
        let single = show("append", single);
        show("of that filling RecordBatches", filling);
        println!("  append costs {:.1} times the CPU of append_many", single.cpu / many.cpu);
    }
}

/// What the caller of `append_many` does before it.
async fn fill(records: u64, size: usize) {
    let keys = keys();
    let mut bytes = vec![b'x'; size];
    for start in (0..records).step_by(CALL as usize) {
        let mut batch = RecordBatch::with_capacity(CALL as usize, CALL as usize * size);
        for number in start..start + CALL {
            payload(number, &mut bytes);
            batch.push(&keys[number as usize % keys.len()], &bytes);
        }
        std::hint::black_box(&batch);
    }
}

/// Batches of the default size, made before, sent with as many in flight as a producer has.
async fn bare_loop(url: &str, records: u64, size: usize) {
    let per_batch = 100;
    let record = HStreamRecord {
        header: Some(HStreamRecordHeader { flag: 1, key: "sensor-123".into(), ..Default::default() }),
        payload: vec![b'x'; size].into(),
    };
    let content = BatchHStreamRecords { records: vec![record; per_batch] }.encode_to_vec();
    let batch = BatchedRecord { batch_size: per_batch as u32, payload: content.into(), ..Default::default() };
    let channel =
        tonic::transport::Endpoint::from_shared(url.replace("hstream", "http")).expect("an address");
    let client = HStreamApiClient::new(channel.connect().await.expect("connects"));
    let batches = records / per_batch as u64;
    let loops = (0..u64::from(SHARDS) * 5).map(|place| {
        let (mut client, batch) = (client.clone(), batch.clone());
        tokio::spawn(async move {
            for _ in (place..batches).step_by(SHARDS as usize * 5) {
                let shard_id = place % u64::from(SHARDS) + 1;
                let request =
                    AppendRequest { stream_name: "s".into(), shard_id, records: Some(batch.clone()) };
                let ids = client.append(request).await.expect("is answered").into_inner().record_ids;
                assert_eq!(ids.len(), per_batch);
            }
        })
    });
    for task in loops.collect::<Vec<_>>() {
        task.await.expect("ends well");
    }
}

async fn over_grpc() {
    let (records, rounds) = (setting("HSTREAM_BENCH_RECORDS", 400_000), setting("HSTREAM_BENCH_ROUNDS", 3));
    let handler = NullHandler::start(SHARDS).await;
    let client = Client::connect(&handler.url()).await.expect("connects");
    for size in [100, 1024] {
        println!("over gRPC to a handler that keeps nothing, {size} B, {SHARDS} shards");
        let (mut bare, mut many, mut single) = (vec![], vec![], vec![]);
        for _ in 0..rounds {
            let before = handler.records();
            bare.push(measured(records, bare_loop(&handler.url(), records, size)).await);
            let producer = client.producer("s").build().await.expect("builds");
            many.push(measured(records, append_many(&producer, records, size)).await);
            single.push(measured(records, append_one_by_one(&producer, records, size)).await);
            assert_eq!(handler.records() - before, 3 * records, "records were lost");
        }
        let bare = show("bare gRPC loop, same batches", bare);
        let many = show("append_many", many);
        show("append", single);
        println!(
            "  append_many reaches {:.0} % of the bare loop, at {:.2} times its CPU",
            100.0 * bare.wall / many.wall,
            many.cpu / bare.cpu
        );
    }
}

async fn to_a_node() {
    let (records, rounds) = (setting("HSTREAM_BENCH_RECORDS", 400_000), setting("HSTREAM_BENCH_ROUNDS", 3));
    let base = std::env::var_os("HSTREAM_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    for size in [100, 1024] {
        println!("to a durable node in this process, {size} B, {SHARDS} shards");
        let (mut many, mut single) = (vec![], vec![]);
        for _ in 0..rounds {
            let directory = tempfile::tempdir_in(&base).expect("a directory for the benchmark");
            let data_dir = directory.path().join("data");
            let node =
                Node::start(NodeConfig { port: 0, data_dir, ..NodeConfig::default() }).await.expect("starts");
            let client = Client::connect(&format!("hstream://{}", node.address())).await.expect("connects");
            for stream in ["many", "single"] {
                let options = StreamOptions::new().shard_count(SHARDS);
                client.create_stream(stream, options).await.expect("creates");
            }
            let producer = client.producer("many").build().await.expect("builds");
            many.push(measured(records, append_many(&producer, records, size)).await);
            let producer = client.producer("single").build().await.expect("builds");
            single.push(measured(records, append_one_by_one(&producer, records, size)).await);
            for stream in ["many", "single"] {
                all_are_there(&client, stream, records).await;
            }
            client.close(Duration::from_secs(30)).await.expect("closes");
            node.shutdown(Duration::from_secs(5)).await;
        }
        show("append_many", many);
        show("append", single);
    }
}

/// Reads the stream to its end; every record is there once and undamaged.
async fn all_are_there(client: &Client, stream: &str, records: u64) {
    let mut seen = vec![false; records as usize];
    for shard in client.list_shards(stream).await.expect("lists") {
        let reader = client.shard_reader(stream, shard.id).until(Offset::Latest).open().await.expect("opens");
        while let Some(batch) = reader.next_batch().await.expect("reads") {
            for record in batch.decoded().expect("decodes") {
                let number = number_of(&record.payload) as usize;
                assert!(!std::mem::replace(&mut seen[number], true), "record {number} is stored twice");
            }
        }
    }
    assert!(seen.iter().all(|seen| *seen), "records are missing");
}
