//! What a trim point takes with it.

use crate::support::*;
use hstreamdb_proto::api::*;
use tonic::Code;

async fn filled(client: &mut Client, name: &str) -> (u64, Vec<RecordId>) {
    let shard = create(client, name, 1).await[0];
    let mut ids = Vec::new();
    for payload in ["a", "b", "c", "d"] {
        ids.push(append(client, shard, payload).await);
    }
    (shard, ids)
}

#[tokio::test]
async fn surprise_10_trims_by_offset_take_their_point_and_trims_by_ids_leave_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;

    let (shard, ids) = filled(client, "by-offset").await;
    let trim = |trim_point| TrimShardRequest { shard_id: shard, trim_point, ..Default::default() };
    client.trim_shard(trim(special(SpecialOffset::Earliest))).await.unwrap();
    assert_eq!(payloads(&read_all(client, shard).await), ["a", "b", "c", "d"]);
    client.trim_shard(trim(at_record(ids[1]))).await.unwrap();
    assert_eq!(payloads(&read_all(client, shard).await), ["c", "d"]);
    client.trim_shard(trim(special(SpecialOffset::Latest))).await.unwrap();
    assert!(read_all(client, shard).await.is_empty());

    let (shard, ids) = filled(client, "by-ids").await;
    let trim = |record_ids: Vec<String>| TrimShardsRequest { stream_name: "by-ids".into(), record_ids };
    let earliest = format!("{shard}-0-0");
    let points = client.trim_shards(trim(vec![earliest.clone()])).await.unwrap().into_inner().trim_points;
    assert!(points.is_empty());
    // Of several the smallest.
    let record_ids = vec![ids[3].to_string(), earliest, ids[1].to_string()];
    let points = client.trim_shards(trim(record_ids)).await.unwrap().into_inner().trim_points;
    assert_eq!(points, [(shard, ids[1].to_string())].into());
    assert_eq!(payloads(&read_all(client, shard).await), ["b", "c", "d"]);
    assert!(client.trim_shards(trim(vec![])).await.unwrap().into_inner().trim_points.is_empty());
    node.stop().await;
}

#[tokio::test]
async fn surprise_10_trims_by_time_take_the_first_record_of_that_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    append(client, shard, "first").await;
    let time = |received: &ReceivedRecord| {
        let time = received.record.as_ref().unwrap().publish_time.as_ref().unwrap();
        time.seconds * 1000 + i64::from(time.nanos) / 1_000_000
    };
    let first = time(&read_all(client, shard).await[0]);
    let all = loop {
        append(client, shard, "more").await;
        let all = read_all(client, shard).await;
        if time(all.last().unwrap()) > first {
            break all;
        }
    };
    let point = time(all.last().unwrap());
    append(client, shard, "last").await;
    let offset = stream_offset::Offset::TimestampOffset(TimestampOffset {
        timestamp_in_ms: point,
        strict_accuracy: true,
    });
    let trim = TrimStreamRequest {
        stream_name: "s".into(),
        trim_point: Some(StreamOffset { offset: Some(offset) }),
    };
    client.trim_stream(trim).await.unwrap();
    let left = payloads(&read_all(client, shard).await);
    assert_eq!(left, ["last"]);
    node.stop().await;
}

#[tokio::test]
async fn trims_are_checked_in_the_published_order_and_refused_ones_trim_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let (shard, ids) = filled(client, "s").await;
    let (other, _) = filled(client, "other").await;

    let point = Some(StreamOffset { offset: Some(stream_offset::Offset::SpecialOffset(1)) });
    for (stream_name, trim_point, status, code) in [
        ("1", None, Code::InvalidArgument, 204),
        ("none", None, Code::InvalidArgument, 208),
        // The original crashes on this one.
        ("s", Some(StreamOffset { offset: None }), Code::InvalidArgument, 208),
        ("none", point, Code::NotFound, 200),
    ] {
        let request = TrimStreamRequest { stream_name: stream_name.into(), trim_point };
        let (got, body) = refusal(client.trim_stream(request).await);
        assert_eq!((got, body.unwrap().0), (status, code));
    }
    for (shard_id, trim_point, status, code) in [
        (1, None, Code::InvalidArgument, 208),
        (shard, Some(ShardOffset { offset: None }), Code::InvalidArgument, 208),
        (1, special(SpecialOffset::Latest), Code::NotFound, 0),
    ] {
        let request = TrimShardRequest { shard_id, trim_point, ..Default::default() };
        let (got, body) = refusal(client.trim_shard(request).await);
        assert_eq!((got, body.unwrap().0), (status, code));
    }
    let good = ids[2].to_string();
    let beyond = format!("{shard}-{}-0", ids[3].batch_id + 2);
    let foreign = format!("{other}-{}-0", ids[3].batch_id);
    for (stream_name, record_ids, status, code) in [
        ("1", vec!["x"], Code::InvalidArgument, Some(204)),
        ("none", vec!["x"], Code::InvalidArgument, Some(209)),
        ("none", vec![good.as_str()], Code::Internal, None),
        ("s", vec![&good, "1-2"], Code::InvalidArgument, Some(209)),
        ("s", vec![&good, "1-2-3-4"], Code::InvalidArgument, Some(209)),
        ("s", vec![&good, "1-+2-3"], Code::InvalidArgument, Some(209)),
        ("s", vec![&good, "1-2-3 "], Code::InvalidArgument, Some(209)),
        ("s", vec![&good, &foreign], Code::InvalidArgument, Some(210)),
        ("s", vec![&beyond], Code::InvalidArgument, Some(209)),
    ] {
        let record_ids = record_ids.into_iter().map(str::to_owned).collect();
        let request = TrimShardsRequest { stream_name: stream_name.into(), record_ids };
        let (got, body) = refusal(client.trim_shards(request).await);
        assert_eq!((got, body.map(|body| body.0)), (status, code));
    }
    assert_eq!(read_all(client, shard).await.len(), 4);
    assert_eq!(read_all(client, other).await.len(), 4);
    node.stop().await;
}
