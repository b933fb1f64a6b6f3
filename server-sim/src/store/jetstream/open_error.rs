//! Why a replicated store cannot be used.

use super::failure::Lost;
use crate::store::StoreError;
use std::path::PathBuf;
use std::time::Duration;

/// Oldest version of the servers: the first whose writes can depend on another subject's last message.
pub(super) const OLDEST: &str = "2.12";

/// Why a replicated store cannot be used. Each is one sentence an operator can act on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Nobody answered.
    #[error(
        "no NATS server of {url} could be used within {within:?}: {last}; check that they run and that --store names them"
    )]
    NoAnswer {
        /// Who was asked.
        url: String,
        /// For how long.
        within: Duration,
        /// What the last attempt ended with.
        last: String,
    },
    /// The servers do not let this node in.
    #[error("the NATS servers of {url} refuse the user, password or token in --store: {reason}")]
    Refused {
        /// Who was asked.
        url: String,
        /// What they said.
        reason: String,
    },
    /// No encrypted connection came about.
    #[error(
        "TLS with the NATS servers of {url} failed: {reason}; check --store-tls-ca-path, and that the certificates are for \
         the hosts in --store"
    )]
    Tls {
        /// Who was asked.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// A file of the settings cannot be used.
    #[error("{setting} {}: {reason}", path.display())]
    File {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The server is too old.
    #[error(
        "the NATS server {server} is of version {found}; a store needs {} or later: upgrade every server of the cluster",
        OLDEST
    )]
    TooOld {
        /// Its name.
        server: String,
        /// Its version.
        found: String,
    },
    /// The servers keep nothing.
    #[error(
        "JetStream is off at {url} ({reason}): add `jetstream {{ store_dir: … }}` to the configuration of the NATS servers, \
         and enable it for the account of this user"
    )]
    NoJetStream {
        /// Who was asked.
        url: String,
        /// What they said.
        reason: String,
    },
    /// The largest batch does not fit into a message.
    #[error(
        "max_payload of the NATS server {server} is {found} bytes, and batches of --max-record-size need {needed}: set \
         `max_payload: {}` or more in the configuration of every NATS server, or give --max-record-size {}",
        generous(*needed),
        found.saturating_sub(super::FRAME_ROOM)
    )]
    SmallPayload {
        /// Its name.
        server: String,
        /// What it takes.
        found: usize,
        /// What it has to take.
        needed: usize,
    },
    /// There are fewer servers than copies that were asked for.
    #[error(
        "the metadata cannot have {replicas} copies at {url}: {reason}; add NATS servers with JetStream to the cluster, or \
         give --store-replicas with as many as there are"
    )]
    TooFewPeers {
        /// Who was asked.
        url: String,
        /// How many copies were wanted.
        replicas: usize,
        /// What they said.
        reason: String,
    },
    /// What the servers hold under this name is something else.
    #[error(
        "the stream {stream} at {url} is not the store of an HStream cluster: {reason}; give another /name in --store"
    )]
    Foreign {
        /// Who was asked.
        url: String,
        /// The stream.
        stream: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The servers refused something.
    #[error("the NATS servers of {url} refused to {what}: {reason}")]
    Denied {
        /// Who was asked.
        url: String,
        /// What was asked, as a verb.
        what: String,
        /// What they said.
        reason: String,
    },
    /// The store failed.
    #[error("cannot use the store at {url}: {source}")]
    Store {
        /// Who was asked.
        url: String,
        /// What went wrong.
        source: StoreError,
    },
}

/// A round number above.
fn generous(needed: usize) -> String {
    format!("{}MB", (needed >> 20) + 1)
}

/// What one attempt to open ended with.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// Trying again changes nothing.
    Final(OpenError),
    /// Nobody answered; that may be better later.
    Again(String),
    /// It may be better later, and if not, this is why.
    Later(OpenError),
}

impl From<OpenError> for Attempt {
    fn from(error: OpenError) -> Self {
        Attempt::Final(error)
    }
}

impl From<Lost> for Attempt {
    fn from(lost: Lost) -> Self {
        Attempt::Again(lost.why)
    }
}
