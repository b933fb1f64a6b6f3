//! What gossip has done since it began.

use super::refusal::Refusal;
use crate::cluster::swim::SwimStats;

/// What gossip of one node has done since it began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GossipStats {
    /// Probes, suspicions, packets.
    pub swim: SwimStats,
    /// Packets and introductions that were not listened to, by reason; those that happened.
    pub refused: Vec<(Refusal, u64)>,
    /// Visits to other nodes, to join and to compare everything.
    pub visits: u64,
    /// Visits that led to nothing.
    pub failed_visits: u64,
}

impl GossipStats {
    /// How often this reason occurred.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused.iter().find(|(its, _)| *its == reason).map_or(0, |(_, count)| *count)
    }
}
