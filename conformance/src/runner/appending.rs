//! Steps that store records.

use super::{Run, STREAM};
use crate::{
    adapter::Failure,
    expect,
    scenario::{ExpectedError, Poison},
};
use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hstreamdb_proto::{
    api::{self, AppendRequest, BatchHStreamRecords, BatchedRecord, HStreamRecord, HStreamRecordHeader},
    compression::compress,
    partition::key_hash,
};
use prost::Message as _;
use serde_json::{Map, Value, json};

impl Run {
    /// The next records of the scenario; every payload is another one.
    pub(super) fn numbered(&self, records: usize, keys: usize, bytes: usize) -> Vec<(String, Vec<u8>)> {
        (self.appended..self.appended + records)
            .map(|number| {
                let mut payload = format!("record {number}").into_bytes();
                payload.resize(payload.len().max(bytes), b'.');
                (format!("key-{}", number % keys.max(1)), payload)
            })
            .collect()
    }

    pub(super) async fn append(
        &mut self,
        records: Vec<(String, Vec<u8>)>,
        unrelated: bool,
        error: Option<&ExpectedError>,
    ) -> Result<()> {
        self.start_append(records).await?;
        let Some(expected) = error else { return self.finish_append(unrelated).await };
        let answer = self.adapter.answer().await?;
        for (_, payload) in std::mem::take(&mut self.started) {
            // What was certainly not applied must never be delivered.
            if expected.may_have_been_applied != Some(false) {
                self.history.unclear(&payload);
            }
        }
        expect::failed(answer, expected)
    }

    pub(super) async fn append_exactly(&mut self, records: &[(String, String)]) -> Result<()> {
        let records = records
            .iter()
            .map(|(key, payload)| Ok((key.clone(), BASE64.decode(payload)?)))
            .collect::<Result<_>>()?;
        self.append(records, false, None).await
    }

    pub(super) async fn start_append(&mut self, records: Vec<(String, Vec<u8>)>) -> Result<()> {
        self.appended += records.len();
        let list: Vec<_> =
            records.iter().map(|(key, payload)| json!([key, BASE64.encode(payload)])).collect();
        self.started = records;
        self.adapter.send(&json!({ "do": "append", "records": list })).await
    }

    pub(super) async fn finish_append(&mut self, unrelated: bool) -> Result<()> {
        let ok = match self.adapter.answer().await? {
            Ok(ok) => ok,
            Err(failure) => bail!("append failed: {}: {}", failure.kind, failure.message),
        };
        self.take_ids(&ok, unrelated)
    }

    /// The started records have these ids.
    fn take_ids(&mut self, ok: &Map<String, Value>, unrelated: bool) -> Result<()> {
        let ids = ok.get("ids").and_then(Value::as_array).context("no ids")?;
        let records = std::mem::take(&mut self.started);
        ensure!(ids.len() == records.len(), "{} ids for {} records", ids.len(), records.len());
        for (id, (key, payload)) in ids.iter().zip(&records) {
            let id = id.as_str().context("an id is no text")?;
            // Nobody knows of an unrelated one, so its delivery shows.
            if !unrelated {
                self.history.acknowledged(id, key, payload)?;
            }
        }
        Ok(())
    }

    /// Appends, and closes the producer over it.
    pub(super) async fn close_producer(
        &mut self,
        records: Vec<(String, Vec<u8>)>,
        timeout_ms: u64,
        stored: bool,
    ) -> Result<()> {
        self.appended += records.len();
        let list: Vec<_> =
            records.iter().map(|(key, payload)| json!([key, BASE64.encode(payload)])).collect();
        let command = json!({ "do": "close_producer", "records": list, "timeout_ms": timeout_ms });
        let answer = self.adapter.done(&command).await?;
        let told =
            |name: &str| answer.get(name).and_then(Value::as_u64).with_context(|| format!("no {name}"));
        let report = [told("acknowledged")?, told("failed")?, told("unresolved")?];
        let all = records.len() as u64;
        let expected = if stored { [all, 0, 0] } else { [0, 0, all] };
        ensure!(report == expected, "acknowledged, failed, unresolved are {report:?}, not {expected:?}");
        if stored {
            self.started = records;
            return self.take_ids(&answer, false);
        }
        for (_, payload) in &records {
            self.history.unclear(payload);
        }
        let failure = answer.get("failure").cloned().context("the append has not failed")?;
        let failure: Failure = serde_json::from_value(failure)?;
        let expected = ExpectedError {
            kind: vec!["outcome_unknown".into()],
            code: None,
            may_have_been_applied: Some(true),
        };
        expect::failed(Err(failure), &expected)
    }

    /// Stores a batch past every client.
    pub(super) async fn poison(&mut self, kind: Poison) -> Result<()> {
        let record = HStreamRecord {
            header: Some(HStreamRecordHeader { flag: 1, key: "poison".into(), ..Default::default() }),
            payload: vec![b'x'; 1000].into(),
        };
        let content = BatchHStreamRecords { records: vec![record; 3] }.encode_to_vec();
        let gzip = compress(api::CompressionType::Gzip, None, content.clone().into())?;
        let garbage = vec![0xff; 200];
        let (compression_type, payload, batch_size) = match kind {
            Poison::Garbage => (0, garbage, 3),
            Poison::TruncatedGzip => (1, gzip.get(..gzip.len() / 2).unwrap_or_default().to_vec(), 3),
            Poison::GarbageZstd => (2, garbage, 3),
            Poison::UnknownCompression => (77, content, 3),
            Poison::FewerRecords => (0, content, 5),
        };
        let records =
            Some(BatchedRecord { compression_type, publish_time: None, batch_size, payload: payload.into() });
        let shard_id = self.shards().await?.first().map(|(id, ..)| *id).context("no shard")?;
        let request = AppendRequest { stream_name: STREAM.into(), shard_id, records };
        self.raw().await?.append(request).await?;
        Ok(())
    }

    pub(super) async fn check_routing(&mut self) -> Result<()> {
        let answer = self.adapter.done(&json!({ "do": "list_shards", "stream": STREAM })).await?;
        let listed = answer.get("shards").and_then(Value::as_array).context("no shards")?;
        let mut shards = Vec::new();
        let mut next = Some(0u128);
        for shard in listed {
            let text = |name: &str| shard[name].as_str().with_context(|| format!("no {name} in {shard}"));
            let (id, start, end): (u64, u128, u128) =
                (text("id")?.parse()?, text("start")?.parse()?, text("end")?.parse()?);
            ensure!(Some(start) == next, "shard {id} begins at {start}, not at {next:?}");
            next = end.checked_add(1);
            shards.push((id, start, end));
        }
        ensure!(next.is_none() && !shards.is_empty(), "the shards do not cover all keys");
        ensure!(shards == self.shards().await?, "the server has other shards than the language lists");
        for id in self.history.ids() {
            let hash = key_hash(self.history.key_of(id).unwrap_or_default());
            let (shard, ..) = shards
                .iter()
                .find(|(_, start, end)| (*start..=*end).contains(&hash))
                .context("a key without a shard")?;
            ensure!(id.starts_with(&format!("{shard}-")), "record {id} should lie in shard {shard}");
        }
        Ok(())
    }
}
