//! Who is in the cluster and who is dead: SWIM membership without sockets, clock or randomness of its own.
//!
//! [`Membership`] is fed with packets, timers and the records of other nodes, and answers with what to send and what to
//! wake it up for. The protocol is foca's: probes, indirect probes through proxies, suspicion that can be refuted, rumours on
//! the back of every packet. Added here: descriptions of nodes, leaving that is told from dying, timers stretched by local
//! health, a way back for nodes that were declared dead by mistake, bounds on everything a peer can make grow.
//!
//! The caller owns time: the same inputs at the same moments give the same outputs, so all of it is tested in virtual time.

mod collector;
mod description;
mod health;
mod identity;
mod membership;
mod packet;
mod records;
mod settings;
mod signal;
mod stats;
mod table;
mod timer;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

pub use description::{Description, DescriptionTooLong, MAX_DESCRIPTION};
pub use membership::{MAX_MEMBERS, MAX_PACKET, Membership};
pub use records::MAX_RECORDS;
pub use settings::GossipSettings;
pub use signal::{Event, Input, Output, Packet, Peer};
pub use stats::SwimStats;
pub use timer::TimerToken;
