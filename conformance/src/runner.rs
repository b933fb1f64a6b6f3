//! Runs one scenario against one language.

use crate::{
    adapter::{Adapter, AdapterCommand},
    expect,
    history::History,
    scenario::{Scenario, Step},
};
use anyhow::{Context as _, Result, ensure};
use futures::future::BoxFuture;
use hstream_testkit::Fault;
use hstreamdb_proto::api::{AdminCommandRequest, ListShardsRequest, h_stream_api_client::HStreamApiClient};
use serde_json::{Map, Value, json};
use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tonic::transport::Channel;

mod appending;
mod place;
mod reading;
mod receiving;

use place::Place;

const STREAM: &str = "conformance";
const SUBSCRIPTION: &str = "conformance-reader";
/// Bound on what a step expects to come.
const RECEIVE_WITHIN: Duration = Duration::from_secs(30);
/// The same where it is expected not to come, because the server is broken or the language cannot.
const RECEIVE_WITHIN_BROKEN: Duration = Duration::from_secs(5);
/// Pause before something is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Runs `scenario`; `broken` makes the server a broken one, to see that the scenario notices.
///
/// # Errors
/// What did not hold.
pub async fn run(scenario: &Scenario, command: &AdapterCommand, broken: Option<Fault>) -> Result<()> {
    let place = Place::start(scenario.nodes, broken).await?;
    let hopeless = broken.is_some() || scenario.except.contains_key(&command.language);
    let mut run = Run {
        adapter: Adapter::start(command)?,
        command: command.clone(),
        place,
        history: History::default(),
        appended: 0,
        started: Vec::new(),
        times: HashMap::new(),
        within: if hopeless { RECEIVE_WITHIN_BROKEN } else { RECEIVE_WITHIN },
    };
    run.adapter.done(&json!({ "do": "connect", "url": run.place.url() })).await?;
    let stream =
        json!({ "do": "create_stream", "stream": STREAM, "options": { "shard_count": scenario.shards } });
    run.adapter.done(&stream).await?;
    if scenario.subscribe {
        run.subscribe(&scenario.subscription).await?;
    }
    for (number, step) in scenario.steps.iter().enumerate() {
        run.step(step).await.with_context(|| format!("step {} ({step:?})", number + 1))?;
    }
    run.adapter.done(&json!({ "do": "close" })).await?;
    run.history.check(scenario.complete, scenario.redelivery)
}

struct Run {
    adapter: Adapter,
    command: AdapterCommand,
    place: Place,
    history: History,
    /// Numbers the records.
    appended: usize,
    started: Vec<(String, Vec<u8>)>,
    times: HashMap<String, u64>,
    within: Duration,
}

impl Run {
    async fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Producer { options } => {
                self.adapter.done(&json!({ "do": "producer", "stream": STREAM, "options": options })).await?;
            }
            Step::Append { records, keys, bytes, unrelated, error } => {
                let records = self.numbered(*records, *keys, *bytes);
                self.append(records, *unrelated, error.as_ref()).await?;
            }
            Step::AppendExactly { records } => self.append_exactly(records).await?,
            Step::StartAppend { records, keys } => {
                let records = self.numbered(*records, *keys, 0);
                self.start_append(records).await?;
            }
            Step::Await {} => self.finish_append(false).await?,
            Step::CloseProducer { records, timeout_ms, stored } => {
                let records = self.numbered(*records, 3, 0);
                self.close_producer(records, *timeout_ms, *stored).await?;
            }
            Step::Poison { kind } => self.poison(*kind).await?,
            Step::Subscribe { options } => self.subscribe(options).await?,
            Step::Attach { consumer, name } => {
                let mut command = json!({ "do": "attach", "subscription": SUBSCRIPTION, "consumer": consumer, "options": {} });
                if let Some(name) = name {
                    command["options"]["name"] = name.as_str().into();
                }
                self.adapter.done(&command).await?;
            }
            Step::Receive { records, ack, consumers } => self.receive(*records, *ack, consumers).await?,
            Step::ReceiveAll { consumer } => self.receive_all(consumer).await?,
            Step::ReceiveAgain { consumer } => self.receive_again(consumer).await?,
            Step::ReceiveNothing { within_ms, consumer } => {
                self.receive_nothing(consumer, *within_ms).await?
            }
            Step::ReceiveUnreadable { ack } => self.receive_unreadable(*ack).await?,
            Step::Ack { even_only } => self.ack(*even_only).await?,
            Step::Ended { consumer, error } => self.ended(consumer, error).await?,
            Step::Detach { consumer } => {
                let report = self.adapter.done(&json!({ "do": "detach", "consumer": consumer })).await?;
                ensure!(
                    report.get("clean") == Some(&Value::Bool(true)),
                    "the consumer did not leave cleanly"
                );
            }
            Step::Read(read) => self.read(read).await?,
            Step::Mark { name } => {
                let time = self.new_millisecond().await?;
                self.times.insert(name.clone(), time);
                self.new_millisecond().await?;
            }
            Step::CheckRouting {} => self.check_routing().await?,
            Step::Fault { fault } => self.place.proxy()?.set(*fault),
            Step::Operator { command } => {
                let url = self.place.proxy()?.url().replace("hstream://", "http://");
                let mut proxy = HStreamApiClient::connect(url).await?;
                proxy.send_admin_command(AdminCommandRequest { command: command.clone() }).await?;
            }
            Step::CutConnections {} => self.place.proxy()?.cut_connections(),
            Step::KillServer {} => self.place.kill_server()?,
            Step::KillNode { which, append } => {
                let (nodes, which) = (self.place.nodes()?, *which);
                self.append_while(*append, async move { nodes.kill(which, SUBSCRIPTION).await }).await?;
            }
            Step::StartNode { append } => {
                let nodes = self.place.nodes()?;
                self.append_while(*append, async move { nodes.start_again().await }).await?;
            }
            Step::RollingRestart { append } => {
                let nodes = self.place.nodes()?;
                self.append_while(*append, async move { nodes.roll().await }).await?;
            }
            Step::KillClient {} => {
                self.adapter.kill().await?;
                self.adapter = Adapter::start(&self.command)?;
                self.adapter.done(&json!({ "do": "connect", "url": self.place.url() })).await?;
            }
            Step::Call { command, answer, eventually } => self.call(command, answer, *eventually).await?,
            Step::Refused { command, error } => {
                let command = self.filled(command).await?;
                expect::failed(self.adapter.call(&command).await?, error)?;
            }
            Step::OneWins { connections, command, error } => {
                let command = json!({ "do": "together", "connections": connections, "command": command });
                let answers = self.adapter.done(&command).await?;
                let answers = answers.get("answers").and_then(Value::as_array).context("no answers")?;
                ensure!(answers.len() == *connections, "{} of {connections} answers", answers.len());
                let (lost, won): (Vec<_>, Vec<_>) =
                    answers.iter().partition(|answer| answer.get("error").is_some());
                ensure!(won.len() == 1, "{} of {connections} succeeded", won.len());
                for answer in lost {
                    expect::failed(Err(serde_json::from_value(answer["error"].clone())?), error)?;
                }
            }
        }
        Ok(())
    }

    /// Does something, and appends so many records at a time until it is done and once more after it; none if 0.
    async fn append_while(
        &mut self,
        records: usize,
        doing: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Result<()> {
        let mut doing: BoxFuture<'static, Result<()>> = Box::pin(doing);
        if records == 0 {
            return doing.await;
        }
        let mut done = false;
        while !done {
            done = tokio::select! {
                result = &mut doing => result.map(|()| true)?,
                () = tokio::time::sleep(ASK_AGAIN) => false,
            };
            let records = self.numbered(records, 12, 0);
            self.append(records, false, None).await?;
        }
        Ok(())
    }

    async fn subscribe(&mut self, options: &Map<String, Value>) -> Result<()> {
        let mut all = Map::from_iter([
            ("offset".to_owned(), json!("earliest")),
            ("ack_timeout_secs".to_owned(), json!(600)),
        ]);
        all.extend(options.clone());
        let command = json!({
            "do": "create_subscription", "subscription": SUBSCRIPTION, "stream": STREAM, "options": all
        });
        self.adapter.done(&command).await.map(drop)
    }

    async fn call(&mut self, command: &Value, expected: &Value, eventually: bool) -> Result<()> {
        let (command, expected) = (self.filled(command).await?, &self.filled(expected).await?);
        let end = Instant::now() + self.within;
        loop {
            let answer = Value::Object(self.adapter.done(&command).await?);
            if expect::holds(&answer, expected) {
                return Ok(());
            }
            ensure!(eventually && Instant::now() < end, "the answer is {answer}, not {expected}");
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// The clock after it has ticked: appends before and after lie in other milliseconds.
    async fn new_millisecond(&self) -> Result<u64> {
        let now = || -> Result<u64> {
            Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
        };
        let before = now()?;
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let after = now()?;
            if after > before {
                return Ok(after);
            }
        }
    }

    /// The server itself, past the proxy.
    async fn raw(&self) -> Result<HStreamApiClient<Channel>> {
        let port = self.place.port().await?;
        Ok(HStreamApiClient::connect(format!("http://127.0.0.1:{port}")).await?)
    }

    /// Shards of the stream by ascending range: id, first and last hash.
    async fn shards(&self) -> Result<Vec<(u64, u128, u128)>> {
        let request = ListShardsRequest { stream_name: STREAM.into() };
        let mut shards = Vec::new();
        for shard in self.raw().await?.list_shards(request).await?.into_inner().shards {
            shards.push((
                shard.shard_id,
                shard.start_hash_range_key.parse()?,
                shard.end_hash_range_key.parse()?,
            ));
        }
        shards.sort_by_key(|(_, start, _)| *start);
        Ok(shards)
    }

    /// `value` with what its `$` texts stand for.
    async fn filled(&self, value: &Value) -> Result<Value> {
        Ok(match value {
            Value::String(text) if text.starts_with('$') => self.meaning(text).await?.into(),
            Value::Array(items) => {
                let mut filled = Vec::with_capacity(items.len());
                for item in items {
                    filled.push(Box::pin(self.filled(item)).await?);
                }
                filled.into()
            }
            Value::Object(members) => {
                let mut filled = Map::new();
                for (name, member) in members {
                    filled.insert(name.clone(), Box::pin(self.filled(member)).await?);
                }
                filled.into()
            }
            other => other.clone(),
        })
    }

    async fn meaning(&self, text: &str) -> Result<String> {
        let (kind, which) = text.split_once(':').with_context(|| format!("{text} names nothing"))?;
        let found = match kind {
            "$id" => self.history.ids().get(which.parse::<usize>()?).cloned(),
            "$shard" => self.shards().await?.get(which.parse::<usize>()?).map(|(id, ..)| id.to_string()),
            "$time" => self.times.get(which).map(u64::to_string),
            _ => None,
        };
        found.with_context(|| format!("there is no {text}"))
    }
}
