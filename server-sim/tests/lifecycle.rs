//! What survives restarts, and what goes with a deleted stream.

mod support;

use hstream_server::auth::Tokens;
use hstream_server::node::{NodeConfig, StartError};
use hstreamdb_proto::api::*;
use support::*;
use tonic::{Code, Request};

fn subscription(id: &str, stream: &str) -> Subscription {
    Subscription {
        subscription_id: id.into(),
        stream_name: stream.into(),
        ack_timeout_seconds: 60,
        max_unacked_records: 1000,
        ..Default::default()
    }
}

#[tokio::test]
async fn streams_and_records_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let before = create(&mut node.client, "s", 2).await;
    for shard in &before {
        append(&mut node.client, *shard, &format!("in {shard}")).await;
    }
    let listed = node.client.list_streams(ListStreamsRequest {}).await.unwrap().into_inner();
    node.stop().await;

    let mut node = TestNode::start(dir.path()).await;
    let again = node.client.list_streams(ListStreamsRequest {}).await.unwrap().into_inner();
    assert_eq!(again, listed);
    assert_eq!(shards(&mut node.client, "s").await, before);
    for shard in &before {
        assert_eq!(payloads(&read_all(&mut node.client, *shard).await), [format!("in {shard}")]);
    }
    // Ids of new shards are new.
    let more = create(&mut node.client, "t", 2).await;
    assert!(more.iter().all(|shard| !before.contains(shard)));
    node.stop().await;
}

#[tokio::test]
async fn a_stream_deleted_by_force_lives_on_for_its_subscriptions() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    append(client, shard, "kept").await;
    client.create_subscription(subscription("sub", "s")).await.unwrap();
    let delete = DeleteStreamRequest { stream_name: "s".into(), ..Default::default() };
    let (code, text) = refusal(client.delete_stream(delete.clone()).await);
    let text = text.unwrap();
    assert_eq!((code, text.0, text.2), (Code::FailedPrecondition, 202, serde_json::Value::Null));
    client.delete_stream(DeleteStreamRequest { force: true, ..delete }).await.unwrap();

    // The name is free, the old shard takes nothing, and the data is there as long as the subscription is.
    let new = create(client, "s", 1).await[0];
    assert_ne!(new, shard);
    let stale = append_request(shard, batch(vec![record("", "stale")]));
    assert_eq!(refusal(client.append(stale).await).0, Code::Unavailable);
    node.stop().await;
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let listed = client.list_streams(ListStreamsRequest {}).await.unwrap().into_inner().streams;
    assert_eq!(listed.len(), 1);
    let listed = client.list_subscriptions(ListSubscriptionsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.subscription[0].stream_name, "__deleted_stream__");
    assert_eq!(payloads(&read_all(client, shard).await), ["kept"]);
    let delete = DeleteSubscriptionRequest { subscription_id: "sub".into(), force: false };
    client.delete_subscription(delete).await.unwrap();
    let tail = GetTailRecordIdRequest { stream_name: String::new(), shard_id: shard };
    assert_eq!(refusal(client.get_tail_record_id(tail).await).0, Code::NotFound);
    node.stop().await;
}

#[tokio::test]
async fn only_holders_of_a_token_may_call() {
    let dir = tempfile::tempdir().unwrap();
    let config = NodeConfig {
        port: 0,
        data_dir: dir.path().to_owned(),
        tokens: Tokens::new(["c2VjcmV0".to_owned()]),
        ..NodeConfig::default()
    };
    let mut node = TestNode::start_with(config).await;
    assert_eq!(refusal(node.client.describe_cluster(()).await).0, Code::Unauthenticated);
    let mut request = Request::new(());
    request.metadata_mut().insert("authorization", "Basic c2VjcmV0".parse().unwrap());
    node.client.describe_cluster(request).await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_said_before_the_data_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(dir.path()).await;
    let data_dir = dir.path().join("never");
    let config =
        NodeConfig { port: node.node.address().port(), data_dir: data_dir.clone(), ..NodeConfig::default() };
    let error = start_node(config).await.unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
    assert!(error.to_string().contains("choose another --port"), "{error}");
    assert!(!data_dir.exists());
    node.stop().await;
}
