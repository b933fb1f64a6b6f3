//! How errors look on the wire.

use crate::support::fetch::{self, attach, subscribe};
use crate::support::*;
use hstreamdb_proto::api::*;
use hstreamdb_proto::error_body::ErrorBody;
use serde_json::json;
use tonic::{Code, Status};

fn assert_only_status_and_message(status: &Status) {
    assert!(status.details().is_empty(), "{status:?}");
    let trailers: Vec<_> = status.metadata().keys().map(|key| format!("{key:?}")).collect();
    assert!(trailers.iter().all(|key| !key.contains("hstream") && !key.contains("-bin")), "{trailers:?}");
}

#[tokio::test]
async fn surprise_01_details_are_json_in_the_message_and_plain_text_is_part_of_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let missing = node.client.get_stream(GetStreamRequest { name: "none".into() }).await.unwrap_err();
    assert_only_status_and_message(&missing);
    assert_eq!(missing.message(), r#"{"error":200,"extra":"none","message":"StreamNotFound"}"#);

    let request = ListShardsRequest { stream_name: "none".into() };
    let missing = node.client.list_shards(request).await.unwrap_err();
    assert_only_status_and_message(&missing);
    assert_eq!(missing.code(), Code::Unavailable);
    assert_eq!(ErrorBody::parse(missing.message()), None, "{}", missing.message());
    node.stop().await;
}

#[tokio::test]
async fn surprise_02_missing_views_have_the_code_of_queries_and_existing_consumers_and_readers_have_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let view = LookupResourceRequest { res_type: ResourceType::ResView as i32, res_id: "v".into() };
    let (code, body) = refusal(client.lookup_resource(view).await);
    assert_eq!((code, body), (Code::NotFound, Some((400, "ViewNotFound".into(), json!("v")))));

    let shard = create(client, "s", 1).await[0];
    subscribe(client, "sub", "s").await;
    let consumer = attach(client, "sub", "twin").await;
    fetch::wait_for_consumers(client, "sub", &["twin"]).await;
    let (code, body) = refusal(Err::<(), _>(fetch::refused(client, "sub", "twin").await));
    assert_eq!((code, body), (Code::AlreadyExists, Some((0, "ConsumerExists".into(), json!("twin")))));
    consumer.finish().await;

    let reader = CreateShardReaderRequest {
        stream_name: "s".into(),
        shard_id: shard,
        shard_offset: special(SpecialOffset::Earliest),
        reader_id: "reader".into(),
        timeout: 0,
    };
    client.create_shard_reader(reader.clone()).await.unwrap();
    // Said before anything else that is wrong with the request but its names.
    for again in [reader.clone(), CreateShardReaderRequest { shard_id: 1, ..reader }] {
        let (code, body) = refusal(client.create_shard_reader(again).await);
        let (number, class, extra) = body.unwrap();
        assert_eq!((code, number, class.as_str()), (Code::AlreadyExists, 0, "ShardReaderExists"));
        assert!(extra.as_str().unwrap().contains("reader"), "{extra}");
    }
    node.stop().await;
}

#[tokio::test]
async fn surprise_35_deleting_an_unknown_reader_is_a_failed_precondition_without_code() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let missing = || Some((0, "EmptyShardReader".to_owned(), json!("ShardReaderNotExists")));
    let request = DeleteShardReaderRequest { reader_id: "none".into() };
    assert_eq!(refusal(client.delete_shard_reader(request).await), (Code::FailedPrecondition, missing()));
    let request = ReadShardRequest { reader_id: "none".into(), max_records: 1 };
    assert_eq!(refusal(client.read_shard(request).await), (Code::FailedPrecondition, missing()));
    let request = DeleteShardReaderRequest { reader_id: "1st".into() };
    let (code, body) = refusal(client.delete_shard_reader(request).await);
    assert_eq!((code, body.unwrap().0), (Code::InvalidArgument, 900));
    node.stop().await;
}

#[tokio::test]
async fn surprise_30_pausing_queries_and_the_schema_calls_are_unimplemented() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let unimplemented = Code::Unimplemented;
    let id = || "x".to_owned();
    assert_eq!(client.pause_query(PauseQueryRequest { id: id() }).await.unwrap_err().code(), unimplemented);
    assert_eq!(client.register_schema(Schema::default()).await.unwrap_err().code(), unimplemented);
    assert_eq!(client.get_schema(GetSchemaRequest { owner: id() }).await.unwrap_err().code(), unimplemented);
    let unregister = UnregisterSchemaRequest { owner: id() };
    assert_eq!(client.unregister_schema(unregister).await.unwrap_err().code(), unimplemented);
    node.stop().await;
}
