//! Several consumers of one subscription share its shards: each record goes to one of them, and comes again when it is
//! not acknowledged in time or its consumer is lost.
//!
//! `cargo run --example consumer_group`, with a server at `HSTREAM_URL` (default `hstream://127.0.0.1:6570`).

use hstreamdb::{
    Client, DeleteStreamOptions, Record, Result, RunOptions, StartFrom, StreamOptions, SubscriptionOptions,
};
use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};
use tokio::sync::mpsc;

const RECORDS: usize = 1_000;

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("HSTREAM_URL").unwrap_or_else(|_| "hstream://127.0.0.1:6570".into());
    run(&url).await
}

/// The example; tests call it too.
pub async fn run(url: &str) -> Result<()> {
    let client = Client::connect(url).await?;
    let (stream, subscription) = ("consumer-group", "consumer-group-sub");
    // What an earlier run left; a subscription outlives its stream.
    if client.subscription_exists(subscription).await? {
        client.delete_subscription(subscription, true).await?;
    }
    client.delete_stream(stream, DeleteStreamOptions::new().force(true).ignore_missing(true)).await?;
    client.create_stream(stream, StreamOptions::new().shard_count(8)).await?;
    let options = SubscriptionOptions::new().offset(StartFrom::Earliest).ack_timeout_secs(60);
    client.create_subscription(subscription, stream, options).await?;

    // In production each of these is a process of its own.
    let (done, mut numbers) = mpsc::unbounded_channel();
    let mut workers = Vec::new();
    for name in ["worker-1", "worker-2"] {
        let consumer = client.consumer(subscription).name(name).start().await?;
        let (handled, done) = (consumer.clone(), done.clone());
        // Four shards at a time, one batch of each; a record that fails is tried twice more, and left to come again
        // after the ack timeout if that does not help.
        let options = RunOptions::new().concurrency(4).retries(2);
        let task = tokio::spawn(async move {
            handled
                .run_records_with(options, move |record, _context| {
                    let done = done.clone();
                    async move {
                        // The work itself; records of one key come in order. It is acknowledged when this is `Ok`.
                        let number: usize = str::from_utf8(&record.payload)?.parse()?;
                        done.send((name, number))?;
                        Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
                    }
                })
                .await
        });
        workers.push((consumer, task));
    }
    let producer = client.producer(stream).build().await?;
    let mut receipts = Vec::new();
    for number in 0..RECORDS {
        let record = Record::raw(number.to_string()).with_key(format!("key-{}", number % 100));
        receipts.push(producer.append(record).await?);
    }
    for receipt in receipts {
        receipt.await?;
    }

    let mut handled: BTreeMap<&str, usize> = BTreeMap::new();
    let mut seen = HashSet::new();
    while seen.len() < RECORDS {
        let Some((worker, number)) = numbers.recv().await else { break };
        // At least once: after a lost connection a record may come again.
        if seen.insert(number) {
            *handled.entry(worker).or_default() += 1;
        }
    }
    println!("{handled:?}");

    // Leaving in order: delivery ends, handlers finish, acknowledgements go out, the server confirms.
    for (consumer, task) in workers {
        let report = consumer.stop(Duration::from_secs(10)).await?;
        println!("{} has everything acknowledged: {}", consumer.name(), report.clean);
        task.await.unwrap_or(Ok(()))?;
    }
    client.close(Duration::from_secs(10)).await
}
