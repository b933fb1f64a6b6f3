//! TLS against a real node.

mod node_under_test;

use hstream_server::{
    node::{Node, NodeConfig},
    tls::TlsFiles,
};
use hstreamdb::{Client, ClientBuilder, ErrorKind};
use node_under_test::{TestNode, soon};
use std::{net::SocketAddr, path::PathBuf};

const CA: &str = include_str!("certificates/ca.pem");
const CERT: &str = include_str!("certificates/server.pem");
const KEY: &str = include_str!("certificates/server.key");

/// A node that speaks TLS only, with its data; it ends when this is dropped.
struct TlsNode {
    node: Node,
    _data: tempfile::TempDir,
}

impl TlsNode {
    async fn start(clients_must_show_a_certificate: bool) -> Self {
        let file =
            |name: &str| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates")).join(name);
        let data = tempfile::tempdir().unwrap();
        let config = NodeConfig {
            port: 0,
            data_dir: data.path().join("data"),
            enable_tls: true,
            tls: Some(TlsFiles {
                key: file("server.key"),
                certificate: file("server.pem"),
                client_authorities: clients_must_show_a_certificate.then(|| file("ca.pem")),
            }),
            ..NodeConfig::default()
        };
        TlsNode { node: Node::start(config).await.unwrap(), _data: data }
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.node.address().port()).into()
    }
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
    let node = TlsNode::start(false).await;
    let address = node.address();
    let client = soon(builder(address).connect()).await.unwrap();
    assert_eq!(client.echo("hidden").await.unwrap(), "hidden");
}

#[tokio::test]
async fn a_wrong_name_an_unknown_authority_and_plain_text_are_refused_with_a_reason() {
    let node = TlsNode::start(false).await;
    let address = node.address();
    let wrong_name = builder(address).set("tls_domain_name", "other.test").unwrap();
    let error = soon(wrong_name.connect()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("certificate"), "{error}");

    let unknown = builder(address).set("tls_ca_pem", CERT).unwrap();
    let error = soon(unknown.connect()).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");

    assert!(soon(Client::connect(&format!("hstream://{address}"))).await.is_err());
    let plain = TestNode::start().await;
    let error = soon(builder(plain.address()).connect()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_client_certificate_opens_a_server_that_wants_one() {
    let node = TlsNode::start(true).await;
    let address = node.address();
    assert!(soon(builder(address).connect()).await.is_err());
    let with_certificate =
        builder(address).set("tls_cert_pem", CERT).unwrap().set("tls_key_pem", KEY).unwrap();
    let client = soon(with_certificate.connect()).await.unwrap();
    assert_eq!(client.echo("known").await.unwrap(), "known");
}
