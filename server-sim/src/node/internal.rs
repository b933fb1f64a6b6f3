//! What a node answers to other nodes, on its internal port.

use crate::cluster::gossip::InternalService;
use crate::cluster::{KEEPALIVE, KEEPALIVE_TIMEOUT};
use crate::connection::{Door, Threshold};
use crate::limits::{CallLimits, Limits};
use crate::net::Listener;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

/// Connections from other nodes: a few of each, and those of strangers that are shown the door.
const MAX_CONNECTIONS: u32 = 1024;
/// Calls of one other node at a time. Every consumer that came to the wrong node is one.
const MAX_CALLS_PER_CONNECTION: u32 = 8192;

/// How long calls of other nodes may take to end once the node has stopped.
const END_WITHIN: Duration = Duration::from_secs(1);

/// The service for other nodes. Dropping it ends it at once.
#[derive(Debug)]
pub(super) struct InternalServer {
    stop: CancellationToken,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl InternalServer {
    /// Serves other nodes on this socket.
    pub(super) fn start(socket: Listener, service: InternalService, limits: &Limits) -> InternalServer {
        let limits = Limits { max_connections: MAX_CONNECTIONS, ..limits.clone() };
        let (sender, opened) = mpsc::channel(super::OPENED);
        let door = Door { socket, key: None, tls: None };
        tokio::spawn(door.serve(Threshold::new(&limits, sender)));
        let stop = CancellationToken::new();
        let server = Server::builder()
            .max_concurrent_streams(MAX_CALLS_PER_CONNECTION)
            .http2_max_pending_accept_reset_streams(Some(super::MAX_CANCELLED_UNSEEN))
            .initial_stream_window_size(super::STREAM_WINDOW)
            .initial_connection_window_size(super::CONNECTION_WINDOW)
            // A node that died takes the consumers along that it passed on: until then they hold what they were sent.
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            // Consumers of other nodes are charged like those that come here themselves.
            .layer(CallLimits::new(&limits, super::MAX_REQUEST_BYTES))
            .add_service(service.into_server())
            .serve_with_incoming_shutdown(ReceiverStream::new(opened), stop.clone().cancelled_owned());
        InternalServer { stop, server: tokio::spawn(server) }
    }

    /// Ends it; calls under way get a moment to finish.
    pub(super) async fn close(&mut self) {
        self.stop.cancel();
        if tokio::time::timeout(END_WITHIN, &mut self.server).await.is_err() {
            self.server.abort();
        }
    }
}

impl Drop for InternalServer {
    fn drop(&mut self) {
        self.stop.cancel();
        self.server.abort();
    }
}
