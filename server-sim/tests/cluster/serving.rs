//! What clients have of several nodes.

use crate::support::{DEADLINE, append, cluster, wires};
use hstreamdb::{Client, Record, StreamOptions};
use hstreamdb_proto::api::*;
use std::collections::HashSet;
use std::time::Duration;
use tonic::Code;

#[tokio::test]
async fn what_is_created_on_one_node_is_there_on_all_others_at_once() {
    let cluster = cluster(3).await;
    let mut wires = wires(&cluster).await;
    for creator in 0..3 {
        let name = format!("stream-{creator}");
        let stream =
            Stream { stream_name: name.clone(), replication_factor: 1, shard_count: 2, ..Default::default() };
        wires[creator].create_stream(stream.clone()).await.unwrap();
        for (node, wire) in wires.iter_mut().enumerate() {
            let request = ListShardsRequest { stream_name: name.clone() };
            let shards = wire.list_shards(request).await.unwrap_or_else(|error| {
                panic!("created on node {}, asked node {}: {error}", creator + 1, node + 1)
            });
            assert_eq!(shards.into_inner().shards.len(), 2);
            let again = wire.create_stream(stream.clone()).await.unwrap_err();
            assert_eq!(again.code(), Code::AlreadyExists, "{again}");
        }
        let deleter = (creator + 1) % 3;
        let request = DeleteStreamRequest { stream_name: name.clone(), ..Default::default() };
        wires[deleter].delete_stream(request).await.unwrap();
        for wire in &mut wires {
            let request = GetStreamRequest { name: name.clone() };
            let gone = wire.get_stream(request).await.unwrap_err();
            assert_eq!(gone.code(), Code::NotFound, "{gone}");
        }
    }
}

#[tokio::test]
async fn records_are_appended_and_read_through_any_node() {
    let cluster = cluster(3).await;
    let mut wires = wires(&cluster).await;
    let stream =
        Stream { stream_name: "s".into(), replication_factor: 1, shard_count: 1, ..Default::default() };
    wires[0].create_stream(stream).await.unwrap();
    let request = ListShardsRequest { stream_name: "s".into() };
    let shard = wires[0].list_shards(request).await.unwrap().into_inner().shards[0].shard_id;
    let mut ids = Vec::new();
    for turn in 0..9 {
        ids.push(append(&mut wires[turn % 3], shard, &format!("record {turn}")).await);
    }
    for (node, wire) in wires.iter_mut().enumerate() {
        let offset = |offset: SpecialOffset| {
            Some(ShardOffset { offset: Some(shard_offset::Offset::SpecialOffset(offset as i32)) })
        };
        let request = ReadShardStreamRequest {
            reader_id: format!("reader-{node}"),
            shard_id: shard,
            from: offset(SpecialOffset::Earliest),
            until: offset(SpecialOffset::Latest),
            ..Default::default()
        };
        let mut answers = wire.read_shard_stream(request).await.unwrap().into_inner();
        let mut read = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            read.extend(answer.received_records.into_iter().flat_map(|record| record.record_ids));
        }
        assert_eq!(read, ids, "in order, through node {}", node + 1);
    }
}

#[tokio::test]
async fn appends_go_on_while_every_node_in_turn_is_stopped_and_started() {
    let cluster = cluster(3).await;
    let client = Client::connect(&cluster.url()).await.unwrap();
    client.create_stream("s", StreamOptions::new().shard_count(3)).await.unwrap();
    let producer = client.producer("s").build().await.unwrap();
    let (progress, mut so_far) = tokio::sync::watch::channel(HashSet::new());
    let appending = tokio::spawn(async move {
        for number in 0_u64.. {
            let record = Record::raw(number.to_string()).with_key(number.to_string());
            let receipt = producer.append(record).await.expect("the producer takes it");
            let id = receipt.await.unwrap_or_else(|error| panic!("record {number}: {error}"));
            progress.send_modify(|ids| assert!(ids.insert(id), "record {number} has a place of its own"));
        }
    });
    for node in [1, 2, 3] {
        cluster.restart(node).await.unwrap();
        cluster.await_ready(DEADLINE).await.unwrap();
        let wanted = so_far.borrow().len() + 5;
        tokio::time::timeout(DEADLINE, so_far.wait_for(|ids| ids.len() >= wanted))
            .await
            .expect("appends go on")
            .expect("none fails");
    }
    appending.abort();
    client.close(Duration::from_secs(10)).await.unwrap();
}
