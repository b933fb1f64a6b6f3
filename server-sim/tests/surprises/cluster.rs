//! What one node shows of a cluster.

use crate::support::*;
use hstream_server::auth::Tokens;
use hstream_server::listener::parse_listeners;
use hstream_server::node::NodeConfig;
use hstreamdb_proto::api::*;
use tonic::{Code, Request};

#[tokio::test]
async fn surprise_22_lookups_of_anything_succeed_and_store_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let port = u32::from(node.node.address().port());
    let client = &mut node.client;
    for number in 0..3 {
        let id = format!("no-{number}");
        let request = LookupSubscriptionRequest { subscription_id: id.clone() };
        let found = client.lookup_subscription(request).await.unwrap().into_inner();
        assert_eq!((found.subscription_id, found.server_node.unwrap().port), (id.clone(), port));
        let request = LookupShardReaderRequest { reader_id: id.clone() };
        let found = client.lookup_shard_reader(request).await.unwrap().into_inner();
        assert_eq!((found.reader_id, found.server_node.unwrap().port), (id.clone(), port));
        let request = LookupShardRequest { shard_id: number };
        let found = client.lookup_shard(request).await.unwrap().into_inner();
        assert_eq!((found.shard_id, found.server_node.unwrap().port), (number, port));
        let request = LookupKeyRequest { partition_key: id.clone() };
        assert_eq!(client.lookup_key(request).await.unwrap().into_inner().port, port);
        for kind in [ResourceType::ResStream, ResourceType::ResSubscription, ResourceType::ResShardReader] {
            let request = LookupResourceRequest { res_type: kind as i32, res_id: id.clone() };
            assert_eq!(client.lookup_resource(request).await.unwrap().into_inner().port, port);
        }
    }
    let readers = client.list_shard_readers(ListShardReadersRequest {}).await.unwrap().into_inner();
    assert!(readers.reader_id.is_empty());
    let listed = client.list_subscriptions(ListSubscriptionsRequest {}).await.unwrap().into_inner();
    assert!(listed.subscription.is_empty());
    node.stop().await;
}

#[tokio::test]
async fn surprise_24_a_single_node_needs_no_init() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let command = AdminCommandRequest { command: "server ready".into() };
    let answer = node.client.send_admin_command(command).await.unwrap().into_inner().result;
    assert!(answer.contains("Cluster is ready"), "{answer}");
    let cluster = node.client.describe_cluster(()).await.unwrap().into_inner();
    assert_eq!(cluster.protocol_version, "0.1.0");
    assert_eq!(cluster.server_nodes_status[0].state, NodeState::Running as i32);
    node.stop().await;
}

#[tokio::test]
async fn surprise_25_the_answering_node_comes_first_with_the_address_it_advertises() {
    let dir = tempfile::tempdir().unwrap();
    let config = NodeConfig {
        port: 0,
        data_dir: dir.path().to_owned(),
        server_id: 7,
        advertised_address: Some("stream.example".into()),
        ..NodeConfig::default()
    };
    let mut node = TestNode::start_with(config).await;
    let port = u32::from(node.node.address().port());
    let cluster = node.client.describe_cluster(()).await.unwrap().into_inner();
    let first = &cluster.server_nodes[0];
    assert_eq!((first.id, first.host.as_str(), first.port), (7, "stream.example", port));
    let found = node.client.lookup_shard(LookupShardRequest { shard_id: 5 }).await.unwrap().into_inner();
    assert_eq!(found.server_node.as_ref(), Some(first));
    node.stop().await;
}

#[tokio::test]
async fn surprise_25_whoever_comes_through_another_listener_is_told_its_address() {
    let dir = tempfile::tempdir().unwrap();
    let config = NodeConfig {
        port: 0,
        data_dir: dir.path().to_owned(),
        extra_listeners: parse_listeners("inside:hstream://inside.test:0").unwrap(),
        ..NodeConfig::default()
    };
    let mut node = TestNode::start_with(config).await;
    let inside = node.node.advertised().extra[0].1.port;
    let main = u32::from(node.node.address().port());
    let told = |cluster: DescribeClusterResponse| {
        let first = cluster.server_nodes.into_iter().next().unwrap();
        (first.host, first.port)
    };
    let cluster = node.client.describe_cluster(()).await.unwrap().into_inner();
    assert_eq!(told(cluster), ("127.0.0.1".to_owned(), main));
    let cluster = connect(inside).await.describe_cluster(()).await.unwrap().into_inner();
    assert_eq!(told(cluster), ("inside.test".to_owned(), u32::from(inside)));
    node.stop().await;
}

#[tokio::test]
async fn surprise_26_versions_have_no_v_and_every_node_has_a_status() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let cluster = node.client.describe_cluster(()).await.unwrap().into_inner();
    let version = cluster.server_nodes[0].version.clone().unwrap().version;
    assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{version}");
    let running: Vec<_> = cluster
        .server_nodes_status
        .into_iter()
        .filter(|status| status.state == NodeState::Running as i32)
        .filter_map(|status| status.node)
        .collect();
    assert_eq!(running, cluster.server_nodes);
    node.stop().await;
}

#[tokio::test]
async fn surprise_34_is_fixed_tokens_protect_every_listener_and_every_kind_of_call() {
    let dir = tempfile::tempdir().unwrap();
    let config = NodeConfig {
        port: 0,
        data_dir: dir.path().to_owned(),
        tokens: Tokens::new(["aHN0cmVhbTpoc3RyZWFt".to_owned()]),
        extra_listeners: parse_listeners("inside:hstream://inside.test:0").unwrap(),
        ..NodeConfig::default()
    };
    let node = TestNode::start_with(config).await;
    let with = |token: Option<&str>| {
        let mut request = Request::new(());
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", token.parse().unwrap());
        }
        request
    };
    let inside = node.node.advertised().extra[0].1.port;
    for port in [node.node.address().port(), inside] {
        let mut client = connect(port).await;
        for token in
            [None, Some("aHN0cmVhbTpoc3RyZWFt"), Some("Basic wrong"), Some("basic aHN0cmVhbTpoc3RyZWFt")]
        {
            let refused = client.describe_cluster(with(token)).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{token:?}");
        }
        client.describe_cluster(with(Some("Basic aHN0cmVhbTpoc3RyZWFt"))).await.unwrap();
        // Calls that stream are no way round.
        assert_eq!(fetch::refused(&client, "any", "any").await.code(), Code::Unauthenticated);
        let read = client.read_stream(ReadStreamRequest::default()).await.unwrap_err();
        assert_eq!(read.code(), Code::Unauthenticated);
    }
    node.stop().await;
}
