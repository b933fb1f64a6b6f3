//! The connections that calls share: some per node, made when they are first needed.

use super::{
    address::NodeAddress,
    authorized::Authorized,
    dialer::{Connection, Dialer},
    line::Line,
};
use crate::error::{Error, ErrorKind, Result};
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use hstreamdb_proto::api::h_stream_api_client::HStreamApiClient;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The generated client, with this client's headers on every call. Cheap to clone.
pub(crate) type ApiClient = HStreamApiClient<Authorized>;

/// A client of a node, and the connection under it.
#[derive(Clone)]
pub(crate) struct Contact {
    pub client: ApiClient,
    pub line: Arc<Line>,
}

/// A connection being made, awaited by all who want it. It is made in a task of its own: a caller that gives up takes
/// nothing from the others, and all of them learn of a failure at once.
type Opening = Shared<BoxFuture<'static, Result<Connection>>>;

/// Connections by address.
pub(crate) struct Pool {
    dialer: Arc<Dialer>,
    nodes: Mutex<HashMap<NodeAddress, Channels>>,
}

/// The connections to one node, used in turn.
#[derive(Default)]
struct Channels {
    slots: Vec<Slot>,
    next: usize,
}

enum Slot {
    Empty,
    Opening(Opening),
    Open(Connection),
}

impl Pool {
    pub(crate) fn new(dialer: Dialer) -> Self {
        Pool { dialer: Arc::new(dialer), nodes: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeAddress, Channels>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client over one of the node's connections, which is made first if there is none.
    ///
    /// # Errors
    /// `Unavailable` within the connect timeout; nothing was sent then.
    pub(crate) async fn client(&self, address: &NodeAddress, timeout: Duration) -> Result<Contact> {
        let opening = match self.pick(address) {
            Ok(connection) => return Ok(self.over(connection, Some(timeout))),
            Err(opening) => opening,
        };
        let result = opening.clone().await;
        self.settle(address, &opening, &result);
        Ok(self.over(result?, Some(timeout)))
    }

    /// The connection whose turn it is, or the making of it.
    fn pick(&self, address: &NodeAddress) -> Result<Connection, Opening> {
        let mut nodes = self.lock();
        let channels = match nodes.get_mut(address) {
            Some(channels) => channels,
            None => nodes.entry(address.clone()).or_default(),
        };
        let count = self.dialer.settings.channels_per_node;
        if channels.slots.len() < count {
            channels.slots.resize_with(count, || Slot::Empty);
        }
        let turn = channels.next % count;
        channels.next = channels.next.wrapping_add(1);
        let Some(slot) = channels.slots.get_mut(turn) else { return Err(self.open(address)) };
        match slot {
            // One that broke while nobody used it is replaced before a call could fail on it.
            Slot::Open(connection) if !connection.line.is_broken() => return Ok(connection.clone()),
            // Those who wanted it have all gone before it failed.
            Slot::Opening(opening) if !matches!(opening.peek(), Some(Err(_))) => return Err(opening.clone()),
            _ => {}
        }
        let opening = self.open(address);
        *slot = Slot::Opening(opening.clone());
        Err(opening)
    }

    fn open(&self, address: &NodeAddress) -> Opening {
        let (dialer, address) = (self.dialer.clone(), address.clone());
        let task = tokio::spawn(async move { dialer.connect(&address).await });
        async move {
            task.await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Unavailable, "connect")
                    .with_message("the runtime is shutting down"))
            })
        }
        .boxed()
        .shared()
    }

    fn settle(&self, address: &NodeAddress, opening: &Opening, result: &Result<Connection>) {
        let mut nodes = self.lock();
        let Some(channels) = nodes.get_mut(address) else { return };
        for slot in &mut channels.slots {
            if matches!(slot, Slot::Opening(known) if known.ptr_eq(opening)) {
                *slot = match result {
                    Ok(connection) => Slot::Open(connection.clone()),
                    Err(_) => Slot::Empty,
                };
            }
        }
    }

    /// A client over a new connection that nobody else uses; `window` is what HTTP/2 lets a peer send ahead in one of
    /// its streams, in bytes, instead of 2 MiB.
    ///
    /// # Errors
    /// As [`client`](Self::client).
    pub(crate) async fn dedicated(&self, address: &NodeAddress, window: Option<u32>) -> Result<Contact> {
        Ok(self.over(self.dialer.connect_with_window(address, window).await?, None))
    }

    fn over(&self, connection: Connection, timeout: Option<Duration>) -> Contact {
        let client = HStreamApiClient::new(self.dialer.over(connection.channel, timeout))
            .max_decoding_message_size(self.dialer.settings.max_receive_bytes)
            .max_encoding_message_size(usize::MAX);
        Contact { client, line: connection.line }
    }

    /// Forgets connections to the node that are at least this old, so that the next call makes a new one; calls under
    /// way keep theirs.
    pub(crate) fn discard(&self, address: &NodeAddress, age: Duration) {
        let mut nodes = self.lock();
        let Some(channels) = nodes.get_mut(address) else { return };
        for slot in &mut channels.slots {
            if matches!(slot, Slot::Open(connection) if connection.made.elapsed() >= age) {
                *slot = Slot::Empty;
            }
        }
    }

    /// Forgets connections to addresses that are none of the cluster's any more.
    pub(crate) fn retain(&self, keep: impl Fn(&NodeAddress) -> bool) {
        self.lock().retain(|address, _| keep(address));
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("nodes", &self.lock().keys().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}
