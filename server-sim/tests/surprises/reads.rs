//! Offsets and reads.

use crate::support::*;
use hstreamdb_proto::api::*;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

async fn next<T>(answer: &mut Streaming<T>) -> Option<T> {
    tokio::time::timeout(DEADLINE, answer.message()).await.expect("no hang").expect("no error")
}

async fn silent<T: std::fmt::Debug>(answer: &mut Streaming<T>) {
    let moment = tokio::time::timeout(Duration::from_millis(150), answer.message()).await;
    assert!(moment.is_err(), "{moment:?}");
}

fn whole(offset: SpecialOffset) -> Option<StreamOffset> {
    Some(StreamOffset { offset: Some(stream_offset::Offset::SpecialOffset(offset as i32)) })
}

fn at_time(ms: i64) -> Option<ShardOffset> {
    let time = TimestampOffset { timestamp_in_ms: ms, strict_accuracy: true };
    Some(ShardOffset { offset: Some(shard_offset::Offset::TimestampOffset(time)) })
}

fn by_key(key: &str, read_record_count: u64) -> ReadStreamByKeyRequest {
    ReadStreamByKeyRequest {
        stream_name: "s".into(),
        key: key.into(),
        read_record_count,
        ..Default::default()
    }
}

/// Two records per batch: a batch is not a record.
async fn append_pair(client: &mut Client, shard: u64, number: usize) -> Vec<RecordId> {
    let records = vec![record("", &format!("{number}a")), record("", &format!("{number}b"))];
    client.append(append_request(shard, batch(records))).await.unwrap().into_inner().record_ids
}

#[tokio::test]
async fn surprise_08_limits_of_reads_count_batches() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    for number in 0..5 {
        append_pair(client, shard, number).await;
    }
    let expected = ["0a", "0b", "1a", "1b", "2a", "2b"];
    let earliest = special(SpecialOffset::Earliest);

    let request =
        ReadShardStreamRequest { shard_id: shard, from: earliest, max_read_batches: 3, ..Default::default() };
    let mut answer = client.read_shard_stream(request).await.unwrap().into_inner();
    let mut received = Vec::new();
    while let Some(message) = next(&mut answer).await {
        received.extend(payloads(&message.received_records));
    }
    assert_eq!(received, expected);

    let request = ReadStreamRequest {
        stream_name: "s".into(),
        from: whole(SpecialOffset::Earliest),
        max_read_batches: 3,
        ..Default::default()
    };
    let mut answer = client.read_stream(request).await.unwrap().into_inner();
    let mut received = Vec::new();
    while let Some(message) = next(&mut answer).await {
        received.extend(payloads(&message.received_records));
    }
    assert_eq!(received, expected);

    let request = CreateShardReaderRequest {
        stream_name: "s".into(),
        shard_id: shard,
        shard_offset: earliest,
        reader_id: "r".into(),
        timeout: 0,
    };
    client.create_shard_reader(request).await.unwrap();
    let poll = ReadShardRequest { reader_id: "r".into(), max_records: 3 };
    let received = client.read_shard(poll).await.unwrap().into_inner().received_records;
    assert_eq!((received.len(), payloads(&received)), (3, expected.map(str::to_owned).to_vec()));
    node.stop().await;
}

#[tokio::test]
async fn surprise_09_record_offsets_select_whole_batches() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(append_pair(client, shard, number).await);
    }
    // The second record as start, the first as end, and an index no batch has.
    let far = RecordId { batch_index: u32::MAX, ..ids[2][0] };
    for (from, until, expected) in [
        (ids[1][1], ids[2][0], ["1a", "1b", "2a", "2b"].as_slice()),
        (ids[1][1], ids[1][0], &["1a", "1b"]),
        (far, far, &["2a", "2b"]),
    ] {
        let request = ReadShardStreamRequest {
            shard_id: shard,
            from: at_record(from),
            until: at_record(until),
            ..Default::default()
        };
        let mut answer = client.read_shard_stream(request).await.unwrap().into_inner();
        let mut received = Vec::new();
        while let Some(message) = next(&mut answer).await {
            received.extend(payloads(&message.received_records));
        }
        assert_eq!(received, expected);
    }
    // The whole batch goes, whichever of its records is named.
    let trim = TrimShardRequest {
        shard_id: shard,
        trim_point: at_record(RecordId { shard_id: 7, ..ids[0][0] }),
        ..Default::default()
    };
    client.trim_shard(trim).await.unwrap();
    assert_eq!(payloads(&read_all(client, shard).await), ["1a", "1b", "2a", "2b"]);
    // And the whole batch stays.
    let trim = TrimShardsRequest { stream_name: "s".into(), record_ids: vec![ids[2][1].to_string()] };
    let points = client.trim_shards(trim).await.unwrap().into_inner().trim_points;
    assert_eq!(points, [(shard, ids[2][1].to_string())].into());
    assert_eq!(payloads(&read_all(client, shard).await), ["2a", "2b"]);
    node.stop().await;
}

#[tokio::test]
async fn surprise_11_until_latest_is_a_snapshot_and_no_until_follows_except_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    append(client, shard, "before").await;
    let read = |until| ReadShardStreamRequest { shard_id: shard, until, ..Default::default() };
    let latest = special(SpecialOffset::Latest);
    let mut snapshot = client.read_shard_stream(read(latest)).await.unwrap().into_inner();
    let mut following = client.read_shard_stream(read(None)).await.unwrap().into_inner();
    let single = ReadSingleShardStreamRequest { stream_name: "s".into(), ..Default::default() };
    let mut single = client.read_single_shard_stream(single).await.unwrap().into_inner();
    let stream = ReadStreamRequest { stream_name: "s".into(), ..Default::default() };
    let mut stream = client.read_stream(stream).await.unwrap().into_inner();
    // Credit for more than there will be.
    let (requests, receiver) = mpsc::channel(1);
    requests.send(by_key("", 100)).await.unwrap();
    let mut keyed = client.read_stream_by_key(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    assert_eq!(payloads(&next(&mut following).await.unwrap().received_records), ["before"]);
    assert_eq!(payloads(&next(&mut single).await.unwrap().received_records), ["before"]);
    assert_eq!(payloads(&next(&mut stream).await.unwrap().received_records), ["before"]);
    assert_eq!(next(&mut keyed).await.unwrap().received_records[0].payload, "before");
    assert_eq!(next(&mut keyed).await, None, "reads by key are finite");

    append(client, shard, "after").await;
    assert_eq!(payloads(&next(&mut snapshot).await.unwrap().received_records), ["before"]);
    assert_eq!(next(&mut snapshot).await, None);
    assert_eq!(payloads(&next(&mut following).await.unwrap().received_records), ["after"]);
    assert_eq!(payloads(&next(&mut single).await.unwrap().received_records), ["after"]);
    assert_eq!(payloads(&next(&mut stream).await.unwrap().received_records), ["after"]);
    drop((following, single, stream));
    node.stop().await;
}

#[tokio::test]
async fn surprise_12_from_latest_until_latest_is_a_conflict_and_of_a_stream_an_empty_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    let latest = special(SpecialOffset::Latest);
    // With and without anything stored.
    for _ in 0..2 {
        let request =
            ReadShardStreamRequest { shard_id: shard, from: latest, until: latest, ..Default::default() };
        let (code, body) = refusal(client.read_shard_stream(request).await);
        let (number, class, text) = body.unwrap();
        assert_eq!((code, number, class.as_str()), (Code::InvalidArgument, 901, "ConflictShardReaderOffset"));
        let tail =
            client.get_tail_record_id(GetTailRecordIdRequest { shard_id: shard, ..Default::default() });
        let tail = tail.await.unwrap().into_inner().tail_record_id.unwrap().batch_id;
        let text = text.as_str().unwrap().to_owned();
        assert!(text.contains(&tail.to_string()) && text.contains(&(tail + 1).to_string()), "{text}");
        let single = ReadSingleShardStreamRequest {
            stream_name: "s".into(),
            from: latest,
            until: latest,
            ..Default::default()
        };
        assert_eq!(refusal(client.read_single_shard_stream(single).await).1.unwrap().0, 901);
        let stream = ReadStreamRequest {
            stream_name: "s".into(),
            from: whole(SpecialOffset::Latest),
            until: whole(SpecialOffset::Latest),
            ..Default::default()
        };
        let mut answer = client.read_stream(stream).await.unwrap().into_inner();
        assert_eq!(next(&mut answer).await, None);
        append(client, shard, "x").await;
    }
    node.stop().await;
}

#[tokio::test]
async fn surprise_13_reads_by_key_end_by_themselves_and_take_a_credit_of_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    let records = (0..3).map(|number| record("k", &number.to_string())).collect();
    client.append(append_request(shard, batch(records))).await.unwrap();
    let (requests, receiver) = mpsc::channel(4);
    requests.send(by_key("k", 0)).await.unwrap();
    let mut answer = client.read_stream_by_key(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    silent(&mut answer).await;
    requests.send(by_key("", 2)).await.unwrap();
    let message = next(&mut answer).await.unwrap();
    assert_eq!((message.record_ids.len(), message.received_records.len()), (2, 2));
    // The third waits for credit; the surplus of a batch is not lost.
    silent(&mut answer).await;
    requests.send(by_key("", 1)).await.unwrap();
    let message = next(&mut answer).await.unwrap();
    assert_eq!(message.record_ids.iter().map(|id| id.batch_index).collect::<Vec<_>>(), [2]);
    // All credit is used, nothing is left: the server ends without being asked.
    assert_eq!(next(&mut answer).await, None);

    // The other way round: the client has enough while there is more.
    let (requests, receiver) = mpsc::channel(4);
    requests.send(by_key("k", 1)).await.unwrap();
    let mut answer = client.read_stream_by_key(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    assert_eq!(next(&mut answer).await.unwrap().record_ids.len(), 1);
    drop(requests);
    assert_eq!(next(&mut answer).await, None);
    node.stop().await;
}

#[tokio::test]
async fn surprise_38_a_start_time_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    let append_time = |received: &ReceivedRecord| {
        let time = received.record.as_ref().unwrap().publish_time.as_ref().unwrap();
        time.seconds * 1000 + i64::from(time.nanos) / 1_000_000
    };
    // Until the clock of the appends has moved several times.
    let all = loop {
        append(client, shard, "x").await;
        let all = read_all(client, shard).await;
        let mut times: Vec<_> = all.iter().map(append_time).collect();
        times.dedup();
        if times.len() >= 4 {
            break all;
        }
    };
    let (first, last) = (append_time(&all[0]), append_time(all.last().unwrap()));
    for from in first - 1..=last {
        let expected: Vec<_> = all.iter().filter(|batch| append_time(batch) >= from).cloned().collect();
        let request = ReadShardStreamRequest {
            shard_id: shard,
            from: at_time(from),
            max_read_batches: expected.len() as u64,
            ..Default::default()
        };
        let mut answer = client.read_shard_stream(request).await.unwrap().into_inner();
        let mut received = Vec::new();
        while let Some(message) = next(&mut answer).await {
            received.extend(message.received_records);
        }
        assert_eq!(received, expected, "from {from}");
    }
    node.stop().await;
}
