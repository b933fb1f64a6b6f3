//! Who serves what: one node at a time, whatever the network does.
//!
//! A node serves while its *session* is valid: a lease in the metadata store that it renews, and that is over, by its own
//! clock, before anybody else may think so. What it serves is written in *owner records*, which change by compare-and-set
//! only and whose versions guard every write of the owner. Membership decides where things go, never who may write:
//! docs/decisions/0019.
//!
//! | file | what |
//! | --- | --- |
//! | `session` | this node's own lease: begin, renewal, end |
//! | `lease` | the leases of others, as seen from here |
//! | `resource`, `record` | what is owned; what is stored about who owns it |
//! | `placement` | where something goes that nobody owns |
//! | `decision` | what a node may do about a resource, without waiting or I/O |
//! | `claim` | the right to serve one resource, and how it ends |
//! | `owners` | look-ups, and what everything here shares |
//! | `taking`, `following` | how a claim comes about; how it is lost to another node |
//! | `spread` | giving things to other nodes, before a stop and when some join |
//! | `table` | the owner records in memory, following the store |

mod claim;
mod decision;
mod following;
mod lease;
mod owners;
pub mod placement;
mod record;
mod resource;
mod session;
mod spread;
mod table;
mod taking;

pub use claim::{Claim, ClaimError};
pub use lease::{forget_leases, lease_holders, renewed_by_others};
pub use owners::{Keeper, Ownership};
pub use resource::{Kind, Resource};
pub use session::{BeginError, Session, SessionStart, Term};

#[cfg(test)]
mod tests;
