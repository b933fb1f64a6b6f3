//! Streams, shards and names.

use crate::support::fetch::{self, attach, subscribe, unsubscribe};
use crate::support::*;
use hstreamdb_proto::api::*;
use tonic::Code;

async fn listed_shards(client: &mut Client, name: &str) -> Vec<Shard> {
    let request = ListShardsRequest { stream_name: name.into() };
    client.list_shards(request).await.unwrap().into_inner().shards
}

#[tokio::test]
async fn surprise_06_hash_ranges_are_floored_and_listed_in_text_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let text = |key: u128| key.to_string();
    for (count, width, order) in [
        (1, u128::MAX, vec![0]),
        // One less than 2^127: the boundary is not where the top bit changes.
        (2, 170_141_183_460_469_231_731_687_303_715_884_105_727, vec![0, 1]),
        (3, 113_427_455_640_312_821_154_458_202_477_256_070_485, vec![0, 1, 2]),
        (4, u128::MAX / 4, vec![0, 2, 3, 1]),
        (
            16,
            21_267_647_932_558_653_966_460_912_964_485_513_215,
            vec![0, 5, 6, 7, 8, 9, 1, 10, 11, 12, 13, 14, 15, 2, 3, 4],
        ),
    ] {
        let name = format!("s{count}");
        node.client.create_stream(stream(&name, count)).await.unwrap();
        let shards = listed_shards(&mut node.client, &name).await;
        let ranges: Vec<_> =
            shards.into_iter().map(|shard| (shard.start_hash_range_key, shard.end_hash_range_key)).collect();
        let expected: Vec<_> = order
            .into_iter()
            .map(|index: u128| {
                let last = index + 1 == u128::from(count);
                let end = if last { u128::MAX } else { (index + 1) * width - 1 };
                (text(index * width), text(end))
            })
            .collect();
        assert_eq!(ranges, expected, "{count}");
    }
    node.stop().await;
}

#[tokio::test]
async fn surprise_07_the_epoch_of_a_shard_starts_at_the_number_of_shards() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    for count in [1, 5, 12] {
        let name = format!("s{count}");
        node.client.create_stream(stream(&name, count)).await.unwrap();
        let shards = listed_shards(&mut node.client, &name).await;
        assert_eq!(shards.len(), count as usize);
        assert!(shards.iter().all(|shard| shard.epoch == u64::from(count) && shard.is_active));
    }
    node.stop().await;
}

#[tokio::test]
async fn surprise_14_prefix_calls_refuse_prefixes_that_are_no_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    for prefix in ["", "1", "_", "a.b"] {
        let request = ListStreamsWithPrefixRequest { prefix: prefix.into() };
        let (code, body) = refusal(node.client.list_streams_with_prefix(request).await);
        assert_eq!((code, body.unwrap().0), (Code::InvalidArgument, 204), "{prefix:?}");
        let request = ListSubscriptionsWithPrefixRequest { prefix: prefix.into() };
        let (code, body) = refusal(node.client.list_subscriptions_with_prefix(request).await);
        assert_eq!((code, body.unwrap().0), (Code::InvalidArgument, 304), "{prefix:?}");
    }
    node.stop().await;
}

#[tokio::test]
async fn surprise_15_streams_deleted_by_force_survive_for_their_subscriptions() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    append(client, shard, "first").await;
    subscribe(client, "sub", "s").await;
    let mut before = attach(client, "sub", "before").await;
    assert_eq!(before.take().await, ["first"]);
    before.finish().await;
    append(client, shard, "second").await;
    let delete = DeleteStreamRequest { stream_name: "s".into(), force: true, ..Default::default() };
    client.delete_stream(delete).await.unwrap();

    // Lists show a word for all of them, the subscription itself the name the stream has inside.
    let request = ListSubscriptionsWithPrefixRequest { prefix: "sub".into() };
    let listed = client.list_subscriptions_with_prefix(request).await.unwrap().into_inner().subscription;
    assert_eq!(listed[0].stream_name, "__deleted_stream__");
    let listed = client.list_subscriptions(ListSubscriptionsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.subscription[0].stream_name, "__deleted_stream__");
    let got = client.get_subscription(GetSubscriptionRequest { id: "sub".into() }).await.unwrap();
    let name = got.into_inner().subscription.unwrap().stream_name;
    assert!(name.starts_with("__archive__s_"), "{name}");
    assert!(client.list_streams(ListStreamsRequest {}).await.unwrap().into_inner().streams.is_empty());

    // New subscriptions are refused, stale producers too, the old subscription goes on where it was.
    let refused = client.create_subscription(fetch::subscription("more", "s", 60)).await;
    let (code, body) = refusal(refused);
    assert_eq!((code, body.unwrap().0), (Code::FailedPrecondition, 302));
    assert!(client.append(append_request(shard, batch(vec![record("", "x")]))).await.is_err());
    let mut after = attach(client, "sub", "after").await;
    assert_eq!(after.take().await, ["second"]);
    after.finish().await;
    // Better than the original: its data goes with its last subscription.
    unsubscribe(client, "sub", false).await.unwrap();
    let tail = GetTailRecordIdRequest { stream_name: "s".into(), shard_id: shard };
    assert_eq!(refusal(client.get_tail_record_id(tail).await).0, Code::NotFound);
    node.stop().await;
}

#[tokio::test]
async fn surprise_16_is_fixed_a_subscription_is_bound_to_a_stream_and_not_to_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let old = create(client, "s", 1).await[0];
    append(client, old, "old").await;
    subscribe(client, "sub", "s").await;
    let mut consumer = attach(client, "sub", "c").await;
    assert_eq!(consumer.take().await, ["old"]);
    let delete = DeleteStreamRequest { stream_name: "s".into(), force: true, ..Default::default() };
    client.delete_stream(delete.clone()).await.unwrap();
    let new = create(client, "s", 3).await;
    for shard in &new {
        append(client, *shard, "new").await;
    }
    // Neither adopted nor failed.
    consumer.silent().await;
    consumer.finish().await;
    // The new stream is not what it reads: deleting it needs no force.
    client.delete_stream(DeleteStreamRequest { force: false, ..delete }).await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn surprise_28_of_operations_at_once_exactly_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(dir.path()).await;
    let deletion = DeleteStreamRequest { stream_name: "s".into(), ..Default::default() };
    for _ in 0..10 {
        let outcomes = futures::future::join_all((0..8).map(|_| {
            let mut client = node.client.clone();
            async move { client.create_stream(stream("s", 2)).await.map(|_| ()) }
        }))
        .await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        let outcomes = futures::future::join_all((0..8).map(|_| {
            let mut client = node.client.clone();
            let deletion = deletion.clone();
            async move { client.delete_stream(deletion).await.map(|_| ()) }
        }))
        .await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        for lost in outcomes.into_iter().filter_map(Result::err) {
            assert_eq!(lost.code(), Code::NotFound);
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn surprise_29_any_replication_factor_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    for (number, replication_factor) in [1, 3, 5, u32::MAX].into_iter().enumerate() {
        let request = Stream { replication_factor, ..stream(&format!("s{number}"), 1) };
        let created = node.client.create_stream(request).await.unwrap().into_inner();
        assert_eq!(created.replication_factor, replication_factor);
    }
    node.stop().await;
}

#[tokio::test]
async fn surprise_37_nothing_has_a_default_on_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    for (request, code) in [
        (Stream { replication_factor: 0, shard_count: 0, ..stream("s", 0) }, 203),
        (Stream { shard_count: 0, ..stream("s", 0) }, 205),
        (Stream { stream_name: String::new(), replication_factor: 0, ..stream("", 0) }, 204),
    ] {
        let (status, body) = refusal(client.create_stream(request).await);
        assert_eq!((status, body.unwrap().0), (Code::InvalidArgument, code));
    }
    // 0 seconds of retention is "for ever", not a default; what Java and Go send comes back as sent.
    for backlog_duration in [0, 86_400, 604_800] {
        let name = format!("s{backlog_duration}");
        let request = Stream { replication_factor: 3, backlog_duration, ..stream(&name, 1) };
        client.create_stream(request).await.unwrap();
        let got = client.get_stream(GetStreamRequest { name }).await.unwrap().into_inner().stream.unwrap();
        assert_eq!((got.replication_factor, got.backlog_duration), (3, backlog_duration));
    }
    node.stop().await;
}
