//! Acknowledging from anywhere.

use super::shared::Shared;
use crate::error::Result;
use crate::record::{ReceivedBatch, RecordId};
use std::fmt;
use std::sync::Arc;

/// Acknowledges records of one consumer. Cheap to clone (one counter), so one goes with each batch into whatever task
/// handles it; it does not keep the consumer alive.
///
/// With a record's [`id`](crate::ReceivedRecord::id) it is all that is needed to acknowledge that record later.
#[derive(Clone)]
pub struct Acker(pub(super) Arc<Shared>);

impl fmt::Debug for Acker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Acker").field(&self.0).finish()
    }
}

impl Acker {
    /// As [`Consumer::ack`](super::Consumer::ack).
    ///
    /// # Errors
    /// Those of [`Consumer::ack`](super::Consumer::ack).
    pub fn ack(&self, ids: &[RecordId]) -> Result<()> {
        self.0.ack(ids)
    }

    /// Acknowledges all records of a batch.
    ///
    /// # Errors
    /// Those of [`Consumer::ack`](super::Consumer::ack).
    pub fn ack_batch(&self, batch: &ReceivedBatch) -> Result<()> {
        self.0.ack(batch.ids())
    }
}
