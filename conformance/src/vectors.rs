//! The golden vectors, through every language's public API.
//!
//! Routing shows in the shard of a record's id, encoding in what the server has stored, decoding in what is
//! delivered of a batch another writer has stored, error bodies in the error of a call the proxy answers.

use crate::adapter::{Adapter, AdapterCommand};
use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hstream_testkit::{RpcProxy, ServerOptions, ServerProcess};
use hstreamdb_proto::api::{self, h_stream_api_client::HStreamApiClient};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};
use tonic::{Request, transport::Channel};

/// Bound on the delivery of one batch.
const RECEIVE_WITHIN: Duration = Duration::from_secs(30);

/// Names of the three sets.
pub const SETS: [&str; 3] = ["routing", "codec", "errors"];

/// Holds one language to one set.
///
/// # Errors
/// What differs.
pub async fn run(set: &str, folder: &Path, command: &AdapterCommand) -> Result<()> {
    let text = fs::read_to_string(folder.join("vectors").join(format!("{set}.json")))?;
    let vectors: Value = serde_json::from_str(&text)?;
    let data = tempfile::tempdir()?;
    let server = ServerProcess::start(&ServerOptions::new(data.path().join("data")))?;
    let proxy = RpcProxy::start(server.port()).await?;
    let raw = HStreamApiClient::connect(format!("http://127.0.0.1:{}", server.port())).await?;
    let mut check = Check { adapter: Adapter::start(command)?, proxy, raw };
    check.adapter.done(&json!({ "do": "connect", "url": check.proxy.url() })).await?;
    match set {
        "routing" => check.routing(&vectors).await?,
        "codec" => {
            check.encoding(list(&vectors, "encode")?).await?;
            check.decoding(list(&vectors, "decode")?).await?;
        }
        _ => check.errors(list(&vectors, "bodies")?).await?,
    }
    check.adapter.done(&json!({ "do": "close" })).await.map(drop)
}

struct Check {
    adapter: Adapter,
    proxy: RpcProxy,
    raw: HStreamApiClient<Channel>,
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    value[name].as_array().with_context(|| format!("no list {name}"))
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    value[name].as_str().with_context(|| format!("no {name} in {value}"))
}

impl Check {
    /// A fresh stream with a producer; its shards by ascending range.
    async fn stream(&mut self, name: &str, shards: u64) -> Result<Vec<u64>> {
        self.adapter
            .done(&json!({ "do": "create_stream", "stream": name, "options": { "shard_count": shards } }))
            .await?;
        self.adapter.done(&json!({ "do": "producer", "stream": name, "options": {} })).await?;
        let request = api::ListShardsRequest { stream_name: name.to_owned() };
        let mut listed = self.raw.list_shards(Request::new(request)).await?.into_inner().shards;
        // Listed in text order.
        listed.sort_by_key(|shard| shard.start_hash_range_key.parse::<u128>().unwrap_or(u128::MAX));
        Ok(listed.into_iter().map(|shard| shard.shard_id).collect())
    }

    /// Appends and returns the ids.
    async fn append(&mut self, records: &[(&str, &str)]) -> Result<Vec<hstreamdb::RecordId>> {
        let ok = self.adapter.done(&json!({ "do": "append", "records": records })).await?;
        let ids = ok.get("ids").and_then(Value::as_array).context("no ids")?;
        ids.iter().map(|id| Ok(id.as_str().context("an id is no text")?.parse()?)).collect()
    }

    async fn routing(&mut self, vectors: &Value) -> Result<()> {
        let keys = list(vectors, "keys")?;
        for shards in [1, 2, 3, 4, 16, 1000] {
            let by_range = self.stream(&format!("routing-{shards}"), shards).await?;
            let records = keys.iter().map(|case| Ok((text(case, "key")?, ""))).collect::<Result<Vec<_>>>()?;
            for (id, case) in self.append(&records).await?.iter().zip(keys) {
                let index = case["shard"][shards.to_string()].as_u64().context("no index")?;
                let expected = by_range.get(index as usize).context("no such shard")?;
                ensure!(id.shard_id == *expected, "key {} went to another of {shards} shards", case["key"]);
            }
        }
        Ok(())
    }

    async fn encoding(&mut self, cases: &[Value]) -> Result<()> {
        let mut compared = 0;
        for case in cases {
            let records = list(case, "records")?;
            // What the adapters' append cannot express is covered by the core's own tests.
            let plain = |record: &Value| record["kind"] == "raw" && record["attributes"] == json!({});
            if !records.iter().all(plain) {
                continue;
            }
            compared += 1;
            let name = text(case, "name")?;
            self.stream(&format!("encode-{compared}"), 1).await?;
            let records = records
                .iter()
                .map(|record| Ok((text(record, "key")?, text(record, "payload")?)))
                .collect::<Result<Vec<_>>>()?;
            let ids = self.append(&records).await?;
            let id = ids.first().context("no id")?;
            let request = api::ReadShardStreamRequest {
                shard_id: id.shard_id,
                max_read_batches: 1,
                reader_id: "vectors".into(),
                ..Default::default()
            };
            let mut read = self.raw.read_shard_stream(Request::new(request)).await?.into_inner();
            let response = read.message().await?.context("nothing was stored")?;
            let stored = response.received_records.into_iter().next().and_then(|received| received.record);
            let stored = stored.context("nothing was stored")?;
            ensure!(stored.compression_type() == api::CompressionType::None, "{name}: compressed");
            ensure!(
                stored.payload == BASE64.decode(text(case, "content")?)?,
                "{name}: other bytes were stored"
            );
        }
        ensure!(compared >= 4, "only {compared} cases were compared");
        Ok(())
    }

    async fn decoding(&mut self, cases: &[Value]) -> Result<()> {
        let stream = "decode";
        let shards = self.stream(stream, 1).await?;
        let shard_id = *shards.first().context("no shard")?;
        self.adapter
            .done(&json!({
                "do": "create_subscription", "subscription": "decode", "stream": stream,
                "options": { "offset": "earliest" },
            }))
            .await?;
        self.adapter
            .done(&json!({ "do": "attach", "subscription": "decode", "consumer": "main", "options": {} }))
            .await?;
        for case in cases {
            let name = text(case, "name")?;
            let mut batch = api::BatchedRecord {
                batch_size: case["records"].as_u64().context("no count")? as u32,
                payload: BASE64.decode(text(case, "payload")?)?.into(),
                ..Default::default()
            };
            batch.set_compression_type(match text(case, "compression")? {
                "gzip" => api::CompressionType::Gzip,
                "zstd" => api::CompressionType::Zstd,
                _ => api::CompressionType::None,
            });
            let expected = u64::from(batch.batch_size);
            let request = api::AppendRequest { stream_name: stream.into(), shard_id, records: Some(batch) };
            self.raw.append(Request::new(request)).await?;
            let end = Instant::now() + RECEIVE_WITHIN;
            let mut received = 0;
            while received < expected {
                ensure!(Instant::now() < end, "{name}: {received} of {expected} records arrived");
                let ok = self
                    .adapter
                    .done(&json!({
                        "do": "receive", "consumer": "main", "timeout_ms": 1000, "ack": true,
                    }))
                    .await?;
                for record in ok.get("records").and_then(Value::as_array).context("no records")? {
                    ensure!(record["payload"] == case["record"], "{name}: another payload arrived");
                    ensure!(record["key"] == case["key"], "{name}: another key arrived");
                    received += 1;
                }
            }
        }
        self.adapter.done(&json!({ "do": "detach", "consumer": "main" })).await.map(drop)
    }

    async fn errors(&mut self, cases: &[Value]) -> Result<()> {
        for case in cases {
            let status = case["status"].as_i64().context("no status")?;
            let message = text(case, "message")?;
            self.proxy.answer("ListStreams", status as i32, message);
            let failure = match self.adapter.call(&json!({ "do": "list_streams" })).await? {
                Ok(_) => anyhow::bail!("status {status} {message:?} was taken for success"),
                Err(failure) => failure,
            };
            ensure!(
                failure.kind == text(case, "kind")? && failure.code == case["code"].as_i64(),
                "status {status} {message:?} became {failure:?}"
            );
        }
        Ok(())
    }
}
