//! Logs and metadata on a NATS JetStream cluster, which replicates them: nodes keep nothing themselves.
//!
//! | file | what |
//! | --- | --- |
//! | `url`, `options` | where the store is and how it is reached |
//! | `connection` | the one connection to the servers |
//! | `checks`, `open_error` | what is looked at before the store is used |
//! | `meta` | streams, subscriptions, leases: everything but records |
//! | `log` | the records |

mod checks;
pub(crate) mod connection;
mod failure;
pub mod log;
mod meta;
mod open_error;
mod options;
mod url;

pub use open_error::OpenError;
pub use options::{JetStreamOptions, REPLICAS};
pub use url::StoreUrl;

use super::{LogStore, MetaStore, StoreError};
use connection::Connection;
use log::{JetStreamLog, LogSettings};
use meta::JetStreamMeta;
use open_error::Attempt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What a message holds besides the largest batch: headers, and what stands before the batches of a frame.
pub(crate) const FRAME_ROOM: usize = 4096;

/// Pauses between attempts to open.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often the log says that the store cannot be reached.
const REMIND: Duration = Duration::from_secs(10);

/// A store that several nodes share. Dropping it ends what it does in the background; [`JetStreamStore::close`] is the
/// orderly way.
#[derive(Debug, Clone)]
pub struct JetStreamStore {
    connection: Arc<Connection>,
    meta: Arc<JetStreamMeta>,
    log: Arc<JetStreamLog>,
}

impl JetStreamStore {
    /// Connects, checks the servers and makes what is missing. Servers that cannot be reached, or that are on their way up,
    /// are tried again for a while.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(options: JetStreamOptions) -> Result<JetStreamStore, OpenError> {
        let began = Instant::now();
        let mut pause = PAUSE;
        let mut told: Option<Instant> = None;
        loop {
            // Only the first step has no bound of its own: a name that does not resolve, a host that swallows packets.
            let left = options.open_within.saturating_sub(began.elapsed()).max(PAUSE);
            let (why, error) = match tokio::time::timeout(left, JetStreamStore::try_open(&options)).await {
                Ok(Ok(store)) => return Ok(store),
                Ok(Err(Attempt::Final(error))) => return Err(error),
                Ok(Err(Attempt::Later(error))) => (error.to_string(), Some(error)),
                Ok(Err(Attempt::Again(why))) => (why, None),
                Err(_) => ("the attempt took too long".to_owned(), None),
            };
            if began.elapsed() + pause >= options.open_within {
                let (url, within) = (options.url.to_string(), options.open_within);
                return Err(error.unwrap_or(OpenError::NoAnswer { url, within, last: why }));
            }
            if told.is_none_or(|told| told.elapsed() >= REMIND) {
                told = Some(Instant::now());
                let left = options.open_within.saturating_sub(began.elapsed()).as_secs();
                tracing::warn!(
                    "the store at {} cannot be used yet, trying for {left} s more: {why}",
                    options.url
                );
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_open(options: &JetStreamOptions) -> Result<JetStreamStore, Attempt> {
        let connection = Connection::open(options).await?;
        checks::check(&connection, options).await?;
        let meta = JetStreamMeta::open(connection.clone(), options.replicas).await?;
        let settings = LogSettings {
            replicas: u32::try_from(meta.replicas()).unwrap_or(1),
            max_batch_bytes: options.max_batch_bytes,
            timeout: options.timeout,
            ..LogSettings::new(connection.name())
        };
        let log = JetStreamLog::open(connection.context().clone(), meta.clone(), settings).await;
        let log = log.map_err(|error| match error {
            StoreError::Unreachable(why) => Attempt::Again(why),
            source => Attempt::Final(OpenError::Store { url: options.url.to_string(), source }),
        })?;
        Ok(JetStreamStore { connection, meta, log: Arc::new(log) })
    }

    /// The records of every shard.
    pub fn log(&self) -> Arc<dyn LogStore> {
        self.log.clone()
    }

    /// The metadata.
    pub fn meta(&self) -> Arc<dyn MetaStore> {
        self.meta.clone()
    }

    /// Where it is; shows no password.
    pub fn url(&self) -> &StoreUrl {
        self.connection.url()
    }

    /// Ends all calls and the connection.
    pub async fn close(&self) {
        self.log.close().await;
        self.meta.close();
        self.connection.close().await;
    }
}
