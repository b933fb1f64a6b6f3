//! The command line.

use crate::auth::Tokens;
use crate::node::NodeConfig;
use clap::Parser;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// Largest `--max-record-size`: a batch must fit into a request with room to spare.
const MAX_RECORD_SIZE: i64 = 8 * 1024 * 1024;

/// A durable, HStreamDB-compatible streaming server.
#[derive(Debug, Parser)]
#[command(name = "hstream-server", version)]
pub struct Arguments {
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), env = "HSTREAM_BIND_ADDRESS")]
    bind_address: IpAddr,
    /// Port for clients; 0 takes a free one and logs it
    #[arg(long, short, default_value_t = 6570, env = "HSTREAM_PORT")]
    port: u16,
    /// Port for other nodes
    #[arg(long, default_value_t = 6571)]
    internal_port: u16,
    /// Host name or address that clients are told [default: the bind address]
    #[arg(long, env = "HSTREAM_ADVERTISED_ADDRESS")]
    advertised_address: Option<String>,
    /// Directory of the data, created if missing
    #[arg(long, default_value = "hstream-data", env = "HSTREAM_DATA_DIR")]
    data_dir: PathBuf,
    /// Number of this node
    #[arg(long, default_value_t = 1, env = "HSTREAM_SERVER_ID")]
    server_id: u32,
    /// Largest encoded batch in bytes
    #[arg(long, default_value_t = 1_048_576, value_parser = clap::value_parser!(u32).range(1..=MAX_RECORD_SIZE))]
    max_record_size: u32,
    /// Start although the log is damaged: readers are told which batches are lost
    #[arg(long)]
    serve_damaged_log: bool,
    /// A token that callers may present as `authorization: Basic <token>`; repeatable [default: everybody may call]
    #[arg(long = "token", value_name = "TOKEN")]
    tokens: Vec<String>,
    /// critical, fatal, warning, info, debug or trace
    #[arg(long, default_value = "info", value_parser = parse_level)]
    log_level: tracing::Level,
    /// Colour the log
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    log_with_color: Option<bool>,
    #[command(flatten)]
    meaningless: Meaningless,
}

/// Flags that deployments of the original pass and that have no meaning here.
#[derive(Debug, clap::Args)]
struct Meaningless {
    #[arg(long, hide = true)]
    metastore_uri: Option<String>,
    #[arg(long, hide = true)]
    seed_nodes: Option<String>,
    #[arg(long, hide = true)]
    gossip_address: Option<String>,
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
    log_flush_immediately: Option<bool>,
}

fn parse_level(text: &str) -> Result<tracing::Level, String> {
    match text {
        "critical" | "fatal" | "error" => Ok(tracing::Level::ERROR),
        "warning" | "warn" => Ok(tracing::Level::WARN),
        "info" => Ok(tracing::Level::INFO),
        "debug" => Ok(tracing::Level::DEBUG),
        "trace" => Ok(tracing::Level::TRACE),
        _ => Err("the levels are critical, fatal, warning, info, debug and trace".to_owned()),
    }
}

impl Arguments {
    /// How much to log.
    pub fn log_level(&self) -> tracing::Level {
        self.log_level
    }

    /// Whether to colour the log, if the caller said so.
    pub fn log_with_color(&self) -> Option<bool> {
        self.log_with_color
    }

    /// Flags that were given and do nothing here.
    pub fn meaningless(&self) -> Vec<&'static str> {
        let given = &self.meaningless;
        [
            ("--metastore-uri", given.metastore_uri.is_some()),
            ("--seed-nodes", given.seed_nodes.is_some()),
            ("--gossip-address", given.gossip_address.is_some()),
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
            ("--log-flush-immediately", given.log_flush_immediately.is_some()),
        ]
        .into_iter()
        .filter_map(|(flag, given)| given.then_some(flag))
        .collect()
    }

    /// What the node is to be.
    pub fn into_config(self) -> NodeConfig {
        NodeConfig {
            bind_address: self.bind_address,
            port: self.port,
            internal_port: self.internal_port,
            advertised_address: self.advertised_address,
            data_dir: self.data_dir,
            server_id: self.server_id,
            max_record_size: self.max_record_size,
            serve_damaged_log: self.serve_damaged_log,
            tokens: Tokens::new(self.tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, String> {
        let words = std::iter::once("hstream-server").chain(words.iter().copied());
        Arguments::try_parse_from(words).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_of_published_deployments_are_taken_and_named_as_meaningless() {
        let arguments = parse(&[
            "--bind-address",
            "0.0.0.0",
            "--port",
            "0",
            "--internal-port",
            "6580",
            "--server-id",
            "7",
            "--metastore-uri",
            "zk://h1:2181",
            "--store-config",
            "/data/store/logdevice.conf",
            "--log-with-color",
            "--log-level",
            "warning",
        ])
        .unwrap();
        assert_eq!(arguments.meaningless(), ["--metastore-uri", "--store-config"]);
        assert_eq!(arguments.log_level(), tracing::Level::WARN);
        let config = arguments.into_config();
        assert_eq!((config.port, config.server_id), (0, 7));
        assert!(config.bind_address.is_unspecified());
    }

    #[test]
    fn unknown_flags_and_values_out_of_range_are_refused_by_name() {
        assert!(parse(&["--prot", "1"]).unwrap_err().contains("--prot"));
        assert!(parse(&["--max-record-size", "0"]).unwrap_err().contains("--max-record-size"));
        assert!(parse(&["--log-level", "loud"]).unwrap_err().contains("the levels are"));
    }

    #[test]
    fn without_flags_the_defaults_of_the_library_hold() {
        let (config, default) = (parse(&[]).unwrap().into_config(), NodeConfig::default());
        assert_eq!(config.data_dir, default.data_dir);
        assert_eq!(config.max_record_size, default.max_record_size);
        assert_eq!((config.port, config.internal_port), (default.port, default.internal_port));
    }
}
