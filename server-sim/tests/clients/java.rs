//! `io.hstream` 0.17: user agent `hstreamdb-java/…`, a deadline of five seconds on every unary call, the status
//! message parsed as JSON with exactly three members, record ids parsed as signed 64-bit numbers.

use crate::connect_as;
use crate::support::fetch::{Consumer, attach, consumers, subscription, wait_for_consumers};
use crate::support::*;
use hstream_server::node::NodeConfig;
use hstreamdb_proto::api::*;
use hstreamdb_proto::partition::key_hash;
use serde::Deserialize;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

const AGENT: &str = "hstreamdb-java/0.17.0";

/// What `HServerException` is made of; any other shape becomes another exception.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrBody {
    error: i32,
    message: String,
    extra: serde_json::Value,
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(5));
    request
}

/// `HServerException`: status and code, or `None` for what Java wraps as `HStreamDBClientException`.
fn server_exception(status: &Status) -> Option<(Code, i32, String)> {
    let body: ErrBody = serde_json::from_str(status.message()).ok()?;
    assert!(!body.extra.is_object());
    Some((status.code(), body.error, body.message))
}

/// The shard whose range, two decimal texts, holds the hash of the key.
async fn shard_of(client: &mut Client, stream: &str, key: &str) -> u64 {
    let request = timed(ListShardsRequest { stream_name: stream.into() });
    let shards = client.list_shards(request).await.unwrap().into_inner().shards;
    let hash = key_hash(key);
    let found = shards.iter().find(|shard| {
        let start: u128 = shard.start_hash_range_key.parse().unwrap();
        let end: u128 = shard.end_hash_range_key.parse().unwrap();
        (start..=end).contains(&hash)
    });
    found.unwrap().shard_id
}

async fn write(client: &mut Client, stream: &str, key: &str, payload: &str) -> String {
    let shard_id = shard_of(client, stream, key).await;
    let found = client.lookup_shard(timed(LookupShardRequest { shard_id })).await.unwrap().into_inner();
    assert_eq!(found.shard_id, shard_id);
    let request = AppendRequest {
        stream_name: stream.into(),
        shard_id,
        records: Some(batch(vec![record(key, payload)])),
    };
    let ids = client.append(timed(request)).await.unwrap().into_inner().record_ids;
    ids[0].to_string()
}

/// `Long.parseLong` on each part.
fn signed(id: &str) -> [i64; 3] {
    let parts: Vec<i64> = id.split('-').map(|part| part.parse().expect("fits into a signed long")).collect();
    parts.try_into().expect("three parts")
}

#[tokio::test]
async fn it_bootstraps_writes_and_reads_its_ids_as_signed_longs() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(dir.path()).await;
    let mut client = connect_as(node.node.address().port(), AGENT).await;
    let cluster = client.describe_cluster(timed(())).await.unwrap().into_inner();
    // The list of nodes replaces the bootstrap list: it must hold something one can connect to.
    let found = &cluster.server_nodes[0];
    assert_eq!((found.host.as_str(), found.port), ("127.0.0.1", u32::from(node.node.address().port())));
    // Its defaults.
    let definition = Stream { backlog_duration: 86_400, ..stream("s", 1) };
    client.create_stream(timed(definition)).await.unwrap();
    let ids = [write(&mut client, "s", "k", "a").await, write(&mut client, "s", "", "b").await];
    let parsed = ids.each_ref().map(|id| signed(id));
    assert!(parsed[0] < parsed[1] && parsed.iter().flatten().all(|part| *part >= 0));
    let tail = GetTailRecordIdRequest { stream_name: "s".into(), shard_id: parsed[0][0] as u64 };
    let tail = client.get_tail_record_id(timed(tail)).await.unwrap().into_inner().tail_record_id.unwrap();
    assert_eq!(signed(&tail.to_string())[1], parsed[1][1]);
    let trim = TrimShardsRequest { stream_name: "s".into(), record_ids: vec![ids[1].clone()] };
    client.trim_shards(timed(trim)).await.unwrap();
    assert_eq!(payloads(&read_all(&mut client, parsed[0][0] as u64).await), ["b"]);
    node.stop().await;
}

#[tokio::test]
async fn errors_are_json_of_three_members_where_it_expects_them() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(dir.path()).await;
    let mut client = connect_as(node.node.address().port(), AGENT).await;
    client.create_stream(timed(stream("s", 1))).await.unwrap();
    client.create_subscription(timed(subscription("sub", "s", 600))).await.unwrap();
    let exists = client.create_stream(timed(stream("s", 1))).await.unwrap_err();
    assert_eq!(server_exception(&exists), Some((Code::AlreadyExists, 201, "StreamExists".into())));
    let delete = DeleteStreamRequest { stream_name: "s".into(), ..Default::default() };
    let held = client.delete_stream(timed(delete)).await.unwrap_err();
    let expected = (Code::FailedPrecondition, 202, "Stream still has subscription".into());
    assert_eq!(server_exception(&held), Some(expected));
    let missing = client.create_subscription(timed(subscription("more", "none", 600))).await.unwrap_err();
    assert_eq!(server_exception(&missing), Some((Code::FailedPrecondition, 302, "NonExistentStream".into())));
    // These two surface raw: the status is what users look at.
    let get = client.get_subscription(timed(GetSubscriptionRequest { id: "none".into() })).await.unwrap_err();
    assert_eq!(get.code(), Code::NotFound);
    let delete = DeleteSubscriptionRequest { subscription_id: "none".into(), force: false };
    assert_eq!(client.delete_subscription(timed(delete)).await.unwrap_err().code(), Code::NotFound);
    // A missing stream makes `listShards` try other nodes: UNAVAILABLE, and no JSON.
    let shards =
        client.list_shards(timed(ListShardsRequest { stream_name: "none".into() })).await.unwrap_err();
    assert_eq!((shards.code(), server_exception(&shards)), (Code::Unavailable, None));
    node.stop().await;
}

#[tokio::test]
async fn an_append_to_a_stream_that_is_gone_is_worth_five_tries_and_then_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(dir.path()).await;
    let mut client = connect_as(node.node.address().port(), AGENT).await;
    client.create_stream(timed(stream("s", 1))).await.unwrap();
    let shard_id = shard_of(&mut client, "s", "").await;
    let delete = DeleteStreamRequest { stream_name: "s".into(), ..Default::default() };
    client.delete_stream(timed(delete)).await.unwrap();
    for _ in 0..5 {
        let found = client.lookup_shard(timed(LookupShardRequest { shard_id })).await.unwrap().into_inner();
        assert!(found.server_node.is_some());
        let request = append_request(shard_id, batch(vec![record("", "x")]));
        assert_eq!(client.append(timed(request)).await.unwrap_err().code(), Code::Unavailable);
    }
    node.stop().await;
}

/// LookupSubscription, then the stream; acknowledgements in batches on the request side.
async fn start_consumer(client: &mut Client, id: &str, name: &str) -> Consumer {
    let request = LookupSubscriptionRequest { subscription_id: id.into() };
    let found = client.lookup_subscription(timed(request)).await.unwrap().into_inner();
    assert_eq!(found.subscription_id, id);
    attach(client, id, name).await
}

#[tokio::test]
async fn its_consumer_survives_a_restart_because_every_end_of_a_stopping_server_is_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(dir.path()).await;
    let port = node.node.address().port();
    let mut client = connect_as(port, AGENT).await;
    client.create_stream(timed(stream("s", 1))).await.unwrap();
    client.create_subscription(timed(subscription("sub", "s", 600))).await.unwrap();
    for number in 0..200 {
        write(&mut client, "s", "", &number.to_string()).await;
    }
    let mut consumer = start_consumer(&mut client, "sub", "java").await;
    wait_for_consumers(&mut client, "sub", &["java"]).await;
    let listed = consumers(&mut client, "sub").await;
    assert!(listed[0].user_agent.starts_with(AGENT), "{}", listed[0].user_agent);
    // Its ack buffer of a hundred.
    let mut buffer = Vec::new();
    for _ in 0..100 {
        buffer.extend(consumer.next().await.record_ids);
    }
    let acknowledged = buffer.last().unwrap().batch_id;
    consumer.ack(buffer).await;
    let deadline = Instant::now() + DEADLINE;
    loop {
        let got = client.get_subscription(timed(GetSubscriptionRequest { id: "sub".into() })).await.unwrap();
        if got.into_inner().offsets[0].batch_id == acknowledged {
            break;
        }
        assert!(Instant::now() < deadline, "the acknowledgements arrive");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    node.stop().await;
    let end = consumer.end().await.unwrap_err();
    // Every other status makes the consumer fail for good.
    assert_eq!(end.code(), Code::Unavailable, "{end}");

    let config = NodeConfig { port, data_dir: dir.path().to_owned(), ..NodeConfig::default() };
    let node = TestNode::start_with(config).await;
    let mut client = connect_as(port, AGENT).await;
    let mut consumer = start_consumer(&mut client, "sub", "java").await;
    for number in 100..200 {
        assert_eq!(consumer.take().await, [number.to_string()]);
    }
    // `stopAsync` cancels: the name is free and the consumer is not listed any more.
    drop(consumer);
    wait_for_consumers(&mut client, "sub", &[]).await;
    start_consumer(&mut client, "sub", "java").await.finish().await;
    node.stop().await;
}

#[tokio::test]
async fn get_subscription_shows_progress_at_the_owner() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(dir.path()).await;
    let mut client = connect_as(node.node.address().port(), AGENT).await;
    client.create_stream(timed(stream("s", 1))).await.unwrap();
    client.create_subscription(timed(subscription("sub", "s", 600))).await.unwrap();
    let id = write(&mut client, "s", "", "x").await;
    let mut consumer = start_consumer(&mut client, "sub", "c").await;
    consumer.take().await;
    consumer.finish().await;
    let got = client.get_subscription(timed(GetSubscriptionRequest { id: "sub".into() })).await.unwrap();
    let offsets = got.into_inner().offsets;
    let [shard, batch, _] = signed(&id);
    assert_eq!(offsets, [SubscriptionOffset { shard_id: shard as u64, batch_id: batch as u64 }]);
    node.stop().await;
}

#[tokio::test]
async fn its_key_reader_asks_for_one_record_at_a_time_until_the_server_ends() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(dir.path()).await;
    let mut client = connect_as(node.node.address().port(), AGENT).await;
    client.create_stream(timed(stream("s", 3))).await.unwrap();
    for number in 0..20 {
        write(&mut client, "s", if number % 2 == 0 { "k" } else { "other" }, &number.to_string()).await;
    }
    client.lookup_key(timed(LookupKeyRequest { partition_key: "k".into() })).await.unwrap();
    let (requests, receiver) = mpsc::channel(200);
    let first = ReadStreamByKeyRequest {
        reader_id: "java".into(),
        stream_name: "s".into(),
        key: "k".into(),
        from: special(SpecialOffset::Earliest),
        until: special(SpecialOffset::Latest),
        read_record_count: 3,
    };
    requests.send(first).await.unwrap();
    let mut answer = client.read_stream_by_key(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let mut received = Vec::new();
    while let Some(message) = answer.message().await.unwrap() {
        for record in message.received_records {
            received.push(String::from_utf8(record.payload.to_vec()).unwrap());
            let more = ReadStreamByKeyRequest { read_record_count: 1, ..Default::default() };
            // The call may be over by now, which is no error to it.
            let _ = requests.send(more).await;
        }
    }
    let expected: Vec<String> = (0..20).step_by(2).map(|number| number.to_string()).collect();
    assert_eq!(received, expected);
    node.stop().await;
}

#[tokio::test]
async fn its_streaming_shard_reader_looks_up_a_random_id_and_names_no_stream() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(dir.path()).await;
    let mut client = connect_as(node.node.address().port(), AGENT).await;
    client.create_stream(timed(stream("s", 1))).await.unwrap();
    let id = write(&mut client, "s", "", "a").await;
    let reader_id = "8a6f3c8e-2f7f-4d0c-9d5e-0d5a3e1b7c11";
    let lookup = LookupShardReaderRequest { reader_id: reader_id.into() };
    client.lookup_shard_reader(timed(lookup)).await.unwrap();
    let request = ReadShardStreamRequest {
        reader_id: reader_id.into(),
        shard_id: signed(&id)[0] as u64,
        from: special(SpecialOffset::Earliest),
        until: special(SpecialOffset::Latest),
        ..Default::default()
    };
    let mut answer = client.read_shard_stream(request).await.unwrap().into_inner();
    assert_eq!(payloads(&answer.message().await.unwrap().unwrap().received_records), ["a"]);
    assert_eq!(answer.message().await.unwrap(), None);
    node.stop().await;
}
