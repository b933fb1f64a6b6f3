//! Consumers against a real node.

mod node_under_test;

use hstream_testkit::{Fault, RpcProxy, eventually};
use hstreamdb::{
    Consumer, ConsumerEvent, ConsumerSink, ConsumerState, Error, ErrorKind, ReceivedBatch, RecordId,
    StartFrom, SubscriptionOptions,
};
use node_under_test::{TestNode, soon};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

const GRACE: Duration = Duration::from_secs(10);

/// Receives `count` records without acknowledging them.
async fn receive(consumer: &Consumer, count: usize) -> Vec<RecordId> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let batch = soon(consumer.next_batch()).await.unwrap().expect("the consumer goes on");
        ids.extend_from_slice(batch.ids());
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_appended_is_delivered_in_order_per_shard() {
    let mut node = TestNode::start().await;
    let shards = node.stream("s", 3).await;
    node.subscription("sub", "s").await;
    let mut expected = BTreeMap::new();
    for &shard in &shards {
        expected.insert(shard, node.append_batches("s", shard, 30, 4).await);
    }
    let consumer = node.client().await.consumer("sub").start().await.unwrap();
    assert_eq!(consumer.state(), ConsumerState::Connected);
    let mut seen: BTreeMap<u64, Vec<RecordId>> = BTreeMap::new();
    for id in receive(&consumer, 360).await {
        seen.entry(id.shard_id).or_default().push(id);
    }
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_are_let_go_once_the_server_says_they_are_durable() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    node.append_batches("s", shard, 10, 3).await;
    let consumer = node.client().await.consumer("sub").start().await.unwrap();
    let ids = receive(&consumer, 30).await;
    // All but the first batch: its successors are acknowledged, but no checkpoint can cover them.
    consumer.ack(&ids[3..]).unwrap();
    soon(consumer.flush_acks()).await.unwrap();
    assert_eq!(consumer.stats().unconfirmed_acks, 27);
    consumer.ack(&ids[..3]).unwrap();
    // Asking for the checkpoints would take until the tenth second.
    eventually("the confirmation", Duration::from_secs(8), || {
        let stats = consumer.stats();
        async move { (stats.unsent_acks == 0 && stats.unconfirmed_acks == 0).then_some(()) }
    })
    .await;
    assert_eq!(consumer.stats().redelivered_records, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_the_published_protocol_is_asked_for_its_checkpoints() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    node.append_batches("s", shard, 5, 2).await;
    let proxy = RpcProxy::start_broken(node.address().port(), Fault::Published).await.unwrap();
    let client = hstreamdb::Client::connect(&proxy.url()).await.unwrap();
    let consumer = client.consumer("sub").start().await.unwrap();
    let ids = receive(&consumer, 10).await;
    consumer.ack(&ids).unwrap();
    eventually("the checkpoint, asked for every ten seconds", Duration::from_secs(40), || {
        let stats = consumer.stats();
        async move { (stats.unsent_acks == 0 && stats.unconfirmed_acks == 0).then_some(()) }
    })
    .await;
    let report = soon(consumer.stop(GRACE)).await.unwrap();
    assert!(report.clean, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_leaves_nothing_to_deliver_again() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    node.append_batches("s", shard, 20, 5).await;
    let client = node.client().await;
    // Neither age nor number would send these acknowledgements in time; stopping must.
    let builder = client.consumer("sub").ack_max_records(1_000_000).ack_max_age(Duration::from_secs(3600));
    let consumer = builder.start().await.unwrap();
    let ids = receive(&consumer, 100).await;
    consumer.ack(&ids).unwrap();
    let report = soon(consumer.stop(GRACE)).await.unwrap();
    assert!(report.clean && report.unsent_acks == 0, "{report:?}");
    assert_eq!(consumer.state(), ConsumerState::Closed);
    assert!(soon(consumer.next_batch()).await.unwrap().is_none());
    assert_eq!(consumer.ack(&ids).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(soon(consumer.stop(GRACE)).await.unwrap(), report, "stopping twice is stopping once");

    // Also after a restart, so that it is the checkpoint that counts.
    node.stop().await;
    node.start_again().await;
    let marker = node.append_batches("s", shard, 1, 1).await;
    let consumer = client.consumer("sub").start().await.unwrap();
    assert_eq!(receive(&consumer, 1).await, marker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_survive_reconnects() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    let ids = node.append_batches("s", shard, 30, 2).await;
    let client = node.client().await;
    let consumer = client.consumer("sub").start().await.unwrap();
    assert_eq!(receive(&consumer, 60).await, ids);
    // Every other record: no checkpoint can move, so a restarted server has forgotten all of them.
    let (acked, open): (Vec<_>, Vec<_>) =
        ids.iter().partition(|id| id.batch_index == 0 && id.batch_id % 2 == 0);
    let (first, rest) = acked.split_at(acked.len() / 2);
    consumer.ack(first).unwrap();
    soon(consumer.flush_acks()).await.unwrap();
    node.stop().await;
    consumer.ack(rest).unwrap();
    node.start_again().await;
    // What is delivered again are whole batches, those of acknowledged records included.
    let again: BTreeSet<_> = receive(&consumer, 60).await.into_iter().collect();
    assert!(open.iter().all(|id| again.contains(id)));
    consumer.ack(&open).unwrap();
    let report = soon(consumer.stop(GRACE)).await.unwrap();
    assert!(report.clean, "{report:?}");
    assert!(consumer.stats().redelivered_records >= acked.len() as u64);

    let marker = node.append_batches("s", shard, 1, 1).await;
    let next = client.consumer("sub").start().await.unwrap();
    assert_eq!(receive(&next, 1).await, marker, "acknowledgements were lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_acked_before_a_reconnect_is_not_shown_again() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    let ids = node.append_batches("s", shard, 10, 2).await;
    let client = node.client().await;
    let consumer = client.consumer("sub").start().await.unwrap();
    receive(&consumer, 20).await;
    node.stop().await;
    // All but the first batch; the server is gone and cannot know.
    consumer.ack(&ids[2..]).unwrap();
    node.start_again().await;
    let marker = node.append_batches("s", shard, 1, 1).await;
    let mut seen = receive(&consumer, 3).await;
    seen.sort();
    assert_eq!(seen, [&ids[..2], &marker[..]].concat());
    consumer.ack(&seen).unwrap();
    assert!(soon(consumer.stop(GRACE)).await.unwrap().clean);
    let last = node.append_batches("s", shard, 1, 1).await;
    let next = client.consumer("sub").start().await.unwrap();
    assert_eq!(receive(&next, 1).await, last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_subscription_is_a_typed_error_at_once() {
    let node = TestNode::start().await;
    let client = node.client().await;
    for _ in 0..2 {
        let started = Instant::now();
        let error = soon(client.consumer("nothing").start()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("nothing"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_the_subscription_ends_the_consumer_with_one_error() {
    let mut node = TestNode::start().await;
    node.stream("s", 1).await;
    node.subscription("sub", "s").await;
    let consumer = node.client().await.consumer("sub").start().await.unwrap();
    let request =
        hstreamdb_proto::api::DeleteSubscriptionRequest { subscription_id: "sub".into(), force: true };
    let mut wire = node.wire.clone();
    let (deleted, error) = tokio::join!(wire.delete_subscription(request), soon(consumer.next_batch()));
    deleted.unwrap();
    let error = error.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::FailedPrecondition | ErrorKind::NotFound), "{error}");
    assert!(soon(consumer.next_batch()).await.unwrap().is_none(), "the error comes once");
    assert!(!soon(consumer.stop(GRACE)).await.unwrap().clean);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_received_ahead_stays_bounded() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    let mut expected = Vec::new();
    for _ in 0..60 {
        expected.extend(node.append("s", shard, &[("k", vec![7; 100_000])]).await);
    }
    let client = node.client().await;
    let by_number = client.consumer("sub").prefetch_batches(3).start().await.unwrap();
    let stats = || by_number.stats();
    eventually("filling the buffer", GRACE, || async { (stats().buffered_batches == 3).then_some(()) }).await;
    let mut seen = Vec::new();
    for _ in 0..60 {
        assert!(stats().buffered_batches <= 3, "{:?}", stats());
        seen.extend(receive(&by_number, 1).await);
    }
    assert_eq!(seen, expected);
    assert!(soon(by_number.stop(GRACE)).await.unwrap().clean);
}

/// Its acknowledgements need a session, and so does its place among the consumers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_not_read_attaches_again_and_hands_its_acks_in() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    let ids = node.append_batches("s", shard, 5, 1).await;
    let client = node.client().await;
    let consumer = client.consumer("sub").prefetch_batches(2).start().await.unwrap();
    assert_eq!(receive(&consumer, 1).await, ids[..1]);
    eventually("filling the buffer", GRACE, || async {
        (consumer.stats().buffered_batches == 2).then_some(())
    })
    .await;
    node.stop().await;
    consumer.ack(&ids[..1]).unwrap();
    node.start_again().await;
    eventually("its acknowledgement", GRACE, || async {
        let (_, checkpoints) = client.get_subscription("sub").await.ok()?;
        checkpoints.iter().any(|(_, batch)| *batch == ids[0].batch_id).then_some(())
    })
    .await;
    assert_eq!(consumer.state(), ConsumerState::Connected);
    assert!(consumer.stats().buffered_batches >= 2, "nobody has taken anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_not_read_does_not_hold_up_other_calls() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let client = node.client().await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        node.append("s", shard, &[("k", vec![7; 200_000])]).await;
    }
    for number in 0..4 {
        let subscription = format!("sub{number}");
        node.subscription(&subscription, "s").await;
        idle.push(client.consumer(&subscription).prefetch_batches(1).start().await.unwrap());
    }
    for consumer in &idle {
        eventually("filling the buffer", GRACE, || async {
            (consumer.stats().buffered_batches == 1).then_some(())
        })
        .await;
    }
    let reader = client.shard_reader("s", shard).until(hstreamdb::Offset::Latest).open().await.unwrap();
    let mut batches = 0;
    while soon(reader.next_batch()).await.unwrap().is_some() {
        batches += 1;
    }
    assert_eq!(batches, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_wait_loses_no_batch() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    let consumer = node.client().await.consumer("sub").start().await.unwrap();
    let mut expected = Vec::new();
    let mut seen = Vec::new();
    let deadline = Instant::now() + GRACE;
    for _ in 0..30 {
        expected.extend(node.append_batches("s", shard, 1, 1).await);
        if let Ok(batch) = tokio::time::timeout(Duration::from_micros(500), consumer.next_batch()).await {
            seen.extend_from_slice(batch.unwrap().unwrap().ids());
        }
    }
    while seen.len() < expected.len() && Instant::now() < deadline {
        seen.extend_from_slice(soon(consumer.next_batch()).await.unwrap().unwrap().ids());
    }
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_stays_taken_gets_a_suffix() {
    let mut node = TestNode::start().await;
    node.stream("s", 1).await;
    node.subscription("sub", "s").await;
    let client = node.client().await;
    let first = client.consumer("sub").name("worker").start().await.unwrap();
    let second = client.consumer("sub").name("worker").start().await.unwrap();
    eventually("attaching under another name", GRACE, || async {
        (second.state() == ConsumerState::Connected).then_some(())
    })
    .await;
    assert_eq!(first.name(), "worker");
    assert!(second.name().starts_with("worker-"), "{}", second.name());
    assert_eq!(first.state(), ConsumerState::Connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_must_be_free_ends_the_consumer_when_it_stays_taken() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    let client = node.client().await;
    let consumer = |way| client.consumer("sub").name("worker").set("name_taken", way).unwrap().start();
    let first = consumer("fail").await.unwrap();
    eventually("attaching", GRACE, || async { (first.state() == ConsumerState::Connected).then_some(()) })
        .await;
    let error = soon(consumer("fail")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert_eq!(error.message(), "ConsumerExists");
    // The first one did not notice.
    node.append_batches("s", shard, 1, 1).await;
    assert_eq!(receive(&first, 1).await.len(), 1);
    soon(first.stop(GRACE)).await.unwrap();
    let third = consumer("fail").await.unwrap();
    eventually("the name is free again", GRACE, || async {
        (third.state() == ConsumerState::Connected).then_some(())
    })
    .await;
    assert_eq!(third.name(), "worker");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_is_bounded_when_the_server_is_gone() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    node.append_batches("s", shard, 1, 3).await;
    let client = node.client().await;
    let consumer = client.consumer("sub").start().await.unwrap();
    let ids = receive(&consumer, 3).await;
    node.stop().await;
    consumer.ack(&ids).unwrap();
    let started = Instant::now();
    let report = soon(consumer.stop(Duration::from_millis(300))).await.unwrap();
    assert_eq!((report.unsent_acks, report.clean), (3, false));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_consumer_hands_its_acks_in() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    node.append_batches("s", shard, 5, 2).await;
    let client = node.client().await;
    let consumer = client.consumer("sub").ack_max_age(Duration::from_secs(3600)).start().await.unwrap();
    let ids = receive(&consumer, 10).await;
    consumer.ack(&ids).unwrap();
    drop(consumer);
    let marker = node.append_batches("s", shard, 1, 1).await;
    let next = client.consumer("sub").start().await.unwrap();
    assert_eq!(receive(&next, 1).await, marker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_none_is_refused_before_anything_is_sent() {
    let node = TestNode::start().await;
    let client = node.client().await;
    let calls = client.metrics().get("calls");
    for name in ["tab\there", &*"x".repeat(256)] {
        let error = soon(client.consumer("sub").name(name).start()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("1 to 255 characters"), "{error}");
    }
    assert_eq!(client.metrics().get("calls"), calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_is_marked_and_counted() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let client = node.client().await;
    let options = SubscriptionOptions::new().offset(StartFrom::Earliest).ack_timeout_secs(1);
    client.create_subscription("sub", "s", options).await.unwrap();
    let ids = node.append_batches("s", shard, 3, 2).await;
    let consumer = client.consumer("sub").start().await.unwrap();
    for _ in 0..3 {
        assert!(!soon(consumer.next_batch()).await.unwrap().unwrap().is_redelivered());
    }
    // One record of the first batch stays open, and the third batch.
    consumer.ack(&ids[1..4]).unwrap();
    let mut again = Vec::new();
    while again.len() < 3 {
        let batch = soon(consumer.next_batch()).await.unwrap().unwrap();
        assert!(batch.is_redelivered());
        again.extend_from_slice(batch.ids());
        consumer.ack_batch(&batch).unwrap();
    }
    again.sort();
    assert_eq!(again, [ids[0], ids[4], ids[5]]);
    let fresh = node.append_batches("s", shard, 1, 1).await;
    let batch = soon(consumer.next_batch()).await.unwrap().unwrap();
    assert_eq!((batch.ids(), batch.is_redelivered()), (&*fresh, false));
    let stats = consumer.stats();
    assert_eq!((stats.redelivered_records, stats.redelivered_acked_records), (3, 0));
    let metrics = client.metrics();
    assert_eq!(metrics.get("consumer_redelivered_records"), Some(3));
    assert_eq!(metrics.get("consumer_redelivered_acked_records"), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gauges_show_sessions_and_acknowledgements_and_go_back_to_nothing() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    node.append_batches("s", shard, 2, 4).await;
    let client = node.client().await;
    let gauge = |name| client.metrics().gauge(name).unwrap();
    let consumer = client.consumer("sub").start().await.unwrap();
    assert_eq!(gauge("consumer_sessions"), 1);
    let ids = receive(&consumer, 8).await;
    // The first batch stays open, so no checkpoint covers these.
    consumer.ack(&ids[4..]).unwrap();
    eventually("the gauge", GRACE, || async { (gauge("consumer_pending_acks") == 4).then_some(()) }).await;
    node.stop().await;
    eventually("the end of the session", GRACE, || async { (gauge("consumer_sessions") == 0).then_some(()) })
        .await;
    assert_eq!(gauge("consumer_pending_acks"), 4, "they are kept");
    assert!(!soon(consumer.stop(Duration::from_millis(300))).await.unwrap().clean);
    assert_eq!((gauge("consumer_pending_acks"), gauge("consumer_sessions")), (0, 0));
}

struct Deaf;

impl ConsumerSink for Deaf {
    fn batch(&self, _: ReceivedBatch) {}
    fn event(&self, _: ConsumerEvent) {}
    fn closed(&self, _: Option<Error>) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_feeds_a_sink_runs_no_handlers() {
    let mut node = TestNode::start().await;
    node.stream("s", 1).await;
    node.subscription("sub", "s").await;
    let consumer = node.client().await.consumer("sub").start_with_sink(Arc::new(Deaf)).await.unwrap();
    let error = soon(consumer.run(|_, _| std::future::ready(Ok::<_, Error>(())))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_panics_harms_nobody() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    let ids = node.append_batches("s", shard, 1, 2).await;
    let builder = node.client().await.consumer("sub").on_event(|_| panic!("of the user"));
    let consumer = builder.start().await.unwrap();
    assert_eq!(receive(&consumer, 2).await, ids);
    assert!(soon(consumer.stop(GRACE)).await.unwrap().clean);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_run_drops_its_handlers_and_the_consumer_goes_on() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    let ids = node.append_batches("s", shard, 2, 1).await;
    let consumer = node.client().await.consumer("sub").start().await.unwrap();
    let hang = |_, _| std::future::pending::<Result<(), Error>>();
    tokio::select! {
        result = consumer.run(hang) => panic!("it was still at it: {result:?}"),
        () = eventually("the handler", GRACE, || async {
            (consumer.stats().running_handlers == 1).then_some(())
        }) => {}
    }
    eventually("the end of the handler", GRACE, || async {
        (consumer.stats().running_handlers == 0).then_some(())
    })
    .await;
    assert_eq!(receive(&consumer, 1).await, ids[1..]);
    assert!(soon(consumer.stop(GRACE)).await.unwrap().clean);
}
