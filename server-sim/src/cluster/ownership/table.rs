//! The owner records in memory, following the store.

use super::record::OwnerRecord;
use super::resource::{OWNERS, Resource};
use crate::cluster::NodeId;
use crate::store::{MetaStore, MetaWatch, Seen, StoreError};
use std::collections::BTreeMap;

/// All owner records there are, with their versions.
#[derive(Debug)]
pub(super) struct Table {
    watch: MetaWatch,
    records: BTreeMap<Resource, (OwnerRecord, u64)>,
    /// Changes were missed: what is here may be old.
    missed: bool,
}

impl Table {
    /// Nothing yet; to be filled with [`Table::fill`].
    pub(super) fn new(meta: &dyn MetaStore) -> Self {
        Table { watch: meta.watch(OWNERS), records: BTreeMap::new(), missed: true }
    }

    /// Watches anew, to be filled with what is listed from now on.
    pub(super) fn restart(&mut self, meta: &dyn MetaStore) {
        self.watch = meta.watch(OWNERS);
        self.missed = true;
    }

    /// Takes what was listed after this table began to watch. Until then nothing is taken from the watch, so that no
    /// change is lost between the two.
    pub(super) fn fill(&mut self, listed: Vec<(Resource, OwnerRecord, u64)>) {
        self.records.clear();
        self.missed = false;
        for (resource, record, version) in listed {
            self.records.insert(resource, (record, version));
        }
    }

    /// Takes the changes that are there; false when some were missed, so that it has to be filled again.
    pub(super) fn catch_up(&mut self) -> bool {
        while !self.missed
            && let Some(seen) = self.watch.try_next()
        {
            match seen {
                Seen::Change(change) => {
                    let Some(resource) = Resource::parse(&change.key) else { continue };
                    if self.records.get(&resource).is_some_and(|(_, version)| *version >= change.version) {
                        continue;
                    }
                    match change.value.map(|value| OwnerRecord::decode(&change.key, &value)) {
                        Some(Ok(record)) => {
                            self.records.insert(resource, (record, change.version));
                        }
                        Some(Err(error)) => {
                            tracing::error!(%error, "nobody can take what it is about");
                            self.records.remove(&resource);
                        }
                        None => {
                            self.records.remove(&resource);
                        }
                    }
                }
                Seen::Missed => self.missed = true,
            }
        }
        !self.missed
    }

    /// What a node serves or is to serve.
    pub(super) fn of(&self, node: NodeId) -> impl Iterator<Item = &Resource> {
        self.records.iter().filter(move |(_, (record, _))| record.node == node).map(|(resource, _)| resource)
    }

    /// How much each node serves or is to serve.
    pub(super) fn counts(&self) -> BTreeMap<NodeId, usize> {
        let mut counts = BTreeMap::new();
        for (record, _) in self.records.values() {
            *counts.entry(record.node).or_default() += 1;
        }
        counts
    }

    pub(super) fn get(&self, resource: &Resource) -> Option<&(OwnerRecord, u64)> {
        self.records.get(resource)
    }
}

/// All owner records in the store; those that cannot be read are left out and logged.
pub(super) async fn list(meta: &dyn MetaStore) -> Result<Vec<(Resource, OwnerRecord, u64)>, StoreError> {
    let mut listed = Vec::new();
    for (key, found) in meta.list(OWNERS).await? {
        let Some(resource) = Resource::parse(&key) else { continue };
        match OwnerRecord::found(&key, &found) {
            Ok((record, version)) => listed.push((resource, record, version)),
            Err(error) => tracing::error!(%error, "nobody can take what it is about"),
        }
    }
    Ok(listed)
}
