//! Crate `hstreamdb` 0.2 and the Erlang NIF on top of it: only nodes that are Running, a call per record to
//! acknowledge, zstd without content size, calls to whatever node comes first.

use crate::connect_as;
use crate::support::fetch::{attach, subscription, wait_for_consumers};
use crate::support::*;
use base64::Engine as _;
use hstreamdb_proto::api::*;
use hstreamdb_proto::partition::key_hash;
use std::collections::HashMap;
use tonic::Code;

async fn start() -> (tempfile::TempDir, TestNode, Client) {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(dir.path()).await;
    let client = connect_as(node.node.address().port(), "tonic/0.8.3").await;
    (dir, node, client)
}

#[tokio::test]
async fn it_keeps_running_nodes_only_and_appends_by_range_to_twelve_shards() {
    let (_dir, node, mut client) = start().await;
    let cluster = client.describe_cluster(()).await.unwrap().into_inner();
    let running: Vec<ServerNode> = cluster
        .server_nodes_status
        .into_iter()
        .filter(|status| status.state == NodeState::Running as i32)
        .map(|status| status.node.unwrap())
        .collect();
    assert_eq!(running.len(), 1, "without a status it would know no node at all");
    let created = client.create_stream(stream("s", 12)).await.unwrap().into_inner();
    assert_eq!((created.stream_name.as_str(), created.shard_count), ("s", 12));
    assert!(created.creation_time.is_some());
    let request = ListShardsRequest { stream_name: "s".into() };
    let listed = client.list_shards(request).await.unwrap().into_inner().shards;
    let mut appended: HashMap<u64, usize> = HashMap::new();
    for number in 0..50 {
        let key = number.to_string();
        // A linear scan over the texts.
        let found: Vec<&Shard> = listed
            .iter()
            .filter(|shard| {
                let start: u128 = shard.start_hash_range_key.parse().unwrap();
                let end: u128 = shard.end_hash_range_key.parse().unwrap();
                (start..=end).contains(&key_hash(&key))
            })
            .collect();
        let [shard] = found[..] else { panic!("{} shards take {key}", found.len()) };
        client.lookup_shard(LookupShardRequest { shard_id: shard.shard_id }).await.unwrap();
        let request = append_request(shard.shard_id, batch(vec![record(&key, "x")]));
        client.append(request).await.unwrap();
        *appended.entry(shard.shard_id).or_default() += 1;
    }
    for (shard, count) in appended {
        assert_eq!(read_all(&mut client, shard).await.len(), count);
    }
    node.stop().await;
}

#[tokio::test]
async fn it_acknowledges_record_by_record_while_the_call_goes_on() {
    let (_dir, node, mut client) = start().await;
    client.create_stream(stream("s", 1)).await.unwrap();
    let shard = shards(&mut client, "s").await[0];
    let created = client.create_subscription(subscription("sub", "s", 1)).await.unwrap().into_inner();
    assert_eq!(created.subscription_id, "sub");
    let records = (0..30).map(|number| record("", &number.to_string())).collect();
    client.append(append_request(shard, batch(records))).await.unwrap();
    let request = LookupSubscriptionRequest { subscription_id: "sub".into() };
    client.lookup_subscription(request).await.unwrap();
    let mut consumer = attach(&client, "sub", "rust").await;
    let received = consumer.next().await;
    for id in received.record_ids {
        consumer.ack(vec![id]).await;
    }
    // Sent to any node; here it is the right one.
    wait_for_consumers(&mut client, "sub", &["rust"]).await;
    let got =
        client.get_subscription(GetSubscriptionRequest { id: "sub".into() }).await.unwrap().into_inner();
    assert_eq!(got.subscription.unwrap().stream_name, "s");
    // Nothing comes again: the ack timeout passes while the next record is waited for.
    append(&mut client, shard, "next").await;
    assert_eq!(consumer.take().await, ["next"]);
    let moment = tokio::time::timeout(std::time::Duration::from_millis(1500), consumer.responses.message());
    assert!(moment.await.is_err());
    drop(consumer);
    wait_for_consumers(&mut client, "sub", &[]).await;
    node.stop().await;
}

#[tokio::test]
async fn its_zstd_without_content_size_is_split_for_redelivery_and_for_keys() {
    let (_dir, node, mut client) = start().await;
    client.create_stream(stream("s", 1)).await.unwrap();
    let shard = shards(&mut client, "s").await[0];
    // The golden vector: twenty records of key `k`.
    let payload = base64::engine::general_purpose::STANDARD
        .decode("KLUv/QBYDQEAqArKAgoFCAEaAWsSwAJwYXlsb2FkIAIAtAi1erBmamEC")
        .unwrap();
    let written = BatchedRecord {
        compression_type: CompressionType::Zstd as i32,
        publish_time: None,
        batch_size: 20,
        payload: payload.into(),
    };
    client.append(append_request(shard, written)).await.unwrap();
    client.create_subscription(subscription("sub", "s", 1)).await.unwrap();
    let mut consumer = attach(&client, "sub", "rust").await;
    let first = consumer.next().await;
    consumer.ack(first.record_ids[..15].to_vec()).await;
    let again = consumer.next().await;
    assert_eq!(again.record_ids, first.record_ids[15..]);
    consumer.ack(again.record_ids).await;
    consumer.finish().await;
    let request = ReadStreamByKeyRequest {
        stream_name: "s".into(),
        key: "k".into(),
        read_record_count: 100,
        ..Default::default()
    };
    let mut answer = client.read_stream_by_key(tokio_stream::iter([request])).await.unwrap().into_inner();
    assert_eq!(answer.message().await.unwrap().unwrap().record_ids.len(), 20);
    node.stop().await;
}

#[tokio::test]
async fn its_polled_reader_takes_the_first_three_kinds_of_offset_and_an_empty_answer() {
    let (_dir, node, mut client) = start().await;
    client.create_stream(stream("s", 1)).await.unwrap();
    let shard = shards(&mut client, "s").await[0];
    append(&mut client, shard, "a").await;
    let second = append(&mut client, shard, "b").await;
    for (reader_id, shard_offset, expected) in [
        ("earliest", special(SpecialOffset::Earliest), &["a", "b"][..]),
        ("latest", special(SpecialOffset::Latest), &[]),
        ("record", at_record(second), &["b"]),
    ] {
        let request = CreateShardReaderRequest {
            stream_name: "s".into(),
            shard_id: shard,
            shard_offset,
            reader_id: reader_id.into(),
            timeout: 0,
        };
        client.create_shard_reader(request).await.unwrap();
        let lookup = LookupShardReaderRequest { reader_id: reader_id.into() };
        client.lookup_shard_reader(lookup).await.unwrap();
        let request = ReadShardRequest { reader_id: reader_id.into(), max_records: 10 };
        let answer = client.read_shard(request.clone()).await.unwrap().into_inner();
        assert_eq!(payloads(&answer.received_records), expected);
        assert!(client.read_shard(request).await.unwrap().into_inner().received_records.is_empty());
        let delete = DeleteShardReaderRequest { reader_id: reader_id.into() };
        client.delete_shard_reader(delete.clone()).await.unwrap();
        assert_eq!(client.delete_shard_reader(delete).await.unwrap_err().code(), Code::FailedPrecondition);
    }
    node.stop().await;
}
