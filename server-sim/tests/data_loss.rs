//! How each way of reading tells of acknowledged records that the disk has lost.

mod support;

use hstream_server::node::NodeConfig;
use hstreamdb_proto::api::*;
use hstreamdb_proto::metadata::{GAP_LOST, GAP_TRIMMED, READ_GAPS};
use support::fetch::{attach, subscribe};
use support::*;
use tonic::Code;

const BATCHES: usize = 20;

/// A node on a log of one shard with one batch damaged; the shard, and the payloads that are left.
async fn damaged(dir: &std::path::Path) -> (TestNode, u64, Vec<String>) {
    let mut node = TestNode::start(dir).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    subscribe(&mut node.client, "sub", "s").await;
    let reader = CreateShardReaderRequest {
        stream_name: "s".into(),
        shard_id: shard,
        shard_offset: special(SpecialOffset::Earliest),
        reader_id: "r".into(),
        timeout: 0,
    };
    node.client.create_shard_reader(reader).await.unwrap();
    for number in 0..BATCHES {
        append(&mut node.client, shard, &format!("{number:01000}")).await;
    }
    node.stop().await;
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let log = entries.into_iter().find(|path| path.extension().is_some_and(|ext| ext == "log")).unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.windows(1000).position(|window| window == format!("{:01000}", BATCHES / 2).as_bytes());
    bytes[middle.unwrap() + 500] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    let config =
        NodeConfig { port: 0, data_dir: dir.to_owned(), serve_damaged_log: true, ..NodeConfig::default() };
    let left = (0..BATCHES).filter(|number| *number != BATCHES / 2).map(|n| format!("{n:01000}")).collect();
    (TestNode::start_with(config).await, shard, left)
}

#[tokio::test]
async fn a_polled_reader_is_told_once_and_goes_on_behind_the_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, _, left) = damaged(dir.path()).await;
    let mut received = Vec::new();
    let mut told = Vec::new();
    loop {
        let poll = ReadShardRequest { reader_id: "r".into(), max_records: 3 };
        match node.client.read_shard(poll).await {
            Ok(answer) => {
                let records = answer.into_inner().received_records;
                if records.is_empty() {
                    break;
                }
                received.extend(payloads(&records));
            }
            // Published clients take this one for an empty read and poll again.
            Err(status) => told.push((received.len(), refusal(Err::<(), _>(status)))),
        }
    }
    assert_eq!(received, left);
    let [(before, (code, Some((number, class, _))))] = &told[..] else { panic!("{told:?}") };
    assert_eq!(
        (*before, *code, *number, class.as_str()),
        (BATCHES / 2, Code::DataLoss, 903, "DataLossGapError")
    );
    node.stop().await;
}

#[tokio::test]
async fn streaming_reads_and_reads_by_key_pass_over_the_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, shard, left) = damaged(dir.path()).await;
    assert_eq!(payloads(&read_all(&mut node.client, shard).await), left);
    let request =
        ReadStreamByKeyRequest { stream_name: "s".into(), read_record_count: 100, ..Default::default() };
    let mut answer =
        node.client.read_stream_by_key(tokio_stream::iter([request])).await.unwrap().into_inner();
    let mut received = Vec::new();
    while let Some(message) = answer.message().await.unwrap() {
        received.extend(message.received_records.into_iter().map(|record| record.payload));
    }
    assert_eq!(received, left);
    node.stop().await;
}

/// The request, asking to be told of gaps.
fn asking<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert(READ_GAPS, tonic::metadata::MetadataValue::from_static("1"));
    request
}

#[tokio::test]
async fn a_streamed_read_that_asks_is_told_what_is_lost_and_what_was_trimmed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, shard, left) = damaged(dir.path()).await;
    let client = &mut node.client;
    let from = |batch_id| {
        let id = RecordId { shard_id: shard, batch_id, batch_index: 0 };
        Some(ShardOffset { offset: Some(shard_offset::Offset::RecordOffset(id)) })
    };
    let tail = GetTailRecordIdRequest { shard_id: shard, ..Default::default() };
    let tail = client.get_tail_record_id(tail).await.unwrap().into_inner().tail_record_id.unwrap().batch_id;
    let first = tail + 1 - BATCHES as u64;
    let trim = TrimShardRequest { shard_id: shard, trim_point: from(first + 3), ..Default::default() };
    client.trim_shard(trim).await.unwrap();
    let lost = first + BATCHES as u64 / 2;

    let until = special(SpecialOffset::Latest);
    let read = ReadShardStreamRequest { shard_id: shard, from: from(first + 1), until, ..Default::default() };
    let answer = client.read_shard_stream(asking(read)).await.unwrap();
    assert_eq!(answer.metadata().get(READ_GAPS).unwrap(), "1");
    let mut answer = answer.into_inner();
    let (mut told, mut received) = (Vec::new(), Vec::new());
    while let Some(message) = answer.message().await.unwrap() {
        let (gaps, batches): (Vec<_>, Vec<_>) =
            message.received_records.into_iter().partition(|received| received.record.is_none());
        received.extend(payloads(&batches));
        let known = received.len();
        told.extend(gaps.into_iter().map(|gap| (known, gap.record_ids)));
    }
    let id = |batch_id, batch_index| RecordId { shard_id: shard, batch_id, batch_index };
    let trimmed = first + BATCHES as u64 - 1 - received.len() as u64 - 1;
    assert!(received.len() >= BATCHES - 5, "a few were trimmed, one is lost");
    assert_eq!(received, left[left.len() - received.len()..]);
    let before = (lost - trimmed - 1) as usize;
    assert_eq!(
        told,
        [
            (0, vec![id(first + 1, GAP_TRIMMED), id(trimmed, 0)]),
            (before, vec![id(lost, GAP_LOST), id(lost, 0)])
        ]
    );

    let request =
        ReadStreamByKeyRequest { stream_name: "s".into(), read_record_count: 100, ..Default::default() };
    let request = asking(tokio_stream::iter([request]));
    let mut answer = client.read_stream_by_key(request).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(message) = answer.message().await.unwrap() {
        if message.received_records.is_empty() {
            told.push(message.record_ids);
        }
    }
    assert_eq!(told[1..], [vec![id(lost, GAP_LOST), id(lost, 0)]]);
    assert_eq!(told[0][1], id(trimmed, 0));
    node.stop().await;
}

#[tokio::test]
async fn to_a_subscription_the_gap_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, shard, left) = damaged(dir.path()).await;
    let client = &mut node.client;
    let mut consumer = attach(client, "sub", "c").await;
    let mut received = Vec::new();
    while received.len() < left.len() {
        received.extend(consumer.take().await);
    }
    assert_eq!(received, left);
    consumer.finish().await;
    let tail = client.get_tail_record_id(GetTailRecordIdRequest { shard_id: shard, ..Default::default() });
    let batch_id = tail.await.unwrap().into_inner().tail_record_id.unwrap().batch_id;
    let got =
        client.get_subscription(GetSubscriptionRequest { id: "sub".into() }).await.unwrap().into_inner();
    assert_eq!(got.offsets, [SubscriptionOffset { shard_id: shard, batch_id }]);
    node.stop().await;
}
