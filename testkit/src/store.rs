//! Which store the nodes of tests stand on: the one place that decides it for all of them.

use crate::nats::Nats;
use anyhow::{Result, bail};
use std::{
    collections::hash_map::DefaultHasher,
    env,
    ffi::OsStr,
    hash::{Hash as _, Hasher as _},
    path::Path,
};

/// `embedded` (or nothing), `nats` for a NATS server that the tests start themselves, or the address of one that runs.
const VARIABLE: &str = "HSTREAM_TEST_STORE";

/// What a node of a test stands on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Store {
    /// Whatever `HSTREAM_TEST_STORE` says.
    #[default]
    Chosen,
    /// The data directory: for tests about the embedded engine itself.
    Embedded,
    /// This address, as `--store` takes it.
    At(String),
}

impl Store {
    /// The address of the store for a node with this data directory, `None` if that directory is the store.
    ///
    /// Each directory has a namespace of its own in NATS, so that "started again on the same data" means there what it
    /// means on disk.
    ///
    /// # Errors
    /// When there should be a NATS server and is none, and when the variable names no store.
    pub fn url(&self, data_dir: &Path) -> Result<Option<String>> {
        match self {
            Store::Chosen => chosen(env::var_os(VARIABLE).as_deref(), data_dir),
            Store::Embedded => Ok(None),
            Store::At(url) => Ok(Some(url.clone())),
        }
    }
}

fn chosen(value: Option<&OsStr>, data_dir: &Path) -> Result<Option<String>> {
    match value.map(|value| value.to_string_lossy()).as_deref() {
        None | Some("" | "embedded") => Ok(None),
        Some("nats") => Ok(Some(Nats::shared()?.store_url(&namespace(data_dir)))),
        Some(url) if url.contains("://") => {
            Ok(Some(format!("{}/{}", url.trim_end_matches('/'), namespace(data_dir))))
        }
        Some(other) => bail!("{VARIABLE} is {other:?}; it can be embedded, nats or nats://HOST:PORT"),
    }
}

/// Of a data directory.
fn namespace(data_dir: &Path) -> String {
    let mut hash = DefaultHasher::new();
    data_dir.hash(&mut hash);
    format!("test-{:016x}", hash.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_has_its_own_namespace_and_keeps_it() {
        let url = |value: &str, path: &str| chosen(Some(OsStr::new(value)), Path::new(path)).unwrap();
        assert_eq!(chosen(None, Path::new("/a")).unwrap(), None);
        assert_eq!(url("embedded", "/a"), None);
        let first = url("nats://h:1/", "/a").unwrap();
        assert!(first.starts_with("nats://h:1/test-"), "{first}");
        assert_eq!(url("nats://h:1", "/a").unwrap(), first);
        assert_ne!(url("nats://h:1", "/b").unwrap(), first);
        let error = chosen(Some(OsStr::new("redis")), Path::new("/a")).unwrap_err().to_string();
        assert!(error.contains(VARIABLE), "{error}");
        assert_eq!(
            Store::At("nats://x/y".into()).url(Path::new("/a")).unwrap().as_deref(),
            Some("nats://x/y")
        );
    }
}
