//! Finding a cluster, staying with it when nodes fail, and leaving it.

mod node_under_test;
mod relay;

use hstream_server::{
    auth::Tokens,
    node::{Node, NodeConfig},
};
use hstreamdb::{Client, ClientEvent, ErrorKind, StreamOptions};
use node_under_test::{TestNode, soon};
use relay::{Network, Relay};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::net::{TcpListener, TcpSocket};

/// An address where nobody listens, as long as the socket that holds it is kept.
fn deaf_address() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test]
async fn nobody_listening_is_one_clear_sentence() {
    let (_socket, address) = deaf_address();
    let error = soon(Client::connect(&format!("hstream://{address}"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(text.starts_with(&format!("connect to \"{address}\": unavailable: ")), "{text}");
    assert!(text.contains("refused") && text.contains("check the address") && !text.contains('\n'), "{text}");
}

#[tokio::test]
async fn a_silent_server_is_given_up_within_the_connect_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let started = Instant::now();
    let result = Client::builder()
        .url(format!("hstream://{}", silent.local_addr().unwrap()))
        .connect_timeout(Duration::from_millis(200))
        .unwrap()
        .connect();
    let error = soon(result).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("within 200ms"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn one_address_that_answers_suffices() {
    let node = TestNode::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_socket, deaf) = deaf_address();
    let addresses = format!("hstream://{deaf},{},{}", silent.local_addr().unwrap(), node.address());
    let client = soon(Client::connect(&addresses)).await.unwrap();
    assert_eq!(client.echo("hello").await.unwrap(), "hello");
    let nodes = client.nodes();
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].address.to_string(), node.address().to_string());
}

#[tokio::test]
async fn many_calls_at_once_share_one_connection() {
    let node = TestNode::start().await;
    let client = node.client().await;
    let calls = (0..100).map(|number| {
        let client = client.clone();
        async move { client.echo(&number.to_string()).await.unwrap() }
    });
    let answers = soon(futures::future::join_all(calls)).await;
    assert_eq!(answers, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(client.metrics().get("connects"), Some(1));
    assert_eq!(client.metrics().get("calls"), Some(100));
}

#[tokio::test]
async fn wrong_tokens_are_told_from_dead_servers_and_never_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let config = NodeConfig {
        port: 0,
        data_dir: directory.path().join("data"),
        tokens: Tokens::new(vec!["open-sesame".to_owned()]),
        ..NodeConfig::default()
    };
    let node = Node::start(config).await.unwrap();
    let builder = || Client::builder().url(format!("hstream://{}", node.address()));
    assert!(soon(builder().auth_token("open-sesame").unwrap().connect()).await.is_ok());
    let error = soon(builder().auth_token("hunter2").unwrap().connect()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(error.to_string().contains("auth_token") && !format!("{error} {error:?}").contains("hunter2"));
    assert_eq!(soon(builder().connect()).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn calls_work_again_after_the_node_came_back() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    node.stop().await;
    let error = soon(client.list_streams()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.tries() > 1 && !error.may_have_been_applied(), "{error:?}");
    node.start_again().await;
    assert!(soon(client.list_streams()).await.unwrap().is_empty());
    assert!(client.metrics().get("connects") >= Some(2));
}

#[tokio::test]
async fn a_read_moves_on_when_its_connection_falls_silent_and_a_write_says_what_is_open() {
    let node = TestNode::start().await;
    let relay = Relay::to(node.address()).await;
    let client = Client::builder()
        .url(format!("hstream://{}", relay.address()))
        .request_timeout(Duration::from_millis(1500))
        .unwrap()
        .connect();
    let client = soon(client).await.unwrap();
    let mut events = client.events();
    client.create_stream("before", StreamOptions::new()).await.unwrap();
    relay.set(Network::Silent);

    // Creating must not be repeated: its outcome is open.
    let error = soon(client.create_stream("lost", StreamOptions::new())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert!(error.may_have_been_applied() && !error.is_retryable(), "{error:?}");
    assert_eq!(error.resource(), Some("lost"));

    // The node's own address is known from discovery and still works.
    let streams = soon(client.list_streams()).await.unwrap();
    assert!(streams.iter().any(|stream| stream.name == "before"));
    let suspect = soon(async {
        loop {
            if let Some(ClientEvent::NodeSuspect { address, .. }) = events.next().await {
                return address;
            }
        }
    });
    assert_eq!(suspect.await.to_string(), relay.address().to_string());
}

#[tokio::test]
async fn closing_ends_calls_under_way_and_everything_after() {
    let node = TestNode::start().await;
    let relay = Relay::to(node.address()).await;
    let client = Client::connect(&format!("hstream://{}", relay.address())).await.unwrap();
    relay.set(Network::Silent);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.list_streams().await }
    });
    while client.metrics().get("calls") == Some(0) {
        tokio::task::yield_now().await;
    }
    soon(client.close(Duration::from_secs(5))).await.unwrap();
    assert_eq!(soon(waiting).await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    soon(client.close(Duration::from_secs(5))).await.unwrap();
    assert!(client.is_closed());
    assert_eq!(client.echo("x").await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn host_mapping_decides_where_discovered_nodes_are_reached() {
    let node = TestNode::start().await;
    let relay = Relay::to(node.address()).await;
    let mapping = vec![(node.address().to_string(), relay.address().to_string())];
    let client = Client::builder()
        .url(format!("hstream://{}", node.address()))
        .set("host_mapping", mapping)
        .unwrap()
        .connect();
    let client = soon(client).await.unwrap();
    assert_eq!(client.nodes()[0].address.to_string(), relay.address().to_string());
}

#[tokio::test]
async fn dropping_the_last_client_ends_its_background_work() {
    let node = TestNode::start().await;
    let client = Client::builder()
        .url(format!("hstream://{}", node.address()))
        .discovery_interval(Duration::from_millis(10))
        .unwrap()
        .connect();
    let client = soon(client).await.unwrap();
    let mut events = client.events();
    soon(async {
        while client.metrics().get("discovery_refreshes") < Some(3) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(client);
    // The events end only when nothing holds the client's insides any more.
    soon(async { while events.next().await.is_some() {} }).await;
}
