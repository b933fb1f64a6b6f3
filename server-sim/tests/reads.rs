//! Streaming and polled reads over the wire.

mod support;

use hstreamdb_proto::api::*;
use hstreamdb_proto::partition::key_hash;
use std::time::Duration;
use support::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

async fn next<T>(answer: &mut Streaming<T>) -> Option<T> {
    tokio::time::timeout(DEADLINE, answer.message()).await.expect("no hang").expect("no error")
}

#[tokio::test]
async fn a_read_without_end_follows_the_tail() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    append(&mut node.client, shard, "before").await;
    let request = ReadShardStreamRequest {
        shard_id: shard,
        from: special(SpecialOffset::Latest),
        max_read_batches: 2,
        ..Default::default()
    };
    let mut answer = node.client.read_shard_stream(request).await.unwrap().into_inner();
    for payload in ["x", "y", "z"] {
        append(&mut node.client, shard, payload).await;
    }
    let mut received = Vec::new();
    while let Some(message) = next(&mut answer).await {
        received.extend(message.received_records);
    }
    // Two batches were asked for, over the whole call.
    assert_eq!(payloads(&received), ["x", "y"]);
    node.stop().await;
}

#[tokio::test]
async fn ends_are_inclusive_and_conflicts_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    let mut ids = Vec::new();
    for payload in ["a", "b", "c"] {
        ids.push(append(client, shard, payload).await);
    }
    let range = |from, until| ReadShardStreamRequest { shard_id: shard, from, until, ..Default::default() };
    let mut answer =
        client.read_shard_stream(range(at_record(ids[1]), at_record(ids[1]))).await.unwrap().into_inner();
    assert_eq!(payloads(&next(&mut answer).await.unwrap().received_records), ["b"]);
    assert!(next(&mut answer).await.is_none());

    let latest = special(SpecialOffset::Latest);
    let elsewhere = at_record(RecordId { shard_id: shard + 1, ..ids[0] });
    for (from, until) in [(latest, latest), (at_record(ids[2]), at_record(ids[0])), (elsewhere, None)] {
        let (code, text) = refusal(client.read_shard_stream(range(from, until)).await);
        assert_eq!((code, text.unwrap().0), (Code::InvalidArgument, 901));
    }
    let unknown = ReadShardStreamRequest { shard_id: 1, ..Default::default() };
    assert_eq!(refusal(client.read_shard_stream(unknown).await).0, Code::NotFound);
    node.stop().await;
}

#[tokio::test]
async fn large_batches_are_cut_into_messages_every_client_takes() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    let payload = "x".repeat(900 * 1024);
    for _ in 0..9 {
        append(&mut node.client, shard, &payload).await;
    }
    for _ in 0..15 {
        append(&mut node.client, shard, "small").await;
    }
    // `read_all` checks the size of every message.
    assert_eq!(read_all(&mut node.client, shard).await.len(), 24);
    node.stop().await;
}

#[tokio::test]
async fn a_whole_stream_is_read_over_all_its_shards_and_an_empty_one_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shards = create(client, "s", 3).await;
    let special = |offset: SpecialOffset| {
        Some(StreamOffset { offset: Some(stream_offset::Offset::SpecialOffset(offset as i32)) })
    };
    let request = ReadStreamRequest {
        stream_name: "s".into(),
        from: special(SpecialOffset::Earliest),
        until: special(SpecialOffset::Latest),
        ..Default::default()
    };
    let mut answer = client.read_stream(request.clone()).await.unwrap().into_inner();
    assert!(next(&mut answer).await.is_none());
    for shard in &shards {
        append(client, *shard, &shard.to_string()).await;
    }
    let mut answer = client.read_stream(request).await.unwrap().into_inner();
    let mut received = Vec::new();
    while let Some(message) = next(&mut answer).await {
        received.extend(payloads(&message.received_records));
    }
    received.sort();
    assert_eq!(received, shards.iter().map(u64::to_string).collect::<Vec<_>>());

    let single = ReadSingleShardStreamRequest { stream_name: "s".into(), ..Default::default() };
    assert_eq!(refusal(client.read_single_shard_stream(single).await).1.unwrap().0, 902);
    node.stop().await;
}

#[tokio::test]
async fn records_of_one_key_come_as_fast_as_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shards = create(client, "s", 2).await;
    let shard = shards[usize::from(key_hash("k") > u128::MAX / 2)];
    for round in 0..3 {
        let records =
            vec![record("k", &format!("{round}a")), record("other", "no"), record("k", &format!("{round}b"))];
        client.append(append_request(shard, batch(records))).await.unwrap();
    }
    let (requests, receiver) = mpsc::channel(4);
    let first = ReadStreamByKeyRequest {
        stream_name: "s".into(),
        key: "k".into(),
        read_record_count: 3,
        ..Default::default()
    };
    requests.send(first).await.unwrap();
    let mut answer = client.read_stream_by_key(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let mut received = Vec::new();
    while received.len() < 3 {
        let message = next(&mut answer).await.unwrap();
        assert_eq!(message.record_ids.len(), message.received_records.len());
        received.extend(message.received_records);
    }
    assert_eq!(received.len(), 3);
    requests.send(ReadStreamByKeyRequest { read_record_count: 100, ..Default::default() }).await.unwrap();
    // More was asked for than there is: the call ends by itself.
    while let Some(message) = next(&mut answer).await {
        received.extend(message.received_records);
    }
    let payloads: Vec<_> = received.iter().map(|r| String::from_utf8(r.payload.to_vec()).unwrap()).collect();
    assert_eq!(payloads, ["0a", "0b", "1a", "1b", "2a", "2b"]);
    node.stop().await;
}

#[tokio::test]
async fn polled_readers_advance_wait_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    let request = CreateShardReaderRequest {
        stream_name: "s".into(),
        shard_id: shard,
        shard_offset: special(SpecialOffset::Earliest),
        reader_id: "reader".into(),
        timeout: 5_000,
    };
    node.client.create_shard_reader(request.clone()).await.unwrap();
    assert_eq!(refusal(node.client.create_shard_reader(request).await).0, Code::AlreadyExists);
    let poll = ReadShardRequest { reader_id: "reader".into(), max_records: 2 };
    // The poll is there before the data.
    let mut client = node.client.clone();
    let first = poll.clone();
    let waiting = tokio::spawn(async move { client.read_shard(first).await });
    append(&mut node.client, shard, "a").await;
    let received = waiting.await.unwrap().unwrap().into_inner().received_records;
    assert_eq!(payloads(&received), ["a"]);
    for payload in ["b", "c", "d"] {
        append(&mut node.client, shard, payload).await;
    }
    let received = node.client.read_shard(poll.clone()).await.unwrap().into_inner().received_records;
    assert_eq!(payloads(&received), ["b", "c"]);

    node.stop().await;
    let mut node = TestNode::start(dir.path()).await;
    let listed = node.client.list_shard_readers(ListShardReadersRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.reader_id, ["reader"]);
    let received = node.client.read_shard(poll.clone()).await.unwrap().into_inner().received_records;
    assert_eq!(payloads(&received), ["d"]);
    let delete = DeleteShardReaderRequest { reader_id: "reader".into() };
    node.client.delete_shard_reader(delete.clone()).await.unwrap();
    assert_eq!(refusal(node.client.delete_shard_reader(delete).await).0, Code::FailedPrecondition);
    assert_eq!(refusal(node.client.read_shard(poll).await).0, Code::FailedPrecondition);
    node.stop().await;
}

#[tokio::test]
async fn a_stopping_node_ends_reads_that_follow_the_tail() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    let request = ReadShardStreamRequest { shard_id: shard, ..Default::default() };
    let mut answer = node.client.read_shard_stream(request).await.unwrap().into_inner();
    let reading = tokio::spawn(async move { answer.message().await });
    node.stop().await;
    let outcome = tokio::time::timeout(Duration::from_secs(5), reading).await.unwrap().unwrap();
    assert_eq!(outcome.unwrap_err().code(), Code::Unavailable);
}

fn at_time(ms: i64) -> Option<ShardOffset> {
    let time = TimestampOffset { timestamp_in_ms: ms, strict_accuracy: true };
    Some(ShardOffset { offset: Some(shard_offset::Offset::TimestampOffset(time)) })
}

fn append_time(received: &ReceivedRecord) -> i64 {
    let time = received.record.as_ref().unwrap().publish_time.as_ref().unwrap();
    time.seconds * 1000 + i64::from(time.nanos) / 1_000_000
}

#[tokio::test]
async fn times_select_exactly_what_was_appended_then() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    append(client, shard, "first").await;
    let first = append_time(&read_all(client, shard).await[0]);
    // Until the clock of the appends has moved.
    let last = loop {
        append(client, shard, "more").await;
        let last = append_time(read_all(client, shard).await.last().unwrap());
        if last > first {
            break last;
        }
    };
    let all = read_all(client, shard).await;
    let earliest = special(SpecialOffset::Earliest);
    let latest = special(SpecialOffset::Latest);
    for (from, until, low, high) in [
        (at_time(last), latest, last, i64::MAX),
        (at_time(first + 1), latest, first + 1, i64::MAX),
        (at_time(0), latest, 0, i64::MAX),
        (earliest, at_time(first), 0, first),
        (earliest, at_time(last), 0, last),
        (earliest, at_time(first - 1), 0, first - 1),
        (earliest, at_time(i64::MAX), 0, i64::MAX),
        (at_time(first), at_time(first), first, first),
    ] {
        let request = ReadShardStreamRequest { shard_id: shard, from, until, ..Default::default() };
        let mut answer = client.read_shard_stream(request).await.unwrap().into_inner();
        let mut received = Vec::new();
        while let Some(message) = next(&mut answer).await {
            received.extend(message.received_records);
        }
        let expected: Vec<_> =
            all.iter().filter(|batch| (low..=high).contains(&append_time(batch))).cloned().collect();
        assert_eq!(received, expected, "{from:?} to {until:?}");
    }
    let backwards = (at_time(last), at_time(first));
    let request = ReadShardStreamRequest {
        shard_id: shard,
        from: backwards.0,
        until: backwards.1,
        ..Default::default()
    };
    assert_eq!(refusal(client.read_shard_stream(request).await).1.unwrap().0, 901);
    node.stop().await;
}

#[tokio::test]
async fn reads_by_key_of_nothing_end_and_bad_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    let good = ReadStreamByKeyRequest {
        stream_name: "s".into(),
        key: "k".into(),
        read_record_count: 1,
        ..Default::default()
    };
    let elsewhere = at_record(RecordId { shard_id: shard + 1, batch_id: 1, batch_index: 0 });
    let cases = [
        (vec![good.clone()], Ok(())),
        (vec![], Err(Code::Cancelled)),
        (vec![ReadStreamByKeyRequest { stream_name: "none".into(), ..good.clone() }], Err(Code::NotFound)),
        (vec![ReadStreamByKeyRequest { from: elsewhere, ..good.clone() }], Err(Code::InvalidArgument)),
    ];
    for (requests, expected) in cases {
        let calls = tokio_stream::iter(requests);
        let mut answer = node.client.read_stream_by_key(calls).await.unwrap().into_inner();
        let outcome = tokio::time::timeout(DEADLINE, answer.message()).await.expect("no hang");
        assert_eq!(outcome.map(|message| assert_eq!(message, None)).map_err(|e| e.code()), expected);
    }
    node.stop().await;
}

#[tokio::test]
async fn the_ends_of_the_number_range_are_offsets_like_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    append(client, shard, "a").await;
    let id = |batch_id| at_record(RecordId { shard_id: shard, batch_id, batch_index: u32::MAX });
    let range = |from, until| ReadShardStreamRequest { shard_id: shard, from, until, ..Default::default() };
    let mut answer = client.read_shard_stream(range(id(0), id(0))).await.unwrap().into_inner();
    assert_eq!(next(&mut answer).await, None);
    let mut beyond = client.read_shard_stream(range(id(u64::MAX), None)).await.unwrap().into_inner();
    let mut all = client.read_shard_stream(range(None, id(u64::MAX))).await.unwrap().into_inner();
    assert_eq!(payloads(&next(&mut all).await.unwrap().received_records), ["a"]);
    append(client, shard, "b").await;
    assert_eq!(payloads(&next(&mut all).await.unwrap().received_records), ["b"]);
    for trim_point in [id(0), at_time(i64::MIN)] {
        let request = TrimShardRequest { shard_id: shard, trim_point, ..Default::default() };
        client.trim_shard(request).await.unwrap();
    }
    let request = TrimShardRequest { shard_id: shard, trim_point: id(u64::MAX), ..Default::default() };
    client.trim_shard(request).await.unwrap();
    append(client, shard, "c").await;
    assert_eq!(payloads(&read_all(client, shard).await), ["c"]);
    let nothing = tokio::time::timeout(Duration::from_millis(200), beyond.message()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    drop((beyond, all));
    node.stop().await;
}
