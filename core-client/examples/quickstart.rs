//! A stream, a record, a subscription, and the record back.
//!
//! `cargo run --example quickstart`, with a server at `HSTREAM_URL` (default `hstream://127.0.0.1:6570`).

use hstreamdb::{Client, DeleteStreamOptions, Record, Result, StartFrom, StreamOptions, SubscriptionOptions};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("HSTREAM_URL").unwrap_or_else(|_| "hstream://127.0.0.1:6570".into());
    run(&url).await
}

/// The example; tests call it too.
pub async fn run(url: &str) -> Result<()> {
    let client = Client::connect(url).await?;
    let stream = "quickstart";
    // What an earlier run left; a subscription outlives its stream.
    if client.subscription_exists("quickstart-sub").await? {
        client.delete_subscription("quickstart-sub", true).await?;
    }
    client.delete_stream(stream, DeleteStreamOptions::new().force(true).ignore_missing(true)).await?;
    client.create_stream(stream, StreamOptions::new().shard_count(3)).await?;

    // A receipt resolves once the record is on disk.
    let producer = client.producer(stream).build().await?;
    let receipt = producer.append(Record::raw("hello").with_key("greetings")).await?;
    println!("stored as {}", receipt.await?);

    client
        .create_subscription("quickstart-sub", stream, SubscriptionOptions::new().offset(StartFrom::Earliest))
        .await?;
    let consumer = client.consumer("quickstart-sub").start().await?;
    if let Some(batch) = consumer.next_batch().await? {
        for record in batch.records()? {
            println!("{} {:?} {:?}", record.id, record.key, record.payload);
        }
        consumer.ack_batch(&batch)?;
    }

    // Leaves the subscription, flushes the producer, closes the connections.
    client.close(Duration::from_secs(10)).await
}
