//! The right to serve one resource, and how it ends.

use super::resource::Resource;
use super::session::Term;
use crate::cluster::NodeId;
use crate::error::{Class, ServerError};
use crate::store::{Guard, StoreError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// The right to serve one resource. Cheap to clone; all clones end together, and an ended one never comes back.
#[derive(Debug, Clone)]
pub struct Claim(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    resource: Resource,
    term: Term,
    /// Version of the owner record; `None` where nobody else can use the store.
    version: Option<AtomicU64>,
    revoked: AtomicBool,
    lost: CancellationToken,
}

impl Claim {
    pub(super) fn new(resource: Resource, term: Term, version: Option<u64>) -> Self {
        let lost = term.over().child_token();
        let version = version.map(AtomicU64::new);
        Claim(Arc::new(Inner { resource, term, version, revoked: AtomicBool::new(false), lost }))
    }

    /// What may be served.
    pub fn resource(&self) -> &Resource {
        &self.0.resource
    }

    /// Whether it may be served this very moment. To be asked right before anything leaves that only the owner may
    /// send; costs two atomic loads and a look at the clock.
    pub fn is_valid(&self) -> bool {
        !self.0.revoked.load(Ordering::Acquire) && self.0.term.is_valid()
    }

    /// Cancelled when it has ended; a moment after [`Claim::is_valid`] says so.
    pub fn lost(&self) -> &CancellationToken {
        &self.0.lost
    }

    /// What everything must be written with that only the owner may write: it is refused with
    /// [`StoreError::Conflict`] once somebody else owns the resource. `None` where nobody else can use the store.
    pub fn guard(&self) -> Option<Guard> {
        let version = self.version()?;
        Some(Guard { key: self.0.resource.key(), version })
    }

    pub(super) fn version(&self) -> Option<u64> {
        self.0.version.as_ref().map(|version| version.load(Ordering::Acquire))
    }

    pub(super) fn set_version(&self, version: u64) {
        if let Some(held) = &self.0.version {
            held.store(version, Ordering::Release);
        }
    }

    pub(super) fn term(&self) -> &Term {
        &self.0.term
    }

    pub(super) fn is(&self, other: &Claim) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Ends it now.
    pub(super) fn revoke(&self) {
        self.0.revoked.store(true, Ordering::Release);
        self.0.lost.cancel();
    }
}

/// Why a resource is not served here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Another node serves it, or is to.
    #[error("it is bound to node {0}")]
    Elsewhere(NodeId),
    /// No node can take it now.
    #[error("no node of the cluster takes anything right now; try again")]
    NoTaker,
    /// It cannot be taken yet.
    #[error("{0}")]
    NotYet(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// For calls that are not passed on to the owner.
impl From<ClaimError> for ServerError {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Elsewhere(_) => ServerError::new(Class::WrongServer, error.to_string()),
            ClaimError::NoTaker | ClaimError::NotYet(_) => {
                ServerError::new(Class::ServerNotAvailable, error.to_string())
            }
            // Nothing was done yet: a conflict is a race that the next try ends.
            ClaimError::Store(StoreError::Conflict { .. }) => {
                ServerError::plain(Code::Unavailable, error.to_string())
            }
            ClaimError::Store(error) => error.into(),
        }
    }
}
