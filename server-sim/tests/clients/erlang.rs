//! `hstreamdb_erl` 0.5: user and password as `authorization`, `Echo` as sign of life, errors of reads by key in
//! the trailers of a call that has begun.

use crate::connect_as;
use crate::support::*;
use hstreamdb_proto::api::*;
use hstreamdb_proto::error_body::ErrorBody;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

/// `Basic base64(user:password)` on every call.
fn signed_in<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", "Basic dXNlcjpwYXNzd29yZA==".parse().unwrap());
    request
}

async fn start() -> (tempfile::TempDir, TestNode, Client) {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(dir.path()).await;
    let client = connect_as(node.node.address().port(), "grpc-erlang/0.1.0").await;
    (dir, node, client)
}

#[tokio::test]
async fn it_connects_finds_its_shards_and_appends() {
    let (_dir, node, mut client) = start().await;
    let port = u32::from(node.node.address().port());
    let echo = client.echo(signed_in(EchoRequest { msg: "elixir-ping".into() })).await.unwrap();
    assert_eq!(echo.into_inner().msg, "elixir-ping");
    client.create_stream(signed_in(stream("s", 4))).await.unwrap();
    for shard in shards(&mut client, "s").await {
        // Either way of finding the node, both by the text or number of the shard's id.
        let request =
            LookupResourceRequest { res_type: ResourceType::ResShard as i32, res_id: shard.to_string() };
        let found = client.lookup_resource(signed_in(request)).await.unwrap().into_inner();
        assert_eq!((found.host.as_str(), found.port), ("127.0.0.1", port));
        let found = client.lookup_shard(signed_in(LookupShardRequest { shard_id: shard })).await.unwrap();
        assert_eq!(found.into_inner().server_node.unwrap().port, port);
        let request = append_request(shard, batch(vec![record("k", "1"), record("k", "2")]));
        let answer = client.append(signed_in(request)).await.unwrap().into_inner();
        assert_eq!(answer.record_ids.len(), 2);
    }
    let found = client.lookup_key(signed_in(LookupKeyRequest { partition_key: "k".into() })).await.unwrap();
    assert_eq!(found.into_inner().port, port);
    // `delete_stream/2` ignores what is missing and forces.
    let delete = DeleteStreamRequest { stream_name: "s".into(), ignore_non_exist: true, force: true };
    for _ in 0..2 {
        client.delete_stream(signed_in(delete.clone())).await.unwrap();
    }
    // Transient to it: it retries and discovers anew.
    let request = ListShardsRequest { stream_name: "s".into() };
    assert_eq!(client.list_shards(signed_in(request)).await.unwrap_err().code(), Code::Unavailable);
    node.stop().await;
}

#[tokio::test]
async fn its_fold_over_a_key_ends_with_a_request_for_nothing() {
    let (_dir, node, mut client) = start().await;
    client.create_stream(signed_in(stream("s", 1))).await.unwrap();
    let shard = shards(&mut client, "s").await[0];
    for number in 0..7 {
        let records = vec![record("k", &number.to_string()), record("other", "no")];
        client.append(signed_in(append_request(shard, batch(records)))).await.unwrap();
    }
    for step in [1, 3, 200] {
        let (requests, receiver) = mpsc::channel(16);
        let first = ReadStreamByKeyRequest {
            reader_id: "erlang".into(),
            stream_name: "s".into(),
            key: "k".into(),
            from: special(SpecialOffset::Earliest),
            until: special(SpecialOffset::Latest),
            read_record_count: step,
        };
        requests.send(first.clone()).await.unwrap();
        let call = signed_in(ReceiverStream::new(receiver));
        let mut answer = client.read_stream_by_key(call).await.unwrap().into_inner();
        let mut received = Vec::new();
        let mut owed = step;
        loop {
            let message = tokio::time::timeout(DEADLINE, answer.message()).await.expect("no hang").unwrap();
            let Some(message) = message else { break };
            owed -= message.record_ids.len() as u64;
            received.extend(message.received_records);
            if owed == 0 {
                owed = step;
                // The call may end by itself before this arrives.
                let _ =
                    requests.send(ReadStreamByKeyRequest { read_record_count: step, ..first.clone() }).await;
            }
        }
        let _ = requests.send(ReadStreamByKeyRequest { read_record_count: 0, ..first }).await;
        let received: Vec<_> = received.into_iter().map(|record| record.payload).collect();
        assert_eq!(received, ["0", "1", "2", "3", "4", "5", "6"], "in steps of {step}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_record_of_another_shard_is_a_shard_mismatch_in_the_trailers() {
    let (_dir, node, mut client) = start().await;
    client.create_stream(signed_in(stream("s", 2))).await.unwrap();
    let ids = shards(&mut client, "s").await;
    let mut records = Vec::new();
    for shard in &ids {
        records.push(append(&mut client, *shard, "x").await);
    }
    let mut mismatches = 0;
    for record in records {
        for (from, until) in [(at_record(record), None), (None, at_record(record))] {
            let request = ReadStreamByKeyRequest {
                stream_name: "s".into(),
                key: "k".into(),
                from,
                until,
                read_record_count: 1,
                ..Default::default()
            };
            // The call itself begins: headers first, the error at its end.
            let call = client.read_stream_by_key(signed_in(tokio_stream::iter([request]))).await;
            if let Err(status) = call.expect("the call begins").into_inner().message().await {
                let body = ErrorBody::parse(status.message()).expect("a JSON text");
                assert_eq!((status.code(), body.error), (Code::InvalidArgument, 901));
                let extra = body.extra.as_str().unwrap().to_owned();
                assert!(ids.iter().all(|shard| extra.contains(&shard.to_string())), "{extra}");
                mismatches += 1;
            }
        }
    }
    assert_eq!(mismatches, 2, "one of the two shards is the key's");
    node.stop().await;
}

#[tokio::test]
async fn its_trim_by_record_ids_returns_the_points_by_shard() {
    let (_dir, node, mut client) = start().await;
    client.create_stream(signed_in(stream("s", 2))).await.unwrap();
    let mut points = std::collections::HashMap::new();
    for shard in shards(&mut client, "s").await {
        append(&mut client, shard, "old").await;
        points.insert(shard, append(&mut client, shard, "kept").await.to_string());
    }
    let request =
        TrimShardsRequest { stream_name: "s".into(), record_ids: points.values().cloned().collect() };
    let answer = client.trim_shards(signed_in(request)).await.unwrap().into_inner();
    assert_eq!(answer.trim_points, points);
    for shard in points.into_keys() {
        assert_eq!(payloads(&read_all(&mut client, shard).await), ["kept"]);
    }
    node.stop().await;
}
