//! The command line.

use super::cluster::ClusterFlags;
use super::store::StoreFlags;
use crate::auth::Token;
use clap::{ArgAction, Parser};
use std::net::IpAddr;
use std::path::PathBuf;

/// A durable, HStreamDB-compatible streaming server.
#[derive(Debug, Parser)]
#[command(name = "hstream-server", version, disable_version_flag = true)]
pub struct Arguments {
    /// YAML file with further settings; flags win [default: /etc/hstream/config.yaml, if it exists]
    #[arg(long, value_name = "FILE", env = "HSTREAM_CONFIG_PATH")]
    pub(super) config_path: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, env = "HSTREAM_BIND_ADDRESS")]
    pub(super) bind_address: Option<IpAddr>,
    /// Port for clients; 0 takes a free one and logs it [default: 6570]
    #[arg(long, short, env = "HSTREAM_PORT")]
    pub(super) port: Option<u16>,
    /// Port for other nodes, UDP and TCP; only opened with --seed-nodes [default: 6571]
    #[arg(long, env = "HSTREAM_INTERNAL_PORT")]
    pub(super) internal_port: Option<u16>,
    /// Host name or address that clients are told [default: the bind address]
    #[arg(long, env = "HSTREAM_ADVERTISED_ADDRESS")]
    pub(super) advertised_address: Option<String>,
    /// Further listeners: clients that come in through one are told the addresses of its key
    #[arg(long, value_name = "KEY:hstream://HOST:PORT,...")]
    pub(super) advertised_listeners: Option<String>,
    /// Which of them speak TLS [default: none]
    #[arg(long, value_name = "KEY:plaintext|tls,...")]
    pub(super) listeners_security_protocol_map: Option<String>,
    /// Directory of the data, created if missing [default: hstream-data]
    #[arg(long, env = "HSTREAM_DATA_DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// Number of this node [default: 1]
    #[arg(long, env = "HSTREAM_SERVER_ID")]
    pub(super) server_id: Option<u32>,
    #[command(flatten)]
    pub(super) store: StoreFlags,
    #[command(flatten)]
    pub(super) cluster: ClusterFlags,
    /// Run this many nodes in one process over one store, for development and tests; ports rise in steps of 10
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) nodes: Option<u32>,
    /// Largest encoded batch in bytes, at most 8 MiB [default: 1048576]
    #[arg(long, value_name = "BYTES")]
    pub(super) max_record_size: Option<u32>,
    /// Connections at a time; further ones are closed at once [default: 10000]
    #[arg(long, value_name = "NUMBER")]
    pub(super) max_connections: Option<u32>,
    /// Start although the log is damaged: readers are told which batches are lost
    #[arg(long)]
    pub(super) serve_damaged_log: bool,
    /// Read the whole log at the start and compare every checksum, not the newest segment only
    #[arg(long)]
    pub(super) verify_log: bool,
    /// A token that callers may present as `authorization: Basic <token>`; repeatable [default: everybody may call]
    #[arg(long = "token", value_name = "TOKEN")]
    pub(super) tokens: Vec<Token>,
    /// Speak TLS on the main listener
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub(super) enable_tls: Option<bool>,
    /// PEM file with the private key
    #[arg(long, value_name = "FILE")]
    pub(super) tls_key_path: Option<PathBuf>,
    /// PEM file with the certificate and its chain
    #[arg(long, value_name = "FILE")]
    pub(super) tls_cert_path: Option<PathBuf>,
    /// PEM file with authorities; clients must then show a certificate that one of them signed
    #[arg(long, value_name = "FILE")]
    pub(super) tls_ca_path: Option<PathBuf>,
    /// critical, fatal, warning, info, debug or trace [default: info]
    #[arg(long)]
    pub(super) log_level: Option<String>,
    /// Colour the log [default: if a terminal reads it]
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub(super) log_with_color: Option<bool>,
    /// Log into this file instead of to stderr
    #[arg(long, value_name = "FILE")]
    pub(super) file_log_path: Option<PathBuf>,
    /// Size of a log file at which a new one is begun [default: 20971520]
    #[arg(long, value_name = "BYTES")]
    pub(super) file_log_size: Option<u64>,
    /// Log files that are kept, the newest included [default: 10]
    #[arg(long, value_name = "NUMBER")]
    pub(super) file_log_num: Option<u32>,
    /// The log is always written at once
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    log_flush_immediately: Option<bool>,
    /// Print the version
    #[arg(long, short = 'v', short_alias = 'V', action = ArgAction::Version)]
    version: Option<bool>,
    #[command(flatten)]
    meaningless: Meaningless,
}

/// Flags that deployments of the original pass and that have no meaning here.
#[derive(Debug, clap::Args)]
struct Meaningless {
    #[arg(long, hide = true)]
    metastore_uri: Option<String>,
    #[arg(long, hide = true)]
    store_config: Option<String>,
    #[arg(long, hide = true)]
    store_admin_host: Option<String>,
    #[arg(long, hide = true)]
    store_admin_port: Option<String>,
    #[arg(long, hide = true)]
    store_log_level: Option<String>,
    #[arg(long, hide = true)]
    store_compression: Option<String>,
    #[arg(long, hide = true)]
    checkpoint_replica: Option<String>,
    #[arg(long, hide = true)]
    io_tasks_path: Option<String>,
    #[arg(long, hide = true)]
    io_tasks_network: Option<String>,
    #[arg(long, hide = true)]
    io_connector_image: Vec<String>,
    #[arg(long, hide = true)]
    query_snapshot_path: Option<String>,
    #[arg(long, hide = true)]
    experimental: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    enable_server_cache: Option<bool>,
    #[arg(long, hide = true)]
    cache_store_path: Option<String>,
}

impl Arguments {
    /// Flags that were given and do nothing here.
    pub(super) fn meaningless(&self) -> Vec<&'static str> {
        let given = &self.meaningless;
        [
            ("--metastore-uri", given.metastore_uri.is_some()),
            ("--store-config", given.store_config.is_some()),
            ("--store-admin-host", given.store_admin_host.is_some()),
            ("--store-admin-port", given.store_admin_port.is_some()),
            ("--store-log-level", given.store_log_level.is_some()),
            ("--store-compression", given.store_compression.is_some()),
            ("--checkpoint-replica", given.checkpoint_replica.is_some()),
            ("--io-tasks-path", given.io_tasks_path.is_some()),
            ("--io-tasks-network", given.io_tasks_network.is_some()),
            ("--io-connector-image", !given.io_connector_image.is_empty()),
            ("--query-snapshot-path", given.query_snapshot_path.is_some()),
            ("--experimental", !given.experimental.is_empty()),
            ("--enable-server-cache", given.enable_server_cache.is_some()),
            ("--cache-store-path", given.cache_store_path.is_some()),
        ]
        .into_iter()
        .filter_map(|(flag, given)| given.then_some(flag))
        .collect()
    }
}
