//! Subscriptions over the wire.

mod support;

use hstreamdb_proto::api::*;
use hstreamdb_proto::compression::{compress, decompress};
use prost::Message as _;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::consumer::Consumer;
use support::fetch::{consumers, subscribe, subscription, unsubscribe, wait_for_consumers};
use support::*;
use tonic::Code;

fn body(code: i32, class: &str, extra: Value) -> Option<(i32, String, Value)> {
    Some((code, class.to_owned(), extra))
}

#[tokio::test]
async fn creating_checks_names_then_stream_then_offset_then_id() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    create(client, "stream", 1).await;
    let mut refuse = async |request: Subscription| {
        let (code, body) = refusal(client.create_subscription(request).await);
        (code, body.unwrap().0)
    };
    let latest = SpecialOffset::Latest as i32;
    let new = |id, stream| Subscription { offset: latest, ..subscription(id, stream, 600) };
    assert_eq!(refuse(new("1", "2")).await, (Code::InvalidArgument, 304));
    assert_eq!(refuse(new("a", "2")).await, (Code::InvalidArgument, 204));
    assert_eq!(refuse(Subscription { offset: 9, ..new("a", "none") }).await, (Code::FailedPrecondition, 302));
    assert_eq!(refuse(Subscription { offset: 9, ..new("a", "stream") }).await, (Code::InvalidArgument, 303));
    let created = client.create_subscription(new("a", "stream")).await.unwrap().into_inner();
    assert!(created.creation_time.is_some());
    assert_eq!(Subscription { creation_time: None, ..created.clone() }, new("a", "stream"));
    let exists = body(301, "SubscriptionExists", json!("a"));
    let again = client.create_subscription(new("a", "stream")).await;
    assert_eq!(refusal(again), (Code::AlreadyExists, exists));

    let got = client.get_subscription(GetSubscriptionRequest { id: "a".into() }).await.unwrap().into_inner();
    assert_eq!((got.subscription, got.offsets), (Some(created), vec![]));
    let missing = body(300, "SubscriptionNotFound", json!("b"));
    let got = client.get_subscription(GetSubscriptionRequest { id: "b".into() }).await;
    assert_eq!(refusal(got), (Code::NotFound, missing));
    node.stop().await;
}

#[tokio::test]
async fn subscriptions_are_listed_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    create(&mut node.client, "stream", 1).await;
    for id in ["ab", "aa", "b"] {
        subscribe(&mut node.client, id, "stream").await;
    }
    node.stop().await;
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let ids = |answer: ListSubscriptionsResponse| -> Vec<String> {
        answer.subscription.into_iter().map(|subscription| subscription.subscription_id).collect()
    };
    let all = client.list_subscriptions(ListSubscriptionsRequest {}).await.unwrap().into_inner();
    assert_eq!(ids(all), ["aa", "ab", "b"]);
    let prefix = |prefix: &str| ListSubscriptionsWithPrefixRequest { prefix: prefix.into() };
    let some = client.list_subscriptions_with_prefix(prefix("a")).await.unwrap().into_inner();
    assert_eq!(ids(some), ["aa", "ab"]);
    let empty = refusal(client.list_subscriptions_with_prefix(prefix("")).await);
    assert_eq!((empty.0, empty.1.unwrap().0), (Code::InvalidArgument, 304));
    for (id, exists) in [("aa", true), ("none", false)] {
        let request = CheckSubscriptionExistRequest { subscription_id: id.into() };
        assert_eq!(client.check_subscription_exist(request).await.unwrap().into_inner().exists, exists);
    }
    node.stop().await;
}

#[tokio::test]
async fn earliest_sees_everything_and_latest_what_came_after_its_creation() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    append(&mut node.client, shard, "before").await;
    subscribe(&mut node.client, "earliest", "s").await;
    let offset = SpecialOffset::Latest as i32;
    let latest = Subscription { offset, ..subscription("latest", "s", 600) };
    node.client.create_subscription(latest).await.unwrap();
    let id = append(&mut node.client, shard, "after").await;

    let mut earliest = Consumer::attach(&node.client, "earliest", "c").await.unwrap();
    assert_eq!(earliest.take().await, ["before"]);
    assert_eq!(earliest.take().await, ["after"]);
    let mut latest = Consumer::attach(&node.client, "latest", "c").await.unwrap();
    let received = latest.next().await;
    assert_eq!(received.record_ids, [id]);
    let stored = read_all(&mut node.client, shard).await;
    assert_eq!(received.record.unwrap().publish_time, stored[1].record.as_ref().unwrap().publish_time);
    append(&mut node.client, shard, "live").await;
    assert_eq!(latest.take().await, ["live"]);
    node.stop().await;
}

#[tokio::test]
async fn a_clean_end_makes_acknowledgements_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    subscribe(&mut node.client, "sub", "s").await;
    let mut ids = Vec::new();
    for payload in ["0", "1", "2", "3"] {
        ids.push(append(&mut node.client, shard, payload).await);
    }
    let mut consumer = Consumer::attach(&node.client, "sub", "c").await.unwrap();
    assert_eq!(consumer.take().await, ["0"]);
    assert_eq!(consumer.take().await, ["1"]);
    assert_eq!(payloads(&[consumer.next().await]), ["2"], "not acknowledged");
    assert_eq!(consumer.take().await, ["3"]);
    consumer.finish().await;
    assert_eq!(consumers(&mut node.client, "sub").await, []);
    let got = node.client.get_subscription(GetSubscriptionRequest { id: "sub".into() }).await.unwrap();
    let committed = SubscriptionOffset { shard_id: shard, batch_id: ids[1].batch_id };
    assert_eq!(got.into_inner().offsets, [committed]);
    // No orderly shutdown.
    drop(node.client);
    drop(node.node);

    let deadline = Instant::now() + DEADLINE;
    let node = loop {
        // The first node lets go of its directory in the background.
        let config = hstream_server::node::NodeConfig {
            port: 0,
            data_dir: dir.path().to_owned(),
            ..Default::default()
        };
        match start_node(config).await {
            Ok(node) => break node,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let client = connect(node.address().port()).await;
    let mut consumer = Consumer::attach(&client, "sub", "c").await.unwrap();
    assert_eq!(consumer.take().await, ["2"]);
    assert_eq!(consumer.take().await, ["3"]);
    consumer.finish().await;
    drop(client);
    node.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn checkpoints_follow_acknowledgements_without_a_clean_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    subscribe(&mut node.client, "sub", "s").await;
    let id = append(&mut node.client, shard, "0").await;
    let mut consumer = Consumer::attach(&node.client, "sub", "c").await.unwrap();
    consumer.take().await;
    let deadline = Instant::now() + DEADLINE;
    loop {
        let got = node.client.get_subscription(GetSubscriptionRequest { id: "sub".into() }).await.unwrap();
        if got.into_inner().offsets == [SubscriptionOffset { shard_id: shard, batch_id: id.batch_id }] {
            break;
        }
        assert!(Instant::now() < deadline, "the checkpoint arrives");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn fetching_is_refused_with_the_published_errors() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let missing = body(300, "SubscriptionNotFound", json!("none"));
    for _ in 0..2 {
        let refused = Consumer::attach(&node.client, "none", "c").await.map(|_| ());
        assert_eq!(refusal(refused), (Code::NotFound, missing.clone()));
    }
    create(&mut node.client, "s", 1).await;
    subscribe(&mut node.client, "sub", "s").await;
    let _first = Consumer::attach(&node.client, "sub", "c").await.unwrap();
    let refused = Consumer::attach(&node.client, "sub", "c").await.map(|_| ());
    assert_eq!(refusal(refused), (Code::AlreadyExists, body(0, "ConsumerExists", json!("c"))));
    let closed = node.client.streaming_fetch(tokio_stream::empty()).await.map(|_| ());
    let (code, body) = refusal(closed);
    assert_eq!((code, body.unwrap().1.as_str()), (Code::Cancelled, "StreamReadClose"));
    node.stop().await;
}

#[tokio::test]
async fn only_unacknowledged_records_come_again_in_the_same_compression() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    let soon = subscription("sub", "s", 600);
    node.client.create_subscription(Subscription { ack_timeout_seconds: 1, ..soon }).await.unwrap();
    let mut zipped = batch(["a", "b", "c", "d"].map(|payload| record("k", payload)).into());
    zipped.compression_type = CompressionType::Gzip as i32;
    zipped.payload = compress(CompressionType::Gzip, None, zipped.payload).unwrap();
    let stored = zipped.payload.clone();
    node.client.append(append_request(shard, zipped)).await.unwrap();

    let mut consumer = Consumer::attach(&node.client, "sub", "c").await.unwrap();
    let first = consumer.next().await;
    assert_eq!(first.record.unwrap().payload, stored);
    let ids = first.record_ids;
    // Repeated, unknown and foreign ids are ignored.
    let strange = RecordId { shard_id: 12, ..ids[0] };
    let unknown = RecordId { batch_index: 99, ..ids[0] };
    consumer.ack(vec![ids[0], ids[0], ids[2], strange, unknown]).await;
    let again = consumer.next().await;
    assert_eq!(again.record_ids, [ids[1], ids[3]]);
    let part = again.record.unwrap();
    assert_eq!((part.compression_type, part.batch_size), (CompressionType::Gzip as i32, 2));
    assert!(part.publish_time.is_some());
    let content = decompress(CompressionType::Gzip, &part.payload, 1 << 20).unwrap();
    let records = BatchHStreamRecords::decode(content).unwrap().records;
    assert_eq!(records, [record("k", "b"), record("k", "d")]);
    consumer.ack(again.record_ids).await;
    consumer.finish().await;
    node.stop().await;
}

#[tokio::test]
async fn delivery_pauses_at_the_window_and_goes_on_with_acknowledgements() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    let narrow = subscription("sub", "s", 600);
    node.client.create_subscription(Subscription { max_unacked_records: 2, ..narrow }).await.unwrap();
    for payload in ["0", "1", "2"] {
        append(&mut node.client, shard, payload).await;
    }
    let mut consumer = Consumer::attach(&node.client, "sub", "c").await.unwrap();
    let first = consumer.next().await;
    consumer.next().await;
    consumer.silent().await;
    consumer.ack(first.record_ids).await;
    assert_eq!(consumer.take().await, ["2"]);
    node.stop().await;
}

#[tokio::test]
async fn consumers_share_shards_and_take_over_from_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shards = create(&mut node.client, "s", 2).await;
    subscribe(&mut node.client, "sub", "s").await;
    let mut a = Consumer::attach(&node.client, "sub", "a").await.unwrap();
    let mut b = Consumer::attach(&node.client, "sub", "b").await.unwrap();
    wait_for_consumers(&mut node.client, "sub", &["a", "b"]).await;
    let request = ListConsumersRequest { subscription_id: "sub".into() };
    let listed = node.client.list_consumers(request).await.unwrap().into_inner().consumers;
    assert!(
        listed.iter().all(|consumer| consumer.uri.contains("127.0.0.1") && !consumer.user_agent.is_empty())
    );
    for shard in &shards {
        append(&mut node.client, *shard, &shard.to_string()).await;
    }
    let (from_a, from_b) = (a.take().await, b.take().await);
    assert_ne!(from_a, from_b);
    // Cancelled, not closed.
    drop(a);
    wait_for_consumers(&mut node.client, "sub", &["b"]).await;
    for shard in &shards {
        append(&mut node.client, *shard, "more").await;
    }
    assert_eq!((b.take().await, b.take().await), (vec!["more".to_owned()], vec!["more".to_owned()]));
    node.stop().await;
}

#[tokio::test]
async fn deleting_asks_for_force_while_consumers_are_attached() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    subscribe(&mut node.client, "sub", "s").await;
    append(&mut node.client, shard, "0").await;
    let mut consumer = Consumer::attach(&node.client, "sub", "c").await.unwrap();
    assert_eq!(consumer.take().await, ["0"]);
    let refused = refusal(unsubscribe(&mut node.client, "sub", false).await);
    assert_eq!(refused, (Code::FailedPrecondition, body(305, "FoundActiveConsumers", json!("sub"))));
    append(&mut node.client, shard, "1").await;
    assert_eq!(consumer.take().await, ["1"], "nothing changed");

    unsubscribe(&mut node.client, "sub", true).await.unwrap();
    let end = refusal(consumer.end().await);
    assert_eq!(end, (Code::Aborted, body(0, "SubscriptionIsDeleting", json!("sub"))));
    let missing = body(300, "SubscriptionNotFound", json!("sub"));
    assert_eq!(refusal(unsubscribe(&mut node.client, "sub", true).await), (Code::NotFound, missing));

    subscribe(&mut node.client, "sub", "s").await;
    let mut consumer = Consumer::attach(&node.client, "sub", "c").await.unwrap();
    assert_eq!(consumer.take().await, ["0"], "the checkpoint went with the subscription");
    consumer.finish().await;
    unsubscribe(&mut node.client, "sub", false).await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn a_subscription_outlives_its_streams_name_and_never_adopts_another_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    subscribe(client, "sub", "s").await;
    append(client, shard, "old").await;
    let request = DeleteStreamRequest { stream_name: "s".into(), force: false, ignore_non_exist: false };
    let refused = refusal(client.delete_stream(request.clone()).await);
    assert_eq!((refused.0, refused.1.unwrap().0), (Code::FailedPrecondition, 202));
    client.delete_stream(DeleteStreamRequest { force: true, ..request }).await.unwrap();
    let other = create(client, "s", 1).await[0];
    append(client, other, "new").await;
    node.stop().await;

    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let listed = client.list_subscriptions(ListSubscriptionsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.subscription[0].stream_name, "__deleted_stream__");
    let mut consumer = Consumer::attach(client, "sub", "c").await.unwrap();
    assert_eq!(consumer.take().await, ["old"]);
    consumer.silent().await;
    consumer.finish().await;
    unsubscribe(client, "sub", false).await.unwrap();
    // Its last reader gone, the data goes, too.
    let gone = client.append(append_request(shard, batch(vec![record("", "x")]))).await;
    assert_eq!(gone.unwrap_err().code(), Code::Unavailable);
    assert_eq!(payloads(&read_all(client, other).await), ["new"]);
    node.stop().await;
}

#[tokio::test]
async fn a_stopping_server_ends_consumers_with_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    create(&mut node.client, "s", 1).await;
    subscribe(&mut node.client, "sub", "s").await;
    let mut consumer = Consumer::attach(&node.client, "sub", "c").await.unwrap();
    let (end, ()) = tokio::join!(consumer.end(), node.stop());
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn nothing_is_lost_or_reordered_among_many_batches() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shards = create(&mut node.client, "s", 4).await;
    subscribe(&mut node.client, "sub", "s").await;
    let consumers = [
        Consumer::attach(&node.client, "sub", "a").await.unwrap(),
        Consumer::attach(&node.client, "sub", "b").await.unwrap(),
    ];
    let producers = shards.iter().map(|shard| {
        let (mut client, shard) = (node.client.clone(), *shard);
        async move {
            for number in 0..100 {
                append(&mut client, shard, &number.to_string()).await;
            }
        }
    });
    let readers = consumers.map(|mut consumer| async move {
        let mut seen: Vec<(u64, String)> = Vec::new();
        while seen.len() < 200 {
            let received = consumer.next().await;
            consumer.ack(received.record_ids.clone()).await;
            let shard = received.record_ids[0].shard_id;
            seen.extend(payloads(&[received]).into_iter().map(|payload| (shard, payload)));
        }
        seen
    });
    let (_, seen) = tokio::join!(futures::future::join_all(producers), futures::future::join_all(readers));
    let seen: Vec<(u64, String)> = seen.into_iter().flatten().collect();
    let expected: Vec<String> = (0..100).map(|number: u32| number.to_string()).collect();
    for shard in shards {
        let of_shard: Vec<&String> = seen.iter().filter(|(of, _)| *of == shard).map(|(_, p)| p).collect();
        assert_eq!(of_shard, expected.iter().collect::<Vec<_>>());
    }
    node.stop().await;
}
