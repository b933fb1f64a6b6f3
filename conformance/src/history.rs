//! What was acknowledged against what was delivered.

use anyhow::{Result, ensure};
use std::collections::{HashMap, HashSet};

/// One acknowledged record.
#[derive(Debug, Clone)]
struct Appended {
    key: String,
    payload: Vec<u8>,
}

/// What may be delivered more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Redelivery {
    /// Nothing.
    #[default]
    None,
    /// What the consumer has not acknowledged.
    Unacked,
    /// Anything: after a lost connection an acknowledgement may be lost, too (design of the protocol).
    Any,
}

/// Everything that happened in one scenario.
#[derive(Debug, Default)]
pub struct History {
    appended: HashMap<String, Appended>,
    /// All ids in the order of the appends.
    ids: Vec<String>,
    /// Ids per key in the order of the appends.
    order: HashMap<String, Vec<String>>,
    /// Payloads whose append failed with an outcome that is not known.
    unclear: HashSet<Vec<u8>>,
    seen: HashSet<String>,
    /// What the consumer has acknowledged.
    acked: HashSet<String>,
    doubled: usize,
    doubled_after_ack: usize,
    /// Position in `order` of the newest first delivery per key.
    newest: HashMap<String, usize>,
    /// Compression of a batch when it came first, where the language can tell.
    compression: HashMap<String, String>,
}

impl History {
    /// An append was acknowledged under `id`.
    ///
    /// # Errors
    /// When the id was given out before.
    pub fn acknowledged(&mut self, id: &str, key: &str, payload: &[u8]) -> Result<()> {
        let record = Appended { key: key.to_owned(), payload: payload.to_vec() };
        ensure!(self.appended.insert(id.to_owned(), record).is_none(), "id {id} was given to two records");
        self.order.entry(key.to_owned()).or_default().push(id.to_owned());
        self.ids.push(id.to_owned());
        Ok(())
    }

    /// An append ended without a known outcome.
    pub fn unclear(&mut self, payload: &[u8]) {
        self.unclear.insert(payload.to_vec());
    }

    /// Ids of the acknowledged appends in their order.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Key of an acknowledged append.
    pub fn key_of(&self, id: &str) -> Option<&str> {
        self.appended.get(id).map(|record| record.key.as_str())
    }

    /// A record is what was appended under its id; false when that append has no known outcome.
    ///
    /// # Errors
    /// When nobody appended it or it was altered.
    pub fn is_faithful(&self, id: &str, key: &str, payload: &[u8]) -> Result<bool> {
        let Some(record) = self.appended.get(id) else {
            ensure!(self.unclear.contains(payload), "record {id} was delivered but never acknowledged");
            return Ok(false);
        };
        ensure!(record.key == key && record.payload == payload, "record {id} was altered");
        Ok(true)
    }

    /// A record was delivered to a consumer.
    ///
    /// # Errors
    /// When nobody appended it, it was altered, or it overtook an earlier one of its key.
    pub fn delivered(&mut self, id: &str, key: &str, payload: &[u8]) -> Result<()> {
        if !self.is_faithful(id, key, payload)? {
            return Ok(());
        }
        if !self.seen.insert(id.to_owned()) {
            self.doubled += 1;
            self.doubled_after_ack += usize::from(self.acked.contains(id));
            return Ok(());
        }
        let place = self.order.get(key).and_then(|ids| ids.iter().position(|other| other == id)).unwrap_or(0);
        if let Some(newest) = self.newest.insert(key.to_owned(), place) {
            ensure!(place > newest, "record {id} of key {key:?} arrived after a later one");
        }
        Ok(())
    }

    /// The compression with which a batch was delivered.
    ///
    /// # Errors
    /// When it is another one than at its first delivery.
    pub fn compressed(&mut self, id: &str, compression: &str) -> Result<()> {
        let batch = id.rsplit_once('-').map_or(id, |(batch, _)| batch);
        let first = self.compression.entry(batch.to_owned()).or_insert_with(|| compression.to_owned());
        ensure!(first == compression, "batch {batch} came with {first} and again with {compression}");
        Ok(())
    }

    /// The consumer acknowledged a record.
    pub fn acked(&mut self, id: &str) {
        self.acked.insert(id.to_owned());
    }

    /// What was delivered and is not acknowledged by the consumer, in the order of the appends.
    pub fn open(&self) -> Vec<String> {
        let open = |id: &&String| self.seen.contains(*id) && !self.acked.contains(*id);
        self.ids.iter().filter(open).cloned().collect()
    }

    /// How many acknowledged records were not delivered.
    pub fn missing(&self) -> usize {
        self.ids.iter().filter(|id| !self.seen.contains(*id)).count()
    }

    /// The check at the end.
    ///
    /// # Errors
    /// When acknowledged records are missing, or records were doubled without leave.
    pub fn check(&self, complete: bool, redelivery: Redelivery) -> Result<()> {
        let doubled = match redelivery {
            Redelivery::None => self.doubled,
            Redelivery::Unacked => self.doubled_after_ack,
            Redelivery::Any => 0,
        };
        ensure!(doubled == 0, "{doubled} records were delivered more than once");
        if complete {
            let missing = self.missing();
            ensure!(missing == 0, "{missing} of {} acknowledged records were not delivered", self.ids.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        let mut history = History::default();
        history.acknowledged("1-1-0", "a", b"x").unwrap();
        history.acknowledged("1-2-0", "a", b"y").unwrap();
        history
    }

    #[test]
    fn a_faithful_delivery_passes() {
        let mut history = history();
        history.delivered("1-1-0", "a", b"x").unwrap();
        history.delivered("1-2-0", "a", b"y").unwrap();
        history.check(true, Redelivery::None).unwrap();
    }

    #[test]
    fn loss_doubling_alteration_inversion_and_invention_show() {
        let mut lossy = history();
        lossy.delivered("1-1-0", "a", b"x").unwrap();
        assert!(lossy.check(true, Redelivery::None).is_err());
        lossy.delivered("1-1-0", "a", b"x").unwrap();
        assert!(lossy.check(false, Redelivery::None).is_err());
        lossy.check(false, Redelivery::Any).unwrap();
        let mut inverted = history();
        inverted.delivered("1-2-0", "a", b"y").unwrap();
        assert!(inverted.delivered("1-1-0", "a", b"x").is_err());
        assert!(history().delivered("1-1-0", "a", b"z").is_err());
        assert!(history().delivered("9-9-9", "a", b"x").is_err());
        assert!(history().acknowledged("1-1-0", "b", b"z").is_err());
    }

    #[test]
    fn only_what_is_open_may_come_again() {
        let mut history = history();
        history.delivered("1-1-0", "a", b"x").unwrap();
        history.delivered("1-2-0", "a", b"y").unwrap();
        history.acked("1-1-0");
        assert_eq!(history.open(), ["1-2-0"]);
        history.delivered("1-2-0", "a", b"y").unwrap();
        history.check(true, Redelivery::Unacked).unwrap();
        assert!(history.check(true, Redelivery::None).is_err());
        history.delivered("1-1-0", "a", b"x").unwrap();
        assert!(history.check(true, Redelivery::Unacked).is_err());
    }

    #[test]
    fn a_batch_keeps_its_compression() {
        let mut history = history();
        history.compressed("1-1-0", "gzip").unwrap();
        history.compressed("1-1-4", "gzip").unwrap();
        assert!(history.compressed("1-1-4", "none").is_err());
    }
}
