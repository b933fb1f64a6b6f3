//! The sockets a node opens first of all.

use super::config::NodeConfig;
use super::start_error::StartError;
use crate::connection::Door;
use crate::listener::{Address, Advertised, check_ports};
use crate::net::{Datagrams, Listener, Net};
use std::net::{Ipv4Addr, SocketAddr};
use tokio_rustls::TlsAcceptor;

/// Every listening socket of a node, and what it is known by through them.
#[derive(Debug)]
pub(crate) struct Doors {
    /// For clients; the main one is the first.
    pub(crate) clients: Vec<Door>,
    /// Where the main one listens.
    pub(crate) address: SocketAddr,
    pub(crate) advertised: Advertised,
    /// For other nodes; a node without seeds has none.
    pub(crate) internal: Option<Internal>,
}

/// The internal port: one number, two protocols.
#[derive(Debug)]
pub(crate) struct Internal {
    pub(crate) calls: Listener,
    pub(crate) gossip: Datagrams,
    pub(crate) address: SocketAddr,
}

impl Doors {
    /// Opens the main listener, the extra ones and, if there are seeds, the internal port.
    pub(crate) fn open(config: &NodeConfig, net: &Net) -> Result<Doors, StartError> {
        check_ports(config.port, &config.extra_listeners).map_err(StartError::Listeners)?;
        let of_extra = config.extra_listeners.iter().find(|extra| extra.tls);
        let wanted = if config.enable_tls {
            Some("the main listener".to_owned())
        } else {
            of_extra.map(|extra| format!("the listener {extra}"))
        };
        let tls = match (wanted, &config.tls) {
            (None, _) => None,
            (Some(_), Some(files)) => Some(files.load()?),
            (Some(listener), None) => return Err(StartError::TlsEmpty(listener)),
        };
        let open = |port, key, tls: Option<TlsAcceptor>| {
            let address = SocketAddr::new(config.bind_address, port);
            let failed = |source| StartError::Listen { address, source };
            let socket = net.listen(address).map_err(failed)?;
            let address = socket.local_addr().map_err(failed)?;
            Ok::<_, StartError>((Door { socket, key, tls }, address))
        };
        let (door, address) = open(config.port, None, tls.clone().filter(|_| config.enable_tls))?;
        let host = config.advertised_address.clone().unwrap_or_else(|| {
            if !config.bind_address.is_unspecified() {
                return config.bind_address.to_string();
            }
            tracing::warn!("clients are told to connect to 127.0.0.1; set --advertised-address for others");
            Ipv4Addr::LOCALHOST.to_string()
        });
        let mut clients = vec![door];
        let mut advertised = Advertised { main: Address { host, port: address.port() }, extra: Vec::new() };
        for extra in &config.extra_listeners {
            let key = Some(extra.key.clone());
            let (door, address) = open(extra.port, key, tls.clone().filter(|_| extra.tls))?;
            clients.push(door);
            let address = Address { host: extra.host.clone(), port: address.port() };
            advertised.extra.push((extra.key.clone(), address));
        }
        let internal = match config.cluster.seed_nodes.as_slice() {
            [] => None,
            _ => Some(Internal::open(config, net)?),
        };
        Ok(Doors { clients, address, advertised, internal })
    }
}

impl Doors {
    /// Writes the ports that were taken into the configuration, so that the next run of the node takes them, too.
    pub(crate) fn fix_ports(&self, config: &mut NodeConfig) {
        config.port = self.address.port();
        if let Some(internal) = &self.internal {
            config.internal_port = internal.address.port();
        }
        for (extra, (_, address)) in config.extra_listeners.iter_mut().zip(&self.advertised.extra) {
            extra.port = address.port;
        }
    }
}

impl Internal {
    fn open(config: &NodeConfig, net: &Net) -> Result<Internal, StartError> {
        let address = SocketAddr::new(config.bind_address, config.internal_port);
        let failed = |source| StartError::ListenInternal { address, source };
        let (calls, gossip) = net.listen_both(address).map_err(failed)?;
        let address = calls.local_addr().map_err(failed)?;
        Ok(Internal { calls, gossip, address })
    }
}
