//! The Rust adapter: the core's public API behind JSON lines.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hstreamdb::{
    Client, Consumer, DeleteStreamOptions, Error, ErrorKind, OptionValue, Producer, RecordBatch,
    StreamOptions, SubscriptionOptions,
};
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, stdin, stdout};

const CLOSE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Adapter {
    client: Option<Client>,
    producer: Option<Producer>,
    consumer: Option<Consumer>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut lines = BufReader::new(stdin()).lines();
    let mut adapter = Adapter::default();
    let mut output = stdout();
    while let Some(line) = lines.next_line().await? {
        let command: Value = serde_json::from_str(&line)?;
        let answer = match adapter.run(&command).await {
            Ok(ok) => json!({ "ok": ok }),
            Err(error) => json!({ "error": {
                "kind": error.kind().name(),
                "code": error.code(),
                "may_have_been_applied": error.may_have_been_applied(),
                "message": error.to_string(),
            } }),
        };
        output.write_all(format!("{answer}\n").as_bytes()).await?;
        output.flush().await?;
    }
    Ok(())
}

fn text<'a>(command: &'a Value, name: &str) -> &'a str {
    command[name].as_str().unwrap_or_default()
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, "adapter command").with_message(format!("no {what}"))
}

fn option(value: &Value) -> OptionValue {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Number(value) => value.as_i64().unwrap_or_default().into(),
        other => other.as_str().unwrap_or_default().to_owned().into(),
    }
}

impl Adapter {
    async fn run(&mut self, command: &Value) -> Result<Value, Error> {
        let done = json!({});
        if text(command, "do") == "connect" {
            let mut builder = Client::builder().url(text(command, "url"));
            for (name, value) in command["options"].as_object().unwrap_or(&Map::new()) {
                builder = builder.set(name, option(value))?;
            }
            self.client = Some(builder.connect().await?);
            return Ok(done);
        }
        let client = self.client.clone().ok_or_else(|| missing("client"))?;
        match text(command, "do") {
            "create_stream" => {
                let shards = command["shards"].as_i64().unwrap_or(1);
                let options = StreamOptions::default().set("shard_count", shards)?;
                client.create_stream(text(command, "stream"), options).await?;
            }
            "delete_stream" => {
                client.delete_stream(text(command, "stream"), DeleteStreamOptions::default()).await?;
            }
            "list_streams" => {
                client.list_streams().await?;
            }
            "create_subscription" => {
                let options = SubscriptionOptions::default()
                    .set("offset", "earliest")?
                    .set("ack_timeout_secs", command["ack_timeout_secs"].as_i64().unwrap_or(600))?;
                client
                    .create_subscription(text(command, "subscription"), text(command, "stream"), options)
                    .await?;
            }
            "delete_subscription" => client.delete_subscription(text(command, "subscription"), false).await?,
            "producer" => {
                let mut builder = client.producer(text(command, "stream"));
                for (name, value) in command["options"].as_object().unwrap_or(&Map::new()) {
                    builder = builder.set(name, option(value))?;
                }
                self.producer = Some(builder.build().await?);
            }
            "append" => {
                let mut batch = RecordBatch::with_capacity(0, 0);
                for record in command["records"].as_array().unwrap_or(&Vec::new()) {
                    let payload = BASE64
                        .decode(record[1].as_str().unwrap_or_default())
                        .map_err(|_| missing("payload"))?;
                    batch.push(record[0].as_str().unwrap_or_default(), &payload);
                }
                let producer = self.producer.clone().ok_or_else(|| missing("producer"))?;
                let ids = producer.append_many(batch).await?.await.into_result()?;
                let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
                return Ok(json!({ "ids": ids }));
            }
            "attach" => self.consumer = Some(client.consumer(text(command, "subscription")).start().await?),
            "receive" => return self.receive(command).await,
            "detach" => {
                let consumer = self.consumer.take().ok_or_else(|| missing("consumer"))?;
                let report = consumer.stop(CLOSE).await?;
                return Ok(json!({ "clean": report.clean }));
            }
            "close" => client.close(CLOSE).await?,
            other => return Err(missing(&format!("command {other:?}"))),
        }
        Ok(done)
    }

    async fn receive(&mut self, command: &Value) -> Result<Value, Error> {
        let consumer = self.consumer.clone().ok_or_else(|| missing("consumer"))?;
        let within = Duration::from_millis(command["timeout_ms"].as_u64().unwrap_or(1000));
        let Ok(batch) = tokio::time::timeout(within, consumer.next_batch()).await else {
            return Ok(json!({ "records": [] }));
        };
        let batch = batch?.ok_or_else(|| missing("further batch: the subscription ended"))?;
        let records: Vec<Value> = batch
            .records()?
            .iter()
            .map(|record| {
                json!({ "id": record.id.to_string(), "key": record.key, "payload": BASE64.encode(&record.payload) })
            })
            .collect();
        if command["ack"] == true {
            consumer.ack_batch(&batch)?;
        }
        Ok(json!({ "records": records }))
    }
}
