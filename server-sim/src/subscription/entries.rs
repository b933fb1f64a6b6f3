//! The subscriptions as one node knows them: what is stored about each, and where it stands here.

use super::definition::{DEFINITIONS, Definition};
use super::live::Live;
use crate::cluster::ownership::Claim;
use crate::error::{Class, Result, ServerError};
use crate::stats::SubscriptionStats;
use crate::store::{MetaStore, Mirror, StoreError, Versioned};
use crate::stream::StreamId;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// All subscriptions, by name.
#[derive(Debug, Default)]
pub(super) struct Entries {
    by_id: BTreeMap<String, Arc<Entry>>,
    /// How many read a stream.
    readers: HashMap<StreamId, usize>,
}

impl Entries {
    pub(super) fn get(&self, id: &str) -> Option<&Arc<Entry>> {
        self.by_id.get(id)
    }

    /// In name order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.by_id.values()
    }

    /// Those whose name starts with `prefix`, in name order.
    pub(super) fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = &Arc<Entry>> {
        let from = self.by_id.range(prefix.to_owned()..);
        from.take_while(move |(id, _)| id.starts_with(prefix)).map(|(_, entry)| entry)
    }

    pub(super) fn is_read(&self, stream: StreamId) -> bool {
        self.readers.contains_key(&stream)
    }

    fn insert(&mut self, definition: Definition) {
        *self.readers.entry(definition.stream).or_default() += 1;
        self.by_id.insert(definition.id.clone(), Entry::new(definition));
    }

    /// Ends what runs here; one that is deleted from here has ended already.
    fn remove(&mut self, id: &str) {
        let Some(entry) = self.by_id.remove(id) else { return };
        let definition = entry.definition();
        if let Some(readers) = self.readers.get_mut(&definition.stream) {
            *readers -= 1;
            if *readers == 0 {
                self.readers.remove(&definition.stream);
            }
        }
        if let Some(live) = entry.live() {
            live.end(ServerError::new(Class::SubscriptionInvalidError, id));
        }
    }
}

impl Mirror for Entries {
    type Error = ServerError;

    fn apply(&mut self, key: &str, value: Option<&Versioned>) -> Result<()> {
        let Some(id) = key.strip_prefix(DEFINITIONS) else { return Ok(()) };
        let Some(found) = value else {
            self.remove(id);
            return Ok(());
        };
        let definition = Definition::decode(key, &found.value)?;
        let same = |entry: &&Arc<Entry>| {
            let known = entry.definition();
            (known.stream, known.created_ms) == (definition.stream, definition.created_ms)
        };
        match self.by_id.get(id).filter(same) {
            Some(entry) => entry.follow(definition),
            // Deleted and created again.
            None => {
                self.remove(id);
                self.insert(definition);
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    definition: RwLock<Arc<Definition>>,
    /// Held while the subscription is started, changed or deleted.
    pub(super) turn: tokio::sync::Mutex<()>,
    phase: Mutex<Phase>,
    /// Goes with the subscription, so one created again starts at 0.
    pub(super) stats: Arc<SubscriptionStats>,
}

/// Where a subscription stands on this node.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// No consumer since this process started, or delivery failed.
    Idle,
    Running(Arc<Live>),
    Deleting,
}

impl Entry {
    fn new(definition: Definition) -> Arc<Self> {
        let phase = Mutex::new(Phase::Idle);
        let definition = RwLock::new(Arc::new(definition));
        Arc::new(Entry { definition, turn: tokio::sync::Mutex::new(()), phase, stats: Arc::default() })
    }

    pub(super) fn definition(&self) -> Arc<Definition> {
        self.definition.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the definition once it is durable; the caller holds the entry's turn and the claim.
    pub(super) async fn redefine(
        &self,
        definition: Definition,
        meta: &dyn MetaStore,
        claim: &Claim,
    ) -> Result<Arc<Definition>> {
        let value = (Definition::key(&definition.id), definition.encode()?);
        match meta.put_many(vec![value], claim.guard()).await {
            Ok(()) => {}
            Err(StoreError::Conflict { .. }) => {
                let text =
                    format!("subscription {} has just moved to another node; try again", definition.id);
                return Err(ServerError::new(Class::ServerNotAvailable, text));
            }
            Err(error) => return Err(error.into()),
        }
        let definition = Arc::new(definition);
        *self.definition.write().unwrap_or_else(PoisonError::into_inner) = definition.clone();
        Ok(definition)
    }

    /// Follows what was written about it, by whatever node.
    fn follow(&self, definition: Definition) {
        let live = self.live();
        if let Some(live) = &live {
            if live.incarnation() == definition.incarnation {
                live.set_policy(&definition.policy);
            } else {
                // Without effect if it was moved from here, which has ended it already.
                let text = format!("subscription {} was moved or created again", definition.id);
                live.end(ServerError::new(Class::SubscriptionInvalidError, text));
            }
        }
        *self.definition.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(definition);
    }

    pub(super) fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn live(&self) -> Option<Arc<Live>> {
        match &*self.phase() {
            Phase::Running(live) => Some(live.clone()),
            Phase::Idle | Phase::Deleting => None,
        }
    }
}
