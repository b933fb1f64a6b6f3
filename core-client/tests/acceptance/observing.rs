//! Points 16 and 20: ids, counters and how the client names itself.

use crate::node_under_test::{PATIENCE, TestNode, soon};
use hstream_testkit::{Fault, RpcProxy, eventually};
use hstreamdb::{
    Client, MetricSpec, MetricsRecorder, Record, RecordId, StartFrom, StreamOptions, SubscriptionOptions,
    VERSION,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

/// Counters and gauges as a metrics system would hold them.
#[derive(Default)]
struct Sums(Mutex<BTreeMap<&'static str, i64>>);

impl MetricsRecorder for Sums {
    fn count(&self, metric: &'static MetricSpec, by: u64) {
        *self.0.lock().unwrap().entry(metric.name).or_default() += i64::try_from(by).unwrap();
    }
    fn change(&self, metric: &'static MetricSpec, by: i64) {
        *self.0.lock().unwrap().entry(metric.name).or_default() += by;
    }
}

impl Sums {
    fn get(&self, name: &str) -> i64 {
        self.0.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p20_a_recorder_is_told_batches_bytes_retries_lookups_acks_and_reconnects() {
    let node = TestNode::start().await;
    let proxy = RpcProxy::start(node.address().port()).await.unwrap();
    let sums = Arc::new(Sums::default());
    let client = Client::builder()
        .url(format!("hstream://127.0.0.1:{}", proxy.port()))
        .set("retry_base_ms", 10)
        .unwrap()
        .metrics_recorder(sums.clone())
        .connect()
        .await
        .unwrap();
    client.create_stream("s", StreamOptions::new().shard_count(2)).await.unwrap();
    let from = SubscriptionOptions::new().offset(StartFrom::Earliest);
    client.create_subscription("sub", "s", from).await.unwrap();

    // One at a time: of several, the lost replies could be refusals of what came before its predecessor.
    let producer =
        client.producer("s").batch_max_records(10).max_inflight_per_shard(1).build().await.unwrap();
    proxy.set(Fault::LoseReplies(2));
    let mut receipts = Vec::new();
    for number in 0..100 {
        receipts.push(soon(producer.append(Record::raw(format!("{number:03}")))).await.unwrap());
    }
    for receipt in receipts {
        soon(receipt).await.unwrap();
    }
    assert_eq!((sums.get("append_batches"), sums.get("append_records")), (10, 100));
    assert!(sums.get("append_bytes") >= 300, "{}", sums.get("append_bytes"));
    assert!(sums.get("append_retries") >= 2 && sums.get("append_repeats") >= 1);
    assert!(sums.get("lookups") >= 1 && sums.get("calls") >= 3 && sums.get("connects") >= 1);
    assert_eq!((sums.get("append_inflight_batches"), sums.get("append_inflight_bytes")), (0, 0));

    let consumer = soon(client.consumer("sub").start()).await.unwrap();
    let mut received = 0;
    while received < 100 {
        let batch = soon(consumer.next_batch()).await.unwrap().unwrap();
        received += batch.len();
        consumer.ack_batch(&batch).unwrap();
        proxy.cut_connections();
    }
    assert!(sums.get("consumer_records") >= 100 && sums.get("consumer_batches") >= 1);
    eventually("the consumer to come back", PATIENCE, || async {
        (sums.get("consumer_reconnects") >= 1 && sums.get("consumer_acks") >= 100).then_some(())
    })
    .await;
    soon(client.close(Duration::from_secs(10))).await.unwrap();

    // What a recorder was told is what a snapshot shows.
    let snapshot = client.metrics();
    for (name, value) in snapshot.counters {
        assert_eq!(i64::try_from(value).unwrap(), sums.get(name), "{name}");
    }
    for (name, value) in snapshot.gauges {
        assert_eq!((value, sums.get(name)), (0, 0), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p20_servers_see_the_language_and_the_version() {
    let node = TestNode::start().await;
    for (language, agent) in [("rust", "hstreamdb-rust"), ("python", "hstreamdb-python")] {
        let client = Client::builder()
            .url(format!("hstream://{}", node.address()))
            .set("user_agent_lang", language)
            .unwrap()
            .connect()
            .await
            .unwrap();
        client.create_stream(language, StreamOptions::new()).await.unwrap();
        client.create_subscription(language, language, SubscriptionOptions::new()).await.unwrap();
        let consumer = soon(client.consumer(language).start()).await.unwrap();
        let listed = client.list_consumers(language).await.unwrap();
        assert_eq!(listed.len(), 1);
        let expected = format!("{agent}/{VERSION}");
        assert!(
            listed[0].user_agent.starts_with(&expected),
            "{} begins with {expected}",
            listed[0].user_agent
        );
        soon(consumer.stop(Duration::from_secs(5))).await.unwrap();
    }
}

#[test]
fn p16_the_text_of_an_id_holds_all_64_bits_and_orders_like_the_id() {
    let largest = RecordId { shard_id: u64::MAX, batch_id: u64::MAX, batch_index: u32::MAX };
    assert_eq!(largest.to_string(), "18446744073709551615-18446744073709551615-4294967295");
    // Numbers above 2^53 are where a language with one number type goes wrong.
    for id in [largest, RecordId { shard_id: (1 << 53) + 1, batch_id: 10_u64.pow(18), batch_index: 0 }] {
        assert_eq!(id.to_string().parse::<RecordId>().unwrap(), id);
    }
    for text in ["", "1", "1-2", "1-2-3-4", "18446744073709551616-1-1", "1-1--1", "a-b-c", "1 -2-3"] {
        assert!(text.parse::<RecordId>().is_err(), "{text:?}");
    }
}
