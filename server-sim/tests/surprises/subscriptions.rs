//! Delivery and acknowledgements.

use crate::support::fetch::{
    Consumer, attach, fetch_request, refused, subscribe, subscription, unsubscribe, wait_for_consumers,
};
use crate::support::*;
use bytes::Bytes;
use hstreamdb_proto::api::*;
use hstreamdb_proto::compression::{compress, decompress};
use prost::Message as _;
use std::time::{Duration, Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::metadata::MetadataMap;

#[tokio::test]
async fn surprise_17_is_fixed_the_first_delivery_does_not_wait_for_a_tick() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    append(client, shard, "x").await;
    let mut fastest = Duration::MAX;
    // The original hands out shards once a second. The best of many attempts says nothing about how busy the
    // machine is.
    for number in 0..10 {
        let id = format!("sub{number}");
        subscribe(client, &id, "s").await;
        let start = Instant::now();
        let mut consumer = attach(client, &id, "c").await;
        assert_eq!(consumer.take().await, ["x"]);
        fastest = fastest.min(start.elapsed());
        consumer.finish().await;
    }
    assert!(fastest < Duration::from_millis(500), "{fastest:?}");
    node.stop().await;
}

#[tokio::test]
async fn surprise_17_consumers_beyond_the_shards_idle_and_leaving_is_no_reason_to_redeliver() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    append(client, shard, "held").await;
    subscribe(client, "sub", "s").await;
    let mut owner = attach(client, "sub", "owner").await;
    let held = owner.next().await;
    let mut idle = attach(client, "sub", "idle").await;
    wait_for_consumers(client, "sub", &["idle", "owner"]).await;
    idle.silent().await;
    owner.finish().await;
    // It owns the shard now, but what the other one received comes again only after the ack timeout.
    append(client, shard, "fresh").await;
    assert_eq!(idle.take().await, ["fresh"]);
    idle.silent().await;
    // An acknowledgement counts whoever sends it.
    idle.ack(held.record_ids.clone()).await;
    idle.finish().await;
    let got = client.get_subscription(GetSubscriptionRequest { id: "sub".into() }).await.unwrap();
    let tail = client.get_tail_record_id(GetTailRecordIdRequest { shard_id: shard, ..Default::default() });
    let tail = tail.await.unwrap().into_inner().tail_record_id.unwrap().batch_id;
    assert_eq!(got.into_inner().offsets, [SubscriptionOffset { shard_id: shard, batch_id: tail }]);
    node.stop().await;
}

#[tokio::test]
async fn surprise_18_is_fixed_the_window_is_never_overshot_except_by_a_single_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    for number in 0..4 {
        let records = (0..3).map(|index| record("", &format!("{number}.{index}"))).collect();
        client.append(append_request(shard, batch(records))).await.unwrap();
    }
    for (window, at_once, room_after_one) in
        [(2, 1, false), (3, 1, false), (5, 1, true), (6, 2, false), (7, 2, false)]
    {
        let id = format!("sub{window}");
        let definition = Subscription { max_unacked_records: window, ..subscription(&id, "s", 600) };
        client.create_subscription(definition).await.unwrap();
        let mut consumer = attach(client, &id, "c").await;
        let mut received = Vec::new();
        for _ in 0..at_once {
            received.push(consumer.next().await);
        }
        consumer.silent().await;
        // One record less in flight is not room for a batch of three, unless there was some left.
        consumer.ack(vec![received[0].record_ids[0]]).await;
        if room_after_one {
            consumer.next().await;
        }
        consumer.silent().await;
    }
    let blocked = Subscription { max_unacked_records: 0, ..subscription("blocked", "s", 600) };
    client.create_subscription(blocked).await.unwrap();
    let mut consumer = attach(client, "blocked", "c").await;
    consumer.silent().await;
    consumer.finish().await;
    node.stop().await;
}

#[tokio::test]
async fn surprise_19_redelivery_packs_only_what_is_open_in_the_same_compression() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    for kind in [CompressionType::None, CompressionType::Gzip, CompressionType::Zstd] {
        let name = format!("{kind:?}");
        let shard = create(client, &name, 1).await[0];
        client.create_subscription(subscription(&name, &name, 1)).await.unwrap();
        let mut records = batch((0..4).map(|number| record("", &number.to_string())).collect());
        records.compression_type = kind as i32;
        records.payload = compress(kind, None, records.payload).unwrap();
        client.append(append_request(shard, records)).await.unwrap();
        let mut consumer = attach(client, &name, "c").await;
        let first = consumer.next().await;
        consumer.ack(vec![first.record_ids[0], first.record_ids[2]]).await;
        let again = consumer.next().await;
        assert_eq!(again.record_ids, [first.record_ids[1], first.record_ids[3]]);
        let (first, again) = (first.record.unwrap(), again.record.unwrap());
        assert_eq!((again.compression_type, again.batch_size), (kind as i32, 2));
        assert_eq!(again.publish_time, first.publish_time);
        let content = decompress(kind, &again.payload, 1024).unwrap();
        let payloads: Vec<Bytes> =
            BatchHStreamRecords::decode(content).unwrap().records.into_iter().map(|r| r.payload).collect();
        assert_eq!(payloads, ["1", "3"]);
    }
    node.stop().await;
}

#[tokio::test]
async fn surprise_20_offsets_are_empty_until_a_consumer_came_in_this_life_of_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    append(&mut node.client, shard, "x").await;
    subscribe(&mut node.client, "sub", "s").await;
    async fn offsets(client: &mut Client) -> Vec<SubscriptionOffset> {
        let request = GetSubscriptionRequest { id: "sub".into() };
        client.get_subscription(request).await.unwrap().into_inner().offsets
    }
    assert!(offsets(&mut node.client).await.is_empty());
    let mut consumer = attach(&node.client, "sub", "c").await;
    let received = consumer.next().await;
    assert_eq!(offsets(&mut node.client).await, [SubscriptionOffset { shard_id: shard, batch_id: 0 }]);
    let done = received.record_ids[0].batch_id;
    consumer.ack(received.record_ids).await;
    consumer.finish().await;
    let committed = [SubscriptionOffset { shard_id: shard, batch_id: done }];
    assert_eq!(offsets(&mut node.client).await, committed);
    node.stop().await;
    let mut node = TestNode::start(dir.path()).await;
    assert!(offsets(&mut node.client).await.is_empty());
    let consumer = attach(&node.client, "sub", "c").await;
    wait_for_consumers(&mut node.client, "sub", &["c"]).await;
    assert_eq!(offsets(&mut node.client).await, committed);
    consumer.finish().await;
    node.stop().await;
}

#[tokio::test]
async fn surprise_21_the_first_message_is_not_answered_half_close_is_ok_and_force_is_aborted() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    create(client, "s", 1).await;
    subscribe(client, "sub", "s").await;
    let mut consumer = attach(client, "sub", "c").await;
    consumer.silent().await;
    // An empty list of acknowledgements is no message to answer, either.
    consumer.ack(vec![]).await;
    consumer.silent().await;
    consumer.finish().await;

    let mut consumer = attach(client, "sub", "c").await;
    wait_for_consumers(client, "sub", &["c"]).await;
    let (code, body) = refusal(unsubscribe(client, "sub", false).await);
    assert_eq!((code, body.unwrap().0), (Code::FailedPrecondition, 305));
    unsubscribe(client, "sub", true).await.unwrap();
    let (code, body) = refusal(consumer.end().await);
    let (number, class, _) = body.unwrap();
    assert_eq!((code, number, class.as_str()), (Code::Aborted, 0, "SubscriptionIsDeleting"));
    // Promptly and more than once.
    for _ in 0..2 {
        let (code, body) = refusal(Err::<(), _>(refused(client, "sub", "c").await));
        assert_eq!((code, body.unwrap().0), (Code::NotFound, 300));
    }
    // Closed before it said what it wants.
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    drop(requests);
    let outcome = client.streaming_fetch(ReceiverStream::<StreamingFetchRequest>::new(receiver)).await;
    let (code, body) = refusal(outcome.map(|_| ()));
    assert_eq!((code, body.unwrap().1.as_str()), (Code::Cancelled, "StreamReadClose"));
    node.stop().await;
}

#[tokio::test]
async fn surprise_39_some_calls_take_any_text_as_the_id_of_a_subscription() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    for id in ["", "1", "a b", "__hidden"] {
        let (code, body) = refusal(client.get_subscription(GetSubscriptionRequest { id: id.into() }).await);
        assert_eq!((code, body.unwrap().0), (Code::NotFound, 300), "{id:?}");
        let request = ListConsumersRequest { subscription_id: id.into() };
        let (code, body) = refusal(client.list_consumers(request).await);
        assert_eq!((code, body.unwrap().0), (Code::NotFound, 300), "{id:?}");
        let (code, body) = refusal(Err::<(), _>(refused(client, id, "c").await));
        assert_eq!((code, body.unwrap().0), (Code::NotFound, 300), "{id:?}");
        let request = CheckSubscriptionExistRequest { subscription_id: id.into() };
        assert!(!client.check_subscription_exist(request).await.unwrap().into_inner().exists);
        let (code, body) = refusal(unsubscribe(client, id, false).await);
        assert_eq!((code, body.unwrap().0), (Code::InvalidArgument, 304), "{id:?}");
    }
    let (code, body) = refusal(unsubscribe(client, "none", false).await);
    assert_eq!((code, body.unwrap().0), (Code::NotFound, 300));
    node.stop().await;
}

#[tokio::test]
async fn surprise_40_is_fixed_acknowledgements_of_foreign_shards_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    let other = create(client, "other", 1).await[0];
    let foreign = append(client, other, "foreign").await;
    append(client, shard, "a").await;
    subscribe(client, "sub", "s").await;
    let mut consumer = attach(client, "sub", "c").await;
    let received = consumer.next().await;
    let odd = |id: RecordId, batch_index| RecordId { batch_index, ..id };
    consumer
        .ack(vec![
            foreign,
            RecordId { shard_id: 0, batch_id: 0, batch_index: 0 },
            RecordId { shard_id: u64::MAX, batch_id: u64::MAX, batch_index: u32::MAX },
            odd(received.record_ids[0], 1),
            odd(received.record_ids[0], u32::MAX),
        ])
        .await;
    append(client, shard, "b").await;
    assert_eq!(consumer.take().await, ["b"]);
    // Whatever the later messages call the subscription and the consumer.
    consumer.ack(received.record_ids).await;
    consumer.finish().await;
    let late =
        tokio_stream::iter([fetch_request("sub", "d", vec![]), fetch_request("another", "name", vec![])]);
    let mut call = client.streaming_fetch(late).await.unwrap().into_inner();
    assert_eq!(call.message().await.unwrap(), None);
    node.stop().await;
}

#[tokio::test]
async fn consumers_are_listed_with_the_address_and_agent_a_proxy_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    create(client, "s", 1).await;
    subscribe(client, "sub", "s").await;
    let plain = attach(client, "sub", "a").await;
    let mut keys = MetadataMap::new();
    keys.insert("x-forwarded-for", "203.0.113.9".parse().unwrap());
    keys.insert("proxy-agent", "hstreamdb-java/0.17.0".parse().unwrap());
    let (proxied, _) = Consumer::attach_with(client, "sub", "b", keys).await.unwrap();
    wait_for_consumers(client, "sub", &["a", "b"]).await;
    let mut listed = fetch::consumers(client, "sub").await;
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    let address = listed[0].uri.strip_prefix("ipv4:").expect("gRPC's notation of a peer");
    let address: std::net::SocketAddr = address.parse().unwrap();
    assert!(address.ip().is_loopback() && address.port() > 0, "{address}");
    assert!(listed[0].user_agent.starts_with("tonic/"), "{}", listed[0].user_agent);
    assert_eq!(
        (listed[1].uri.as_str(), listed[1].user_agent.as_str()),
        ("203.0.113.9", "hstreamdb-java/0.17.0")
    );
    plain.finish().await;
    proxied.finish().await;
    node.stop().await;
}
