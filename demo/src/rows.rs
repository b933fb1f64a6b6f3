//! The rows of the demo: real flights, looped, numbered, dealt out to the languages.

use crate::tally::Tally;
use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

/// One flight as published; whatever its other members are, they travel along.
#[derive(Debug, Deserialize)]
struct Flight {
    origin: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// One language's share, on disk as `key<TAB>payload` lines, and what everybody must find in the end.
#[derive(Debug)]
pub struct Share {
    /// File with the lines.
    pub path: PathBuf,
    /// Number of lines.
    pub rows: u64,
}

/// Reads `source`, loops it `repeat` times and deals the rows out to `languages` in turn.
///
/// Returns each language's share and the tally of all rows together.
///
/// # Errors
/// When the file cannot be read or is not a list of flights, or a share cannot be written.
pub fn deal(source: &Path, repeat: u64, languages: &[&str], into: &Path) -> Result<(Vec<Share>, Tally)> {
    let text = fs::read_to_string(source).with_context(|| format!("cannot read {}", source.display()))?;
    let flights: Vec<Flight> =
        serde_json::from_str(&text).with_context(|| format!("{} is no list of flights", source.display()))?;
    ensure!(!flights.is_empty(), "{} holds no flights", source.display());

    let mut files = Vec::new();
    for language in languages {
        let path = into.join(format!("{language}.rows"));
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        files.push((BufWriter::new(file), Share { path, rows: 0 }));
    }
    let mut all = Tally::default();
    let looped = (0..repeat).flat_map(|_| &flights);
    for (sequence, flight) in looped.enumerate() {
        let turn = sequence % languages.len();
        let mut row = Map::new();
        row.insert("seq".into(), sequence.into());
        row.insert("producer".into(), languages[turn].into());
        row.insert("origin".into(), flight.origin.clone().into());
        row.extend(flight.rest.clone());
        let payload = serde_json::to_vec(&row)?;
        all.add(&flight.origin, &payload)?;
        let (file, share) = &mut files[turn];
        file.write_all(flight.origin.as_bytes())?;
        file.write_all(b"\t")?;
        file.write_all(&payload)?;
        file.write_all(b"\n")?;
        share.rows += 1;
    }
    let mut shares = Vec::new();
    for (mut file, share) in files {
        file.flush()?;
        shares.push(share);
    }
    Ok((shares, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_looped_numbered_and_dealt_in_turn() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("flights.json");
        fs::write(&source, r#"[{"origin":"AAA","delay":1},{"origin":"BBB","delay":2}]"#).unwrap();
        let (shares, all) = deal(&source, 3, &["rust", "python"], dir.path()).unwrap();
        assert_eq!(shares.iter().map(|share| share.rows).collect::<Vec<_>>(), [3, 3]);
        assert_eq!((all.rows, all.violations, all.duplicates), (6, 0, 0));
        let lines = fs::read_to_string(&shares[1].path).unwrap();
        let first = lines.lines().next().unwrap();
        let (key, payload) = first.split_once('\t').unwrap();
        assert_eq!(key, "BBB");
        let row: Value = serde_json::from_str(payload).unwrap();
        assert_eq!((row["seq"].as_u64(), row["producer"].as_str()), (Some(1), Some("python")));
    }
}
