//! Which store this is.

use super::{Expect, MetaStore, Result, StoreError};
use bytes::Bytes;
use std::fmt;

const KEY: &str = "store-id";

/// Identity of a store, made by chance when it is first used and never changed. Nodes over different stores are no
/// cluster, whatever their names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreId(pub u128);

impl StoreId {
    /// The identity of this store. Whoever comes first writes it; all others read the same one.
    ///
    /// # Errors
    /// What the store reports; [`StoreError::Corrupt`] for one that cannot be read.
    pub async fn of(meta: &dyn MetaStore) -> Result<StoreId> {
        loop {
            if let Some(found) = meta.get(KEY).await? {
                return StoreId::parse(&found.value);
            }
            let new = StoreId(rand::random());
            match meta.put(KEY, Bytes::from(new.to_string()), Expect::Absent).await {
                Ok(_) => return Ok(new),
                // Somebody else was first.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn parse(value: &[u8]) -> Result<StoreId> {
        let text = std::str::from_utf8(value).ok().filter(|text| text.len() == 32);
        let id = text.and_then(|text| u128::from_str_radix(text, 16).ok());
        id.map(StoreId).ok_or_else(|| StoreError::Corrupt(format!("{KEY:?} is no identity of a store")))
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::{Disk, FaultDisk};
    use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
    use std::sync::Arc;

    async fn open(disk: &FaultDisk) -> EmbeddedStore {
        let disk = Arc::new(disk.clone()) as Arc<dyn Disk>;
        let options = EmbeddedOptions { reserve_bytes: 0, ..EmbeddedOptions::default() };
        EmbeddedStore::open(disk, options).await.unwrap()
    }

    #[tokio::test]
    async fn a_store_keeps_the_identity_that_the_first_node_gave_it() {
        let disk = FaultDisk::new();
        let store = open(&disk).await;
        let meta = store.meta();
        let nodes = (0..8).map(|_| {
            let meta = Arc::clone(&meta);
            tokio::spawn(async move { StoreId::of(&*meta).await.unwrap() })
        });
        let ids: Vec<StoreId> =
            futures::future::join_all(nodes).await.into_iter().map(|id| id.unwrap()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        store.close().await;
        let again = open(&disk.crash()).await;
        assert_eq!(StoreId::of(&*again.meta()).await.unwrap(), ids[0]);
        let other = open(&FaultDisk::new()).await;
        assert_ne!(StoreId::of(&*other.meta()).await.unwrap(), ids[0]);
    }

    #[tokio::test]
    async fn an_identity_is_written_as_hexadecimal_digits_and_never_overwritten() {
        assert_eq!(StoreId(0xab).to_string(), format!("{}ab", "0".repeat(30)));
        let store = open(&FaultDisk::new()).await;
        let meta = store.meta();
        meta.put(KEY, Bytes::from_static(b"something else"), Expect::Any).await.unwrap();
        assert!(matches!(StoreId::of(&*meta).await, Err(StoreError::Corrupt(_))));
    }
}
