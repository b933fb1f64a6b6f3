//! Streams, subscriptions, trims, lookups and the cluster, against a real node.

mod node_under_test;

use hstream_testkit::{Fault, RpcProxy};
use hstreamdb::{
    DeleteStreamOptions, ErrorKind, NodeState, Offset, Record, StartFrom, StreamOptions, SubscriptionOptions,
};
use node_under_test::{TestNode, soon};

#[tokio::test]
async fn a_stream_lives_from_create_to_delete() {
    let node = TestNode::start().await;
    let client = node.client().await;
    let options = StreamOptions::new().shard_count(3).backlog_duration_secs(60);
    let created = soon(client.create_stream("orders", options)).await.unwrap();
    assert_eq!(
        (created.name.as_str(), created.shard_count, created.backlog_duration_secs),
        ("orders", 3, 60)
    );
    assert!(created.created_ms > Some(1_600_000_000_000));
    assert_eq!(client.get_stream("orders").await.unwrap(), created);
    assert_eq!(client.list_streams().await.unwrap(), [created]);
    assert_eq!(client.list_streams_with_prefix("ord").await.unwrap().len(), 1);
    assert_eq!(client.list_streams_with_prefix("x").await.unwrap().len(), 0);
    assert!(client.stream_exists("orders").await.unwrap());

    let error = client.create_stream("orders", StreamOptions::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.code(), error.status()), (ErrorKind::AlreadyExists, Some(201), Some(6)));
    assert_eq!(error.node(), Some(node.address().to_string().as_str()));
    assert!(!error.is_retryable() && !error.may_have_been_applied());
    assert!(error.to_string().starts_with("create stream \"orders\" at 127.0.0.1:"), "{error}");

    client.delete_stream("orders", DeleteStreamOptions::new()).await.unwrap();
    assert!(!client.stream_exists("orders").await.unwrap());
    let error = client.delete_stream("orders", DeleteStreamOptions::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::NotFound, Some(200)));
    client.delete_stream("orders", DeleteStreamOptions::new().ignore_missing(true)).await.unwrap();
}

#[tokio::test]
async fn shards_cover_the_key_space_in_order() {
    let node = TestNode::start().await;
    let client = node.client().await;
    client.create_stream("s", StreamOptions::new().shard_count(4)).await.unwrap();
    let shards = soon(client.list_shards("s")).await.unwrap();
    assert_eq!(shards.len(), 4);
    assert_eq!((shards[0].start, shards[3].end), (0, u128::MAX));
    assert!(shards.windows(2).all(|pair| pair[0].end + 1 == pair[1].start));
    assert!(shards.iter().all(|shard| shard.active));
    assert_eq!(client.list_shards("none").await.unwrap_err().kind(), ErrorKind::NotFound);
    let owner = client.lookup_shard(shards[2].id).await.unwrap();
    assert_eq!(owner.address.to_string(), node.address().to_string());
}

#[tokio::test]
async fn the_shard_of_a_key_is_the_one_its_records_go_to() {
    let node = TestNode::start().await;
    let client = node.client().await;
    client.create_stream("s", StreamOptions::new().shard_count(3)).await.unwrap();
    let shards = client.list_shards("s").await.unwrap();
    let producer = client.producer("s").batch_max_age(std::time::Duration::ZERO).build().await.unwrap();
    // Places out of the published clients' golden vectors for three shards.
    for (key, place) in [("", 2), ("a", 0), ("key1", 2), ("hello", 1), ("demo-key", 1), ("中文", 1)] {
        let shard = soon(client.shard_for_key("s", key)).await.unwrap();
        assert_eq!(shard, shards[place], "{key}");
        let id = soon(producer.append(Record::raw("r").with_key(key))).await.unwrap().await.unwrap();
        assert_eq!(id.shard_id, shard.id, "{key}");
    }
    assert_eq!(client.shard_for_key("none", "k").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_subscription_lives_from_create_to_delete() {
    let node = TestNode::start().await;
    let client = node.client().await;
    let error =
        soon(client.create_subscription("sub", "none", SubscriptionOptions::new())).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::FailedPrecondition, Some(302)));
    client.create_stream("s", StreamOptions::new()).await.unwrap();
    let options =
        SubscriptionOptions::new().ack_timeout_secs(7).max_unacked_records(99).offset(StartFrom::Earliest);
    let created = client.create_subscription("sub", "s", options).await.unwrap();
    assert_eq!((created.ack_timeout_secs, created.max_unacked_records), (7, 99));
    let (found, _) = client.get_subscription("sub").await.unwrap();
    assert_eq!((found.id.as_str(), found.stream.as_str(), found.offset), ("sub", "s", StartFrom::Earliest));
    assert!(client.subscription_exists("sub").await.unwrap());
    assert_eq!(client.list_subscriptions().await.unwrap().len(), 1);
    assert_eq!(client.list_subscriptions_with_prefix("x").await.unwrap().len(), 0);
    assert_eq!(client.list_consumers("sub").await.unwrap().len(), 0);
    assert_eq!(
        client.subscription_offsets("sub").await.unwrap(),
        client.get_subscription("sub").await.unwrap().1
    );
    assert_eq!(
        client.lookup_subscription("sub").await.unwrap().address.to_string(),
        node.address().to_string()
    );
    client.delete_subscription("sub", false).await.unwrap();
    assert!(!client.subscription_exists("sub").await.unwrap());
    assert_eq!(client.get_subscription("sub").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_redelivery_policy_reaches_the_server() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let shard = node.stream("s", 1).await[0];
    let dead = node.stream("tote-briefe-ü", 1).await[0];
    let options = || SubscriptionOptions::new().offset(StartFrom::Earliest).ack_timeout_secs(1);
    let error = client.create_subscription("sub", "s", options().dead_letter("none", 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::NotFound, Some(200)), "{error}");
    let error = client.create_subscription("sub", "s", options().dead_letter("s", 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let by_name = options()
        .set("max_deliveries", 1)
        .and_then(|options| options.set("dead_letter_stream", "tote-briefe-ü"))
        .and_then(|options| options.set("redeliverOnDisconnect", true))
        .unwrap();
    assert_eq!(by_name, options().dead_letter("tote-briefe-ü", 1).redeliver_on_disconnect(true));
    client.create_subscription("sub", "s", by_name).await.unwrap();
    let ids = node.append_batches("s", shard, 1, 2).await;

    let consumer = client.consumer("sub").start().await.unwrap();
    let batch = soon(consumer.next_batch()).await.unwrap().unwrap();
    consumer.ack(&ids[1..]).unwrap();
    assert_eq!(batch.ids(), ids);
    // Never acknowledged: after its only delivery the first record goes to the other stream.
    let reader = client.shard_reader("tote-briefe-ü", dead).open().await.unwrap();
    let buried = soon(reader.next_batch()).await.unwrap().unwrap();
    let records = buried.records().unwrap();
    assert_eq!(records.len(), 1);
    assert!(records[0].attributes.contains(&("dead-letter-record-id".to_owned(), ids[0].to_string())));
}

#[tokio::test]
async fn a_redelivery_policy_is_refused_where_the_server_would_ignore_it() {
    let mut node = TestNode::start().await;
    node.stream("s", 1).await;
    node.stream("dead", 1).await;
    let proxy = RpcProxy::start_broken(node.address().port(), Fault::Published).await.unwrap();
    let client = hstreamdb::Client::connect(&proxy.url()).await.unwrap();
    for options in [
        SubscriptionOptions::new().dead_letter("dead", 3),
        SubscriptionOptions::new().redeliver_on_disconnect(true),
    ] {
        let error = soon(client.create_subscription("sub", "s", options)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unimplemented, "{error}");
        assert!(!error.may_have_been_applied() && error.to_string().contains("redelivery"), "{error}");
    }
    assert!(!client.subscription_exists("sub").await.unwrap());
    client.create_subscription("sub", "s", SubscriptionOptions::new()).await.unwrap();
}

#[tokio::test]
async fn trims_take_every_kind_of_offset_that_makes_sense() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let ids = node.append_batches("s", shard, 3, 2).await;
    let client = node.client().await;
    assert_eq!(soon(client.tail_record_id("s", shard)).await.unwrap().batch_id, ids[5].batch_id);
    client.trim_shard("s", shard, Offset::Record(ids[2])).await.unwrap();
    let points = client.trim_shards("s", &[ids[4]]).await.unwrap();
    assert_eq!(points.len(), 1);
    assert_eq!(points[0].0, shard);
    client.trim_stream("s", Offset::Latest).await.unwrap();
    let error = client.trim_stream("s", Offset::Record(ids[0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn the_cluster_describes_itself_and_answers() {
    let node = TestNode::start().await;
    let client = node.client().await;
    let cluster = soon(client.describe_cluster()).await.unwrap();
    assert_eq!(cluster.nodes.len(), 1);
    assert_eq!(cluster.nodes[0].state, NodeState::Running);
    assert_eq!(cluster.nodes, client.nodes());
    assert_eq!(client.echo("h€llo").await.unwrap(), "h€llo");
    let answer = client.admin_command("server status").await.unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&answer).is_ok(), "{answer}");
    let error = client.admin_command("server dance").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.message().contains("unrecognized subcommand 'dance'"), "{error}");
}
