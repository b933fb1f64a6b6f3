//! TLS against a real node behind a gateway that ends TLS.

mod node_under_test;

use futures::future::BoxFuture;
use hstreamdb::{Client, ClientBuilder, ErrorKind};
use node_under_test::{TestNode, soon};
use std::{
    convert::Infallible,
    net::SocketAddr,
    task::{Context, Poll},
};
use tonic::{
    body::Body,
    server::NamedService,
    transport::{Certificate, Channel, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};
use tower::Service;

const CA: &str = include_str!("certificates/ca.pem");
const CERT: &str = include_str!("certificates/server.pem");
const KEY: &str = include_str!("certificates/server.key");

/// Passes every call on as it is.
#[derive(Clone)]
struct Gateway(Channel);

impl NamedService for Gateway {
    const NAME: &'static str = "hstream.server.HStreamApi";
}

impl Service<http::Request<Body>> for Gateway {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut channel = self.0.clone();
        Box::pin(async move {
            std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
            Ok(channel.call(request).await.unwrap().map(Body::new))
        })
    }
}

async fn gateway(node: &TestNode, clients_must_show_a_certificate: bool) -> SocketAddr {
    let channel = Channel::from_shared(format!("http://{}", node.address())).unwrap().connect_lazy();
    let mut tls = ServerTlsConfig::new().identity(Identity::from_pem(CERT, KEY));
    if clients_must_show_a_certificate {
        tls = tls.client_ca_root(Certificate::from_pem(CA));
    }
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = Server::builder().tls_config(tls).unwrap().add_service(Gateway(channel));
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

fn builder(address: SocketAddr) -> ClientBuilder {
    Client::builder()
        .url(format!("hstreams://{address}"))
        .set("tls_ca_pem", CA)
        .unwrap()
        .set("tls_domain_name", "server.test")
        .unwrap()
}

#[tokio::test]
async fn calls_travel_over_tls_when_the_authority_and_the_name_fit() {
    let node = TestNode::start().await;
    let address = gateway(&node, false).await;
    let client = soon(builder(address).connect()).await.unwrap();
    assert_eq!(client.echo("hidden").await.unwrap(), "hidden");
}

#[tokio::test]
async fn a_wrong_name_an_unknown_authority_and_plain_text_are_refused_with_a_reason() {
    let node = TestNode::start().await;
    let address = gateway(&node, false).await;
    let wrong_name = builder(address).set("tls_domain_name", "other.test").unwrap();
    let error = soon(wrong_name.connect()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("certificate"), "{error}");

    let unknown = builder(address).set("tls_ca_pem", CERT).unwrap();
    let error = soon(unknown.connect()).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");

    assert!(soon(Client::connect(&format!("hstream://{address}"))).await.is_err());
    let error = soon(builder(node.address()).connect()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_client_certificate_opens_a_server_that_wants_one() {
    let node = TestNode::start().await;
    let address = gateway(&node, true).await;
    assert!(soon(builder(address).connect()).await.is_err());
    let with_certificate =
        builder(address).set("tls_cert_pem", CERT).unwrap().set("tls_key_pem", KEY).unwrap();
    let client = soon(with_certificate.connect()).await.unwrap();
    assert_eq!(client.echo("known").await.unwrap(), "known");
}
