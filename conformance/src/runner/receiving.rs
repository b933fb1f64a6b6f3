//! Steps of consumers.

use super::{ASK_AGAIN, RECEIVE_WITHIN, Run};
use crate::{adapter::Failure, expect, scenario::ExpectedError};
use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Map, Value, json};
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// One wait of several consumers that take turns.
const TURN: Duration = Duration::from_millis(50);

/// Bound on telling a consumer that it is over.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// A received record.
pub(super) struct Received {
    pub(super) id: String,
    pub(super) key: String,
    pub(super) payload: Vec<u8>,
}

/// The records of an answer.
pub(super) fn records(answer: &Map<String, Value>) -> Result<Vec<Received>> {
    let records = answer.get("records").and_then(Value::as_array).context("no records")?;
    records
        .iter()
        .map(|record| {
            let text = |name: &str| record[name].as_str().with_context(|| format!("no {name} in {record}"));
            Ok(Received {
                id: text("id")?.to_owned(),
                key: text("key")?.to_owned(),
                payload: BASE64.decode(text("payload")?)?,
            })
        })
        .collect()
}

impl Run {
    pub(super) async fn receive(&mut self, wanted: usize, ack: bool, consumers: &[String]) -> Result<()> {
        let end = Instant::now() + self.within;
        let mut received = vec![0; consumers.len()];
        while received.iter().sum::<usize>() < wanted {
            for (consumer, count) in consumers.iter().zip(&mut received) {
                let left = end.saturating_duration_since(Instant::now());
                ensure!(!left.is_zero(), "{count} of {wanted} records arrived in time at {consumer}");
                let wait = if consumers.len() > 1 { TURN.min(left) } else { left };
                let batch = self.batch(consumer, wait, ack).await?;
                ensure!(!batch.unreadable, "a batch cannot be read");
                *count += batch.ids.len();
            }
        }
        for (consumer, count) in consumers.iter().zip(received) {
            ensure!(count > 0, "consumer {consumer} got nothing");
        }
        Ok(())
    }

    pub(super) async fn receive_all(&mut self, consumer: &str) -> Result<()> {
        let end = Instant::now() + self.within;
        while self.history.missing() > 0 {
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{} records did not arrive in time", self.history.missing());
            let batch = self.batch(consumer, left, true).await?;
            ensure!(!batch.unreadable, "a batch cannot be read");
        }
        Ok(())
    }

    pub(super) async fn receive_nothing(&mut self, consumer: &str, within_ms: u64) -> Result<()> {
        let batch = self.batch(consumer, Duration::from_millis(within_ms), false).await?;
        ensure!(!batch.unreadable, "a batch cannot be read");
        ensure!(batch.ids.is_empty(), "{} records arrived", batch.ids.len());
        Ok(())
    }

    pub(super) async fn receive_again(&mut self, consumer: &str) -> Result<()> {
        let mut open: HashSet<String> = self.history.open().into_iter().collect();
        ensure!(!open.is_empty(), "nothing is open that could come again");
        let end = Instant::now() + self.within;
        while !open.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{} records did not come again", open.len());
            let batch = self.batch(consumer, left, true).await?;
            ensure!(!batch.unreadable, "a batch cannot be read");
            for id in batch.ids {
                ensure!(open.remove(&id), "record {id} came again although it should not");
            }
        }
        Ok(())
    }

    pub(super) async fn receive_unreadable(&mut self, ack: bool) -> Result<()> {
        let end = Instant::now() + self.within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no unreadable batch arrived");
            let batch = self.batch("main", left, ack).await?;
            ensure!(batch.ids.is_empty(), "{} records arrived that can be read", batch.ids.len());
            if batch.unreadable {
                return Ok(());
            }
        }
    }

    pub(super) async fn ack(&mut self, even_only: bool) -> Result<()> {
        let mut ids = self.history.open();
        let index = |id: &String| id.rsplit('-').next().and_then(|index| index.parse::<u32>().ok());
        ids.retain(|id| !even_only || index(id).is_some_and(|index| index % 2 == 0));
        self.adapter.done(&json!({ "do": "ack", "consumer": "main", "ids": ids })).await?;
        for id in &ids {
            self.history.acked(id);
        }
        Ok(())
    }

    pub(super) async fn ended(&mut self, consumer: &str, error: &ExpectedError) -> Result<()> {
        let end = Instant::now() + TOLD_WITHIN;
        while Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            let answer = self.ask_batch(consumer, left, false).await?;
            if answer.is_err() {
                return expect::failed(answer, error);
            }
            // What was on its way may come before the end.
            tokio::time::sleep(ASK_AGAIN).await;
        }
        bail!("the consumer was not told")
    }

    async fn ask_batch(
        &mut self,
        consumer: &str,
        within: Duration,
        ack: bool,
    ) -> Result<Result<Map<String, Value>, Failure>> {
        let timeout_ms = within.min(RECEIVE_WITHIN).as_millis() as u64;
        let command = json!({ "do": "receive", "consumer": consumer, "timeout_ms": timeout_ms, "ack": ack });
        self.adapter.call(&command).await
    }

    /// One batch, or none in that time.
    async fn batch(&mut self, consumer: &str, within: Duration, ack: bool) -> Result<Batch> {
        let answer = match self.ask_batch(consumer, within, ack).await? {
            Ok(answer) => answer,
            Err(failure) => bail!("receive failed: {}: {}", failure.kind, failure.message),
        };
        if let Some(failure) = answer.get("unreadable") {
            let failure: Failure = serde_json::from_value(failure.clone())?;
            ensure!(failure.kind == "codec", "an unreadable batch is reported with {failure:?}");
            return Ok(Batch { ids: Vec::new(), unreadable: true });
        }
        let compression = answer.get("compression").and_then(Value::as_str);
        let mut ids = Vec::new();
        for record in records(&answer)? {
            self.history.delivered(&record.id, &record.key, &record.payload)?;
            if let Some(compression) = compression {
                self.history.compressed(&record.id, compression)?;
            }
            if ack {
                self.history.acked(&record.id);
            }
            ids.push(record.id);
        }
        Ok(Batch { ids, unreadable: false })
    }
}

struct Batch {
    ids: Vec<String>,
    /// It came and nobody can decode it.
    unreadable: bool,
}
