//! Who owns what, as last looked up.

use super::address::NodeAddress;
use hstreamdb_proto::api::ResourceType;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Entries kept; when full the cache starts over, which costs one lookup per resource.
const CAPACITY: usize = 100_000;

/// Something that has an owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    Shard(u64),
    Subscription(String),
    /// A query, view or connector.
    Named(ResourceType, String),
}

/// Owners by resource.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    owners: Mutex<HashMap<Resource, NodeAddress>>,
}

impl Owners {
    fn lock(&self) -> MutexGuard<'_, HashMap<Resource, NodeAddress>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, resource: &Resource) -> Option<NodeAddress> {
        self.lock().get(resource).cloned()
    }

    pub(crate) fn put(&self, resource: Resource, owner: NodeAddress) {
        let mut owners = self.lock();
        if owners.len() >= CAPACITY && !owners.contains_key(&resource) {
            owners.clear();
        }
        owners.insert(resource, owner);
    }

    pub(crate) fn forget(&self, resource: &Resource) {
        self.lock().remove(resource);
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Forgets everything at a node, after it failed.
    pub(crate) fn forget_node(&self, address: &NodeAddress) {
        self.lock().retain(|_, owner| owner != address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_forgotten_one_by_one_and_by_node() {
        let owners = Owners::default();
        let (a, b) = (NodeAddress::new("a", 1), NodeAddress::new("b", 1));
        owners.put(Resource::Shard(1), a.clone());
        owners.put(Resource::Shard(2), a.clone());
        owners.put(Resource::Subscription("s".into()), b.clone());
        owners.forget(&Resource::Shard(1));
        assert_eq!(owners.get(&Resource::Shard(1)), None);
        assert_eq!(owners.get(&Resource::Shard(2)), Some(a.clone()));
        owners.forget_node(&a);
        assert_eq!(owners.get(&Resource::Shard(2)), None);
        assert_eq!(owners.get(&Resource::Subscription("s".into())), Some(b));
    }
}
