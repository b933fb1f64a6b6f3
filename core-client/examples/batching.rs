//! Throughput: large batches, compression, many records per call, and what flow control does when the server is slower.
//!
//! `cargo run --release --example batching`, with a server at `HSTREAM_URL` (default `hstream://127.0.0.1:6570`).

use hstreamdb::{
    Client, Compression, DeleteStreamOptions, ErrorKind, RecordBatch, Result, StreamOptions, WhenFull,
};
use std::time::{Duration, Instant};

const RECORDS: usize = 200_000;
const PER_CALL: usize = 1_000;

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("HSTREAM_URL").unwrap_or_else(|_| "hstream://127.0.0.1:6570".into());
    run(&url).await
}

/// The example; tests call it too.
pub async fn run(url: &str) -> Result<()> {
    let client = Client::connect(url).await?;
    let stream = "batching";
    client.delete_stream(stream, DeleteStreamOptions::new().force(true).ignore_missing(true)).await?;
    client.create_stream(stream, StreamOptions::new().shard_count(4)).await?;

    let producer = client
        .producer(stream)
        // A batch leaves when the first of the three limits is reached.
        .batch_max_records(5_000)
        .batch_max_bytes(512 * 1024)
        .batch_max_age(Duration::from_millis(20))
        .compression(Compression::Zstd)
        // At most 64 MiB wait for their acknowledgement; `append_many` waits until there is room.
        .flow_control_bytes(64 << 20)
        .when_full(WhenFull::Wait)
        .build()
        .await?;

    let started = Instant::now();
    let mut receipts = Vec::new();
    for first in (0..RECORDS).step_by(PER_CALL) {
        let mut batch = RecordBatch::with_capacity(PER_CALL, PER_CALL * 64);
        for number in first..first + PER_CALL {
            let key = format!("sensor-{}", number % 100);
            batch.push(&key, format!(r#"{{"number":{number},"celsius":21.5}}"#).as_bytes());
        }
        // One receipt for all of them: records that failed are named by their position.
        receipts.push(producer.append_many(batch).await?);
    }
    let mut stored = 0;
    for receipt in receipts {
        stored += receipt.await.into_result()?.len();
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{stored} records stored in {seconds:.2} s, {:.0} per second", stored as f64 / seconds);

    // A caller that must not wait is told so instead.
    let small = client.producer(stream).flow_control_records(10).when_full(WhenFull::Fail).build().await?;
    let too_many: RecordBatch =
        (0..10).map(|_| hstreamdb::Record::raw("x")).collect::<Vec<_>>().iter().collect();
    let first = small.append_many(too_many.clone()).await?;
    match small.append_many(too_many).await {
        Err(error) if error.kind() == ErrorKind::Overloaded => println!("no room yet: {error}"),
        other => println!("there was room already: {other:?}"),
    }
    first.await.into_result()?;

    let report = producer.close(Duration::from_secs(30)).await?;
    println!("{report:?}");
    client.close(Duration::from_secs(10)).await
}
