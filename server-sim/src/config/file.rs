//! The configuration file: YAML with the keys of published servers.

use super::secret::Secret;
use crate::auth::Token;
use crate::listener::ExtraListener;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The whole file. Keys that are not listed are refused.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    #[serde(deserialize_with = "or_default")]
    pub(super) hserver: Server,
    #[serde(deserialize_with = "or_default")]
    pub(super) hstore: Store,
    #[serde(deserialize_with = "or_default")]
    pub(super) store: Shared,
    /// Another front end of the original.
    kafka: Given,
}

macro_rules! section {
    (
        $(#[$doc:meta])* $section:ident in $name:literal
        { $($key:ident: $kind:ty,)* }
        meaningless { $($other:ident = $other_name:literal,)* }
    ) => {
        $(#[$doc])*
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub(super) struct $section {
            $(pub(super) $key: Option<$kind>,)*
            $($other: Given,)*
        }

        impl $section {
            fn meaningless(&self) -> impl Iterator<Item = String> {
                let given: &[(&str, &Given)] = &[$((concat!($name, ".", $other_name), &self.$other),)*];
                let given = given.iter().filter(|(_, given)| given.0);
                given.map(|(key, _)| (*key).to_owned()).collect::<Vec<_>>().into_iter()
            }
        }

        // Values may be secrets.
        impl std::fmt::Debug for $section {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($section)).finish_non_exhaustive()
            }
        }
    };
}

section! {
    /// Everything but storage.
    Server in "hserver"
    {
        id: u32,
        bind_address: IpAddr,
        port: u16,
        internal_port: u16,
        advertised_address: String,
        advertised_listeners: BTreeMap<String, Vec<Listener>>,
        listeners_security_protocol_map: String,
        max_record_size: u32,
        max_connections: u32,
        tokens: Vec<Token>,
        enable_tls: bool,
        tls_key_path: PathBuf,
        tls_cert_path: PathBuf,
        tls_ca_path: PathBuf,
        log_level: String,
        log_with_color: bool,
        file_log_path: PathBuf,
        file_log_size: u64,
        file_log_num: u32,
        seed_nodes: String,
        gossip_address: String,
        cluster_name: String,
        auto_init: bool,
        gossip_key: Secret,
        gossip_key_path: PathBuf,
        lease_ms: u64,
        gossip: Gossip,
    }
    meaningless {
        metastore_uri = "metastore-uri",
        hstream_io = "hstream-io",
        hstream_processing = "hstream-processing",
        cache_store = "cache-store",
        grpc = "grpc",
        log_flush_immediately = "log-flush-immediately",
        experimental = "experimental",
    }
}

section! {
    /// How fast nodes notice what happens to others; times in microseconds.
    Gossip in "hserver.gossip"
    {
        gossip_fanout: u32,
        retransmit_mult: u32,
        gossip_interval: u64,
        probe_interval: u64,
        roundtrip_timeout: u64,
        indirect_probes: u32,
        suspicion_mult: u32,
        push_pull_interval: u64,
        max_local_health: u32,
    }
    meaningless {
        join_worker_concurrency = "join-worker-concurrency",
    }
}

section! {
    /// Storage.
    Store in "hstore"
    {
        data_dir: PathBuf,
        serve_damaged_log: bool,
        verify_log: bool,
    }
    meaningless {
        log_level = "log-level",
        checkpoint_replication_factor = "checkpoint-replication-factor",
        store_admin = "store-admin",
        store_config = "store-config",
    }
}

section! {
    /// A store that several nodes share.
    Shared in "store"
    {
        url: Secret,
        replicas: usize,
        tls_ca_path: PathBuf,
        tls_cert_path: PathBuf,
        tls_key_path: PathBuf,
        timeout_ms: u64,
        start_timeout_ms: u64,
    }
    meaningless {}
}

/// One address below a listener key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    address: String,
    port: u16,
}

/// Whether a key that does nothing here was there, whatever its value.
#[derive(Debug, Default)]
struct Given(bool);

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Given(true))
    }
}

/// A section without content is written as a key without value.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl File {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// One sentence with the path and, unless the file cannot be read, the line.
    pub(super) fn read(path: &Path) -> Result<File, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read the configuration file {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("the configuration file {} {error}", path.display()))
    }

    pub(super) fn parse(text: &str) -> Result<File, String> {
        // An empty document is a file in which nothing is configured.
        let parsed = serde_saphyr::from_str::<Option<File>>(text);
        parsed.map(Option::unwrap_or_default).map_err(|error| {
            let error = error.without_snippet();
            let reason = error.to_string();
            let reason = reason.lines().next().unwrap_or_default();
            let line = error.location().and_then(|place| usize::try_from(place.line()).ok());
            let key = line.and_then(|line| text.lines().nth(line.checked_sub(1)?)).and_then(key_in);
            let key = key.map(|key| format!(" at {key:?}")).unwrap_or_default();
            match line {
                Some(line) if !reason.contains(" at line ") => {
                    format!("is wrong{key} in line {line}: {reason}")
                }
                _ => format!("is wrong{key}: {reason}"),
            }
        })
    }

    /// Keys that are there and do nothing here.
    pub(super) fn meaningless(&self) -> Vec<String> {
        let kafka = self.kafka.0.then(|| "kafka".to_owned());
        let gossip = self.hserver.gossip.iter().flat_map(Gossip::meaningless);
        let stores = self.hstore.meaningless().chain(self.store.meaningless());
        self.hserver.meaningless().chain(gossip).chain(stores).chain(kafka).collect()
    }
}

/// The key of a line; never its value, which may be a secret.
fn key_in(line: &str) -> Option<&str> {
    let (key, _) = line.trim_start_matches([' ', '\t', '-']).split_once(':')?;
    Some(key)
}

impl Server {
    /// The extra listeners, in the order of their keys.
    ///
    /// # Errors
    /// The entry that is wrong, and why.
    pub(super) fn listeners(&self) -> Result<Vec<ExtraListener>, String> {
        let by_key = self.advertised_listeners.iter().flatten();
        let entries = by_key.flat_map(|(key, entries)| entries.iter().map(move |entry| (key, entry)));
        entries
            .map(|(key, entry)| {
                ExtraListener::new(key, &entry.address, entry.port)
                    .map_err(|reason| format!("the entry {:?} of {key:?} {reason}", entry.address))
            })
            .collect()
    }
}
