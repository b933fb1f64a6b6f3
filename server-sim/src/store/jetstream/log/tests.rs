//! The log on real NATS servers.

mod contract;
mod faults;
mod nodes;
mod peers;

use super::{JetStreamLog, LogSettings};
use crate::store::contract::{batch, read_all, spec, stamped, texts};
use crate::store::disk::{Disk, FaultDisk};
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::{FIRST_LSN, GapKind, LogStore, MetaStore, ShardSpec, StoreError};
use hstream_testkit::nats::{Nats, NatsOptions};
use hstream_testkit::{Ending, Flow, Link, Way, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// A namespace that nobody else has.
fn namespace() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("t{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Metadata that all nodes of a test share, as they share the servers.
async fn metadata() -> (Arc<dyn MetaStore>, EmbeddedStore) {
    let options = EmbeddedOptions { reserve_bytes: 0, ..EmbeddedOptions::default() };
    let store = EmbeddedStore::open(Arc::new(FaultDisk::new()) as Arc<dyn Disk>, options).await.unwrap();
    (store.meta(), store)
}

async fn connect(urls: Vec<String>) -> async_nats::jetstream::Context {
    let options = async_nats::ConnectOptions::new().retry_on_initial_connect().ignore_discovered_servers();
    let urls: Vec<async_nats::ServerAddr> = urls.iter().map(|url| url.parse().unwrap()).collect();
    let client = options
        .reconnect_delay_callback(|_| Duration::from_millis(100))
        .ping_interval(Duration::from_secs(1))
        .connect(urls)
        .await
        .unwrap();
    eventually("a connection", SOON, || async {
        (client.connection_state() == async_nats::connection::State::Connected).then_some(())
    })
    .await;
    async_nats::jetstream::new(client)
}

/// Everything that several nodes over the same servers have in common.
struct World {
    urls: Vec<String>,
    settings: LogSettings,
    meta: Arc<dyn MetaStore>,
    _store: EmbeddedStore,
}

impl World {
    async fn on(nats: &Nats) -> World {
        let (meta, store) = metadata().await;
        let replicas = if nats.peers() >= 3 { 3 } else { 1 };
        let settings = LogSettings { replicas, ..LogSettings::new(namespace()) };
        World { urls: nats.urls(), settings, meta, _store: store }
    }

    /// Another node.
    async fn node(&self) -> Arc<JetStreamLog> {
        self.node_at(self.urls.clone()).await
    }

    async fn node_at(&self, urls: Vec<String>) -> Arc<JetStreamLog> {
        let log =
            JetStreamLog::open(connect(urls).await, Arc::clone(&self.meta), self.settings.clone()).await;
        Arc::new(log.expect("the log opens"))
    }
}

fn alone() -> Nats {
    Nats::start(NatsOptions::default()).expect("a server")
}
