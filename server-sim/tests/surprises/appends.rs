//! Appending: what is looked at and what is not.

use crate::support::*;
use hstreamdb_proto::api::*;
use hstreamdb_proto::error_body::ErrorBody;
use hstreamdb_proto::partition::key_hash;
use prost_types::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};
use tonic::Code;

#[tokio::test]
async fn surprise_03_append_never_looks_at_the_streams_name_and_an_unknown_shard_is_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    for name in ["other", "", "no name!"] {
        let request =
            AppendRequest { stream_name: name.into(), ..append_request(shard, batch(vec![record("", "x")])) };
        let answer = client.append(request).await.unwrap().into_inner();
        assert_eq!((answer.stream_name.as_str(), answer.shard_id), (name, shard));
    }
    assert_eq!(read_all(client, shard).await.len(), 3);

    let outcome = client.append(append_request(1, batch(vec![record("", "x")]))).await.unwrap_err();
    assert_eq!((outcome.code(), ErrorBody::parse(outcome.message())), (Code::Unavailable, None));
    // What is wrong with the batch is said first: that is final, an unknown shard is tried again for long.
    let empty = AppendRequest { records: None, ..append_request(1, batch(vec![])) };
    let (code, body) = refusal(client.append(empty).await);
    assert_eq!((code, body.unwrap().0), (Code::InvalidArgument, 206));
    let large = append_request(1, batch(vec![record("", &"x".repeat(1024 * 1024))]));
    let (code, body) = refusal(client.append(large).await);
    assert_eq!((code, body.unwrap().0), (Code::InvalidArgument, 207));
    node.stop().await;
}

#[tokio::test]
async fn surprise_04_publish_time_is_the_servers_in_milliseconds() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    let claimed = Timestamp { seconds: 1, nanos: 999_999_999 };
    let mut records = batch(vec![record("", "x")]);
    records.publish_time = Some(claimed);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let before = now();
    node.client.append(append_request(shard, records)).await.unwrap();
    let after = now();
    let received = read_all(&mut node.client, shard).await;
    let time = received[0].record.as_ref().unwrap().publish_time.unwrap();
    assert_eq!(time.nanos % 1_000_000, 0);
    let time = time.seconds * 1000 + i64::from(time.nanos / 1_000_000);
    assert!((before..=after).contains(&time), "{before} {time} {after}");
    node.stop().await;
}

#[tokio::test]
async fn surprise_05_the_default_key_is_the_empty_string_hashed_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    assert_eq!(key_hash(""), 281_949_768_489_412_648_962_353_822_266_799_178_366);
    let shards = create(client, "s", 16).await;
    // By ascending range it is the fourteenth of sixteen, neither the first nor by turns.
    let records = vec![record("", "keyless"), record("other", "no")];
    client.append(append_request(shards[13], batch(records))).await.unwrap();
    let request = ReadStreamByKeyRequest {
        stream_name: "s".into(),
        key: String::new(),
        read_record_count: 10,
        ..Default::default()
    };
    let mut answer = client.read_stream_by_key(tokio_stream::iter([request])).await.unwrap().into_inner();
    let message = answer.message().await.unwrap().expect("one message");
    assert_eq!(message.record_ids[0].shard_id, shards[13]);
    assert_eq!(message.received_records.len(), 1);
    assert_eq!(message.received_records[0].payload, "keyless");
    assert_eq!(answer.message().await.unwrap(), None);
    node.stop().await;
}

#[tokio::test]
async fn surprise_27_record_ids_are_positive_when_signed_and_sort_as_text() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    let mut ids = Vec::new();
    for round in 0..3 {
        for _ in 0..5 {
            ids.push(append(&mut node.client, shard, "x").await);
        }
        if round < 2 {
            node.stop().await;
            node = TestNode::start(dir.path()).await;
        }
    }
    let texts: Vec<String> = ids.iter().map(RecordId::to_string).collect();
    let mut sorted = texts.clone();
    sorted.sort();
    assert_eq!(texts, sorted);
    for id in ids {
        assert!(i64::try_from(id.shard_id).is_ok() && i64::try_from(id.batch_id).is_ok(), "{id}");
        assert_eq!(id.batch_id.to_string().len(), 19);
    }
    node.stop().await;
}
