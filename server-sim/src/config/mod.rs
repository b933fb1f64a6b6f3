//! What a server process is told: flags and environment first, then the configuration file, then defaults.

mod cluster;
mod file;
mod flags;
mod secret;
mod store;

pub use flags::Arguments;

use crate::auth::{Token, Tokens};
use crate::cluster::ClusterConfig;
use crate::listener::{ExtraListener, apply_protocols, parse_listeners};
use crate::node::NodeConfig;
use crate::tls::TlsFiles;
use file::File;
use std::path::{Path, PathBuf};
use tracing::Level;

/// Read if it is there; another one has to be named with `--config-path`.
const DEFAULT_FILE: &str = "/etc/hstream/config.yaml";
/// Largest `max-record-size`: a batch must fit into a request with room to spare.
const MAX_RECORD_SIZE: u32 = 8 * 1024 * 1024;
/// Bytes of one log file and how many there are, as published servers have it.
const LOG_FILE_BYTES: u64 = 20 * 1024 * 1024;
const LOG_FILES: u32 = 10;

/// Everything that was asked for, checked.
#[derive(Debug)]
pub struct Settings {
    /// The node.
    pub node: NodeConfig,
    /// How many nodes to run in this process over one store, if more than one.
    pub nodes: Option<u32>,
    /// The log.
    pub log: LogSettings,
    /// What was asked for and does nothing here: flags, and keys of the file.
    pub meaningless: Vec<String>,
    /// What an operator has to know about what was asked for.
    pub warnings: Vec<String>,
}

/// How to log.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// The least important level that is written.
    pub level: Level,
    /// Whether to colour; `None` when a terminal reads it.
    pub color: Option<bool>,
    /// Where to write instead of to stderr.
    pub file: Option<LogFile>,
}

/// A log file and its predecessors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// The newest file; older ones have a number behind their name.
    pub path: PathBuf,
    /// Size in bytes at which a new file is begun.
    pub max_bytes: u64,
    /// Files at a time, the newest included.
    pub files: u32,
}

impl Arguments {
    /// Reads the file, if there is one, and lets the flags override it.
    ///
    /// # Errors
    /// One sentence: which flag, or which file and line, is wrong, and why.
    pub fn settle(self) -> Result<Settings, String> {
        let file = match &self.config_path {
            Some(path) => File::read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => File::read(Path::new(DEFAULT_FILE))?,
            None => File::default(),
        };
        self.over(file)
    }

    fn over(self, file: File) -> Result<Settings, String> {
        let mut meaningless: Vec<String> = self.meaningless().into_iter().map(str::to_owned).collect();
        meaningless.extend(file.meaningless());
        let (stores, meaningless): (Vec<_>, Vec<_>) =
            meaningless.into_iter().partition(|name| name.ends_with("metastore-uri"));
        let (mut server, embedded) = (file.hserver, file.hstore);
        let default = NodeConfig::default();

        let port = self.port.or(server.port).unwrap_or(default.port);
        let nodes = self.nodes.filter(|nodes| *nodes > 1);
        let internal_port = self.internal_port.or(server.internal_port);
        // Who wants free ports for several nodes wants them all to be free.
        let internal_port = internal_port.unwrap_or(match (nodes, port) {
            (Some(_), 0) => 0,
            _ => default.internal_port,
        });
        let store = store::store(self.store, file.store)?;
        let cluster = cluster::cluster(self.cluster, &mut server, internal_port, store.is_some())?;
        let data_dir = self.data_dir.or(embedded.data_dir);
        let mut warnings: Vec<String> =
            stores.iter().map(|name| foreign_store(name, store.is_some())).collect();
        warnings.extend(about(&cluster, store.is_some()));
        if store.is_some() && data_dir.is_some() {
            warnings.push(
                "--data-dir: NOTHING IS KEPT THERE, and what is there stays there: all data go to --store"
                    .to_owned(),
            );
        }

        let mut extra_listeners = match &self.advertised_listeners {
            Some(text) => {
                parse_listeners(text).map_err(|error| format!("--advertised-listeners: {error}"))?
            }
            None => server.listeners().map_err(|error| format!("advertised-listeners: {error}"))?,
        };
        let protocols = self.listeners_security_protocol_map.or(server.listeners_security_protocol_map);
        apply_protocols(&mut extra_listeners, protocols.as_deref().unwrap_or_default())
            .map_err(|error| format!("--listeners-security-protocol-map: {error}"))?;
        check_internal_port(&cluster, internal_port, port, &extra_listeners)?;

        let key = self.tls_key_path.or(server.tls_key_path);
        let certificate = self.tls_cert_path.or(server.tls_cert_path);
        let client_authorities = self.tls_ca_path.or(server.tls_ca_path);
        let tls = match (key, certificate) {
            (Some(key), Some(certificate)) => Some(TlsFiles { key, certificate, client_authorities }),
            _ => None,
        };

        let max_record_size =
            self.max_record_size.or(server.max_record_size).unwrap_or(default.max_record_size);
        if !(1..=MAX_RECORD_SIZE).contains(&max_record_size) {
            return Err(format!(
                "--max-record-size: {max_record_size} is not between 1 and {MAX_RECORD_SIZE} bytes"
            ));
        }
        let mut limits = default.limits;
        limits.max_connections =
            self.max_connections.or(server.max_connections).unwrap_or(limits.max_connections);
        if limits.max_connections == 0 {
            return Err("--max-connections: 0 would let nobody in".to_owned());
        }

        let level = match self.log_level.or(server.log_level) {
            None => Level::INFO,
            Some(text) => parse_level(&text).map_err(|error| format!("--log-level: {error}"))?,
        };
        let log_file = self.file_log_path.or(server.file_log_path).map(|path| LogFile {
            path,
            max_bytes: self.file_log_size.or(server.file_log_size).unwrap_or(LOG_FILE_BYTES),
            files: self.file_log_num.or(server.file_log_num).unwrap_or(LOG_FILES),
        });
        if let Some(LogFile { max_bytes: 0, .. } | LogFile { files: 0, .. }) = log_file {
            return Err("--file-log-size and --file-log-num: neither may be 0".to_owned());
        }

        let tokens = if self.tokens.is_empty() { server.tokens.unwrap_or_default() } else { self.tokens };
        let tokens: Vec<String> = tokens.into_iter().map(Token::reveal).collect();
        Ok(Settings {
            node: NodeConfig {
                bind_address: self.bind_address.or(server.bind_address).unwrap_or(default.bind_address),
                port,
                internal_port,
                advertised_address: self.advertised_address.or(server.advertised_address),
                data_dir: data_dir.unwrap_or(default.data_dir),
                server_id: self.server_id.or(server.id).unwrap_or(default.server_id),
                max_record_size,
                serve_damaged_log: self.serve_damaged_log || embedded.serve_damaged_log.unwrap_or_default(),
                verify_log: self.verify_log || embedded.verify_log.unwrap_or_default(),
                tokens: Tokens::new(tokens),
                extra_listeners,
                enable_tls: self.enable_tls.or(server.enable_tls).unwrap_or_default(),
                tls,
                limits,
                cluster,
                store,
            },
            nodes,
            log: LogSettings { level, color: self.log_with_color.or(server.log_with_color), file: log_file },
            meaningless,
            warnings,
        })
    }
}

fn check_internal_port(
    cluster: &ClusterConfig,
    internal: u16,
    main: u16,
    extra: &[ExtraListener],
) -> Result<(), String> {
    if cluster.seed_nodes.is_empty() || internal == 0 {
        return Ok(());
    }
    if internal == main {
        return Err(format!(
            "--internal-port: {internal} is --port, too; other nodes need a port of their own"
        ));
    }
    match extra.iter().find(|extra| extra.port == internal) {
        Some(extra) => Err(format!("--internal-port: {internal} is the port of the listener {extra}, too")),
        None => Ok(()),
    }
}

/// Never with the value: it may hold a password.
fn foreign_store(name: &str, shared: bool) -> String {
    let place = if shared { "--store" } else { "--data-dir" };
    format!(
        "{name}: NO ZOOKEEPER OR RQLITE IS USED OR NEEDED; metadata are kept in {place}, and what is stored there stays there"
    )
}

fn about(cluster: &ClusterConfig, shared: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if cluster.seed_nodes.len() > 1 && !shared {
        warnings.push(
            "several --seed-nodes over the store in --data-dir: NODES IN SEPARATE PROCESSES DO NOT SHARE A STORE, so they \
             refuse each other and each keeps its own data. Give all of them the same --store, run one node, or --nodes N for \
             N nodes in one process"
                .to_owned(),
        );
    }
    if !cluster.seed_nodes.is_empty() && cluster.gossip_key.is_none() {
        warnings.push(
            "gossip is not authenticated: whoever reaches the internal port can say who is in the cluster; give every node \
             the same --gossip-key-path"
                .to_owned(),
        );
    }
    warnings
}

fn parse_level(text: &str) -> Result<Level, String> {
    match text {
        "critical" | "fatal" | "error" => Ok(Level::ERROR),
        "warning" | "warn" => Ok(Level::WARN),
        "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        "trace" => Ok(Level::TRACE),
        _ => Err(format!("{text:?} is none of the levels critical, fatal, warning, info, debug and trace")),
    }
}

#[cfg(test)]
mod tests;
