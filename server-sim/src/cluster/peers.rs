//! Calls to other nodes.

use crate::net::Net;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::{Channel, Endpoint};

/// Long calls to other nodes at a time.
const MAX_CALLS: usize = 1024;
/// Bytes under way on one of them. A message may be larger: it comes in pieces.
const STREAM_WINDOW: u32 = 128 * 1024;
/// Bytes under way on all of them: none may wait because others are not read.
const CONNECTION_WINDOW: u32 = MAX_CALLS as u32 * STREAM_WINDOW;
/// Connections that are kept. More nodes than any cluster has.
const MAX_CHANNELS: usize = 256;
/// How long a connection may take to open.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// A silent node is asked for a sign of life this often while calls are open, and given up after the timeout, by both ends.
/// Gossip is slower, and does not see a path that breaks for one of two protocols.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(2);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// One connection per node, opened by its first call and again when it breaks.
#[derive(Debug)]
pub struct Peers {
    net: Net,
    channels: Mutex<HashMap<SocketAddr, Channel>>,
    places: Arc<Semaphore>,
}

impl Peers {
    /// Calls through this network.
    pub fn new(net: Net) -> Self {
        Peers { net, channels: Mutex::default(), places: Arc::new(Semaphore::new(MAX_CALLS)) }
    }

    /// The right to one more long call, if there is room.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// The connection to the node with this internal address. Does not wait; a call waits until it is open.
    ///
    /// # Errors
    /// For an address that makes no URI.
    pub fn channel(&self, address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_WITHIN)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let channel = endpoint.connect_with_connector_lazy(self.net.connector());
        if channels.len() >= MAX_CHANNELS {
            // Addresses of nodes that are long gone; calls under way keep their connection.
            channels.clear();
        }
        channels.insert(address, channel.clone());
        Ok(channel)
    }
}
