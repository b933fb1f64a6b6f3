//! A program written for the published crate `hstreamdb` 0.2, moved here: every `hstreamdb::` became
//! `hstreamdb::compat::`, and nothing else changed. `docs/migrating-from-the-published-rust-client.md` shows both.
//!
//! `cargo run --example migrated`, with a server at `HSTREAM_URL` (default `hstream://127.0.0.1:6570`).

use hstreamdb::compat::producer::FlushSettings;
use hstreamdb::compat::{
    ChannelProviderSettings, Client, CompressionType, Payload, Record, Result, SpecialOffset, Stream,
    StreamShardOffset, Subscription,
};
use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("HSTREAM_URL").unwrap_or_else(|_| "hstream://127.0.0.1:6570".into());
    run(&url).await
}

/// The example; tests call it too.
pub async fn run(url: &str) -> Result<()> {
    let settings = || ChannelProviderSettings::builder().set_concurrency_limit(8).build();
    let client = Client::new(url, settings()).await?;

    let stream_name = "migrated".to_string();
    let subscription_id = "migrated-sub".to_string();
    client
        .create_stream(Stream {
            stream_name: stream_name.clone(),
            replication_factor: 1,
            backlog_duration: 30 * 60,
            shard_count: 3,
            creation_time: None,
        })
        .await?;
    client
        .create_subscription(Subscription {
            subscription_id: subscription_id.clone(),
            stream_name: stream_name.clone(),
            ack_timeout_seconds: 60 * 15,
            max_unacked_records: 1000,
            offset: SpecialOffset::Earliest,
            creation_time: None,
        })
        .await?;

    let (appender, producer) = client
        .new_producer(
            stream_name.clone(),
            CompressionType::Zstd,
            Some(1024 * 1024),
            FlushSettings::builder().set_max_batch_len(10).set_batch_deadline(50).build(),
            settings(),
            Some(Arc::new(|ok, len, size| println!("batch of {len} records, {size} bytes: {ok}"))),
        )
        .await?;
    let mut writers = Vec::new();
    for writer in 0..4 {
        let appender = appender.clone();
        writers.push(tokio::spawn(async move {
            let mut results = Vec::new();
            for number in 0..25 {
                let record = Record {
                    partition_key: format!("writer-{writer}"),
                    payload: Payload::RawRecord(format!("{number}").into_bytes()),
                };
                results.push(appender.append(record).await.unwrap());
            }
            results
        }));
    }
    drop(appender);
    producer.start().await;
    let mut record_ids = Vec::new();
    for writer in writers {
        for result in writer.await.unwrap() {
            record_ids.push(result.await.unwrap().unwrap());
        }
    }

    let mut stream = client.streaming_fetch("consumer".to_string(), subscription_id.clone()).await?;
    let mut received = 0;
    while let Some((payload, responder)) = stream.next().await {
        if let Payload::RawRecord(bytes) = payload {
            println!("{}", String::from_utf8_lossy(&bytes));
        }
        responder.ack().unwrap();
        received += 1;
        if received == record_ids.len() {
            break;
        }
    }
    drop(stream);

    let shard_id = record_ids[0].shard_id;
    let offset = StreamShardOffset::Special(SpecialOffset::Earliest);
    let reader = client
        .create_shard_reader("reader".to_string(), stream_name.clone(), shard_id, offset, 1000, settings())
        .await?;
    let records = reader.read(10).await?;
    println!("{} records in the first read of shard {shard_id}", records.len());
    reader.delete().await?;

    client.delete_subscription(subscription_id, true).await?;
    client.delete_stream(stream_name, false, true).await?;
    Ok(())
}
