//! The statistics rpcs over the wire.

mod support;

use hstreamdb_proto::api::stat_type::Stat;
use hstreamdb_proto::api::*;
use std::collections::HashMap;
use std::time::Instant;
use support::fetch::{attach, subscribe, subscription, unsubscribe};
use support::*;
use tonic::Code;

async fn ask(client: &mut Client, stats: &[Stat]) -> GetStatsResponse {
    let stats = stats.iter().map(|stat| StatType { stat: Some(*stat) }).collect();
    client.get_stats(GetStatsRequest { stats }).await.unwrap().into_inner()
}

async fn one(client: &mut Client, stat: Stat) -> HashMap<String, i64> {
    let mut answer = ask(client, &[stat]).await;
    assert!(answer.errors.is_empty(), "{:?}", answer.errors);
    answer.stats_values.remove(0).stat_values
}

/// A statistic by its number.
type Family = fn(i32) -> Stat;

fn of_stream(stat: StreamStats) -> Stat {
    Stat::StreamStat(stat as i32)
}

fn of_subscription(stat: SubscriptionStats) -> Stat {
    Stat::SubStat(stat as i32)
}

#[tokio::test]
async fn every_statistic_there_is_has_a_map() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    create(client, "s", 1).await;
    subscribe(client, "sub", "s").await;
    let families: [(Family, i32, &[&str]); 6] = [
        (Stat::StreamStat, 6, &["s"]),
        (Stat::SubStat, 9, &["sub"]),
        (Stat::ConnStat, 3, &[]),
        (Stat::QueryStat, 3, &[]),
        (Stat::ViewStat, 1, &[]),
        (Stat::CacheStoreStat, 9, &[]),
    ];
    let all: Vec<Stat> = families.iter().flat_map(|(stat, count, _)| (0..*count).map(stat)).collect();
    let answer = ask(client, &all).await;
    assert!(answer.errors.is_empty());
    let answered: Vec<Stat> =
        answer.stats_values.iter().map(|value| value.stat_type.unwrap().stat.unwrap()).collect();
    assert_eq!(answered, all);
    let mut values = answer.stats_values.into_iter();
    for (_, count, objects) in families {
        for value in values.by_ref().take(count as usize) {
            let expected: HashMap<String, i64> = objects.iter().map(|name| ((*name).to_owned(), 0)).collect();
            assert_eq!(value.stat_values, expected, "{:?}", value.stat_type);
        }
    }
    // Numbers behind the last one are answered as errors, next to what can be answered.
    let unknown: Vec<Stat> = families.iter().map(|(stat, count, _)| stat(*count)).collect();
    let answer = ask(client, &[&unknown[..], &[of_stream(StreamStats::AppendTotal)]].concat()).await;
    let refused: Vec<Stat> =
        answer.errors.iter().map(|error| error.stat_type.unwrap().stat.unwrap()).collect();
    assert_eq!(refused, unknown);
    assert!(answer.errors.iter().all(|error| error.message.contains("there is no")));
    assert_eq!(answer.stats_values.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn questions_without_a_statistic_are_refused_and_repeated_ones_answered_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    for stats in [vec![], vec![StatType { stat: None }]] {
        let (code, body) = refusal(client.get_stats(GetStatsRequest { stats }).await);
        let (error, message, _) = body.unwrap();
        assert_eq!((code, error, message.as_str()), (Code::InvalidArgument, 0, "InvalidStatsType"));
    }
    let answer = ask(client, &[of_stream(StreamStats::AppendTotal); 1000]).await;
    assert_eq!((answer.stats_values.len(), answer.errors.len()), (1, 0));
    let many = (0..1000).map(|number| StatType { stat: Some(Stat::StreamStat(number)) }).collect();
    assert_eq!(refusal(client.get_stats(GetStatsRequest { stats: many }).await).0, Code::InvalidArgument);
    node.stop().await;
}

#[tokio::test]
async fn appends_and_every_kind_of_read_are_counted_for_their_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    create(client, "other", 1).await;
    let records = batch(vec![record("", "a"), record("", "b")]);
    let bytes = prost::Message::encoded_len(&records) as i64;
    client.append(append_request(shard, records)).await.unwrap();
    client.append(append_request(shard, batch(vec![]))).await.unwrap_err();
    for (stat, value) in [
        (StreamStats::AppendTotal, 2),
        (StreamStats::AppendFailed, 1),
        (StreamStats::AppendInRecords, 2),
        (StreamStats::AppendInBytes, bytes),
        (StreamStats::ReadInBatches, 0),
    ] {
        let values = one(client, of_stream(stat)).await;
        assert_eq!((values["s"], values["other"]), (value, 0), "{stat:?}");
    }
    // A streaming read, a polled one and a subscription.
    read_all(client, shard).await;
    let reader = CreateShardReaderRequest {
        stream_name: "s".into(),
        shard_id: shard,
        shard_offset: special(SpecialOffset::Earliest),
        reader_id: "r".into(),
        timeout: 0,
    };
    client.create_shard_reader(reader).await.unwrap();
    client.read_shard(ReadShardRequest { reader_id: "r".into(), max_records: 1 }).await.unwrap();
    subscribe(client, "sub", "s").await;
    let mut consumer = attach(client, "sub", "c").await;
    consumer.next().await;
    assert_eq!(one(client, of_stream(StreamStats::ReadInBatches)).await["s"], 3);
    assert_eq!(one(client, of_stream(StreamStats::ReadInBytes)).await["s"], 3 * bytes);
    assert_eq!(one(client, of_stream(StreamStats::ReadInBytes)).await["other"], 0);
    node.stop().await;
}

#[tokio::test]
async fn deliveries_acknowledgements_and_redeliveries_are_counted_for_their_subscription() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    client.create_subscription(subscription("sub", "s", 1)).await.unwrap();
    let mut consumer = attach(client, "sub", "c").await;
    let records = batch(vec![record("", "a"), record("", "b"), record("", "c")]);
    client.append(append_request(shard, records)).await.unwrap();
    let received = consumer.next().await;
    assert_eq!(one(client, of_subscription(SubscriptionStats::ChecklistSize)).await["sub"], 1);
    // One is acknowledged, the others come again.
    consumer.ack(received.record_ids[..1].to_vec()).await;
    let again = consumer.next().await;
    consumer.ack(again.record_ids.clone()).await;
    let deadline = Instant::now() + DEADLINE;
    while one(client, of_subscription(SubscriptionStats::ReceivedAcks)).await["sub"]
        < 1 + again.record_ids.len() as i64
    {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    consumer.finish().await;
    let resent = one(client, of_subscription(SubscriptionStats::ResendRecords)).await["sub"];
    assert_eq!(resent, again.record_ids.len() as i64);
    for (stat, value) in [
        (SubscriptionStats::SendOutRecords, 3 + resent),
        (SubscriptionStats::SendOutRecordsFailed, 0),
        (SubscriptionStats::ResendRecordsFailed, 0),
        (SubscriptionStats::ReceivedAcks, 1 + resent),
        (SubscriptionStats::RequestMessages, 3),
        (SubscriptionStats::ResponseMessages, 2),
    ] {
        assert_eq!(one(client, of_subscription(stat)).await["sub"], value, "{stat:?}");
    }
    assert!(one(client, of_subscription(SubscriptionStats::SendOutBytes)).await["sub"] > 0);
    let deadline = Instant::now() + DEADLINE;
    // The dispatcher takes note a moment after the acknowledgement.
    while one(client, of_subscription(SubscriptionStats::ChecklistSize)).await["sub"] > 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn what_is_deleted_is_forgotten_and_what_is_created_again_starts_at_zero() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    append(client, shard, "x").await;
    subscribe(client, "sub", "s").await;
    let mut consumer = attach(client, "sub", "c").await;
    consumer.next().await;
    consumer.finish().await;
    unsubscribe(client, "sub", true).await.unwrap();
    let delete = DeleteStreamRequest { stream_name: "s".into(), ..Default::default() };
    client.delete_stream(delete).await.unwrap();
    assert!(one(client, of_stream(StreamStats::AppendTotal)).await.is_empty());
    assert!(one(client, of_subscription(SubscriptionStats::SendOutRecords)).await.is_empty());
    // Calls that name what is not there count nothing for anybody.
    client.append(append_request(shard, batch(vec![record("", "late")]))).await.unwrap_err();
    client.append(append_request(77, batch(vec![record("", "never")]))).await.unwrap_err();
    assert!(one(client, of_stream(StreamStats::AppendTotal)).await.is_empty());

    create(client, "s", 1).await;
    subscribe(client, "sub", "s").await;
    assert_eq!(one(client, of_stream(StreamStats::AppendTotal)).await["s"], 0);
    assert_eq!(one(client, of_subscription(SubscriptionStats::SendOutRecords)).await["sub"], 0);
    assert_eq!(series(client, "appends", "s", Some(vec![1000])).await, None);
    node.stop().await;
}

#[tokio::test]
async fn an_archived_stream_is_counted_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    append(client, shard, "x").await;
    subscribe(client, "sub", "s").await;
    let delete = DeleteStreamRequest { stream_name: "s".into(), force: true, ..Default::default() };
    client.delete_stream(delete).await.unwrap();
    create(client, "s", 1).await;
    // Its subscription still reads it; that is not counted for the new stream of the old name.
    let mut consumer = attach(client, "sub", "c").await;
    assert_eq!(consumer.take().await, ["x"]);
    assert_eq!(one(client, of_stream(StreamStats::ReadInBatches)).await["s"], 0);
    assert_eq!(one(client, of_subscription(SubscriptionStats::SendOutRecords)).await["sub"], 1);
    node.stop().await;
}

async fn series(client: &mut Client, method: &str, stream: &str, ms: Option<Vec<i32>>) -> Option<Vec<f64>> {
    let request = PerStreamTimeSeriesStatsRequest {
        method: method.into(),
        stream_name: stream.into(),
        intervals: ms.map(|intervals| StatsIntervalVals { intervals }),
    };
    let answer = client.per_stream_time_series_stats(request).await.unwrap().into_inner();
    answer.stats.map(|stats| stats.vals)
}

async fn series_of_all(
    client: &mut Client,
    method: &str,
    ms: Option<Vec<i32>>,
) -> Result<HashMap<String, StatsDoubleVals>, tonic::Status> {
    let request = PerStreamTimeSeriesStatsAllRequest {
        method: method.into(),
        intervals: ms.map(|intervals| StatsIntervalVals { intervals }),
    };
    client.per_stream_time_series_stats_all(request).await.map(|answer| answer.into_inner().stats)
}

#[tokio::test]
async fn time_series_answer_one_rate_per_interval() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    create(client, "silent", 1).await;
    let started = Instant::now();
    for number in 0..20 {
        append(client, shard, &format!("{number}")).await;
    }
    let intervals = vec![60_000, 600_000];
    let rates = series(client, "append_in_records", "s", Some(intervals.clone())).await.unwrap();
    // Twenty records in the life of the stream, which is at least the second it is taken to last.
    let least = 20.0 / started.elapsed().as_secs_f64().max(1.0);
    assert!(rates.len() == 2 && rates.iter().all(|rate| (least * 0.9..=20.0).contains(rate)), "{rates:?}");
    let appends = series(client, "appends", "s", Some(intervals.clone())).await.unwrap();
    assert!(appends[0] > rates[0], "bytes are more than records");
    assert_eq!(series(client, "append_failed_requests", "s", Some(vec![4_000])).await, Some(vec![0.0]));
    assert_eq!(series(client, "append_in_requests", "s", Some(vec![])).await, Some(vec![]));
    // Nothing to tell is told by absence.
    assert_eq!(series(client, "appends", "s", None).await, None);
    assert_eq!(series(client, "appends", "silent", Some(intervals.clone())).await, None);
    assert_eq!(series(client, "appends", "no stream", Some(intervals.clone())).await, None);

    let all = series_of_all(client, "append_in_bytes", Some(intervals)).await.unwrap();
    assert_eq!(all.keys().collect::<Vec<_>>(), ["s"]);
    assert_eq!(all["s"].vals.len(), 2);
    assert!(series_of_all(client, "appends", None).await.unwrap().is_empty());
    node.stop().await;
}

#[tokio::test]
async fn time_series_refuse_what_is_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let bad =
        [("reads", vec![1000]), ("", vec![1000]), ("appends", vec![600_001]), ("appends", vec![1000, 0])];
    let many = ("appends", vec![1000; 65]);
    for (method, intervals) in
        bad.into_iter().chain([("appends", vec![-1]), ("appends", vec![i32::MIN]), many])
    {
        let request = PerStreamTimeSeriesStatsRequest {
            method: method.into(),
            stream_name: "s".into(),
            intervals: Some(StatsIntervalVals { intervals: intervals.clone() }),
        };
        let outcomes = [
            refusal(client.per_stream_time_series_stats(request).await),
            refusal(series_of_all(client, method, Some(intervals.clone())).await),
        ];
        for (code, body) in outcomes {
            let (error, class, _) = body.expect("a JSON body");
            assert_eq!(
                (code, error, class.as_str()),
                (Code::InvalidArgument, 0, "InvalidStatsInterval"),
                "{method} {intervals:?}"
            );
        }
    }
    node.stop().await;
}
