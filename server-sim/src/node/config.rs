//! How a node is set up.

use crate::auth::Tokens;
use crate::cluster::ClusterConfig;
use crate::limits::Limits;
use crate::listener::ExtraListener;
use crate::store::jetstream::JetStreamOptions;
use crate::tls::TlsFiles;
use hstreamdb_proto::DEFAULT_PORT;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// How a node is set up. [`Default`] is a node on loopback with its data below the current directory.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Address to listen on; default 127.0.0.1.
    pub bind_address: IpAddr,
    /// Port for clients, 0 for a free one; default 6570.
    pub port: u16,
    /// Port for other nodes, UDP and TCP; default 6571. A node without seeds opens no such port.
    pub internal_port: u16,
    /// Host name or address clients are told; default the bind address, or 127.0.0.1 if that is unspecified.
    pub advertised_address: Option<String>,
    /// A store that other nodes share; default none: everything is kept in [`NodeConfig::data_dir`].
    pub store: Option<JetStreamOptions>,
    /// Directory of the data, created if missing; not used with [`NodeConfig::store`]. Default `./hstream-data`.
    pub data_dir: PathBuf,
    /// Number of this node; default 1.
    pub server_id: u32,
    /// Largest encoded batch in bytes; default 1,048,576, at most 8 MiB.
    pub max_record_size: u32,
    /// Whether to start on a log that is damaged; readers are then told which batches are lost. Default false.
    pub serve_damaged_log: bool,
    /// Whether to read the whole log at the start and compare every checksum. Default false: the newest segment
    /// is read, older ones are compared in the background and whenever something is read.
    pub verify_log: bool,
    /// Who may call, through every listener; default everybody.
    pub tokens: Tokens,
    /// Further listeners, each with the address its clients are told; default none.
    pub extra_listeners: Vec<ExtraListener>,
    /// Whether the main listener speaks TLS; needs [`NodeConfig::tls`]. Default false.
    pub enable_tls: bool,
    /// Key and certificates of all listeners that speak TLS; default none.
    pub tls: Option<TlsFiles>,
    /// What peers may take.
    pub limits: Limits,
    /// How it takes part in a cluster; default not at all.
    pub cluster: ClusterConfig,
}

impl Default for NodeConfig {
    fn default() -> Self {
        NodeConfig {
            bind_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: DEFAULT_PORT,
            internal_port: 6571,
            advertised_address: None,
            store: None,
            data_dir: PathBuf::from("hstream-data"),
            server_id: 1,
            max_record_size: 1024 * 1024,
            serve_damaged_log: false,
            verify_log: false,
            tokens: Tokens::default(),
            extra_listeners: Vec::new(),
            enable_tls: false,
            tls: None,
            limits: Limits::default(),
            cluster: ClusterConfig::default(),
        }
    }
}
