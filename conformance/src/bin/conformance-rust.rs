//! The Rust adapter: the core's public API behind JSON lines.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hstreamdb::{
    Client, ClientBuilder, Consumer, ConsumerBuilder, DeleteStreamOptions, Error, ErrorKind, OptionValue,
    PolledReader, PolledReaderBuilder, Producer, ProducerBuilder, Reader, ReaderBuilder, ReceivedBatch,
    RecordBatch, RecordId, StreamOptions, SubscriptionOptions,
};
use serde_json::{Value, json};
use std::{collections::HashMap, time::Duration};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, stdin, stdout};

const CLOSE: Duration = Duration::from_secs(20);
/// Longest wait of one poll.
const POLL: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Adapter {
    url: String,
    client: Option<Client>,
    producer: Option<Producer>,
    consumers: HashMap<String, Consumer>,
    reader: Option<AnyReader>,
}

#[derive(Clone)]
enum AnyReader {
    Stream(Reader),
    Polled(PolledReader),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut lines = BufReader::new(stdin()).lines();
    let mut adapter = Adapter::default();
    let mut output = stdout();
    while let Some(line) = lines.next_line().await? {
        let command: Value = serde_json::from_str(&line)?;
        let answer = answer(adapter.run(&command).await);
        output.write_all(format!("{answer}\n").as_bytes()).await?;
        output.flush().await?;
    }
    Ok(())
}

fn answer(result: Result<Value, Error>) -> Value {
    match result {
        Ok(ok) => json!({ "ok": ok }),
        Err(error) => json!({ "error": failure(&error) }),
    }
}

fn failure(error: &Error) -> Value {
    json!({
        "kind": error.kind().name(),
        "code": error.code(),
        "may_have_been_applied": error.may_have_been_applied(),
        "message": error.to_string(),
    })
}

fn text<'a>(command: &'a Value, name: &str) -> &'a str {
    command[name].as_str().unwrap_or_default()
}

fn is_set(command: &Value, name: &str) -> bool {
    command[name] == true
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, "adapter command").with_message(format!("no {what}"))
}

fn shard(command: &Value) -> Result<u64, Error> {
    text(command, "shard").parse().map_err(|_| missing("shard"))
}

fn ids(command: &Value) -> Result<Vec<RecordId>, Error> {
    let ids = command["ids"].as_array().ok_or_else(|| missing("ids"))?;
    ids.iter().map(|id| id.as_str().unwrap_or_default().parse()).collect()
}

/// Hands the options of a command to a `set` of the core.
fn set_all<B>(
    builder: B,
    command: &Value,
    set: impl Fn(B, &str, OptionValue) -> Result<B, Error>,
) -> Result<B, Error> {
    let options = command["options"].as_object();
    options.into_iter().flatten().try_fold(builder, |builder, (name, value)| {
        let value = match value {
            Value::Bool(value) => (*value).into(),
            Value::Number(value) => value.as_i64().unwrap_or_default().into(),
            other => other.as_str().unwrap_or_default().to_owned().into(),
        };
        set(builder, name, value)
    })
}

fn sorted(mut names: Vec<String>) -> Value {
    names.sort();
    json!({ "names": names })
}

/// The records of a command.
fn batch(command: &Value) -> Result<RecordBatch, Error> {
    let mut batch = RecordBatch::with_capacity(0, 0);
    for record in command["records"].as_array().into_iter().flatten() {
        let payload =
            BASE64.decode(record[1].as_str().unwrap_or_default()).map_err(|_| missing("payload"))?;
        batch.push(record[0].as_str().unwrap_or_default(), &payload);
    }
    Ok(batch)
}

fn texts(ids: &[RecordId]) -> Value {
    ids.iter().map(|id| Value::from(id.to_string())).collect()
}

fn records(batch: &ReceivedBatch) -> Result<Value, Error> {
    let records = batch.decoded()?.iter().map(|record| {
        json!({ "id": record.id.to_string(), "key": record.key, "payload": BASE64.encode(&record.payload) })
    });
    Ok(records.collect())
}

impl Adapter {
    async fn run(&mut self, command: &Value) -> Result<Value, Error> {
        match text(command, "do") {
            "connect" => {
                self.url = text(command, "url").to_owned();
                let builder = set_all(Client::builder().url(&*self.url), command, ClientBuilder::set)?;
                self.client = Some(builder.connect().await?);
            }
            "together" => return self.together(command).await,
            "producer" => {
                let builder = self.client()?.producer(text(command, "stream"));
                self.producer = Some(set_all(builder, command, ProducerBuilder::set)?.build().await?);
            }
            "append" => return self.append(command).await,
            "close_producer" => return self.close_producer(command).await,
            "attach" => {
                let builder = self.client()?.consumer(text(command, "subscription"));
                let consumer = set_all(builder, command, ConsumerBuilder::set)?.start().await?;
                self.consumers.insert(text(command, "consumer").to_owned(), consumer);
            }
            "receive" => return self.receive(command).await,
            "ack" => self.consumer(command)?.ack(&ids(command)?)?,
            "detach" => {
                let consumer = self.consumers.remove(text(command, "consumer"));
                let report = consumer.ok_or_else(|| missing("consumer"))?.stop(CLOSE).await?;
                return Ok(json!({ "clean": report.clean }));
            }
            "open_reader" => self.reader = Some(self.open_reader(command).await?),
            "read" => return self.read(command).await,
            "close_reader" => match self.reader.take() {
                Some(AnyReader::Stream(reader)) => reader.close(),
                Some(AnyReader::Polled(reader)) => reader.close().await?,
                None => {}
            },
            "close" => self.client()?.close(CLOSE).await?,
            _ => return admin(&self.client()?, command).await,
        }
        Ok(json!({}))
    }

    fn client(&self) -> Result<Client, Error> {
        self.client.clone().ok_or_else(|| missing("client"))
    }

    fn consumer(&self, command: &Value) -> Result<Consumer, Error> {
        self.consumers.get(text(command, "consumer")).cloned().ok_or_else(|| missing("consumer"))
    }

    /// The same command over several connections at once.
    async fn together(&self, command: &Value) -> Result<Value, Error> {
        let mut clients = Vec::new();
        for _ in 0..command["connections"].as_u64().unwrap_or_default() {
            clients.push(Client::builder().url(&*self.url).connect().await?);
        }
        let results =
            futures::future::join_all(clients.iter().map(|client| admin(client, &command["command"]))).await;
        for client in clients {
            client.close(CLOSE).await?;
        }
        Ok(json!({ "answers": results.into_iter().map(answer).collect::<Vec<_>>() }))
    }

    async fn append(&self, command: &Value) -> Result<Value, Error> {
        let producer = self.producer.clone().ok_or_else(|| missing("producer"))?;
        let ids = producer.append_many(batch(command)?).await?.await.into_result()?;
        Ok(json!({ "ids": texts(&ids) }))
    }

    async fn close_producer(&mut self, command: &Value) -> Result<Value, Error> {
        let producer = self.producer.take().ok_or_else(|| missing("producer"))?;
        let receipt = producer.append_many(batch(command)?).await?;
        let limit = Duration::from_millis(command["timeout_ms"].as_u64().unwrap_or(1000));
        let report = producer.close(limit).await?;
        let mut answer = json!({
            "acknowledged": report.acknowledged,
            "failed": report.failed,
            "unresolved": report.unresolved,
        });
        match receipt.await.into_result() {
            Ok(ids) => answer["ids"] = texts(&ids),
            Err(error) => answer["failure"] = failure(&error),
        }
        Ok(answer)
    }

    async fn receive(&self, command: &Value) -> Result<Value, Error> {
        let consumer = self.consumer(command)?;
        let within = Duration::from_millis(command["timeout_ms"].as_u64().unwrap_or(1000));
        let Ok(batch) = tokio::time::timeout(within, consumer.next_batch()).await else {
            return Ok(json!({ "records": [] }));
        };
        let batch = batch?.ok_or_else(|| missing("further batch: the consumer was stopped"))?;
        if is_set(command, "ack") {
            consumer.ack_batch(&batch)?;
        }
        match records(&batch) {
            Ok(records) => Ok(json!({ "records": records })),
            Err(error) => Ok(json!({ "records": [], "unreadable": failure(&error) })),
        }
    }

    async fn open_reader(&self, command: &Value) -> Result<AnyReader, Error> {
        let (client, stream) = (self.client()?, text(command, "stream"));
        if text(command, "kind") == "polled" {
            let builder = client.polled_reader(stream, shard(command)?).timeout(POLL);
            let reader = set_all(builder, command, PolledReaderBuilder::set)?.open().await?;
            return Ok(AnyReader::Polled(reader));
        }
        let builder = match text(command, "kind") {
            "shard" => client.shard_reader(stream, shard(command)?),
            "stream" => client.stream_reader(stream),
            "key" => client.key_reader(stream, text(command, "key")),
            "single" => client.single_shard_reader(stream),
            other => return Err(missing(&format!("reader of kind {other:?}"))),
        };
        Ok(AnyReader::Stream(set_all(builder, command, ReaderBuilder::set)?.open().await?))
    }

    async fn read(&self, command: &Value) -> Result<Value, Error> {
        let reader = match self.reader.clone().ok_or_else(|| missing("reader"))? {
            AnyReader::Stream(reader) => reader,
            AnyReader::Polled(reader) => {
                let mut all = Vec::new();
                for batch in reader.read(10).await? {
                    all.extend(records(&batch)?.as_array().cloned().unwrap_or_default());
                }
                return Ok(json!({ "records": all, "end": false }));
            }
        };
        let within = Duration::from_millis(command["timeout_ms"].as_u64().unwrap_or(1000));
        match tokio::time::timeout(within, reader.next_batch()).await {
            Err(_) => Ok(json!({ "records": [], "end": false })),
            Ok(batch) => match batch? {
                Some(batch) => Ok(json!({ "records": records(&batch)?, "end": false })),
                None => Ok(json!({ "records": [], "end": true })),
            },
        }
    }
}

/// What a client does besides records.
async fn admin(client: &Client, command: &Value) -> Result<Value, Error> {
    let (stream, subscription) = (text(command, "stream"), text(command, "subscription"));
    match text(command, "do") {
        "create_stream" => {
            let options = set_all(StreamOptions::default(), command, StreamOptions::set)?;
            client.create_stream(stream, options).await?;
        }
        "delete_stream" => {
            let options = DeleteStreamOptions::new()
                .force(is_set(command, "force"))
                .ignore_missing(is_set(command, "ignore_missing"));
            client.delete_stream(stream, options).await?;
        }
        "get_stream" => {
            let stream = client.get_stream(stream).await?;
            return Ok(json!({
                "name": stream.name,
                "shard_count": stream.shard_count,
                "replication_factor": stream.replication_factor,
                "backlog_duration_secs": stream.backlog_duration_secs,
            }));
        }
        "list_streams" => {
            let streams = match command["prefix"].as_str() {
                Some(prefix) => client.list_streams_with_prefix(prefix).await?,
                None => client.list_streams().await?,
            };
            return Ok(sorted(streams.into_iter().map(|stream| stream.name).collect()));
        }
        "list_shards" => {
            let shards = client.list_shards(stream).await?.into_iter().map(|shard| {
                json!({ "id": shard.id.to_string(), "start": shard.start.to_string(), "end": shard.end.to_string() })
            });
            return Ok(json!({ "shards": shards.collect::<Vec<_>>() }));
        }
        "tail_record_id" => {
            let id = client.tail_record_id(stream, shard(command)?).await?;
            return Ok(json!({ "id": id.to_string() }));
        }
        "trim_stream" => client.trim_stream(stream, text(command, "before").parse()?).await?,
        "trim_shard" => {
            client.trim_shard(stream, shard(command)?, text(command, "before").parse()?).await?;
        }
        "trim_shards" => {
            let points = client.trim_shards(stream, &ids(command)?).await?;
            let points: Vec<_> = points.iter().map(|(_, id)| id.to_string()).collect();
            return Ok(json!({ "ids": points }));
        }
        "create_subscription" => {
            let options = set_all(SubscriptionOptions::default(), command, SubscriptionOptions::set)?;
            client.create_subscription(subscription, stream, options).await?;
        }
        "get_subscription" => {
            let (subscription, _) = client.get_subscription(subscription).await?;
            return Ok(json!({
                "id": subscription.id,
                "stream": subscription.stream,
                "ack_timeout_secs": subscription.ack_timeout_secs,
                "max_unacked_records": subscription.max_unacked_records,
                "offset": subscription.offset.name(),
            }));
        }
        "list_subscriptions" => {
            let subscriptions = match command["prefix"].as_str() {
                Some(prefix) => client.list_subscriptions_with_prefix(prefix).await?,
                None => client.list_subscriptions().await?,
            };
            return Ok(sorted(subscriptions.into_iter().map(|subscription| subscription.id).collect()));
        }
        "delete_subscription" => client.delete_subscription(subscription, is_set(command, "force")).await?,
        "list_consumers" => {
            let consumers = client.list_consumers(subscription).await?;
            return Ok(sorted(consumers.into_iter().map(|consumer| consumer.name).collect()));
        }
        other => return Err(missing(&format!("command {other:?}"))),
    }
    Ok(json!({}))
}
