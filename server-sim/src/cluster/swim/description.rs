//! What nodes say about themselves, spread as rumours of which the newest wins.

use crate::cluster::{Member, NodeId, Phase};
use crate::listener::Advertised;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Longest description in bytes: it has to fit into one packet, beside three identities. Some fifteen listeners do.
pub const MAX_DESCRIPTION: usize = 900;
/// So many descriptions of runs that nobody has heard of are kept until the next sweep.
const MAX_STRANGERS: usize = 64;

/// What one run of a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Who says it.
    pub id: NodeId,
    /// Which run of it.
    pub generation: u64,
    /// Higher in later descriptions of one run.
    pub counter: u32,
    /// How far it is.
    pub phase: Phase,
    /// Whether it went on purpose.
    pub left: bool,
    /// What its clients are told to connect to.
    pub advertised: Advertised,
    /// Its release.
    pub version: String,
    /// Commit its release was built from; empty if unknown.
    pub commit: String,
}

/// A description that does not fit into a packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "what this node tells others about itself takes {size} bytes, more than the {MAX_DESCRIPTION} that fit into a packet; \
     use fewer or shorter advertised listeners"
)]
pub struct DescriptionTooLong {
    /// Its length in bytes.
    pub size: usize,
}

/// Which run of which node.
pub(super) type Run = (NodeId, u64);

impl Description {
    pub(super) fn of(member: &Member) -> Self {
        Description {
            id: member.id,
            generation: member.generation,
            counter: 0,
            phase: member.phase,
            left: false,
            advertised: member.advertised.clone(),
            version: member.version.clone(),
            commit: member.commit.clone(),
        }
    }

    pub(super) fn run(&self) -> Run {
        (self.id, self.generation)
    }

    /// The description as it travels.
    ///
    /// # Errors
    /// It is too long.
    pub(super) fn encode(&self) -> Result<Vec<u8>, DescriptionTooLong> {
        match postcard::to_stdvec(self) {
            Ok(bytes) if bytes.len() <= MAX_DESCRIPTION => Ok(bytes),
            Ok(bytes) => Err(DescriptionTooLong { size: bytes.len() }),
            // Not reached: a vector grows.
            Err(_) => Err(DescriptionTooLong { size: usize::MAX }),
        }
    }

    /// # Errors
    /// It is none.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, NotADescription> {
        if bytes.len() > MAX_DESCRIPTION {
            return Err(NotADescription);
        }
        match postcard::take_from_bytes(bytes) {
            Ok((description, [])) => Ok(description),
            _ => Err(NotADescription),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("not a description of a node")]
pub(super) struct NotADescription;

/// The newest description of every run that is known.
#[derive(Debug, Default)]
pub(super) struct Descriptions {
    me: Option<Run>,
    known: BTreeSet<Run>,
    of_runs: BTreeMap<Run, Description>,
    changed: bool,
    /// Runs that said they go, since the last call that took them.
    leaving: Vec<Run>,
}

impl Descriptions {
    pub fn get(&self, run: Run) -> Option<&Description> {
        self.of_runs.get(&run)
    }

    /// This node is another run from now on; only it describes it.
    pub fn set_me(&mut self, description: Description) {
        if let Some(before) = self.me.replace(description.run()) {
            self.of_runs.remove(&before);
        }
        self.known.insert(description.run());
        self.of_runs.insert(description.run(), description);
        self.changed = true;
    }

    /// A run that is a member. Its description may have come before.
    pub fn expect(&mut self, run: Run) {
        self.known.insert(run);
    }

    /// Forgets what no member says.
    pub fn retain(&mut self, runs: impl Iterator<Item = Run>) {
        self.known = runs.chain(self.me).collect();
        let known = &self.known;
        self.of_runs.retain(|run, _| known.contains(run));
    }

    /// Keeps a description if it is news, and tells so.
    pub fn take(&mut self, description: Description) -> bool {
        let run = description.run();
        if self.me == Some(run) {
            return false;
        }
        let news = match self.of_runs.get(&run) {
            Some(known) => description.counter > known.counter,
            None => self.known.contains(&run) || self.of_runs.len() < self.known.len() + MAX_STRANGERS,
        };
        if news {
            if description.left {
                self.leaving.push(run);
            }
            self.of_runs.insert(run, description);
            self.changed = true;
        }
        news
    }

    /// Whether something changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Runs that said they go since the last call.
    pub fn take_leaving(&mut self) -> Vec<Run> {
        std::mem::take(&mut self.leaving)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Description> {
        self.of_runs.values()
    }
}

/// The descriptions as foca's handler of rumours and the membership share them. Never contended: both are in one task.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Descriptions>>);

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Descriptions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which rumour takes the place of which.
#[derive(Debug)]
pub(super) struct Key {
    run: Run,
    counter: u32,
}

impl foca::Invalidates for Key {
    fn invalidates(&self, other: &Self) -> bool {
        self.run == other.run && self.counter >= other.counter
    }
}

impl<T> foca::BroadcastHandler<T> for Shared {
    type Key = Key;
    type Error = NotADescription;

    /// A rumour without a sender is one that this node starts to spread itself.
    fn receive_item(&mut self, data: &[u8], sender: Option<&T>) -> Result<Option<Key>, NotADescription> {
        let description = Description::decode(data)?;
        let key = Key { run: description.run(), counter: description.counter };
        let spread = sender.is_none() || self.lock().take(description);
        Ok(spread.then_some(key))
    }
}
