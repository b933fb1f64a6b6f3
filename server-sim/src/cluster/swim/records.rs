//! Everything a node knows, as nodes exchange it in a push/pull.

use super::description::Description;
use super::identity::Identity;
use serde::{Deserialize, Serialize};

/// Longest records in bytes that are read: room for as many members as there may be, all with the longest description.
pub const MAX_RECORDS: usize = 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Records {
    /// Who tells.
    pub from: Identity,
    pub incarnation: foca::Incarnation,
    /// All others it knows, dead ones included.
    pub members: Vec<foca::Member<Identity>>,
    pub descriptions: Vec<Description>,
}

impl Records {
    pub fn encode(&self) -> Vec<u8> {
        // A vector grows; nothing else can fail.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Nothing if they cannot be read.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_RECORDS {
            return None;
        }
        match postcard::take_from_bytes(bytes) {
            Ok((records, [])) => Some(records),
            _ => None,
        }
    }

    /// How many nodes the teller thinks are there, itself included.
    pub fn active(&self) -> usize {
        self.members.iter().filter(|member| member.state() != foca::State::Down).count() + 1
    }
}
