//! Reading history: all of it up to now, since a time, one key, and going on where an earlier run stopped. Readers keep
//! nothing on the server and disturb no subscription.
//!
//! `cargo run --example replay`, with a server at `HSTREAM_URL` (default `hstream://127.0.0.1:6570`).

use hstreamdb::{Client, DeleteStreamOptions, Offset, Record, Result, StreamOptions};
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

    // One key: the server picks its records.
    let reader = client.key_reader(stream, "account-3").open().await?;
    let mut seen = 0;
    while let Some(batch) = reader.next_batch().await? {
        seen += batch.len();
    }
    println!("account-3 has {seen} records");

    // Since a moment, of one shard: what it holds, and then what comes.
    let shard = client.list_shards(stream).await?.into_iter().next().map(|shard| shard.id);
    if let Some(shard) = shard {
        let reader =
            client.shard_reader(stream, shard).from(Offset::Timestamp(0)).max_batches(1).open().await?;
        if let Some(batch) = reader.next_batch().await? {
            println!("shard {shard} begins with {:?}", batch.ids().first());
        }
    }
    client.close(Duration::from_secs(10)).await
}
