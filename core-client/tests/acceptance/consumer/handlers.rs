//! Point 17: what happens when a handler fails, and to records nobody expected.

use super::*;
use hstreamdb::{
    Error, ErrorKind, FailureAction, FailureReason, HandlerContext, PayloadKind, ReceivedBatch,
    ReceivedRecord, RunOptions,
};
use hstreamdb_proto::api;
use prost::Message as _;
use std::error::Error as _;
use std::sync::atomic::{AtomicU32, Ordering};

/// A handler that fails with this for records whose payload begins with `bad`, and notes every call.
#[derive(Clone, Default)]
struct Handler {
    calls: Arc<Mutex<Vec<(String, u32)>>>,
}

impl Handler {
    fn handle(&self, record: ReceivedRecord, context: HandlerContext) -> Result<(), String> {
        let text = String::from_utf8_lossy(&record.payload).into_owned();
        self.calls.lock().unwrap().push((text.clone(), context.tries()));
        if text.starts_with("panic") {
            panic!("of {text}");
        }
        if text.starts_with("bad") { Err(format!("cannot take {text}")) } else { Ok(()) }
    }

    fn calls(&self) -> Vec<(String, u32)> {
        self.calls.lock().unwrap().clone()
    }

    fn count(&self, text: &str) -> usize {
        self.calls().iter().filter(|(call, _)| call == text).count()
    }
}

async fn node_with(records: &[&str], ack_timeout_secs: u32) -> (TestNode, Client, Vec<RecordId>) {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let client = node.client().await;
    subscription(&client, "sub", ack_timeout_secs).await;
    let mut ids = Vec::new();
    for record in records {
        ids.extend(node.append("s", shard, &[("k", record.as_bytes().to_vec())]).await);
    }
    (node, client, ids)
}

/// Runs the handler until it was called `calls` times, then stops.
async fn run_until(consumer: &Consumer, options: RunOptions, handler: &Handler, calls: usize) {
    let run = tokio::spawn({
        let (consumer, handler) = (consumer.clone(), handler.clone());
        async move {
            let handle = move |record, context| {
                let handler = handler.clone();
                async move { handler.handle(record, context) }
            };
            consumer.run_records_with(options, handle).await
        }
    });
    eventually("calls of the handler", Duration::from_secs(20), || async {
        (handler.calls().len() >= calls).then_some(())
    })
    .await;
    assert!(soon(consumer.stop(GRACE)).await.unwrap().clean);
    soon(run).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p17_a_skipped_record_comes_again_and_holds_up_nobody() {
    let (_node, client, ids) = node_with(&["a", "bad", "panic", "b"], 1).await;
    let consumer = client.consumer("sub").start().await.unwrap();
    let handler = Handler::default();
    run_until(&consumer, RunOptions::new(), &handler, 6).await;
    let calls: Vec<_> = handler.calls().into_iter().map(|(call, _)| call).collect();
    assert_eq!(calls[..4], ["a", "bad", "panic", "b"]);
    assert!(handler.count("bad") >= 2 && handler.count("panic") >= 2, "{calls:?}");
    let stats = consumer.stats();
    assert!(stats.redelivered_records >= 2, "{stats:?}");
    assert!(stats.handler_failures >= 4, "{stats:?}");
    let next = client.consumer("sub").start().await.unwrap();
    assert_eq!(receive(&next, 2).await, ids[1..3], "only what failed is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p17_a_failure_can_stop_the_consumer_and_is_its_error() {
    let (_node, client, ids) = node_with(&["a", "bad", "b"], 600).await;
    let consumer = client.consumer("sub").start().await.unwrap();
    let handler = Handler::default();
    let options =
        RunOptions::new().retries(2).retry_pauses(Duration::from_millis(1), Duration::from_millis(2));
    let handle = {
        let handler = handler.clone();
        move |record, context| {
            let handler = handler.clone();
            async move { handler.handle(record, context) }
        }
    };
    let run = consumer.run_records_with(options.on_error(FailureAction::Stop), handle);
    let error = soon(run).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert!(error.to_string().contains("cannot take bad"), "{error}");
    assert!(error.to_string().contains(&ids[1].to_string()), "{error}");
    assert!(error.source().unwrap().source().is_some(), "the handler's own error is below it");
    let tries: Vec<_> =
        handler.calls().into_iter().filter(|(call, _)| call == "bad").map(|(_, n)| n).collect();
    assert_eq!(tries, [1, 2, 3]);
    assert_eq!(handler.count("b"), 0, "nothing is begun after it");
    assert_eq!(consumer.state(), hstreamdb::ConsumerState::Closed);
    // What went well before is acknowledged, the rest is not.
    let next = client.consumer("sub").start().await.unwrap();
    assert_eq!(receive(&next, 2).await, ids[1..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p17_a_callback_decides_about_every_try() {
    let (mut node, client, ids) = node_with(&["bad 1", "panic 2", "bad 3", "a"], 600).await;
    let consumer = client.consumer("sub").start().await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let options = RunOptions::new().on_failure({
        let seen = seen.clone();
        move |failure| {
            seen.lock().unwrap().push((failure.reason(), failure.ids().to_vec(), failure.tries()));
            match failure.tries() {
                1 => FailureAction::Retry(Duration::from_millis(1)),
                _ => FailureAction::Acknowledge,
            }
        }
    });
    run_until(&consumer, options, &Handler::default(), 7).await;
    let (error, panic) = (FailureReason::Error, FailureReason::Panic);
    let expected: Vec<_> = [(error, 0), (panic, 1), (error, 2)]
        .into_iter()
        .flat_map(|(reason, at)| [1, 2].map(|tries| (reason, vec![ids[at]], tries)))
        .collect();
    assert_eq!(*seen.lock().unwrap(), expected);
    let marker = node.append_batches("s", ids[0].shard_id, 1, 1).await;
    let next = client.consumer("sub").start().await.unwrap();
    assert_eq!(receive(&next, 1).await, marker, "all were acknowledged in the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p17_a_record_of_an_unexpected_kind_is_seen_or_a_failure() {
    let (_node, client, ids) = node_with(&["a"], 600).await;
    let producer = client.producer("s").build().await.unwrap();
    let json = hstreamdb::Record::hrecord_json(r#"{"a": 1}"#).unwrap();
    let json = soon(producer.append(json.with_key("k")).await.unwrap()).await.unwrap();

    let consumer = client.consumer("sub").start().await.unwrap();
    let handler = Handler::default();
    let expecting = RunOptions::new().expect(PayloadKind::Raw);
    let run = {
        let handler = handler.clone();
        consumer.run_records_with(expecting.on_error(FailureAction::Stop), move |record, context| {
            let handler = handler.clone();
            async move { handler.handle(record, context) }
        })
    };
    let error = soon(run).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&json.to_string()) && text.contains("hrecord") && text.contains("raw"), "{text}");
    assert_eq!(handler.calls(), [("a".to_owned(), 1)]);

    // Without an expectation the handler sees it.
    let consumer = client.consumer("sub").start().await.unwrap();
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let run = tokio::spawn({
        let (consumer, kinds) = (consumer.clone(), kinds.clone());
        async move {
            consumer
                .run_records(move |record: ReceivedRecord, _| {
                    kinds.lock().unwrap().push((record.id, record.kind));
                    std::future::ready(Ok::<_, std::convert::Infallible>(()))
                })
                .await
        }
    });
    eventually("the record", GRACE, || async { (!kinds.lock().unwrap().is_empty()).then_some(()) }).await;
    assert_eq!(*kinds.lock().unwrap(), [(json, PayloadKind::HRecord)], "{ids:?}");
    consumer.stop(GRACE).await.unwrap();
    soon(run).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p17_a_batch_nobody_can_decode_is_told_and_passed_over() {
    for per_record in [true, false] {
        let (mut node, client, ids) = node_with(&["a"], 600).await;
        let poison = api::BatchedRecord {
            compression_type: api::CompressionType::Gzip as i32,
            batch_size: 3,
            payload: b"no gzip".as_slice().into(),
            ..Default::default()
        };
        assert!(api::BatchHStreamRecords::decode(poison.payload.clone()).is_err());
        let request =
            api::AppendRequest { stream_name: "s".into(), shard_id: ids[0].shard_id, records: Some(poison) };
        let unreadable = node.wire.append(request).await.unwrap().into_inner().record_ids;
        let after = node.append_batches("s", ids[0].shard_id, 1, 1).await;
        let events = Events::default();
        let consumer = client.consumer("sub").on_event(events.listener()).start().await.unwrap();
        let calls = Arc::new(AtomicU32::new(0));
        let run = tokio::spawn({
            let (consumer, calls) = (consumer.clone(), calls.clone());
            async move {
                if per_record {
                    let handle = move |_: ReceivedRecord, _| {
                        calls.fetch_add(1, Ordering::SeqCst);
                        std::future::ready(Ok::<_, Error>(()))
                    };
                    return consumer.run_records(handle).await;
                }
                let handle = move |batch: ReceivedBatch, _| {
                    let calls = calls.clone();
                    async move {
                        batch.decoded()?;
                        calls.fetch_add(1, Ordering::SeqCst);
                        Ok::<_, Error>(())
                    }
                };
                consumer.run(handle).await
            }
        });
        eventually("both good ones", GRACE, || async { (calls.load(Ordering::SeqCst) == 2).then_some(()) })
            .await;
        assert!(soon(consumer.stop(GRACE)).await.unwrap().clean);
        soon(run).await.unwrap().unwrap();
        assert_eq!(consumer.stats().unreadable_batches, 1);
        assert_eq!(client.metrics().get("consumer_unreadable_batches"), Some(1));
        let told = events.all().into_iter().find_map(|event| match event {
            ConsumerEvent::Unreadable { first, records, error } => Some((first, records, error)),
            _ => None,
        });
        let (first, records, error) = told.expect("an event");
        assert_eq!((first.unwrap().batch_id, records), (unreadable[0].batch_id, 3));
        assert_eq!(error.kind(), ErrorKind::Codec);
        let marker = node.append_batches("s", ids[0].shard_id, 1, 1).await;
        let next = client.consumer("sub").start().await.unwrap();
        assert_eq!(receive(&next, 1).await, marker, "it does not come again: {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p17_handlers_of_several_shards_run_together_and_keep_each_shards_order() {
    let mut node = TestNode::start().await;
    let shards = node.stream("s", 4).await;
    let client = node.client().await;
    subscription(&client, "sub", 600).await;
    let mut expected = std::collections::BTreeMap::new();
    for &shard in &shards {
        expected.insert(shard, node.append_batches("s", shard, 20, 1).await);
    }
    let consumer = client.consumer("sub").start().await.unwrap();
    let (seen, most) = (Arc::new(Mutex::new(std::collections::BTreeMap::new())), Arc::new(AtomicU32::new(0)));
    let at_work = Arc::new(AtomicU32::new(0));
    let run = tokio::spawn({
        let (consumer, seen, most) = (consumer.clone(), seen.clone(), most.clone());
        async move {
            let handle = move |batch: ReceivedBatch, _| {
                let (seen, most, at_work) = (seen.clone(), most.clone(), at_work.clone());
                async move {
                    most.fetch_max(at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    for _ in 0..50 {
                        tokio::task::yield_now().await;
                    }
                    let mut seen = seen.lock().unwrap();
                    let of_shard: &mut Vec<RecordId> = seen.entry(batch.shard_id()).or_default();
                    of_shard.extend_from_slice(batch.ids());
                    at_work.fetch_sub(1, Ordering::SeqCst);
                    Ok::<_, std::convert::Infallible>(())
                }
            };
            consumer.run_with(RunOptions::new().concurrency(3), handle).await
        }
    });
    eventually("everything", Duration::from_secs(20), || async {
        (seen.lock().unwrap().values().map(Vec::len).sum::<usize>() == 80).then_some(())
    })
    .await;
    assert!(soon(consumer.stop(GRACE)).await.unwrap().clean);
    soon(run).await.unwrap().unwrap();
    assert_eq!(*seen.lock().unwrap(), expected);
    let most = most.load(Ordering::SeqCst);
    assert!((2..=3).contains(&most), "{most} at a time");
}
