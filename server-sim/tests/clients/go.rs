//! Package `hstream`: `authorization` whether or not anybody asked for it, no deadlines, no look at the JSON of
//! errors, as many record ids as `batchSize` in whatever arrives.

use crate::connect_as;
use crate::support::fetch::{attach, subscription};
use crate::support::*;
use hstreamdb_proto::api::*;
use hstreamdb_proto::compression::compress;
use tonic::{Code, Request};

/// The interceptor's doing.
fn authorized<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", "Basic aHN0cmVhbTpoc3RyZWFt".parse().unwrap());
    request
}

async fn start() -> (tempfile::TempDir, TestNode, Client) {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(dir.path()).await;
    let client = connect_as(node.node.address().port(), "grpc-go/1.59.0").await;
    (dir, node, client)
}

/// With its defaults: three replicas and a week.
async fn create_stream(client: &mut Client, name: &str, shard_count: u32) -> Vec<u64> {
    let definition = Stream { replication_factor: 3, backlog_duration: 604_800, ..stream(name, shard_count) };
    client.create_stream(authorized(definition)).await.unwrap();
    shards(client, name).await
}

fn assert_counts_agree(received: &ReceivedRecord) {
    let record = received.record.as_ref().unwrap();
    assert_eq!(received.record_ids.len(), record.batch_size as usize);
}

#[tokio::test]
async fn its_calls_are_answered_with_a_token_nobody_asked_for() {
    let (_dir, node, mut client) = start().await;
    create_stream(&mut client, "s", 1).await;
    // `GetServerInfo`, every thirty seconds; it joins host and port.
    let cluster = client.describe_cluster(authorized(())).await.unwrap().into_inner();
    assert!(cluster.server_nodes.iter().all(|node| !node.host.is_empty() && node.port > 0));
    let listed = client.list_streams(authorized(ListStreamsRequest {})).await.unwrap().into_inner();
    assert_eq!(listed.streams[0].replication_factor, 3);
    client.create_subscription(authorized(subscription("sub", "s", 600))).await.unwrap();
    let request = CheckSubscriptionExistRequest { subscription_id: "sub".into() };
    assert!(client.check_subscription_exist(authorized(request)).await.unwrap().into_inner().exists);
    let command = AdminCommandRequest { command: "server status".into() };
    let table = client.send_admin_command(authorized(command)).await.unwrap().into_inner().result;
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    assert_eq!(table["type"], "table");
    assert_eq!(table["content"]["headers"].as_array().unwrap().len(), 3);
    let stat = stat_type::Stat::StreamStat(StreamStats::AppendTotal as i32);
    let request = GetStatsRequest { stats: vec![StatType { stat: Some(stat) }] };
    let stats = client.get_stats(authorized(request)).await.unwrap().into_inner();
    assert_eq!((stats.stats_values.len(), stats.errors.len()), (1, 0));
    assert_eq!(stats.stats_values[0].stat_type, Some(StatType { stat: Some(stat) }));
    node.stop().await;
}

#[tokio::test]
async fn deletions_after_a_forced_one_are_all_forced() {
    // Its options are variables of the package.
    let (_dir, node, mut client) = start().await;
    create_stream(&mut client, "s", 1).await;
    let delete = DeleteStreamRequest { stream_name: "s".into(), ignore_non_exist: true, force: true };
    for _ in 0..2 {
        client.delete_stream(authorized(delete.clone())).await.unwrap();
    }
    node.stop().await;
}

#[tokio::test]
async fn every_message_has_as_many_ids_as_its_batch_claims_records_also_when_it_comes_again() {
    let (_dir, node, mut client) = start().await;
    let shard = create_stream(&mut client, "s", 1).await[0];
    client.create_subscription(authorized(subscription("sub", "s", 1))).await.unwrap();
    // Its gzip is flushed and never closed: no final block, no checksum, no length.
    let mut records = batch((0..4).map(|number| record("k", &number.to_string())).collect());
    let closed = compress(CompressionType::Gzip, None, records.payload).unwrap();
    records.compression_type = CompressionType::Gzip as i32;
    records.payload = closed.slice(..closed.len() - 8);
    client.append(authorized(append_request(shard, records))).await.unwrap();
    let mut consumer = attach(&client, "sub", "go").await;
    let first = consumer.next().await;
    assert_counts_agree(&first);
    // Its stop path acknowledges ids that are blank.
    let blank = RecordId::default();
    consumer.ack(vec![first.record_ids[1], blank, blank]).await;
    let again = consumer.next().await;
    assert_counts_agree(&again);
    assert_eq!(again.record_ids.len(), 3);
    consumer.ack(again.record_ids).await;
    consumer.finish().await;
    for received in read_all(&mut client, shard).await {
        assert_counts_agree(&received);
    }
    node.stop().await;
}

#[tokio::test]
async fn its_shard_reader_prefetches_batch_by_batch_and_takes_a_missing_reader_for_another_node() {
    let (_dir, node, mut client) = start().await;
    let shard = create_stream(&mut client, "s", 1).await[0];
    for number in 0..3 {
        append(&mut client, shard, &number.to_string()).await;
    }
    let request = CreateShardReaderRequest {
        stream_name: "s".into(),
        shard_id: shard,
        shard_offset: special(SpecialOffset::Earliest),
        reader_id: "go".into(),
        timeout: 0,
    };
    client.create_shard_reader(authorized(request)).await.unwrap();
    let lookup = LookupShardReaderRequest { reader_id: "go".into() };
    client.lookup_shard_reader(authorized(lookup.clone())).await.unwrap();
    let mut received = Vec::new();
    while received.len() < 3 {
        let request = ReadShardRequest { reader_id: "go".into(), max_records: 1 };
        let answer = client.read_shard(authorized(request)).await.unwrap().into_inner();
        assert!(answer.received_records.len() <= 1);
        received.extend(payloads(&answer.received_records));
    }
    assert_eq!(received, ["0", "1", "2"]);
    // `DeleteShardReader` looks the shard up, not the reader.
    client.lookup_shard(authorized(LookupShardRequest { shard_id: shard })).await.unwrap();
    let request = DeleteShardReaderRequest { reader_id: "go".into() };
    client.delete_shard_reader(authorized(request)).await.unwrap();
    for _ in 0..2 {
        // FAILED_PRECONDITION makes it look up once more and try again, whatever the code is.
        let request = ReadShardRequest { reader_id: "go".into(), max_records: 1 };
        let refused = client.read_shard(authorized(request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        client.lookup_shard_reader(authorized(lookup.clone())).await.unwrap();
    }
    node.stop().await;
}

#[tokio::test]
async fn read_stream_reads_as_many_batches_as_asked_for_over_all_shards() {
    let (_dir, node, mut client) = start().await;
    let ids = create_stream(&mut client, "s", 4).await;
    for shard in &ids {
        for _ in 0..5 {
            append(&mut client, *shard, "x").await;
        }
    }
    let reader_id = "random-reader".to_owned();
    let lookup = LookupShardReaderRequest { reader_id: reader_id.clone() };
    client.lookup_shard_reader(authorized(lookup)).await.unwrap();
    let whole = |special: SpecialOffset| {
        Some(StreamOffset { offset: Some(stream_offset::Offset::SpecialOffset(special as i32)) })
    };
    for (max_read_batches, expected) in [(0, 20), (7, 7), (100, 20)] {
        let request = ReadStreamRequest {
            reader_id: reader_id.clone(),
            stream_name: "s".into(),
            from: whole(SpecialOffset::Earliest),
            until: whole(SpecialOffset::Latest),
            max_read_batches,
        };
        let mut answer = client.read_stream(authorized(request)).await.unwrap().into_inner();
        let mut received = Vec::new();
        while let Some(message) = answer.message().await.unwrap() {
            received.extend(message.received_records);
        }
        assert_eq!(received.len(), expected);
        received.iter().for_each(assert_counts_agree);
        // Ids of one shard compare in the order in which they come.
        for shard in &ids {
            let of_shard: Vec<RecordId> =
                received.iter().map(|each| each.record_ids[0]).filter(|id| id.shard_id == *shard).collect();
            assert!(of_shard.is_sorted());
        }
    }
    node.stop().await;
}
