//! Which subscription a consumer's acknowledgements are for.

use hstreamdb_proto::metadata::SUBSCRIPTION_INCARNATION;
use tonic::metadata::MetadataMap;

/// What tells a subscription from another one of the same name, and from itself at another position.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// Creation time as (seconds, nanoseconds), where the server says it.
    pub created: Option<(i64, i32)>,
    /// Announced by servers that can move a subscription.
    pub incarnation: Option<u64>,
}

impl Identity {
    /// The incarnation in response metadata.
    pub(super) fn incarnation_in(metadata: &MetadataMap) -> Option<u64> {
        metadata.get(SUBSCRIPTION_INCARNATION)?.to_str().ok()?.parse().ok()
    }

    /// Takes in what was seen now; true if that is another subscription than before.
    pub(super) fn note(&mut self, seen: Identity) -> bool {
        let differs = match (self.incarnation, seen.incarnation) {
            (Some(before), Some(now)) => before != now,
            _ => matches!((self.created, seen.created), (Some(before), Some(now)) if before != now),
        };
        *self = Identity {
            created: seen.created.or(self.created),
            incarnation: seen.incarnation.or(self.incarnation),
        };
        differs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(created: Option<i64>, incarnation: Option<u64>) -> Identity {
        Identity { created: created.map(|seconds| (seconds, 0)), incarnation }
    }

    #[test]
    fn another_creation_or_incarnation_is_another_subscription() {
        let mut identity = Identity::default();
        assert!(!identity.note(seen(Some(1), None)));
        assert!(!identity.note(seen(Some(1), Some(7))), "the server learned to say it");
        assert!(!identity.note(seen(None, Some(7))));
        assert!(identity.note(seen(Some(1), Some(8))), "moved");
        assert!(!identity.note(seen(None, None)), "an older server knows nothing");
        assert!(identity.note(seen(Some(2), None)), "created again");
        assert!(identity.note(seen(None, Some(9))));
    }
}
