//! What is stored about who owns a resource.

use crate::cluster::NodeId;
use crate::store::{StoreError, Versioned};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Form of what is written. A later release may add fields, which this one does not keep.
const FORM: u32 = 1;

/// Who owns a resource, under its key in `owner/`.
///
/// Without a session nobody serves it, and `node` is who should; it serves once it has claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OwnerRecord {
    form: u32,
    /// Grows with every change.
    pub(super) epoch: u64,
    /// The owner.
    pub(super) node: NodeId,
    /// The session of `node` that serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<u64>,
    /// How long that session may go on without being renewed, in milliseconds.
    #[serde(default)]
    pub(super) lease_ms: u64,
    /// Who may serve it still although it was given to `node`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) previous: Option<Holder>,
}

/// A session that serves something, or may do so still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    /// Whose session.
    pub(super) node: NodeId,
    /// Which one.
    pub(super) session: u64,
    /// How long it may go on without being renewed, in milliseconds.
    pub(super) lease_ms: u64,
}

impl Holder {
    pub(super) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

impl OwnerRecord {
    /// Served by a session; nobody else may serve it still.
    pub(super) fn claimed(epoch: u64, holder: Holder) -> Self {
        let Holder { node, session, lease_ms } = holder;
        OwnerRecord { form: FORM, epoch, node, session: Some(session), lease_ms, previous: None }
    }

    /// Meant for a node that has not claimed it yet.
    pub(super) fn assigned(epoch: u64, node: NodeId, previous: Option<Holder>) -> Self {
        OwnerRecord { form: FORM, epoch, node, session: None, lease_ms: 0, previous }
    }

    /// The one session that may serve it right now. There is never more than one: whoever claims waits until the one
    /// before is over.
    pub(super) fn holder(&self) -> Option<Holder> {
        match self.session {
            Some(session) => Some(Holder { node: self.node, session, lease_ms: self.lease_ms }),
            None => self.previous,
        }
    }

    pub(super) fn encode(&self) -> Result<Bytes, StoreError> {
        serde_json::to_vec(self)
            .map(Bytes::from)
            .map_err(|error| StoreError::Io(format!("cannot write an owner record: {error}")))
    }

    pub(super) fn decode(key: &str, value: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(value)
            .map_err(|error| StoreError::Corrupt(format!("the owner record {key:?} cannot be read: {error}")))
    }

    pub(super) fn found(key: &str, found: &Versioned) -> Result<(Self, u64), StoreError> {
        Ok((OwnerRecord::decode(key, &found.value)?, found.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_storage_and_later_releases() {
        let holder = Holder { node: NodeId(2), session: 1_700_000_000_000, lease_ms: 3000 };
        let claimed = OwnerRecord::claimed(3, holder);
        assert_eq!(claimed.holder(), Some(holder));
        let text = r#"{"form":1,"epoch":3,"node":2,"session":1700000000000,"lease_ms":3000}"#;
        assert_eq!(claimed.encode().unwrap(), text);
        assert_eq!(OwnerRecord::decode("k", text.as_bytes()).unwrap(), claimed);

        let assigned = OwnerRecord::assigned(4, NodeId(7), Some(holder));
        assert_eq!(assigned.holder(), Some(holder), "who had it may go on until it is over");
        assert_eq!(OwnerRecord::decode("k", &assigned.encode().unwrap()).unwrap(), assigned);
        assert_eq!(OwnerRecord::assigned(4, NodeId(7), None).holder(), None);

        let later = r#"{"form":2,"epoch":9,"node":1,"zone":"b","previous":{"node":2,"session":5,"lease_ms":1,"why":"x"}}"#;
        let later = OwnerRecord::decode("k", later.as_bytes()).unwrap();
        assert_eq!((later.epoch, later.node, later.session), (9, NodeId(1), None));
        assert!(OwnerRecord::decode("k", b"{}").is_err());
    }
}
