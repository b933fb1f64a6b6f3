//! Why a node did not start.

use crate::cluster::NodeId;
use crate::cluster::bootstrap::BootstrapError;
use crate::cluster::gossip::GossipError;
use crate::cluster::ownership::BeginError;
use crate::error::ServerError;
use crate::store::StoreError;
use crate::store::jetstream::OpenError;
use crate::tls::TlsError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a node did not start. Each is one sentence an operator can act on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The socket could not be opened.
    #[error("cannot listen on {address}: {source}{}", hint(source))]
    Listen {
        /// What was tried.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The internal port could not be opened.
    #[error("cannot listen on the internal port {address} (TCP and UDP): {source}{}", internal_hint(source))]
    ListenInternal {
        /// What was tried.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// Two listeners want the same port.
    #[error("--advertised-listeners: {0}")]
    Listeners(String),
    /// TLS is asked for and cannot be offered.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A listener is to speak TLS, but there is no key and no certificate.
    #[error(
        "TLS is enabled for {0}, but its key and certificate are missing: give --tls-key-path and --tls-cert-path"
    )]
    TlsEmpty(String),
    /// The store cannot be opened.
    #[error("cannot use the data directory {}: {source}", path.display())]
    Store {
        /// The directory.
        path: PathBuf,
        /// What the store said.
        source: StoreError,
    },
    /// The store that nodes share cannot be used.
    #[error("--store: {0}")]
    SharedStore(#[from] OpenError),
    /// Another node uses the store, and this one knows nobody.
    #[error(
        "node {node} at {address} uses this store, and this node has no --seed-nodes to find it by: give all nodes of a \
         cluster the same --seed-nodes, or this one another /name in --store"
    )]
    NotAlone {
        /// The other node.
        node: NodeId,
        /// Where it is.
        address: String,
    },
    /// A seed cannot be read.
    #[error("--seed-nodes: {0}")]
    Seeds(String),
    /// Other nodes cannot be told where this one is.
    #[error("{flag} {host}: {reason}; other nodes could not reach this one")]
    Unreachable {
        /// What gave the address.
        flag: &'static str,
        /// As it was given.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The node has no right to serve.
    #[error(transparent)]
    Session(#[from] BeginError),
    /// The metadata cannot be read.
    #[error("cannot use the metadata of the cluster: {0}")]
    Metadata(StoreError),
    /// The node cannot take part in its cluster.
    #[error(transparent)]
    Gossip(#[from] GossipError),
    /// The node cannot found or join its cluster.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// What the store holds cannot be used.
    #[error("cannot load the streams and subscriptions in {place}: {source}")]
    Catalogue {
        /// The directory, or the address of the store.
        place: String,
        /// What was wrong.
        source: ServerError,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another server runs there, stop it or choose another --port",
        io::ErrorKind::PermissionDenied => "; choose a --port above 1023",
        io::ErrorKind::AddrNotAvailable => "; --bind-address must be an address of this machine",
        _ => "",
    }
}

fn internal_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another server runs there, stop it or choose another --internal-port",
        io::ErrorKind::PermissionDenied => "; choose an --internal-port above 1023",
        _ => hint(error),
    }
}
