//! What the metadata say about the cluster as a whole.

use super::BootstrapError;
use crate::store::{Expect, MetaStore, StoreError};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// Key of the record.
pub(super) const KEY: &str = "cluster";

/// Written once, when the cluster is founded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Name of the cluster, so that no node of another one takes this store for its own.
    pub(super) name: String,
    /// When it was founded, in milliseconds since 1970.
    pub(super) founded_ms: u64,
}

impl Record {
    /// Reads what is stored.
    ///
    /// # Errors
    /// [`BootstrapError::Corrupt`], [`BootstrapError::OtherCluster`] if it is the record of another cluster.
    pub(super) fn decode(bytes: &[u8], name: &str) -> Result<Record, BootstrapError> {
        let record: Record =
            serde_json::from_slice(bytes).map_err(|error| BootstrapError::Corrupt(error.to_string()))?;
        if record.name == name {
            return Ok(record);
        }
        Err(BootstrapError::OtherCluster { ours: name.to_owned(), theirs: record.name })
    }
}

/// The record, if the cluster was founded.
///
/// # Errors
/// Those of [`Record::decode`], [`BootstrapError::Store`].
pub(super) async fn read(meta: &dyn MetaStore, name: &str) -> Result<Option<Record>, BootstrapError> {
    let stored = meta.get(KEY).await.map_err(BootstrapError::Store)?;
    stored.map(|stored| Record::decode(&stored.value, name)).transpose()
}

/// Founds the cluster, unless that was done before.
///
/// # Errors
/// Those of [`read`]. After [`BootstrapError::Store`] it may have been founded nevertheless.
pub(super) async fn found(meta: &dyn MetaStore, name: &str) -> Result<Record, BootstrapError> {
    loop {
        if let Some(record) = read(meta, name).await? {
            return Ok(record);
        }
        let record = Record { name: name.to_owned(), founded_ms: now_ms() };
        let bytes =
            serde_json::to_vec(&record).map_err(|error| BootstrapError::Corrupt(error.to_string()))?;
        match meta.put(KEY, Bytes::from(bytes), Expect::Absent).await {
            Ok(_) => return Ok(record),
            // Another node was faster; what it wrote counts.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(BootstrapError::Store(error)),
        }
    }
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
