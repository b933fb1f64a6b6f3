//! From host names to addresses, anew for every connection: a node whose address changed is found.

use hyper_util::client::legacy::connect::dns::Name;
use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};
use tower::Service;

type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// How names are resolved: by the system, unless the user gave something else.
#[derive(Clone, Default)]
pub(crate) struct Names(Option<Arc<dyn Fn(String) -> Answer + Send + Sync>>);

impl Names {
    pub(crate) fn new<F, Fut>(resolver: F) -> Self
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        Names(Some(Arc::new(move |host| Box::pin(resolver(host)))))
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Names(given)" } else { "Names(system)" })
    }
}

impl Service<Name> for Names {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let host = name.as_str().to_owned();
        let given = self.0.clone();
        Box::pin(async move {
            // The connector puts the port in.
            let found: Vec<SocketAddr> = match given {
                Some(resolve) => resolve(host.clone()).await?.into_iter().map(|ip| (ip, 0).into()).collect(),
                None => tokio::net::lookup_host((host.as_str(), 0)).await?.collect(),
            };
            if found.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("{host:?} has no address")));
            }
            Ok(found.into_iter())
        })
    }
}
