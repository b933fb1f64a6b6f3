//! How gRPC clients inside a node get their connections.

use super::{Net, Socket};
use http::Uri;
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Opens connections for a gRPC client: `Endpoint::connect_with_connector(net.connector())`.
#[derive(Debug, Clone)]
pub struct Connector {
    net: Net,
}

impl Connector {
    pub(super) fn new(net: Net) -> Connector {
        Connector { net }
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Socket>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Socket>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let net = self.net.clone();
        Box::pin(async move {
            let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("{uri} has no host and port"));
            let host = uri.host().ok_or_else(wrong)?.trim_start_matches('[').trim_end_matches(']');
            let port = uri.port_u16().ok_or_else(wrong)?;
            let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
            for address in tokio::net::lookup_host((host, port)).await? {
                match net.connect(address).await {
                    Ok(socket) => return Ok(TokioIo::new(socket)),
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        })
    }
}
