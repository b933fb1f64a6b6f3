//! What goes into membership and what comes out.

use super::TimerToken;
use crate::cluster::{NodeId, Phase};
use bytes::Bytes;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// What happened outside.
#[derive(Debug)]
pub enum Input<'a> {
    /// A packet came.
    Packet(&'a [u8]),
    /// A timer is due.
    Timer(TimerToken),
    /// Another node's records came, as question or as answer of a push/pull.
    Records(&'a [u8]),
    /// This node is in another phase.
    Phase(Phase),
    /// This node has a new session in the metadata store, of this generation.
    Generation(u64),
    /// The session of a run of a node is over, by the metadata store: the run serves nothing any more.
    SessionOver(NodeId, u64),
    /// This node goes. Nothing is taken in and nothing asked for any more.
    Leave,
}

/// What is to be done now.
#[derive(Debug, Default)]
pub struct Output {
    /// Packets to send, by UDP.
    pub packets: Vec<Packet>,
    /// Timers to start.
    pub timers: Vec<(Duration, TimerToken)>,
    /// Nodes to compare everything with: send them the records, give back theirs.
    pub push_pull: Vec<Peer>,
    /// Whether the members are not the same any more, or are described otherwise.
    pub members_changed: bool,
    /// What happened, for logs and for what watches single events.
    pub events: Vec<Event>,
}

/// A packet to send.
#[derive(Debug, Clone)]
pub struct Packet {
    /// To whom; nobody else takes it.
    pub to: Peer,
    /// What.
    pub bytes: Bytes,
}

/// A run of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Number of the node.
    pub id: NodeId,
    /// Its session.
    pub generation: u64,
    /// Where it gossips.
    pub internal: SocketAddr,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} at {} (generation {})", self.id, self.internal, self.generation)
    }
}

/// What happened to a node, as this one sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It is there: for the first time, again, or as a new run.
    Up(Peer),
    /// It does not answer and may refute that.
    Suspect(Peer),
    /// It did refute.
    Refuted(Peer),
    /// It is dead.
    Down(Peer),
    /// It went on purpose.
    Left(Peer),
    /// It was declared dead by mistake and is back; an [`Event::Up`] goes with it.
    WronglyDown(Peer),
    /// Two nodes of one number seem to be alive. The one with the lower generation may also be a run that ended
    /// without a word and will be found dead soon: ask it before anything is refused.
    Duplicate {
        /// With the lower generation; may be this node.
        older: Peer,
        /// With the higher generation; may be this node.
        newer: Peer,
    },
    /// This node itself was declared dead by mistake and came back.
    Returned,
}
