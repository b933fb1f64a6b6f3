//! Several consumers of one subscription share its shards: each record goes to one of them, and comes again when it is
//! not acknowledged in time or its consumer is lost.
//!
//! `cargo run --example consumer_group`, with a server at `HSTREAM_URL` (default `hstream://127.0.0.1:6570`).

use hstreamdb::{Client, DeleteStreamOptions, Record, Result, StartFrom, StreamOptions, SubscriptionOptions};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

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

    let producer = client.producer(stream).build().await?;
    let mut receipts = Vec::new();
    for number in 0..RECORDS {
        let record = Record::raw(number.to_string()).with_key(format!("key-{}", number % 100));
        receipts.push(producer.append(record).await?);
    }
    for receipt in receipts {
        receipt.await?;
    }

    // In production each of these is a process of its own.
    let done: Arc<Mutex<HashSet<String>>> = Arc::default();
    let mut workers = Vec::new();
    for name in ["worker-1", "worker-2"] {
        let consumer = client.consumer(subscription).name(name).start().await?;
        let done = Arc::clone(&done);
        workers.push((
            consumer.clone(),
            tokio::spawn(async move {
                let mut handled = 0;
                while let Some(batch) = consumer.next_batch().await? {
                    for record in batch.records()? {
                        // The work itself; records of one key come in order.
                        let number = String::from_utf8_lossy(&record.payload).into_owned();
                        done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(number);
                        handled += 1;
                    }
                    // After the work: what is not acknowledged comes again.
                    consumer.ack_batch(&batch)?;
                }
                Ok::<usize, hstreamdb::Error>(handled)
            }),
        ));
    }
    while done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len() < RECORDS {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // Leaving in order: delivery ends, acknowledgements go out, the server confirms.
    for (consumer, task) in workers {
        let report = consumer.stop(Duration::from_secs(10)).await?;
        let handled = task.await.unwrap_or(Ok(0))?;
        println!("{} handled {handled} records; everything acknowledged: {}", consumer.name(), report.clean);
    }
    client.close(Duration::from_secs(10)).await
}
