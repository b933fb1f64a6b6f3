//! Reading history: all of it up to now, one key, and going on where an earlier run stopped. Readers keep
//! nothing on the server and disturb no subscription.
//!
//! `cargo run --example replay`, with a server at `HSTREAM_URL` (default `hstream://127.0.0.1:6570`).

use hstreamdb::{Client, DeleteStreamOptions, Offset, Record, Result, StreamOptions, StreamPosition};
use std::{collections::BTreeMap, time::Duration};

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("HSTREAM_URL").unwrap_or_else(|_| "hstream://127.0.0.1:6570".into());
    run(&url).await
}

/// The example; tests call it too.
pub async fn run(url: &str) -> Result<()> {
    let client = Client::connect(url).await?;
    let stream = "replay";
    client.delete_stream(stream, DeleteStreamOptions::new().force(true).ignore_missing(true)).await?;
    client.create_stream(stream, StreamOptions::new().shard_count(3)).await?;
    let producer = client.producer(stream).build().await?;
    let mut receipts = Vec::new();
    for number in 0..1_000u32 {
        let account = format!("account-{}", number % 7);
        receipts.push(producer.append(Record::raw(number.to_string()).with_key(account)).await?);
    }
    for receipt in receipts {
        receipt.await?;
    }

    // Everything there is now. The end is fixed when the reader is opened, so this ends although others go on
    // appending. Records of one key come in order; shards come as they come.
    let mut balances: BTreeMap<String, u64> = BTreeMap::new();
    let reader = client.stream_reader(stream).from(Offset::Earliest).until(Offset::Latest).open().await?;
    while let Some(batch) = reader.next_batch().await? {
        for record in batch.records()? {
            let amount: u64 = String::from_utf8_lossy(&record.payload).parse().unwrap_or(0);
            *balances.entry(record.key.to_string()).or_default() += amount;
        }
    }
    println!("{balances:?}");

    // Where that ended is text; a later run, of this program or of one in another language, goes on behind it.
    let kept = reader.position().to_string();
    producer.append(Record::raw("5").with_key("account-3")).await?.await?;
    let since: StreamPosition = kept.parse()?;
    let reader = client.stream_reader(stream).from(since).until(Offset::Latest).open().await?;
    let mut later = 0;
    while let Some(batch) = reader.next_batch().await? {
        later += batch.len();
    }
    println!("{later} since then");

    // One key: the server picks its records.
    let reader = client.key_reader(stream, "account-3").open().await?;
    let mut seen = 0;
    while let Some(batch) = reader.next_batch().await? {
        seen += batch.len();
    }
    println!("account-3 has {seen} records");

    // A part today, the rest tomorrow: a position is a line of text that can be kept anywhere.
    let reader = client.stream_reader(stream).max_batches(5).open().await?;
    let mut today = 0;
    while let Some(batch) = reader.next_batch().await? {
        today += batch.len();
    }
    let kept = reader.position().to_string();
    let position: StreamPosition = kept.parse()?;
    let reader = client.stream_reader(stream).from(position).until(Offset::Latest).open().await?;
    let mut tomorrow = 0;
    while let Some(batch) = reader.next_batch().await? {
        tomorrow += batch.len();
    }
    println!("{today} records read, {tomorrow} behind {kept}");
    client.close(Duration::from_secs(10)).await
}
