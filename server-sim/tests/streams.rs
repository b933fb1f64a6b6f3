//! Streams and shards over the wire.

mod support;

use hstreamdb_proto::api::*;
use serde_json::{Value, json};
use support::*;
use tonic::Code;

fn body(code: i32, class: &str, extra: Value) -> Option<(i32, String, Value)> {
    Some((code, class.to_owned(), extra))
}

#[tokio::test]
async fn a_stream_is_listed_until_it_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let created = client.create_stream(stream("orders", 3)).await.unwrap().into_inner();
    assert!(created.creation_time.is_some());
    client.create_stream(stream("other", 1)).await.unwrap();

    let got = client.get_stream(GetStreamRequest { name: "orders".into() }).await.unwrap().into_inner();
    assert_eq!(got.stream, Some(created.clone()));
    let listed = client.list_streams(ListStreamsRequest {}).await.unwrap().into_inner().streams;
    assert_eq!(listed.len(), 2);
    let prefix = ListStreamsWithPrefixRequest { prefix: "ord".into() };
    let listed = client.list_streams_with_prefix(prefix).await.unwrap().into_inner().streams;
    assert_eq!(listed, [created]);

    let delete = DeleteStreamRequest { stream_name: "orders".into(), ..Default::default() };
    client.delete_stream(delete.clone()).await.unwrap();
    let missing = body(200, "StreamNotFound", json!("orders"));
    assert_eq!(refusal(client.delete_stream(delete.clone()).await), (Code::NotFound, missing));
    client.delete_stream(DeleteStreamRequest { ignore_non_exist: true, ..delete }).await.unwrap();
    let listed = client.list_streams(ListStreamsRequest {}).await.unwrap().into_inner().streams;
    assert_eq!(listed.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn shards_cover_the_key_space_and_are_listed_in_text_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    node.client.create_stream(stream("s", 4)).await.unwrap();
    let request = ListShardsRequest { stream_name: "s".into() };
    let listed = node.client.list_shards(request).await.unwrap().into_inner().shards;
    let width = u128::MAX / 4;
    let starts: Vec<u128> = listed.iter().map(|s| s.start_hash_range_key.parse().unwrap()).collect();
    assert_eq!(starts, [0, 2 * width, 3 * width, width].map(|start| start));
    assert!(listed.iter().all(|shard| shard.epoch == 4 && shard.is_active && shard.stream_name == "s"));
    assert!(listed.iter().all(|shard| shard.shard_id > 0 && i64::try_from(shard.shard_id).is_ok()));
    node.stop().await;
}

#[tokio::test]
async fn of_two_creators_exactly_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(dir.path()).await;
    let creators = (0..16).map(|_| {
        let mut client = node.client.clone();
        async move { client.create_stream(stream("contested", 2)).await }
    });
    let outcomes = futures::future::join_all(creators).await;
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for outcome in lost {
        let exists = body(201, "StreamExists", json!("contested"));
        assert_eq!(refusal(outcome), (Code::AlreadyExists, exists));
    }
    node.stop().await;
}

#[tokio::test]
async fn a_name_used_again_is_another_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let old = create(client, "again", 1).await[0];
    append(client, old, "old").await;
    let delete = DeleteStreamRequest { stream_name: "again".into(), ..Default::default() };
    client.delete_stream(delete).await.unwrap();
    let new = create(client, "again", 1).await[0];
    assert_ne!(old, new);
    assert!(read_all(client, new).await.is_empty());
    let outcome = client.append(append_request(old, batch(vec![record("", "x")]))).await;
    assert_eq!(refusal(outcome), (Code::Unavailable, None));
    node.stop().await;
}

#[tokio::test]
async fn malformed_requests_are_refused_with_published_statuses_and_codes() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;

    let outcome = client.create_stream(stream("1st", 1)).await;
    let letter = json!("The first character of a name must be a letter");
    assert_eq!(refusal(outcome), (Code::InvalidArgument, body(204, "InvalidObjectIdentifier", letter)));
    let (code, text) =
        refusal(client.create_stream(Stream { replication_factor: 0, ..stream("s", 1) }).await);
    assert_eq!((code, text.unwrap().0), (Code::InvalidArgument, 203));
    for count in [0, u32::MAX] {
        let (code, text) = refusal(client.create_stream(stream("s", count)).await);
        assert_eq!((code, text.unwrap().0), (Code::InvalidArgument, 205), "{count}");
    }
    let prefix = ListStreamsWithPrefixRequest { prefix: String::new() };
    let (code, text) = refusal(client.list_streams_with_prefix(prefix).await);
    assert_eq!((code, text.unwrap().0), (Code::InvalidArgument, 204));
    // Published clients tell these by the absence of a JSON body.
    let outcome = client.list_shards(ListShardsRequest { stream_name: "none".into() }).await;
    assert_eq!(refusal(outcome), (Code::Unavailable, None));
    let tail = GetTailRecordIdRequest { stream_name: "none".into(), shard_id: 5 };
    let (code, text) = refusal(client.get_tail_record_id(tail).await);
    assert_eq!((code, text.unwrap().1.as_str()), (Code::NotFound, "ShardNotFound"));
    let (code, _) = refusal(client.pause_query(PauseQueryRequest { id: "q".into() }).await);
    assert_eq!(code, Code::Unimplemented);
    node.stop().await;
}

#[tokio::test]
async fn trims_remove_what_they_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    let mut ids = Vec::new();
    for payload in ["a", "b", "c", "d"] {
        ids.push(append(client, shard, payload).await);
    }
    // By record ids: the named batch stays.
    let request = TrimShardsRequest {
        stream_name: "s".into(),
        record_ids: vec![ids[1].to_string(), ids[2].to_string()],
    };
    let answer = client.trim_shards(request).await.unwrap().into_inner();
    assert_eq!(answer.trim_points[&shard], ids[1].to_string());
    assert_eq!(payloads(&read_all(client, shard).await), ["b", "c", "d"]);
    // By shard: the named batch goes.
    let request =
        TrimShardRequest { stream_name: String::new(), shard_id: shard, trim_point: at_record(ids[1]) };
    client.trim_shard(request).await.unwrap();
    assert_eq!(payloads(&read_all(client, shard).await), ["c", "d"]);
    // One malformed id, and nothing is trimmed.
    let record_ids = vec![ids[3].to_string(), "1-2".into()];
    let outcome = client.trim_shards(TrimShardsRequest { stream_name: "s".into(), record_ids }).await;
    assert_eq!(refusal(outcome), (Code::InvalidArgument, body(209, "InvalidRecordId", json!("1-2"))));
    assert_eq!(payloads(&read_all(client, shard).await), ["c", "d"]);
    let outcome = client.trim_stream(TrimStreamRequest { stream_name: "s".into(), trim_point: None }).await;
    assert_eq!(refusal(outcome).1.unwrap().0, 208);
    // Everything.
    let latest =
        StreamOffset { offset: Some(stream_offset::Offset::SpecialOffset(SpecialOffset::Latest as i32)) };
    let request = TrimStreamRequest { stream_name: "s".into(), trim_point: Some(latest) };
    client.trim_stream(request).await.unwrap();
    assert!(read_all(client, shard).await.is_empty());
    append(client, shard, "e").await;
    assert_eq!(payloads(&read_all(client, shard).await), ["e"]);
    node.stop().await;
}

#[tokio::test]
async fn the_cluster_is_this_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let answer = node.client.describe_cluster(()).await.unwrap();
    let capabilities = answer.metadata().get("x-hstream-capabilities").unwrap();
    assert_eq!(capabilities, "producer-sequence,ack-confirmation,subscription-policy");
    let cluster = answer.into_inner();
    assert_eq!(cluster.protocol_version, "0.1.0");
    let this = cluster.server_nodes[0].clone();
    assert_eq!(this.port, u32::from(node.node.address().port()));
    assert_eq!(cluster.server_nodes_status[0].state, NodeState::Running as i32);
    let lookup = LookupShardRequest { shard_id: 42 };
    let found = node.client.lookup_shard(lookup).await.unwrap().into_inner();
    assert_eq!((found.shard_id, found.server_node), (42, Some(this)));
    let outcome =
        node.client.lookup_resource(LookupResourceRequest { res_type: 99, res_id: "x".into() }).await;
    assert_eq!(refusal(outcome).0, Code::InvalidArgument);
    let status = AdminCommandRequest { command: "server status".into() };
    let table = node.client.send_admin_command(status).await.unwrap().into_inner().result;
    assert!(table.contains("Running"), "{table}");
    node.stop().await;
}
