//! The engines under test.

use bytes::Bytes;
use hstream_server::store::disk::FaultDisk;
use hstream_server::store::embedded::{EmbeddedOptions, EmbeddedStore};
use hstream_server::store::jetstream::{JetStreamOptions, JetStreamStore};
use hstream_server::store::{MetaChange, MetaStore, Seen, Versioned};
use hstream_testkit::nats::Nats;
use std::sync::Arc;
use std::time::Duration;

/// Nothing here takes that long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What a store is built on.
pub enum Engine {
    Embedded(EmbeddedStore),
    JetStream { name: String, store: JetStreamStore },
}

pub fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn change(key: &str, text: Option<&str>, version: u64) -> Option<Seen> {
    Some(Seen::Change(MetaChange { key: key.into(), value: text.map(value), version }))
}

/// A name that no other test has.
pub fn namespace() -> String {
    format!("t-{:016x}", rand::random::<u64>())
}

/// A lone server that all tests share.
pub fn nats() -> &'static Nats {
    Nats::shared().unwrap()
}

pub fn options(nats: &Nats, name: &str) -> JetStreamOptions {
    let mut options = JetStreamOptions::new(nats.store_url(name).parse().unwrap());
    options.max_batch_bytes = 64 << 10;
    options
}

pub async fn open(nats: &Nats, name: &str) -> JetStreamStore {
    JetStreamStore::open(options(nats, name)).await.unwrap()
}

/// Everything there is but what a log keeps there for itself.
pub async fn all(meta: &Arc<dyn MetaStore>) -> Vec<(String, Versioned)> {
    let all = meta.list("").await.unwrap();
    all.into_iter().filter(|(key, _)| !key.starts_with("log/")).collect()
}

impl Engine {
    pub async fn embedded() -> Engine {
        let options = EmbeddedOptions { reserve_bytes: 0, ..EmbeddedOptions::default() };
        Engine::Embedded(EmbeddedStore::open(Arc::new(FaultDisk::new()), options).await.unwrap())
    }

    pub async fn jetstream() -> Engine {
        let name = namespace();
        Engine::JetStream { store: open(nats(), &name).await, name }
    }

    pub fn meta(&self) -> Arc<dyn MetaStore> {
        match self {
            Engine::Embedded(store) => store.meta(),
            Engine::JetStream { store, .. } => store.meta(),
        }
    }

    /// The metadata as another node has them: elsewhere a process of its own.
    pub async fn another(&self) -> Arc<dyn MetaStore> {
        match self {
            Engine::Embedded(store) => store.meta(),
            Engine::JetStream { name, .. } => open(nats(), name).await.meta(),
        }
    }

    pub async fn close(self) {
        match self {
            Engine::Embedded(store) => store.close().await,
            Engine::JetStream { store, .. } => store.close().await,
        }
    }
}
