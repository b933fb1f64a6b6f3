//! Why a packet is not listened to.

use crate::cluster::NodeId;
use crate::limits::Notice;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a packet is not listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// It does not look like one of ours.
    Alien,
    /// It is larger than any of ours.
    TooLarge,
    /// It is in a format this release does not know.
    Version,
    /// Its sender belongs to a cluster of another name.
    OtherCluster,
    /// Its sender stands over another store.
    OtherStore,
    /// This node has a key and the sender has none.
    NoKey,
    /// The sender has a key and this node has none.
    UnexpectedKey,
    /// It was altered, or made with another key.
    WrongKey,
    /// It is meant for another node, or for an earlier run of this one.
    NotForUs,
    /// Its sender has the number of this node.
    SameId,
    /// Its sender has the number of another living node.
    TakenId,
    /// It was heard before, or is too old to tell.
    Replayed,
    /// A later run of its sender was heard.
    OldRun,
    /// Too many nodes have sent something.
    Crowded,
    /// Its envelope is right, and what is in it makes no sense.
    Malformed,
}

impl Refusal {
    /// All of them, in the order of their declaration.
    pub const ALL: [Refusal; 15] = [
        Refusal::Alien,
        Refusal::TooLarge,
        Refusal::Version,
        Refusal::OtherCluster,
        Refusal::OtherStore,
        Refusal::NoKey,
        Refusal::UnexpectedKey,
        Refusal::WrongKey,
        Refusal::NotForUs,
        Refusal::SameId,
        Refusal::TakenId,
        Refusal::Replayed,
        Refusal::OldRun,
        Refusal::Crowded,
        Refusal::Malformed,
    ];

    /// Name in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Alien => "alien",
            Refusal::TooLarge => "too_large",
            Refusal::Version => "version",
            Refusal::OtherCluster => "other_cluster",
            Refusal::OtherStore => "other_store",
            Refusal::NoKey => "no_key",
            Refusal::UnexpectedKey => "unexpected_key",
            Refusal::WrongKey => "wrong_key",
            Refusal::NotForUs => "not_for_us",
            Refusal::SameId => "same_id",
            Refusal::TakenId => "taken_id",
            Refusal::Replayed => "replayed",
            Refusal::OldRun => "old_run",
            Refusal::Crowded => "crowded",
            Refusal::Malformed => "malformed",
        }
    }

    /// Whether it happens in healthy clusters, around a restart or on a network that repeats packets.
    fn is_ordinary(self) -> bool {
        matches!(self, Refusal::NotForUs | Refusal::Replayed | Refusal::OldRun)
    }
}

/// What happened and what to do, as the end of a sentence that begins with the packet.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Alien => "it is not one of a node; something else sends to this port",
            Refusal::TooLarge => "it is larger than any packet of a node; something else sends to this port",
            Refusal::Version => {
                "its format is that of another release; the nodes of a cluster must run releases that go together"
            }
            Refusal::OtherCluster => {
                "it is from a node of another cluster; give both nodes the same cluster name, or different seeds"
            }
            Refusal::OtherStore => {
                "it is from a node over another store; every node of a cluster must use the same store"
            }
            Refusal::NoKey => "it carries no proof, and this node has a gossip key; give every node the same key",
            Refusal::UnexpectedKey => {
                "it is from a node with a gossip key, and this node has none; give every node the same key"
            }
            Refusal::WrongKey => {
                "it was altered, or its sender has another gossip key; give every node the same key"
            }
            Refusal::NotForUs => "it is meant for another node or for an earlier run of this one",
            Refusal::SameId => "its sender has the number of this node; give every node a --server-id of its own",
            Refusal::TakenId => {
                "its sender has the number of a node that lives elsewhere; give every node a --server-id of its own"
            }
            Refusal::Replayed => "it came before, or is too late",
            Refusal::OldRun => "its sender was started again since",
            Refusal::Crowded => "too many nodes have sent packets; somebody may be inventing them, set a gossip key",
            Refusal::Malformed => {
                "what it says makes no sense; the nodes of a cluster must run releases that go together"
            }
        })
    }
}

/// Counts refusals by their reason and writes a line about each reason now and then.
#[derive(Debug, Default)]
pub struct Refusals {
    reasons: [Reason; Refusal::ALL.len()],
}

#[derive(Debug, Default)]
struct Reason {
    count: AtomicU64,
    notice: Notice,
}

impl Refusals {
    /// One more packet that is not listened to; `sender` is who it claims to be from.
    pub fn note(&self, refusal: Refusal, sender: Option<NodeId>, from: SocketAddr) {
        let Some(reason) = self.reasons.get(refusal as usize) else { return };
        reason.count.fetch_add(1, Ordering::Relaxed);
        if refusal.is_ordinary() {
            tracing::debug!("a packet from {from} is not listened to: {refusal}");
            return;
        }
        if let Some(times) = reason.notice.due() {
            let sender = sender.map(|id| format!(" (node {id}, it says)")).unwrap_or_default();
            tracing::warn!(
                "a packet from {from}{sender} is not listened to: {refusal} ({times} since the last such line)"
            );
        }
    }

    /// How often each of them happened, those that did.
    pub fn counts(&self) -> Vec<(Refusal, u64)> {
        let counts = self.reasons.iter().map(|reason| reason.count.load(Ordering::Relaxed));
        Refusal::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_their_reason() {
        let refusals = Refusals::default();
        let from = "127.0.0.1:1".parse().unwrap();
        for (times, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(Refusal::ALL[refusal as usize], refusal, "declared in another order");
            (0..=times).for_each(|_| refusals.note(refusal, Some(NodeId(3)), from));
        }
        let expected: Vec<_> = Refusal::ALL.into_iter().zip(1..).collect();
        assert_eq!(refusals.counts(), expected);
    }
}
