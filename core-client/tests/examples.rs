//! The examples do what they say, against a real node.

mod node_under_test;

use hstream_server::{
    auth::Tokens,
    node::{Node, NodeConfig},
    tls::TlsFiles,
};
use hstreamdb::ErrorKind;
use node_under_test::{TestNode, soon};
use std::{path::PathBuf, sync::Arc};

#[allow(dead_code, reason = "the example's main")]
#[path = "../examples/batching.rs"]
mod batching;
#[allow(dead_code, reason = "the example's main")]
#[path = "../examples/consumer_group.rs"]
mod consumer_group;
#[allow(dead_code, reason = "the example's main")]
#[path = "../examples/errors.rs"]
mod errors;
#[allow(dead_code, reason = "the example's main")]
#[path = "../examples/metrics.rs"]
mod metrics;
#[allow(dead_code, reason = "the example's main")]
#[path = "../examples/quickstart.rs"]
mod quickstart;
#[allow(dead_code, reason = "the example's main")]
#[path = "../examples/replay.rs"]
mod replay;
#[allow(dead_code, reason = "the example's main")]
#[path = "../examples/tls.rs"]
mod tls;

fn url(node: &TestNode) -> String {
    format!("hstream://{}", node.address())
}

#[tokio::test(flavor = "multi_thread")]
async fn quickstart_runs_twice() {
    let node = TestNode::start().await;
    soon(quickstart::run(&url(&node))).await.unwrap();
    soon(quickstart::run(&url(&node))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn batching_runs() {
    let node = TestNode::start().await;
    tokio::time::timeout(std::time::Duration::from_secs(120), batching::run(&url(&node)))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_group_runs_twice() {
    let node = TestNode::start().await;
    soon(consumer_group::run(&url(&node))).await.unwrap();
    soon(consumer_group::run(&url(&node))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_runs() {
    let node = TestNode::start().await;
    soon(errors::run(&url(&node))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_runs() {
    let node = TestNode::start().await;
    soon(replay::run(&url(&node))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_reach_the_registry() {
    let node = TestNode::start().await;
    let metrics = Arc::new(metrics::Prometheus::new().unwrap());
    soon(metrics::run(&url(&node), &metrics)).await.unwrap();
    let text = metrics.text().unwrap();
    assert!(text.contains("hstreamdb_append_records_total 1000"), "{text}");
    assert!(text.contains("hstreamdb_append_inflight_batches 0"), "{text}");
    assert!(text.contains("hstreamdb_append_duration_seconds_count"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_runs_against_a_node_that_wants_a_certificate_and_a_token() {
    let certificates = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates"));
    let file = |name: &str| certificates.join(name);
    let data = tempfile::tempdir().unwrap();
    let config = NodeConfig {
        port: 0,
        data_dir: data.path().join("data"),
        enable_tls: true,
        tls: Some(TlsFiles {
            key: file("server.key"),
            certificate: file("server.pem"),
            client_authorities: Some(file("ca.pem")),
        }),
        tokens: Tokens::new(["let me in".to_owned()]),
        ..NodeConfig::default()
    };
    let node = Node::start(config).await.unwrap();
    let url = format!("hstreams://127.0.0.1:{}", node.address().port());
    let full = || tls::Credentials {
        ca: Some(file("ca.pem")),
        identity: Some((file("server.pem"), file("server.key"))),
        token: Some("let me in".into()),
        server_name: Some("server.test".into()),
    };
    soon(tls::run(&url, &full())).await.unwrap();
    let without_certificate = tls::Credentials { identity: None, ..full() };
    assert_eq!(soon(tls::run(&url, &without_certificate)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let wrong_token = tls::Credentials { token: Some("and me".into()), ..full() };
    let error = soon(tls::run(&url, &wrong_token)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    node.shutdown(std::time::Duration::from_secs(2)).await;
}
