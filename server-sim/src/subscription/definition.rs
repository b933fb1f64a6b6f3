//! What is stored about a subscription, and under which keys.

use super::policy::Policy;
use crate::error::{Result, ServerError};
use crate::store::{Lsn, ShardId};
use crate::stream::StreamId;
use bytes::Bytes;
use hstreamdb_proto::api::Subscription;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Code;

/// Prefix of all definitions.
pub(super) const DEFINITIONS: &str = "subscription/";
/// Prefix of all checkpoints.
pub(super) const CHECKPOINTS: &str = "checkpoint/";
/// Shortest ack timeout: 0 and negative ones would deliver again without end and without pause.
const MIN_ACK_TIMEOUT: Duration = Duration::from_millis(100);

/// A subscription as created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Name, unique among subscriptions.
    pub id: String,
    /// Chance; tells it from earlier and later subscriptions of the same name, and from itself before it was
    /// moved to another position: their checkpoints and acknowledgements are not its.
    pub incarnation: u64,
    /// The stream it reads, whatever that is called now.
    pub stream: StreamId,
    /// Name of the stream at creation.
    pub stream_name: String,
    /// Seconds, as asked for.
    pub ack_timeout_secs: i32,
    /// Records, as asked for.
    pub max_unacked: i32,
    /// `SpecialOffset`, as asked for.
    pub offset: i32,
    /// Creation time in milliseconds since 1970.
    pub created_ms: u64,
    /// First LSN to deliver per shard.
    pub start: BTreeMap<ShardId, Lsn>,
    /// What it asks for beyond the published protocol.
    #[serde(default)]
    pub policy: Policy,
}

impl Definition {
    pub(super) fn key(id: &str) -> String {
        format!("{DEFINITIONS}{id}")
    }

    /// Prefix of the checkpoints of this incarnation.
    pub(super) fn checkpoints(&self) -> String {
        format!("{CHECKPOINTS}{}/", self.incarnation)
    }

    /// Incarnation and shard of a checkpoint's key.
    pub(super) fn parse_checkpoint(key: &str) -> Option<(u64, ShardId)> {
        let (incarnation, shard) = key.strip_prefix(CHECKPOINTS)?.split_once('/')?;
        Some((incarnation.parse().ok()?, shard.parse().ok()?))
    }

    /// How long a delivered record may wait for its acknowledgement.
    pub(super) fn ack_timeout(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.ack_timeout_secs).unwrap_or(0)).max(MIN_ACK_TIMEOUT)
    }

    /// Most records in flight; 0 delivers nothing.
    pub(super) fn max_unacked(&self) -> u64 {
        u64::try_from(self.max_unacked).unwrap_or(0)
    }

    /// As clients see it, under the stream name given.
    pub(crate) fn to_wire(&self, stream_name: &str) -> Subscription {
        Subscription {
            subscription_id: self.id.clone(),
            stream_name: stream_name.to_owned(),
            ack_timeout_seconds: self.ack_timeout_secs,
            max_unacked_records: self.max_unacked,
            offset: self.offset,
            creation_time: Some(prost_types::Timestamp {
                seconds: i64::try_from(self.created_ms / 1000).unwrap_or(i64::MAX),
                nanos: i32::try_from(self.created_ms % 1000).unwrap_or(0) * 1_000_000,
            }),
        }
    }

    pub(super) fn encode(&self) -> Result<Bytes> {
        serde_json::to_vec(self).map(Bytes::from).map_err(|error| {
            ServerError::plain(Code::Internal, format!("cannot write subscription {:?}: {error}", self.id))
        })
    }

    pub(super) fn decode(key: &str, value: &[u8]) -> Result<Self> {
        serde_json::from_slice(value)
            .map_err(|error| ServerError::plain(Code::DataLoss, format!("cannot read {key:?}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_survive_storage() {
        let definition = Definition {
            id: "s".into(),
            incarnation: u64::MAX,
            stream: StreamId(7),
            stream_name: "t".into(),
            ack_timeout_secs: -1,
            max_unacked: i32::MAX,
            offset: 1,
            created_ms: 5,
            start: BTreeMap::from([(u64::MAX >> 1, 1_000_000_000_000_000_001)]),
            policy: Policy { redeliver_on_disconnect: true, ..Policy::default() },
        };
        assert_eq!(Definition::decode("k", &definition.encode().unwrap()).unwrap(), definition);
        let mut before_policies: serde_json::Value = serde_json::to_value(&definition).unwrap();
        before_policies.as_object_mut().unwrap().remove("policy").unwrap();
        let text = before_policies.to_string();
        assert_eq!(Definition::decode("k", text.as_bytes()).unwrap().policy, Policy::default());
        assert_eq!(definition.ack_timeout(), MIN_ACK_TIMEOUT);
        let key = format!("{}42", definition.checkpoints());
        assert_eq!(Definition::parse_checkpoint(&key), Some((u64::MAX, 42)));
        assert_eq!(Definition::parse_checkpoint("checkpoint/x/1"), None);
    }
}
