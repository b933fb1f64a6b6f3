//! Steps of readers.

use super::{Run, STREAM, receiving};
use crate::{adapter::Failure, expect, scenario::Read};
use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// How long a reader that has given everything and does not end is listened to.
const SILENCE: Duration = Duration::from_millis(300);

impl Run {
    pub(super) async fn read(&mut self, read: &Read) -> Result<()> {
        let outcome = self.open_and_read(read).await?;
        match (outcome, &read.error) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(_)) => bail!("the read succeeded"),
            (Err(failure), Some(expected)) => expect::failed(Err(failure), expected),
            (Err(failure), None) => bail!("the read failed: {}: {}", failure.kind, failure.message),
        }
    }

    async fn open_and_read(&mut self, read: &Read) -> Result<Result<(), Failure>> {
        let options = self.filled(&Value::Object(read.options.clone())).await?;
        let mut open =
            json!({ "do": "open_reader", "kind": read.kind, "stream": STREAM, "options": options });
        if let Some(shard) = &read.shard {
            open["shard"] = self.filled(&json!(shard)).await?;
        }
        if let Some(key) = &read.key {
            open["key"] = key.as_str().into();
        }
        if let Err(failure) = self.adapter.call(&open).await? {
            return Ok(Err(failure));
        }
        if read.append > 0 {
            let records = self.numbered(read.append, 3, 0);
            self.append(records, false, None).await?;
        }
        let result = self.read_all(read).await?;
        self.adapter.done(&json!({ "do": "close_reader" })).await?;
        Ok(result)
    }

    async fn read_all(&mut self, read: &Read) -> Result<Result<(), Failure>> {
        let expected: Vec<String> = self
            .history
            .ids()
            .get(read.first..read.end)
            .unwrap_or_default()
            .iter()
            .filter(|id| read.key.is_none() || self.history.key_of(id) == read.key.as_deref())
            .cloned()
            .collect();
        let deadline = Instant::now() + self.within;
        let mut ids: Vec<String> = Vec::new();
        let mut unreadable = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{} of {} records came, and no end", ids.len(), expected.len());
            let complete = !read.ends && ids.len() >= expected.len();
            let wait = if complete { SILENCE } else { left };
            let answer = match self.read_batch(wait).await? {
                Ok(answer) => answer,
                Err(failure) if failure.kind == "codec" && unreadable < read.unreadable => {
                    unreadable += 1;
                    continue;
                }
                Err(failure) => return Ok(Err(failure)),
            };
            let records = receiving::records(&answer)?;
            let nothing = records.is_empty();
            for record in records {
                self.history.is_faithful(&record.id, &record.key, &record.payload)?;
                ids.push(record.id);
            }
            if answer.get("end") == Some(&Value::Bool(true)) {
                ensure!(read.ends, "the reader ended after {} records", ids.len());
                break;
            }
            if complete && nothing {
                break;
            }
        }
        ensure!(unreadable == read.unreadable, "{unreadable} batches could not be read");
        same(&ids, &expected)?;
        Ok(Ok(()))
    }

    async fn read_batch(&mut self, within: Duration) -> Result<Result<Map<String, Value>, Failure>> {
        self.adapter.call(&json!({ "do": "read", "timeout_ms": within.as_millis() as u64 })).await
    }
}

/// The same records, in the same order within each shard.
fn same(ids: &[String], expected: &[String]) -> Result<()> {
    fn by_shard(ids: &[String]) -> HashMap<&str, Vec<&String>> {
        let mut shards: HashMap<&str, Vec<&String>> = HashMap::new();
        for id in ids {
            shards.entry(id.split('-').next().unwrap_or_default()).or_default().push(id);
        }
        shards
    }
    ensure!(
        by_shard(ids) == by_shard(expected),
        "{} records were read, {} expected; first read {:?}, first expected {:?}",
        ids.len(),
        expected.len(),
        ids.first(),
        expected.first()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn shards_may_take_turns_but_each_keeps_its_order() {
        let expected = ids("1-5-0 2-5-0 1-6-0 2-6-0");
        same(&ids("2-5-0 2-6-0 1-5-0 1-6-0"), &expected).unwrap();
        assert!(same(&ids("2-6-0 2-5-0 1-5-0 1-6-0"), &expected).is_err());
        assert!(same(&ids("2-5-0 1-5-0 1-6-0"), &expected).is_err());
    }
}
