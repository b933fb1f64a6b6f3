//! Polled readers.

use crate::support::*;
use hstreamdb_proto::api::*;
use hstreamdb_proto::error_body::ErrorBody;
use tonic::Code;

fn reader(shard: u64, id: &str, timeout: u32) -> CreateShardReaderRequest {
    CreateShardReaderRequest {
        stream_name: "s".into(),
        shard_id: shard,
        shard_offset: special(SpecialOffset::Earliest),
        reader_id: id.into(),
        timeout,
    }
}

async fn poll(client: &mut Client, id: &str, max_records: u32) -> Vec<String> {
    let request = ReadShardRequest { reader_id: id.into(), max_records };
    payloads(&client.read_shard(request).await.unwrap().into_inner().received_records)
}

#[tokio::test]
async fn surprise_36_is_fixed_positions_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    for number in 0..6 {
        append(&mut node.client, shard, &number.to_string()).await;
    }
    for id in ["a", "b", "idle"] {
        node.client.create_shard_reader(reader(shard, id, 0)).await.unwrap();
    }
    assert_eq!(poll(&mut node.client, "a", 2).await, ["0", "1"]);
    assert_eq!(poll(&mut node.client, "b", 1).await, ["0"]);
    assert_eq!(poll(&mut node.client, "b", 4).await, ["1", "2", "3", "4"]);
    node.stop().await;

    let mut node = TestNode::start(dir.path()).await;
    assert_eq!(poll(&mut node.client, "a", 2).await, ["2", "3"]);
    assert_eq!(poll(&mut node.client, "b", 2).await, ["5"]);
    assert_eq!(poll(&mut node.client, "idle", 1).await, ["0"]);
    // A new reader under an old name is a new reader, also after a restart.
    let delete = DeleteShardReaderRequest { reader_id: "a".into() };
    node.client.delete_shard_reader(delete).await.unwrap();
    node.client.create_shard_reader(reader(shard, "a", 0)).await.unwrap();
    node.stop().await;
    let mut node = TestNode::start(dir.path()).await;
    assert_eq!(poll(&mut node.client, "a", 1).await, ["0"]);
    node.stop().await;
}

#[tokio::test]
async fn readers_are_checked_in_the_published_order_and_echoed() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    let id = append(client, shard, "x").await;
    let request = reader(shard, "r", 17);
    let created = client.create_shard_reader(request.clone()).await.unwrap().into_inner();
    assert_eq!(created.stream_name, request.stream_name);
    assert_eq!(created.shard_id, request.shard_id);
    assert_eq!(created.shard_offset, request.shard_offset);
    assert_eq!(created.reader_id, request.reader_id);
    assert_eq!(created.timeout, request.timeout);
    let elsewhere = at_record(RecordId { shard_id: shard + 1, ..id });
    for (request, status, code) in [
        (
            CreateShardReaderRequest {
                reader_id: "1".into(),
                stream_name: "1".into(),
                shard_offset: None,
                ..reader(1, "", 0)
            },
            Code::InvalidArgument,
            900,
        ),
        (
            CreateShardReaderRequest { stream_name: "1".into(), shard_offset: None, ..reader(1, "r", 0) },
            Code::InvalidArgument,
            204,
        ),
        (CreateShardReaderRequest { shard_offset: None, ..reader(1, "r", 0) }, Code::InvalidArgument, 208),
        (
            CreateShardReaderRequest {
                shard_offset: Some(ShardOffset { offset: None }),
                ..reader(1, "r", 0)
            },
            Code::InvalidArgument,
            208,
        ),
        (reader(1, "r", 0), Code::AlreadyExists, 0),
        (reader(1, "new", 0), Code::NotFound, 0),
        (
            CreateShardReaderRequest { shard_offset: elsewhere, ..reader(shard, "new", 0) },
            Code::InvalidArgument,
            901,
        ),
    ] {
        let (got, body) = refusal(client.create_shard_reader(request).await);
        assert_eq!((got, body.unwrap().0), (status, code));
    }
    // The stream's name is not held against the shard.
    let request = CreateShardReaderRequest { stream_name: "none".into(), ..reader(shard, "free", 0) };
    client.create_shard_reader(request).await.unwrap();
    let mut listed =
        client.list_shard_readers(ListShardReadersRequest {}).await.unwrap().into_inner().reader_id;
    listed.sort();
    assert_eq!(listed, ["free", "r"]);
    node.stop().await;
}

#[tokio::test]
async fn a_reader_whose_shard_is_gone_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    client.create_shard_reader(reader(shard, "waits", 60_000)).await.unwrap();
    client.create_shard_reader(reader(shard, "late", 0)).await.unwrap();
    let waiting = {
        let mut client = client.clone();
        tokio::spawn(async move {
            client.read_shard(ReadShardRequest { reader_id: "waits".into(), max_records: 1 }).await
        })
    };
    // Until the poll is being served: a second one of the same reader has to wait behind it.
    tokio::task::yield_now().await;
    let delete = DeleteStreamRequest { stream_name: "s".into(), ..Default::default() };
    client.delete_stream(delete).await.unwrap();
    let ended = tokio::time::timeout(DEADLINE, waiting).await.expect("the poll ends").unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::NotFound, "{ended}");
    let request = ReadShardRequest { reader_id: "late".into(), max_records: 1 };
    let late = client.read_shard(request).await.unwrap_err();
    assert_eq!(late.code(), Code::NotFound);
    assert_eq!(ErrorBody::parse(late.message()).unwrap().message, "ShardNotFound");
    // It can still be deleted.
    let delete = DeleteShardReaderRequest { reader_id: "late".into() };
    client.delete_shard_reader(delete).await.unwrap();
    node.stop().await;
}
