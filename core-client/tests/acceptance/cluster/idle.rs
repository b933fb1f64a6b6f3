//! Point 11: an idle connection is left in peace, and large answers pass.

use super::{
    relay::Relay,
    wire_peer::{Reply, WirePeer},
};
use crate::node_under_test::{PATIENCE, TestNode, soon};
use hstream_testkit::eventually;
use hstreamdb::{Client, ClientBuilder, ErrorKind};
use hstreamdb_proto::api;
use prost::Message as _;
use std::{sync::atomic::Ordering, time::Duration};

/// Twice the pause that servers of the original want between pings.
const IDLE: Duration = Duration::from_secs(600);

/// A client with an idle connection of its own, a second one for a consumer, and nothing to do for `IDLE`; tells how
/// often it pinged.
async fn pings_while_idle(change: impl FnOnce(ClientBuilder) -> ClientBuilder) -> u64 {
    let mut node = TestNode::start().await;
    node.stream("s", 1).await;
    node.subscription("c", "s").await;
    let relay = Relay::to(node.address()).await;
    let builder = Client::builder()
        .url(format!("hstream://{}", relay.address()))
        .host_mapping(node.address().to_string(), relay.address().to_string())
        // What it does by itself would be no idleness.
        .discovery_interval(Duration::from_secs(86_400))
        .unwrap();
    let client = soon(change(builder).connect()).await.unwrap();
    let consumer = soon(client.consumer("c").start()).await.unwrap();
    eventually("the consumer", PATIENCE, || async {
        let consumers = client.list_consumers("c").await.unwrap();
        (consumers.len() == 1).then_some(())
    })
    .await;
    assert_eq!(relay.frames().connections.load(Ordering::SeqCst), 2);
    let before = relay.frames().pings.load(Ordering::SeqCst);

    // Time passes for the client and the node, not for the network.
    tokio::time::pause();
    for _ in 0..IDLE.as_secs() {
        tokio::time::advance(Duration::from_secs(1)).await;
        // What is due is written and read.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::resume();
    // Whatever was sent before this has arrived with it.
    soon(client.list_streams()).await.unwrap();
    let pings = relay.frames().pings.load(Ordering::SeqCst) - before;
    drop(consumer);
    pings
}

#[tokio::test]
async fn p11_idle_connections_and_consumers_send_no_pings() {
    assert_eq!(pings_while_idle(|builder| builder).await, 0);
}

#[tokio::test]
async fn p11_pings_are_sent_where_they_are_asked_for() {
    let every = Duration::from_secs(10);
    assert!(pings_while_idle(|builder| builder.keepalive(every).unwrap()).await >= 2);
}

fn echo_of(bytes: usize) -> impl Fn(&str) -> Reply {
    move |_| Reply::Message(api::EchoResponse { msg: "x".repeat(bytes) }.encode_to_vec())
}

#[tokio::test]
async fn p11_an_answer_of_ten_mebibytes_passes() {
    let peer = WirePeer::start(echo_of(10 << 20)).await;
    let client = soon(Client::connect(&format!("hstream://{}", peer.address()))).await.unwrap();
    assert_eq!(soon(client.echo("x")).await.unwrap().len(), 10 << 20);
}

#[tokio::test]
async fn p11_an_answer_beyond_the_limit_is_refused_with_the_option_to_raise() {
    let peer = WirePeer::start(echo_of(33 << 20)).await;
    let client = soon(Client::connect(&format!("hstream://{}", peer.address()))).await.unwrap();
    let error = soon(client.echo("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.tries()), (ErrorKind::Overloaded, 1));
    assert!(error.to_string().contains("raise max_receive_bytes"), "{error}");
    assert!(!error.is_retryable() && !error.may_have_been_applied(), "{error:?}");
    let larger =
        Client::builder().url(format!("hstream://{}", peer.address())).max_receive_bytes(40 << 20).unwrap();
    let client = soon(larger.connect()).await.unwrap();
    assert_eq!(soon(client.echo("x")).await.unwrap().len(), 33 << 20);
}
