//! The examples do what they say, against a real node.

mod node_under_test;

use node_under_test::{TestNode, soon};
use std::sync::Arc;

#[allow(dead_code, reason = "the example's main")]
#[path = "../examples/batching.rs"]
mod batching;
#[allow(dead_code, reason = "the example's main")]
#[path = "../examples/errors.rs"]
mod errors;
#[allow(dead_code, missing_debug_implementations, reason = "the example's main")]
#[path = "../examples/metrics.rs"]
mod metrics;
#[allow(dead_code, reason = "the example's main")]
#[path = "../examples/quickstart.rs"]
mod quickstart;
#[allow(dead_code, reason = "the example's main")]
#[path = "../examples/replay.rs"]
mod replay;

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
