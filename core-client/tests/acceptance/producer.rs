//! Points 1, 2, 3, 8, 9, 13, 14, 15: receipts, order, close, flow control, batch limits, shard maps, codec.

use crate::{
    node_under_test::{PATIENCE, TestNode, soon},
    writers::{self, Written},
};
use hstream_testkit::{Fault, RpcProxy, eventually};
use hstreamdb::{
    AppendOutcome, Client, Compression, DeleteStreamOptions, ErrorKind, HRecord, Offset, PayloadKind,
    Producer, ReceivedRecord, Record, RecordBatch, RecordId, StreamOptions, WhenFull,
};
use hstreamdb_proto::api::{self, CompressionType};
use prost::Message as _;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

/// A pause between tries that no test waits for.
const FOR_EVER: Duration = Duration::from_secs(86_400);

async fn node_behind_proxy(broken: Fault) -> (TestNode, RpcProxy) {
    let node = TestNode::start().await;
    let proxy = RpcProxy::start_broken(node.address().port(), broken).await.unwrap();
    (node, proxy)
}

async fn connect(url: &str) -> Client {
    Client::builder().url(url).set("retry_max_ms", 100).unwrap().connect().await.unwrap()
}

async fn create(client: &Client, stream: &str, shard_count: u32) {
    soon(client.create_stream(stream, StreamOptions::new().shard_count(shard_count))).await.unwrap();
}

/// All records of a stream by shard, in the order they are stored.
async fn stored(client: &Client, stream: &str) -> BTreeMap<u64, Vec<ReceivedRecord>> {
    let mut all = BTreeMap::new();
    for shard in soon(client.list_shards(stream)).await.unwrap() {
        let reader = client.shard_reader(stream, shard.id).until(Offset::Latest).open().await.unwrap();
        let records: &mut Vec<_> = all.entry(shard.id).or_default();
        while let Some(batch) = soon(reader.next_batch()).await.unwrap() {
            records.extend(batch.records().unwrap());
        }
    }
    all
}

/// The payloads of one shard as numbers.
fn numbers(records: &[ReceivedRecord]) -> Vec<usize> {
    records.iter().map(|record| std::str::from_utf8(&record.payload).unwrap().parse().unwrap()).collect()
}

/// A record per number, of one key.
fn numbered(numbers: std::ops::Range<usize>, key: &str) -> RecordBatch {
    let mut batch = RecordBatch::default();
    numbers.for_each(|number| batch.push(key, number.to_string().as_bytes()));
    batch
}

/// Two keys of different shards of a stream with two.
async fn keys_of_two_shards(client: &Client, stream: &str) -> [String; 2] {
    let map = soon(client.shard_map(stream)).await.unwrap();
    let ids: Vec<u64> = map.shard_ids().collect();
    let key_of =
        |id| (0..).map(|n| format!("key{n}")).find(|key| map.shard_for_key(key) == Some(id)).unwrap();
    [key_of(ids[0]), key_of(ids[1])]
}

/// What an end of the producer left: kinds of the receipts, and outcomes by completion.
async fn everything_resolves(proxy: &RpcProxy, end: impl AsyncFnOnce(Client, Producer)) {
    let client = connect(&proxy.url()).await;
    let producer = client.producer("s").batch_max_records(2).max_inflight_per_shard(1).build().await.unwrap();
    let completions = Arc::new(AtomicU32::new(0));
    let mut receipts = Vec::new();
    for number in 0..10 {
        receipts.push(producer.append(Record::raw(number.to_string())).await.unwrap());
        let calls = completions.clone();
        let done = move |outcome: AppendOutcome| {
            let failed: usize = outcome.errors.iter().map(|(range, _)| range.len()).sum();
            assert_eq!((outcome.ids.len(), failed), (3, 3), "{outcome:?}");
            calls.fetch_add(1, SeqCst);
        };
        producer.try_append_many(numbered(0..3, ""), Box::new(done)).ok().unwrap();
    }
    let many = producer.append_many(numbered(0..3, "")).await.unwrap();
    let flush = tokio::spawn({
        let producer = producer.clone();
        async move { producer.flush().await }
    });
    // The first batch is on its way by then.
    eventually("sending", PATIENCE, || async { (proxy.late() == 1).then_some(()) }).await;
    end(client, producer).await;
    let mut kinds = Vec::new();
    for receipt in receipts {
        kinds.push(soon(receipt).await.unwrap_err().kind());
    }
    assert_eq!(kinds[0], ErrorKind::OutcomeUnknown, "it was sent");
    assert!(kinds[1..].iter().all(|kind| *kind == ErrorKind::Closed), "they were not: {kinds:?}");
    let outcome = soon(many).await;
    assert_eq!(outcome.errors[0].1.kind(), ErrorKind::Closed);
    eventually("the completions", PATIENCE, || async { (completions.load(SeqCst) == 10).then_some(()) })
        .await;
    // Cancelled with its runtime, or told.
    assert!(!matches!(soon(flush).await, Ok(Ok(()))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_receipts_resolve_once_when_the_producer_is_closed() {
    let (mut node, proxy) = node_behind_proxy(Fault::None).await;
    node.stream("s", 1).await;
    proxy.set(Fault::Hang);
    everything_resolves(&proxy, async |_client, producer| {
        soon(producer.close(Duration::from_millis(50))).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_receipts_resolve_once_when_the_client_is_closed() {
    let (mut node, proxy) = node_behind_proxy(Fault::None).await;
    node.stream("s", 1).await;
    proxy.set(Fault::Hang);
    everything_resolves(&proxy, async |client, producer| {
        let error = soon(client.close(Duration::from_millis(50))).await.unwrap_err();
        assert!(error.message().contains("2 may be stored"), "{error}");
        assert_eq!(producer.append(Record::raw("late")).await.unwrap_err().kind(), ErrorKind::Closed);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_receipts_resolve_once_when_the_runtime_dies() {
    let (mut node, proxy) = node_behind_proxy(Fault::None).await;
    node.stream("s", 1).await;
    proxy.set(Fault::Hang);
    let url = proxy.url();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (entered, alive) = tokio::sync::oneshot::channel::<()>();
    let inner = runtime.spawn(async move {
        // The pipelines live on this runtime, the receipts are awaited from another.
        let client = connect(&url).await;
        let producer =
            client.producer("s").batch_max_records(1).max_inflight_per_shard(1).build().await.unwrap();
        let receipts: Vec<_> = [
            producer.append(Record::raw("1")).await.unwrap(),
            producer.append(Record::raw("2")).await.unwrap(),
        ]
        .into();
        eventually("sending", PATIENCE, || async {
            client.metrics().gauges.contains(&("append_inflight_batches", 1)).then_some(())
        })
        .await;
        entered.send(()).unwrap();
        (client, producer, receipts)
    });
    alive.await.unwrap();
    let (_client, producer, receipts) = soon(inner).await.unwrap();
    tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
    let mut kinds = Vec::new();
    for receipt in receipts {
        kinds.push(soon(receipt).await.unwrap_err().kind());
    }
    assert_eq!(kinds, [ErrorKind::OutcomeUnknown, ErrorKind::Closed]);
    assert_eq!(producer.pending().records, 0);
    assert_eq!(producer.try_append(Record::raw("3")).unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_a_dropped_producer_still_resolves_what_it_accepted() {
    let (mut node, proxy) = node_behind_proxy(Fault::None).await;
    node.stream("s", 1).await;
    let client = connect(&proxy.url()).await;
    let producer = client.producer("s").batch_max_age(FOR_EVER).build().await.unwrap();
    let receipt = producer.append(Record::raw("1")).await.unwrap();
    let cancelled = producer.append(Record::raw("2"));
    drop(cancelled);
    drop(producer);
    soon(receipt).await.unwrap();
    let stored = stored(&client, "s").await;
    assert_eq!(
        stored.values().map(Vec::len).sum::<usize>(),
        1,
        "an append that was never polled appends nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_lost_replies_are_ids_with_the_capability_and_unknown_outcomes_without() {
    for broken in [Fault::None, Fault::Published] {
        let (mut node, proxy) = node_behind_proxy(broken).await;
        node.stream("s", 1).await;
        let client = connect(&proxy.url()).await;
        let producer = client.producer("s").batch_max_records(5).build().await.unwrap();
        // A server that knows the producer lets what comes early wait; otherwise the lost replies could be refusals.
        soon(producer.append(Record::raw("0").with_key("first")).await.unwrap()).await.unwrap();
        proxy.set(Fault::LoseReplies(2));
        let outcome = soon(producer.append_many(numbered(0..50, "")).await.unwrap()).await;
        let stored = numbers(&stored(&client, "s").await.into_values().next().unwrap()[1..]);
        // Also the batches whose replies were lost, and none of them twice.
        assert_eq!(stored, (0..50).collect::<Vec<_>>(), "{broken:?}");
        let unknown: Vec<_> = outcome
            .errors
            .iter()
            .map(|(range, error)| {
                assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
                assert!(error.may_have_been_applied() && !error.is_retryable());
                range.clone()
            })
            .collect();
        match broken {
            Fault::None => {
                assert!(unknown.is_empty(), "{unknown:?}");
                assert!(client.metrics().get("append_repeats").unwrap() >= 1);
            }
            _ => {
                assert_eq!(unknown, [0..5, 5..10]);
                assert_eq!(client.metrics().get("append_retries"), Some(0));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p02_a_shard_that_hangs_holds_up_itself_only_and_keeps_its_order() {
    let (mut node, proxy) = node_behind_proxy(Fault::None).await;
    node.stream("s", 2).await;
    let client = connect(&proxy.url()).await;
    let [slow, quick] = keys_of_two_shards(&client, "s").await;
    let producer = client.producer("s").batch_max_records(5).batch_max_age(Duration::ZERO);
    let producer = producer.request_timeout(PATIENCE * 10).build().await.unwrap();
    // The first batch of the shard goes nowhere until its connection breaks.
    proxy.set(Fault::Hang);
    let mut hanging = soon(producer.append_many(numbered(0..5, &slow))).await.unwrap();
    eventually("sending", PATIENCE, || async { (proxy.late() == 1).then_some(()) }).await;
    proxy.set(Fault::None);
    let behind = soon(producer.append_many(numbered(5..30, &slow))).await.unwrap();
    for start in (0..100).step_by(10) {
        let receipt = soon(producer.append_many(numbered(start..start + 10, &quick))).await.unwrap();
        soon(receipt).await.into_result().unwrap();
    }
    assert!(futures::poll!(&mut hanging).is_pending(), "the other shard waited for this one");
    proxy.cut_connections();
    soon(hanging).await.into_result().unwrap();
    soon(behind).await.into_result().unwrap();
    let map = soon(client.shard_map("s")).await.unwrap();
    let stored = stored(&client, "s").await;
    assert_eq!(numbers(&stored[&map.shard_for_key(&slow).unwrap()]), (0..30).collect::<Vec<_>>());
    assert_eq!(numbers(&stored[&map.shard_for_key(&quick).unwrap()]), (0..100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p02_batches_stay_in_order_whatever_is_lost_of_them() {
    for broken in [Fault::None, Fault::Published] {
        let (mut node, proxy) = node_behind_proxy(broken).await;
        node.stream("s", 1).await;
        let client = connect(&proxy.url()).await;
        let producer =
            client.producer("s").batch_max_records(3).max_inflight_per_shard(8).build().await.unwrap();
        let mut receipts = Vec::new();
        for round in 0..20 {
            if round % 4 == 1 {
                proxy.set(Fault::LoseReplies(1));
            }
            if round % 5 == 3 {
                proxy.cut_connections();
            }
            let records = numbered(round * 10..round * 10 + 10, "k");
            receipts.push((round * 10, soon(producer.append_many(records)).await.unwrap()));
        }
        let mut ids: Vec<Option<RecordId>> = Vec::new();
        for (_, receipt) in receipts {
            let outcome = soon(receipt).await;
            assert!(
                outcome.errors.iter().all(|(_, error)| error.kind() == ErrorKind::OutcomeUnknown),
                "{outcome:?}"
            );
            ids.extend(outcome.ids);
        }
        let stored = stored(&client, "s").await.into_values().next().unwrap();
        let order = numbers(&stored);
        assert!(order.is_sorted_by(|a, b| a < b), "{broken:?}: out of order or twice: {order:?}");
        for (number, id) in ids.iter().enumerate().filter_map(|(number, id)| id.map(|id| (number, id))) {
            let record = stored.iter().find(|record| record.id == id).unwrap();
            assert_eq!(record.payload, number.to_string(), "{broken:?}");
        }
        if broken == Fault::None {
            assert!(ids.iter().all(Option::is_some), "a server with the capability loses nothing");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p03_close_stops_the_intake_sends_the_rest_and_waits_for_it() {
    let (mut node, proxy) = node_behind_proxy(Fault::None).await;
    node.stream("s", 2).await;
    let client = connect(&proxy.url()).await;
    let [one, other] = keys_of_two_shards(&client, "s").await;
    let producer =
        client.producer("s").batch_max_records(1000).batch_max_age(FOR_EVER).build().await.unwrap();
    proxy.set(Fault::LoseReplies(1));
    let mut receipts = vec![
        producer.append_many(numbered(0..70, &one)).await.unwrap(),
        producer.append_many(numbered(0..30, &other)).await.unwrap(),
    ];
    let report = soon(producer.close(PATIENCE)).await.unwrap();
    assert_eq!((report.acknowledged, report.failed, report.unresolved), (100, 0, 0), "{report}");
    for receipt in receipts.drain(..) {
        // It is there already: the close has waited for it.
        let outcome =
            futures::FutureExt::now_or_never(receipt).expect("the close did not wait for the receipt");
        outcome.into_result().unwrap();
    }
    assert_eq!(stored(&client, "s").await.values().map(Vec::len).sum::<usize>(), 100);
    assert_eq!(producer.append(Record::raw("late")).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(producer.append_many(numbered(0..1, "")).await.unwrap_err().kind(), ErrorKind::Closed);
    producer.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p03_close_ends_by_its_deadline_and_says_where_records_are_unresolved() {
    let (mut node, proxy) = node_behind_proxy(Fault::None).await;
    node.stream("s", 2).await;
    let client = connect(&proxy.url()).await;
    let [one, other] = keys_of_two_shards(&client, "s").await;
    let map = soon(client.shard_map("s")).await.unwrap();
    let producer = client.producer("s").batch_max_records(10).max_inflight_per_shard(2);
    let producer = producer.request_timeout(PATIENCE * 10).build().await.unwrap();
    soon(producer.append_many(numbered(0..10, &one)).await.unwrap()).await.into_result().unwrap();
    proxy.set(Fault::Hang);
    let first = producer.append_many(numbered(10..45, &one)).await.unwrap();
    let second = producer.append_many(numbered(0..10, &other)).await.unwrap();
    eventually("sending", PATIENCE, || async { (proxy.late() == 3).then_some(()) }).await;
    // Without the deadline this would hang for minutes.
    let report = soon(producer.close(Duration::from_millis(100))).await.unwrap();
    assert_eq!((report.acknowledged, report.failed, report.unresolved), (10, 0, 45));
    let of = |key: &str| {
        let id = map.shard_for_key(key).unwrap();
        let shard = report.shards.iter().find(|shard| shard.shard_id == id).unwrap();
        (shard.may_be_stored, shard.not_stored)
    };
    assert_eq!((of(&one), of(&other)), ((20, 15), (10, 0)));
    let outcome = soon(first).await;
    let kinds: Vec<_> = outcome.errors.iter().map(|(range, error)| (range.clone(), error.kind())).collect();
    let (unknown, closed) = (ErrorKind::OutcomeUnknown, ErrorKind::Closed);
    assert_eq!(kinds, [(0..10, unknown), (10..20, unknown), (20..30, closed), (30..35, closed)]);
    assert_eq!(soon(second).await.errors[0].1.kind(), unknown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p08_flow_control_is_exact_fair_and_survives_those_who_give_up() {
    let (mut node, proxy) = node_behind_proxy(Fault::None).await;
    node.stream("s", 1).await;
    let client = connect(&proxy.url()).await;
    let build = |when_full| {
        let producer = client.producer("s").flow_control_bytes(1000).when_full(when_full);
        producer.batch_max_age(Duration::ZERO).request_timeout(Duration::from_millis(300)).build()
    };
    let of = |bytes: usize| Record::raw(vec![b'x'; bytes]);
    let producer = build(WhenFull::Wait).await.unwrap();
    // Larger than everything: at once, also with all of it free.
    let error = soon(producer.append(of(1001))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.message().contains("flow_control_bytes"), "{error}");

    proxy.set(Fault::Hang);
    let held = producer.append(of(900)).await.unwrap();
    assert_eq!((producer.pending().records, producer.pending().bytes), (1, 900));
    let mut large = Box::pin(producer.append(of(500)));
    let mut small = Box::pin(producer.append(of(50)));
    assert!(futures::poll!(&mut large).is_pending());
    assert!(futures::poll!(&mut small).is_pending(), "it would fit, but others were first");
    assert_eq!(producer.try_append(of(50)).unwrap_err().kind(), ErrorKind::Overloaded);
    drop(large);
    // Whoever gives up makes room for the next one.
    let small = soon(small).await.unwrap();
    let mut many: Vec<_> = (0..10).map(|_| Box::pin(producer.append(of(200)))).collect();
    for waiting in &mut many {
        assert!(futures::poll!(waiting).is_pending());
    }
    proxy.set(Fault::None);
    soon(held).await.unwrap();
    soon(small).await.unwrap();
    for waiting in many {
        soon(soon(waiting).await.unwrap()).await.unwrap();
    }
    soon(producer.flush()).await.unwrap();
    assert_eq!((producer.pending().records, producer.pending().bytes), (0, 0), "all room comes back");
    soon(producer.append(of(1000)).await.unwrap()).await.unwrap();

    // One that has its bytes and waits for its record gives both back when it gives up.
    let narrow = client.producer("s").flow_control_bytes(1000).flow_control_records(1);
    let narrow = narrow
        .batch_max_age(Duration::ZERO)
        .request_timeout(Duration::from_millis(300))
        .build()
        .await
        .unwrap();
    proxy.set(Fault::Hang);
    let held = narrow.append(of(1)).await.unwrap();
    let mut waiting = Box::pin(narrow.append(of(900)));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(waiting);
    proxy.set(Fault::None);
    soon(held).await.unwrap();
    soon(soon(narrow.append(of(1000))).await.unwrap()).await.unwrap();

    proxy.set(Fault::Hang);
    for when_full in [WhenFull::Fail, WhenFull::WaitTimeout(Duration::from_millis(20))] {
        let producer = build(when_full).await.unwrap();
        let _held = producer.append(of(1000)).await.unwrap();
        let error = soon(producer.append(of(1))).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.is_retryable()),
            (ErrorKind::Overloaded, true),
            "{when_full:?}: {error}"
        );
        soon(producer.close(Duration::ZERO)).await.unwrap();
    }
}

/// The batches of the only shard as they are stored.
async fn batches(node: &mut TestNode, shard: u64) -> Vec<api::BatchedRecord> {
    let special = |offset: api::SpecialOffset| api::ShardOffset {
        offset: Some(api::shard_offset::Offset::SpecialOffset(offset as i32)),
    };
    let request = api::ReadShardStreamRequest {
        reader_id: "raw".into(),
        shard_id: shard,
        from: Some(special(api::SpecialOffset::Earliest)),
        until: Some(special(api::SpecialOffset::Latest)),
        ..Default::default()
    };
    let mut answers = node.wire.read_shard_stream(request).await.unwrap().into_inner();
    let mut batches = Vec::new();
    while let Some(answer) = soon(answers.message()).await.unwrap() {
        batches.extend(answer.received_records.into_iter().filter_map(|received| received.record));
    }
    batches
}

/// Bytes that no compression shrinks.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let step = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 32) as u8
    };
    (0..length).map(|_| step(&mut state)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p09_batches_are_split_below_the_servers_limit() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let client = node.client().await;
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let producer = client.producer("s").compression(compression).batch_max_records(100_000);
        let producer = producer.batch_max_age(FOR_EVER).build().await.unwrap();
        // 64 of these fill the default of 512 KiB with their payloads alone, and 128 the limit of the server.
        let payloads: Vec<_> = (0..200).map(|seed| noise(8192, seed)).collect();
        let mut batch = RecordBatch::default();
        payloads.iter().for_each(|payload| batch.push("key", payload));
        let receipt = soon(producer.append_many(batch)).await.unwrap();
        soon(producer.flush()).await.unwrap();
        soon(receipt).await.into_result().unwrap();
    }
    let batches = batches(&mut node, shard).await;
    let sizes: Vec<_> = batches.iter().map(|batch| batch.encoded_len()).collect();
    // The time of the append, which the server adds, takes at most 18.
    assert!(sizes.iter().all(|size| *size <= 512 * 1024 + 18), "{sizes:?}");
    assert_eq!(batches.len(), 3 * 4, "each is as full as it can be: {sizes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p09_a_record_above_the_servers_limit_is_refused_here_and_alone() {
    let (mut node, proxy) = node_behind_proxy(Fault::None).await;
    node.stream("s", 1).await;
    let client = connect(&proxy.url()).await;
    let producer = client.producer("s").build().await.unwrap();
    // An answer to an append would be this one.
    proxy.answer("Append", tonic::Code::Internal as i32, "it was sent");
    let error = soon(producer.append(Record::raw(noise(1 << 20, 1)))).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::InvalidArgument, Some(207)), "{error}");
    assert!(!error.may_have_been_applied() && !error.is_retryable());

    let client = connect(&format!("hstream://{}", node.address())).await;
    let producer = client.producer("s").build().await.unwrap();
    let records = [Record::raw("1"), Record::raw(noise((1 << 20) - 17, 1)), Record::raw("2")];
    let outcome = soon(producer.append_many(records.iter().collect()).await.unwrap()).await;
    assert!(outcome.ids[0].is_some() && outcome.ids[2].is_some(), "{outcome:?}");
    assert_eq!((outcome.errors[0].0.clone(), outcome.errors[0].1.code()), (1..2, Some(207)));
    // The largest there can be goes through: what is around it takes 18 bytes.
    let fits = soon(producer.append(Record::raw(noise((1 << 20) - 18, 1)))).await.unwrap();
    soon(fits).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_a_stream_that_is_deleted_or_made_again_is_noticed_at_the_first_append() {
    for broken in [Fault::None, Fault::Published] {
        let (node, proxy) = node_behind_proxy(broken).await;
        let direct = node.client().await;
        create(&direct, "s", 1).await;
        let client = connect(&proxy.url()).await;
        // Whoever tries again first waits until the test has failed.
        let producer = client.producer("s").batch_max_age(Duration::ZERO).retry_pauses(FOR_EVER, FOR_EVER);
        let producer = producer.build().await.unwrap();
        let old = soon(producer.append(Record::raw("0")).await.unwrap()).await.unwrap();
        soon(direct.delete_stream("s", DeleteStreamOptions::default())).await.unwrap();
        if broken == Fault::Published {
            // The words of the published server's storage.
            proxy.answer("Append", tonic::Code::Unavailable as i32, "NOTFOUND: log group not found");
        }
        let error = soon(producer.append(Record::raw("1")).await.unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(!error.may_have_been_applied(), "{error}");
        create(&direct, "s", 3).await;
        let error = soon(producer.append(Record::raw("2")).await.unwrap()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Routing, true), "{error}");
        assert!(!error.may_have_been_applied(), "{error}");
        assert_eq!(client.metrics().get("append_retries"), Some(0));
        proxy.answer("Nothing", 0, "");
        let id = soon(producer.append(Record::raw("3")).await.unwrap()).await.unwrap();
        assert_ne!(id.shard_id, old.shard_id);
        let stored: Vec<_> = stored(&direct, "s").await.into_values().flatten().collect();
        assert_eq!(stored.iter().map(|record| record.id).collect::<Vec<_>>(), [id]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_appends_through_the_client_go_on_in_a_stream_that_was_made_again() {
    let node = TestNode::start().await;
    let client = node.client().await;
    create(&client, "s", 1).await;
    let first = soon(client.append("s", Record::raw("0"))).await.unwrap();
    soon(client.delete_stream("s", DeleteStreamOptions::default())).await.unwrap();
    let error = soon(client.append("s", Record::raw("1"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    create(&client, "s", 4).await;
    let [a, b] = ["a", ""];
    let mut batch = numbered(2..4, a);
    batch.push(b, b"4");
    let outcome = soon(client.append_batch("s", batch)).await.unwrap();
    let ids = outcome.into_result().unwrap();
    assert!(ids.iter().all(|id| id.shard_id != first.shard_id));
    let last = soon(client.append("s", Record::raw("5").with_key(a))).await.unwrap();
    let map = soon(client.shard_map("s")).await.unwrap();
    let stored = stored(&client, "s").await;
    assert_eq!(numbers(&stored[&map.shard_for_key(a).unwrap()]), [2, 3, 5]);
    assert_eq!(numbers(&stored[&map.shard_for_key(b).unwrap()]), [4]);
    assert_eq!(last.shard_id, map.shard_for_key(a).unwrap());
    let error = soon(client.append("nowhere", Record::raw("x"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p14_batches_are_written_so_that_every_client_can_read_them() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let client = node.client().await;
    let text = "compress me ".repeat(100);
    let hrecord = HRecord::from_json(r#"{"a":[1,null,{"b":"c"}]}"#).unwrap();
    let records = [Record::raw(text.clone()).with_key("k"), Record::hrecord(&hrecord).with_key("k")];
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let producer = client.producer("s").compression(compression).build().await.unwrap();
        soon(producer.append_many(records.iter().collect()).await.unwrap()).await.into_result().unwrap();
    }
    let batches = batches(&mut node, shard).await;
    let kinds: Vec<_> = batches.iter().map(|batch| batch.compression_type).collect();
    assert_eq!(
        kinds,
        [CompressionType::None as i32, CompressionType::Gzip as i32, CompressionType::Zstd as i32]
    );
    let content = api::BatchHStreamRecords::decode(batches[0].payload.clone()).unwrap();
    let length = batches[0].payload.len();
    // A JSON flag means a Struct to everybody.
    let record = &content.records[1];
    assert_eq!(record.header.as_ref().unwrap().flag, 0);
    assert_eq!(prost_types::Struct::decode(record.payload.clone()).unwrap().fields.len(), 1);
    let gzip = &batches[1].payload;
    assert_eq!(gzip[..3], [0x1f, 0x8b, 8]);
    let trailer = u32::from_le_bytes(gzip[gzip.len() - 4..].try_into().unwrap());
    assert_eq!(trailer as usize, length, "the member ends with the length of the content");
    let zstd = &batches[2].payload;
    assert_eq!(zstd[..4], [0x28, 0xb5, 0x2f, 0xfd]);
    // Single segment or a size field: either way the frame header says how long the content is.
    assert!(zstd[4] & 0x20 != 0 || zstd[4] >> 6 != 0, "a frame without a content size: {:x}", zstd[4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p14_batches_of_every_published_client_can_be_read() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    let written = writers::all();
    for batch in &written {
        let request = api::AppendRequest {
            stream_name: "s".into(),
            shard_id: shard,
            records: Some(batch.batch.clone()),
        };
        node.wire.append(request).await.unwrap_or_else(|status| panic!("{}: {status}", batch.by));
    }
    let client = node.client().await;
    let reader = client.shard_reader("s", shard).until(Offset::Latest).open().await.unwrap();
    let consumer = client.consumer("sub").start().await.unwrap();
    for Written { by, records, .. } in written {
        let read = soon(reader.next_batch()).await.unwrap().expect("the reader ended early");
        let consumed = soon(consumer.next_batch()).await.unwrap().expect("the consumer ended early");
        for batch in [read, consumed] {
            let got = batch.records().unwrap_or_else(|error| panic!("{by}: {error}"));
            let seen: Vec<_> = got
                .iter()
                .map(|record| (record.key.as_str(), &record.payload[..], record.kind == PayloadKind::HRecord))
                .collect();
            assert_eq!(seen, records, "{by}");
            for record in got.iter().filter(|record| record.kind == PayloadKind::HRecord) {
                match by {
                    // No Struct: an error of this one record, with its bytes at hand.
                    "Erlang, none" => assert_eq!(record.to_json().unwrap_err().kind(), ErrorKind::Codec),
                    _ => assert_eq!(record.to_json().unwrap(), r#"{"a":1.5,"b":null}"#, "{by}"),
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_empty_and_unusual_records_come_back_as_they_went_in() {
    let node = TestNode::start().await;
    let client = node.client().await;
    create(&client, "s", 3).await;
    let json =
        r#"{"":"","deep":{"list":[[],[null,[true]],{}]},"exact":9007199254740992,"float":-0.5,"null":null}"#;
    let records = [
        Record::raw(""),
        Record::raw("").with_key("key"),
        Record::raw("x").with_key("ключ \u{1f511}\u{0}"),
        Record::raw(vec![0u8, 0xff, 0x80]).with_key(" "),
        Record::raw("").with_attribute("", "").with_attribute("naïve", "ü\n").with_key("attributes"),
        Record::hrecord_json("{}").unwrap(),
        Record::hrecord_json(json).unwrap().with_key("json"),
    ];
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let producer = client.producer("s").compression(compression).build().await.unwrap();
        // Alone in its batch, and with others.
        for record in &records {
            soon(producer.append(record.clone()).await.unwrap()).await.unwrap();
        }
        soon(producer.append_many(records.iter().collect()).await.unwrap()).await.into_result().unwrap();
    }
    let map = soon(client.shard_map("s")).await.unwrap();
    let stored = stored(&client, "s").await;
    let mut count = 0;
    for record in &records {
        let shard = map.shard_for_key(&record.key).unwrap();
        let same = stored[&shard].iter().filter(|got| {
            (&got.key, &got.payload, got.kind, &got.attributes)
                == (&record.key, &record.payload, record.kind, &record.attributes)
        });
        count += same.count();
    }
    // The two empty records without a key differ in their kind.
    assert_eq!(count, records.len() * 2 * 3);
    assert_eq!(stored.values().map(Vec::len).sum::<usize>(), count);
    let hrecord = stored.values().flatten().find(|record| record.key == "json").unwrap();
    assert_eq!(hrecord.to_json().unwrap(), json);
    let attributes = stored.values().flatten().find(|record| record.key == "attributes").unwrap();
    assert_eq!(attributes.attribute("naïve"), Some("ü\n"));
    // Digits beyond 2^53 are lost when the record is made, as documented: not silently somewhere on the way.
    let beyond = HRecord::from_json(r#"{"n":9007199254740993}"#).unwrap();
    assert_eq!(beyond.to_json(), r#"{"n":9007199254740992}"#);
}
