//! How a replicated store is reached.

use super::StoreUrl;
use std::path::PathBuf;
use std::time::Duration;

/// How a store on a JetStream cluster is reached.
#[derive(Debug, Clone)]
pub struct JetStreamOptions {
    /// Where it is.
    pub url: StoreUrl,
    /// PEM file with the authorities that sign certificates of the servers; default those of the system.
    pub tls_ca: Option<PathBuf>,
    /// PEM files with the certificate this node shows and its key; default none.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    /// Copies of the metadata, 1 to 5. Default: 3 in a cluster of servers, 1 on a lone one.
    pub replicas: Option<usize>,
    /// How long one call waits for an answer before it ends with
    /// [`StoreError::Unreachable`](crate::store::StoreError::Unreachable); default 5 s.
    pub timeout: Duration,
    /// How long [`JetStreamStore::open`](super::JetStreamStore::open) tries to reach the servers; default 60 s.
    pub open_within: Duration,
    /// Largest batch that will be appended; the servers must take messages of that size. Default 1,048,576 bytes.
    pub max_batch_bytes: usize,
}

/// Copies of the metadata that can be asked for.
pub const REPLICAS: std::ops::RangeInclusive<usize> = 1..=5;

impl JetStreamOptions {
    /// A store as it is reached by default.
    pub fn new(url: StoreUrl) -> Self {
        JetStreamOptions {
            url,
            tls_ca: None,
            tls_identity: None,
            replicas: None,
            timeout: Duration::from_secs(5),
            open_within: Duration::from_secs(60),
            max_batch_bytes: 1 << 20,
        }
    }
}
