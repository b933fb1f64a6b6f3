//! What a subscription may ask for beyond the published protocol.

use crate::error::{Class, Result, ServerError};
use crate::stream::{StreamId, Streams};
use serde::{Deserialize, Serialize};

/// Redelivery rules of a subscription; the default is what published servers do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Whether what a departed consumer has not acknowledged goes to others at once, instead of when its ack
    /// timeout is over. A consumer that only lost its connection then competes with whoever gets its records.
    pub redeliver_on_disconnect: bool,
    /// Times a record is delivered before it goes to the dead-letter stream; 0 is no limit. Counted since the
    /// subscription last started on a node, so a restart begins anew.
    pub max_deliveries: u32,
    /// Where records go after that. Present if and only if there is a limit.
    pub dead_letter: Option<DeadLetter>,
}

/// A dead-letter stream: bound to its identity, not to its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Identity.
    pub stream: StreamId,
    /// Name when it was chosen.
    pub name: String,
}

/// Changes of a [`Policy`] as asked for; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyChange {
    /// See [`Policy::redeliver_on_disconnect`].
    pub redeliver_on_disconnect: Option<bool>,
    /// See [`Policy::max_deliveries`]; 0 lifts the limit and forgets the stream.
    pub max_deliveries: Option<u32>,
    /// Name of the dead-letter stream.
    pub dead_letter_stream: Option<String>,
}

impl Policy {
    /// This policy with changes, for a subscription of the stream `source`.
    ///
    /// # Errors
    /// [`Class::InvalidRequest`] for a limit without a stream or the other way round and for a stream that is
    /// its own dead-letter stream; [`Class::StreamNotFound`].
    pub(super) fn changed(
        &self,
        change: PolicyChange,
        source: StreamId,
        streams: &Streams,
    ) -> Result<Policy> {
        let mut policy = self.clone();
        if let Some(redeliver) = change.redeliver_on_disconnect {
            policy.redeliver_on_disconnect = redeliver;
        }
        if let Some(limit) = change.max_deliveries {
            policy.max_deliveries = limit;
            if limit == 0 && change.dead_letter_stream.is_none() {
                policy.dead_letter = None;
            }
        }
        if let Some(name) = change.dead_letter_stream {
            let stream = streams
                .by_name(&name)
                .ok_or_else(|| ServerError::new(Class::StreamNotFound, name.clone()))?;
            if stream.id == source {
                return Err(refused("a stream cannot be the dead-letter stream of its own subscription"));
            }
            policy.dead_letter = Some(DeadLetter { stream: stream.id, name });
        }
        match (policy.max_deliveries, &policy.dead_letter) {
            (0, Some(_)) => Err(refused("a dead-letter stream needs a maximum of deliveries of at least 1")),
            (1.., None) => {
                Err(refused("a maximum of deliveries needs a dead-letter stream: records are never dropped"))
            }
            _ => Ok(policy),
        }
    }
}

fn refused(text: &str) -> ServerError {
    ServerError::new(Class::InvalidRequest, text)
}
