//! What was acknowledged against what was delivered.

use anyhow::{Result, ensure};
use std::collections::{HashMap, HashSet};

/// One acknowledged record.
#[derive(Debug, Clone)]
struct Appended {
    key: String,
    payload: Vec<u8>,
}

/// Everything that happened in one scenario.
#[derive(Debug, Default)]
pub struct History {
    appended: HashMap<String, Appended>,
    /// Ids per key in the order of the appends.
    order: HashMap<String, Vec<String>>,
    /// Payloads whose append failed with an outcome that is not known.
    unclear: HashSet<Vec<u8>>,
    seen: HashSet<String>,
    doubled: usize,
    /// Position in `order` of the newest first delivery per key.
    newest: HashMap<String, usize>,
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
        Ok(())
    }

    /// An append ended without a known outcome.
    pub fn unclear(&mut self, payload: &[u8]) {
        self.unclear.insert(payload.to_vec());
    }

    /// A record was delivered.
    ///
    /// # Errors
    /// When nobody appended it, it was altered, or it overtook an earlier one of its key.
    pub fn delivered(&mut self, id: &str, key: &str, payload: &[u8]) -> Result<()> {
        let Some(record) = self.appended.get(id) else {
            ensure!(self.unclear.contains(payload), "record {id} was delivered but never acknowledged");
            return Ok(());
        };
        ensure!(record.key == key && record.payload == payload, "record {id} was altered");
        if !self.seen.insert(id.to_owned()) {
            self.doubled += 1;
            return Ok(());
        }
        let place = self.order.get(key).and_then(|ids| ids.iter().position(|other| other == id)).unwrap_or(0);
        if let Some(newest) = self.newest.insert(key.to_owned(), place) {
            ensure!(place > newest, "record {id} of key {key:?} arrived after a later one");
        }
        Ok(())
    }

    /// The check at the end.
    ///
    /// # Errors
    /// When acknowledged records are missing, or records were doubled without leave.
    pub fn check(&self, complete: bool, redelivery: bool) -> Result<()> {
        ensure!(redelivery || self.doubled == 0, "{} records were delivered more than once", self.doubled);
        if complete {
            let missing = self.appended.keys().filter(|id| !self.seen.contains(*id)).count();
            ensure!(
                missing == 0,
                "{missing} of {} acknowledged records were not delivered",
                self.appended.len()
            );
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
        history.check(true, false).unwrap();
    }

    #[test]
    fn loss_doubling_alteration_inversion_and_invention_show() {
        let mut lossy = history();
        lossy.delivered("1-1-0", "a", b"x").unwrap();
        assert!(lossy.check(true, false).is_err());
        lossy.delivered("1-1-0", "a", b"x").unwrap();
        assert!(lossy.check(false, false).is_err());
        lossy.check(false, true).unwrap();
        let mut inverted = history();
        inverted.delivered("1-2-0", "a", b"y").unwrap();
        assert!(inverted.delivered("1-1-0", "a", b"x").is_err());
        assert!(history().delivered("1-1-0", "a", b"z").is_err());
        assert!(history().delivered("9-9-9", "a", b"x").is_err());
        assert!(history().acknowledged("1-1-0", "b", b"z").is_err());
    }
}
