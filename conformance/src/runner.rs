//! Runs one scenario against one language.

use crate::{
    adapter::{Adapter, AdapterCommand, Failure},
    history::History,
    scenario::{ExpectedError, Scenario, Step},
};
use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hstream_testkit::{Fault, RpcProxy, ServerOptions, ServerProcess};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

const STREAM: &str = "conformance";
const SUBSCRIPTION: &str = "conformance-reader";
/// Bound on receiving what a step expects.
const RECEIVE_WITHIN: Duration = Duration::from_secs(30);
/// The same where it is expected not to come, because the server is broken.
const RECEIVE_WITHIN_BROKEN: Duration = Duration::from_secs(5);

/// Runs `scenario`; `broken` makes the server a broken one, to see that the scenario notices.
///
/// # Errors
/// What did not hold.
pub async fn run(scenario: &Scenario, adapter: &AdapterCommand, broken: Option<Fault>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = ServerOptions::new(folder.path().join("data"));
    let server = ServerProcess::start(&options)?;
    let proxy = RpcProxy::start_broken(server.port(), broken.unwrap_or(Fault::None)).await?;
    let mut run = Run {
        adapter: Adapter::start(adapter)?,
        options: ServerOptions { port: server.port(), ..options },
        server: Some(server),
        proxy,
        history: History::default(),
        appended: 0,
        started: Vec::new(),
        receive_within: if broken.is_some() { RECEIVE_WITHIN_BROKEN } else { RECEIVE_WITHIN },
    };
    run.adapter.done(&json!({ "do": "connect", "url": run.proxy.url() })).await?;
    run.adapter.done(&json!({ "do": "create_stream", "stream": STREAM, "shards": scenario.shards })).await?;
    let subscription = json!({
        "do": "create_subscription",
        "subscription": SUBSCRIPTION,
        "stream": STREAM,
        "ack_timeout_secs": scenario.ack_timeout_secs,
    });
    run.adapter.done(&subscription).await?;
    for (number, step) in scenario.steps.iter().enumerate() {
        run.step(step).await.with_context(|| format!("step {} ({step:?})", number + 1))?;
    }
    run.adapter.done(&json!({ "do": "close" })).await?;
    run.history.check(scenario.complete, scenario.redelivery)
}

struct Run {
    adapter: Adapter,
    options: ServerOptions,
    server: Option<ServerProcess>,
    proxy: RpcProxy,
    history: History,
    appended: usize,
    started: Vec<(String, Vec<u8>)>,
    receive_within: Duration,
}

impl Run {
    async fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Producer { options } => {
                let options = if options.is_null() { json!({}) } else { options.clone() };
                self.adapter.done(&json!({ "do": "producer", "stream": STREAM, "options": options })).await?;
            }
            Step::Append { records, keys, error } => {
                self.start_append(self.numbered(*records, *keys)).await?;
                match error {
                    None => self.finish_append().await?,
                    Some(expected) => {
                        let answer = self.adapter.answer().await?;
                        for (_, payload) in std::mem::take(&mut self.started) {
                            self.history.unclear(&payload);
                        }
                        check_failure(answer, expected)?;
                    }
                }
            }
            Step::AppendExactly { records } => {
                let records = records
                    .iter()
                    .map(|(key, payload)| Ok((key.clone(), BASE64.decode(payload)?)))
                    .collect::<Result<_>>()?;
                self.start_append(records).await?;
                self.finish_append().await?;
            }
            Step::StartAppend { records, keys } => self.start_append(self.numbered(*records, *keys)).await?,
            Step::Await {} => self.finish_append().await?,
            Step::Attach {} => {
                self.adapter.done(&json!({ "do": "attach", "subscription": SUBSCRIPTION })).await?;
            }
            Step::Receive { records, ack } => self.receive(*records, *ack).await?,
            Step::ReceiveNothing { within_ms } => {
                let received = self.receive_batch(*within_ms, false).await?;
                ensure!(received == 0, "{received} records arrived");
            }
            Step::Detach {} => {
                let report = self.adapter.done(&json!({ "do": "detach" })).await?;
                ensure!(
                    report.get("clean") == Some(&Value::Bool(true)),
                    "the consumer did not leave cleanly"
                );
            }
            Step::Fault { fault } => self.proxy.set(*fault),
            Step::CutConnections {} => self.proxy.cut_connections(),
            Step::KillServer {} => {
                if let Some(server) = self.server.take() {
                    server.kill()?;
                }
                self.server = Some(ServerProcess::start(&self.options)?);
            }
            Step::Refused { command, error } => {
                let answer = self.adapter.call(command).await?;
                check_failure(answer, error)?;
            }
        }
        Ok(())
    }

    fn numbered(&self, records: usize, keys: usize) -> Vec<(String, Vec<u8>)> {
        (self.appended..self.appended + records)
            .map(|number| (format!("key-{}", number % keys.max(1)), format!("record {number}").into_bytes()))
            .collect()
    }

    async fn start_append(&mut self, records: Vec<(String, Vec<u8>)>) -> Result<()> {
        self.appended += records.len();
        let list: Vec<_> =
            records.iter().map(|(key, payload)| json!([key, BASE64.encode(payload)])).collect();
        self.started = records;
        self.adapter.send(&json!({ "do": "append", "records": list })).await
    }

    async fn finish_append(&mut self) -> Result<()> {
        let ok = match self.adapter.answer().await? {
            Ok(ok) => ok,
            Err(failure) => bail!("append failed: {}: {}", failure.kind, failure.message),
        };
        let ids = ok.get("ids").and_then(Value::as_array).context("no ids")?;
        let records = std::mem::take(&mut self.started);
        ensure!(ids.len() == records.len(), "{} ids for {} records", ids.len(), records.len());
        for (id, (key, payload)) in ids.iter().zip(&records) {
            self.history.acknowledged(id.as_str().context("an id is no text")?, key, payload)?;
        }
        Ok(())
    }

    async fn receive(&mut self, records: usize, ack: bool) -> Result<()> {
        let end = Instant::now() + self.receive_within;
        let mut received = 0;
        while received < records {
            let left = end.saturating_duration_since(Instant::now());
            ensure!(
                !left.is_zero(),
                "{received} of {records} records arrived within {:?}",
                self.receive_within
            );
            received += self.receive_batch(left.as_millis() as u64, ack).await?;
        }
        Ok(())
    }

    /// One batch, or none in that time.
    async fn receive_batch(&mut self, within_ms: u64, ack: bool) -> Result<usize> {
        let ok = self
            .adapter
            .done(&json!({ "do": "receive", "timeout_ms": within_ms.min(30_000), "ack": ack }))
            .await?;
        let records = ok.get("records").and_then(Value::as_array).context("no records")?;
        for record in records {
            let text = |name: &str| record[name].as_str().with_context(|| format!("no {name} in {record}"));
            let payload = BASE64.decode(text("payload")?)?;
            self.history.delivered(text("id")?, text("key")?, &payload)?;
        }
        Ok(records.len())
    }
}

fn check_failure(answer: Result<Map<String, Value>, Failure>, expected: &ExpectedError) -> Result<()> {
    let failure = match answer {
        Ok(ok) => bail!("it succeeded: {}", Value::Object(ok)),
        Err(failure) => failure,
    };
    ensure!(expected.kind.contains(&failure.kind), "it failed with {failure:?}");
    if let Some(code) = expected.code {
        ensure!(failure.code == Some(code), "it failed with {failure:?}");
    }
    if let Some(applied) = expected.may_have_been_applied {
        ensure!(failure.may_have_been_applied == applied, "it failed with {failure:?}");
    }
    Ok(())
}
