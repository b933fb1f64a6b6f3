//! Counting received rows so that a lost, altered, doubled or reordered one shows.

use anyhow::{Context as _, Result};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};

/// What identifies a row.
#[derive(Deserialize)]
struct Identity {
    seq: u64,
    producer: String,
}

/// What a reader has seen.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Rows, doubled ones included.
    pub rows: u64,
    /// Rows whose sequence did not grow within their (producer, key).
    pub violations: u64,
    /// Rows seen before.
    pub duplicates: u64,
    /// Sum of the CRC-32 of all payloads, modulo 2^64: the same for every order of arrival.
    pub checksum: u64,
    last: HashMap<(String, String), u64>,
    seen: HashSet<u64>,
}

impl Tally {
    /// Counts one row.
    ///
    /// # Errors
    /// When the payload is not a row of the demo.
    pub fn add(&mut self, key: &str, payload: &[u8]) -> Result<()> {
        let row: Identity = serde_json::from_slice(payload).with_context(|| {
            format!("a received payload is no row: {:?}", String::from_utf8_lossy(payload))
        })?;
        self.rows += 1;
        let mut crc = flate2::Crc::new();
        crc.update(payload);
        self.checksum = self.checksum.wrapping_add(u64::from(crc.sum()));
        if !self.seen.insert(row.seq) {
            self.duplicates += 1;
        }
        match self.last.entry((row.producer, key.to_owned())) {
            std::collections::hash_map::Entry::Occupied(mut last) => {
                if row.seq <= *last.get() {
                    self.violations += 1;
                }
                last.insert(row.seq);
            }
            std::collections::hash_map::Entry::Vacant(first) => {
                first.insert(row.seq);
            }
        }
        Ok(())
    }

    /// Distinct rows.
    pub fn distinct(&self) -> u64 {
        self.seen.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seq: u64) -> Vec<u8> {
        format!(r#"{{"seq":{seq},"producer":"p","delay":1}}"#).into_bytes()
    }

    #[test]
    fn order_matters_within_a_key_only() {
        let mut tally = Tally::default();
        for (key, seq) in [("a", 1), ("b", 0), ("a", 2), ("b", 5), ("b", 4)] {
            tally.add(key, &row(seq)).unwrap();
        }
        assert_eq!((tally.rows, tally.violations, tally.duplicates), (5, 1, 0));
    }

    #[test]
    fn doubled_and_altered_rows_show() {
        let (mut once, mut twice, mut altered) = (Tally::default(), Tally::default(), Tally::default());
        once.add("a", &row(1)).unwrap();
        twice.add("a", &row(1)).unwrap();
        twice.add("a", &row(1)).unwrap();
        altered.add("a", br#"{"seq":1,"producer":"p","delay":2}"#).unwrap();
        assert_eq!((twice.duplicates, twice.violations), (1, 1));
        assert_ne!(once.checksum, altered.checksum);
        assert!(once.add("a", b"not a row").is_err());
    }
}
