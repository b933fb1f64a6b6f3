//! The Rust worker. Every language has one with the same arguments and the same JSON lines on stdout:
//! `{"event":"progress","rows":N}` while it works and one `{"event":"done",…}` at the end.

use crate::tally::Tally;
use anyhow::{Context as _, Result, bail};
use hstreamdb::{Client, ManyReceipt, RecordBatch};
use serde_json::json;
use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
    time::{Duration, Instant},
};

/// Rows handed to the client at a time.
const CHUNK: usize = 1000;
/// A reader that receives nothing for this long gives up and reports what it has.
const IDLE: Duration = Duration::from_secs(30);
/// Bound on a clean close.
const CLOSE: Duration = Duration::from_secs(30);

/// Appends the lines of `rows` (`key<TAB>payload`) to `stream`.
///
/// # Errors
/// When a row was not acknowledged.
pub async fn append(url: &str, stream: &str, rows: &Path) -> Result<()> {
    let began = Instant::now();
    let client = Client::connect(url).await?;
    let producer = client.producer(stream).set("batch_max_records", 1000)?.build().await?;
    let mut lines = BufReader::new(File::open(rows)?).lines();
    // A window of chunks keeps the pipelines busy without holding all receipts.
    let mut window: VecDeque<ManyReceipt> = VecDeque::new();
    let mut acknowledged = 0;
    loop {
        let mut chunk = RecordBatch::with_capacity(CHUNK, CHUNK * 160);
        for line in lines.by_ref().take(CHUNK) {
            let line = line?;
            let (key, payload) = line.split_once('\t').context("a line without a key")?;
            chunk.push(key, payload.as_bytes());
        }
        let last = chunk.is_empty();
        if !last {
            window.push_back(producer.append_many(chunk).await?);
        }
        while window.len() > 4 || (last && !window.is_empty()) {
            let Some(receipt) = window.pop_front() else { break };
            acknowledged += receipt.await.into_result()?.len();
            println!("{}", json!({ "event": "progress", "rows": acknowledged }));
        }
        if last {
            break;
        }
    }
    producer.close(CLOSE).await?;
    client.close(CLOSE).await?;
    println!(
        "{}",
        json!({ "event": "done", "rows": acknowledged, "seconds": began.elapsed().as_secs_f64() })
    );
    Ok(())
}

/// Receives and acknowledges `expected` rows through a subscription and checks them.
///
/// # Errors
/// When the subscription fails or a payload is no row.
pub async fn read(url: &str, subscription: &str, expected: u64) -> Result<()> {
    let began = Instant::now();
    let client = Client::connect(url).await?;
    let consumer = client.consumer(subscription).start().await?;
    let mut tally = Tally::default();
    while tally.distinct() < expected {
        let batch = match tokio::time::timeout(IDLE, consumer.next_batch()).await {
            Ok(batch) => batch?.context("the subscription ended")?,
            Err(_) => break,
        };
        for record in batch.records()? {
            tally.add(&record.key, &record.payload)?;
        }
        consumer.ack_batch(&batch)?;
        println!("{}", json!({ "event": "progress", "rows": tally.rows }));
    }
    finish(&tally, began);
    let report = consumer.stop(CLOSE).await?;
    client.close(CLOSE).await?;
    if !report.clean {
        bail!("the consumer could not stop cleanly; {} acks were not confirmed", report.unsent_acks);
    }
    Ok(())
}

/// Reads the whole stream with a reader, without a subscription, and checks it.
///
/// # Errors
/// When the stream cannot be read or a payload is no row.
pub async fn replay(url: &str, stream: &str) -> Result<Tally> {
    let client = Client::connect(url).await?;
    let reader = client
        .stream_reader(stream)
        .from(hstreamdb::Offset::Earliest)
        .until(hstreamdb::Offset::Latest)
        .open()
        .await?;
    let mut tally = Tally::default();
    while let Some(batch) = reader.next_batch().await? {
        for record in batch.records()? {
            tally.add(&record.key, &record.payload)?;
        }
    }
    client.close(CLOSE).await?;
    Ok(tally)
}

fn finish(tally: &Tally, began: Instant) {
    println!(
        "{}",
        json!({
            "event": "done",
            "rows": tally.rows,
            "violations": tally.violations,
            "duplicates": tally.duplicates,
            "checksum": format!("{:016x}", tally.checksum),
            "seconds": began.elapsed().as_secs_f64(),
        })
    );
}
