//! Producers against a real node, partly through a proxy that loses answers.

mod lossy_proxy;

use hstream_server::node::{Node, NodeConfig};
use hstreamdb::{
    AppendOptions, Client, Compression, ErrorKind, Offset, PayloadKind, Producer, Record, RecordBatch,
    RecordId, StreamOptions,
};
use lossy_proxy::LossyProxy;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

/// Nothing in these tests takes longer than this unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("nothing happened for 30 seconds")
}

async fn start(directory: &tempfile::TempDir) -> Node {
    let data_dir = directory.path().join("data");
    Node::start(NodeConfig { port: 0, data_dir, ..NodeConfig::default() }).await.unwrap()
}

async fn connect(node: &Node) -> Client {
    Client::connect(&format!("hstream://{}", node.address())).await.unwrap()
}

async fn create(client: &Client, stream: &str, shard_count: u32) {
    let options = StreamOptions::default().set("shard_count", shard_count).unwrap();
    soon(client.create_stream(stream, options)).await.unwrap();
}

/// All payloads of a stream by shard, in the order they are stored.
async fn stored(client: &Client, stream: &str) -> BTreeMap<u64, Vec<(RecordId, String)>> {
    let mut all = BTreeMap::new();
    for shard in soon(client.list_shards(stream)).await.unwrap() {
        let reader = client.shard_reader(stream, shard.id).until(Offset::Latest).open().await.unwrap();
        let mut records = Vec::new();
        while let Some(batch) = soon(reader.next_batch()).await.unwrap() {
            for record in batch.records().unwrap() {
                records.push((record.id, String::from_utf8(record.payload.to_vec()).unwrap()));
            }
        }
        all.insert(shard.id, records);
    }
    all
}

/// Appends `count` numbered records over a few keys in calls of 7, returns their ids in order.
async fn append_numbered(producer: &Producer, first: usize, count: usize) -> Vec<RecordId> {
    let mut receipts = Vec::new();
    for start in (first..first + count).step_by(7) {
        let mut batch = RecordBatch::default();
        for number in start..(start + 7).min(first + count) {
            batch.push(&format!("key{}", number % 11), number.to_string().as_bytes());
        }
        receipts.push(soon(producer.append_many(batch)).await.unwrap());
    }
    let mut ids = Vec::new();
    for receipt in receipts {
        ids.extend(soon(receipt).await.into_result().unwrap());
    }
    ids
}

/// Everything is stored once, under the id that was told, and each shard in the order of the appends.
fn check(stored: &BTreeMap<u64, Vec<(RecordId, String)>>, ids: &[RecordId]) {
    let mut seen = 0;
    for records in stored.values() {
        let numbers: Vec<usize> = records.iter().map(|(_, payload)| payload.parse().unwrap()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "out of order or twice: {numbers:?}");
        for ((id, _), number) in records.iter().zip(numbers) {
            assert_eq!(ids[number], *id);
            seen += 1;
        }
    }
    assert_eq!(seen, ids.len(), "records are missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_kept_with_many_batches_in_flight() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(&directory).await;
    let client = connect(&node).await;
    create(&client, "s", 3).await;
    let producer = client.producer("s").batch_max_records(3).max_inflight_per_shard(8);
    let producer = producer.batch_max_age(Duration::ZERO).build().await.unwrap();
    let ids = append_numbered(&producer, 0, 1500).await;
    check(&stored(&client, "s").await, &ids);
    let report = soon(producer.close(PATIENCE)).await.unwrap();
    assert_eq!((report.acknowledged, report.failed, report.unresolved), (1500, 0, 0));
    node.shutdown(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_come_back_as_they_were_appended_under_every_compression() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(&directory).await;
    let client = connect(&node).await;
    create(&client, "s", 1).await;
    let mut records = vec![
        Record::raw("").with_key(""),
        Record::raw("zażółć ".repeat(100)).with_key("ключ").with_attribute("a", "1").with_attribute("b", ""),
        Record::hrecord_json(r#"{"n":1.5,"l":[null,true]}"#).unwrap().with_key("k"),
    ];
    let mut expected = Vec::new();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let producer = client.producer("s").compression(compression).build().await.unwrap();
        let receipt = producer.append_many(records.iter().collect()).await.unwrap();
        soon(producer.flush()).await.unwrap();
        soon(receipt).await.into_result().unwrap();
        expected.extend(records.clone());
        records.rotate_left(1);
    }
    let shard = soon(client.list_shards("s")).await.unwrap()[0].id;
    let reader = client.shard_reader("s", shard).until(Offset::Latest).open().await.unwrap();
    let mut back = Vec::new();
    while let Some(batch) = soon(reader.next_batch()).await.unwrap() {
        for record in batch.records().unwrap() {
            if record.kind == PayloadKind::HRecord {
                assert_eq!(record.to_json().unwrap(), r#"{"l":[null,true],"n":1.5}"#);
            }
            let (key, payload) = (record.key, record.payload);
            back.push(Record { key, payload, kind: record.kind, attributes: record.attributes });
        }
    }
    assert_eq!(back, expected);
    node.shutdown(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_connections_break_before_the_answer() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(&directory).await;
    let proxy = LossyProxy::start(node.address()).await;
    let mapping = vec![(node.address().to_string(), proxy.address().to_string())];
    let client = Client::builder()
        .url(format!("hstream://{}", proxy.address()))
        .set("host_mapping", mapping)
        .unwrap()
        .set("retry_base_ms", 5)
        .unwrap()
        .set("retry_max_ms", 50)
        .unwrap()
        .connect()
        .await
        .unwrap();
    create(&client, "s", 2).await;
    let producer = client.producer("s").batch_max_records(3).batch_max_age(Duration::from_millis(1));
    let producer = producer.build().await.unwrap();
    let mut ids = Vec::new();
    proxy.lose_answers(true);
    // Until at least a few answers were lost for batches that were stored.
    for _ in 0..100 {
        ids.extend(append_numbered(&producer, ids.len(), 60).await);
        if client.metrics().get("append_repeats").unwrap() >= 5 {
            break;
        }
    }
    proxy.lose_answers(false);
    assert!(client.metrics().get("append_repeats").unwrap() >= 5, "{:?}", client.metrics());
    let direct = connect(&node).await;
    check(&stored(&direct, "s").await, &ids);
    node.shutdown(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_receipt_resolves_when_the_server_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(&directory).await;
    let client = connect(&node).await;
    create(&client, "s", 2).await;
    let producer = client.producer("s").batch_max_records(2).delivery_timeout(Duration::from_millis(1500));
    let producer = producer.build().await.unwrap();
    let mut ids = append_numbered(&producer, 0, 20).await;
    let mut receipts = Vec::new();
    for number in 20..60 {
        let record = Record::raw(number.to_string()).with_key(format!("key{}", number % 11));
        receipts.push(producer.append(record).await.unwrap());
    }
    node.shutdown(Duration::from_millis(100)).await;
    for number in 60..100 {
        let record = Record::raw(number.to_string()).with_key(format!("key{}", number % 11));
        receipts.push(producer.append(record).await.unwrap());
    }
    let mut unclear = 0;
    let mut failed = 0;
    for receipt in receipts {
        match soon(receipt).await {
            Ok(id) => ids.push(id),
            Err(error) if error.may_have_been_applied() => {
                assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
                unclear += 1;
            }
            Err(_) => failed += 1,
        }
    }
    assert!(failed > 0, "what came after the end cannot be stored");
    assert_eq!(producer.pending().records, 0);
    // What was acknowledged is there after a restart, and nothing that failed for certain is.
    let node = start(&directory).await;
    let client = connect(&node).await;
    let stored: Vec<RecordId> =
        stored(&client, "s").await.into_values().flatten().map(|(id, _)| id).collect();
    assert!(ids.iter().all(|id| stored.contains(id)));
    assert!(stored.len() <= ids.len() + unclear, "{} stored", stored.len());
    node.shutdown(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_server_costs_nothing_but_time() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(&directory).await;
    let port = node.address().port();
    let client = Client::builder()
        .url(format!("hstream://{}", node.address()))
        .set("retry_max_ms", 100)
        .unwrap()
        .connect()
        .await
        .unwrap();
    create(&client, "s", 2).await;
    let producer = client.producer("s").batch_max_records(2).build().await.unwrap();
    let mut ids = append_numbered(&producer, 0, 50).await;
    let (more, node) = tokio::join!(append_numbered(&producer, 50, 300), async {
        node.shutdown(Duration::from_millis(50)).await;
        let data_dir = directory.path().join("data");
        Node::start(NodeConfig { port, data_dir, ..NodeConfig::default() }).await.unwrap()
    });
    ids.extend(more);
    check(&stored(&client, "s").await, &ids);
    node.shutdown(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_the_client_sends_what_its_producers_hold() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(&directory).await;
    let client = connect(&node).await;
    create(&client, "s", 2).await;
    let producer = client.producer("s").batch_max_age(Duration::from_secs(3600)).build().await.unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut batch = RecordBatch::default();
    for number in 0..30 {
        batch.push(&format!("key{}", number % 11), number.to_string().as_bytes());
    }
    let to = told.clone();
    let done = Box::new(move |outcome: hstreamdb::AppendOutcome| to.lock().unwrap().push(outcome));
    assert!(producer.try_append_many(batch, done).is_ok());
    soon(client.close(PATIENCE)).await.unwrap();
    let outcomes = std::mem::take(&mut *told.lock().unwrap());
    assert_eq!(outcomes.len(), 1, "the completion is called once");
    let ids = outcomes.into_iter().next().unwrap().into_result().unwrap();
    assert_eq!(producer.append(Record::raw("late")).await.unwrap_err().kind(), ErrorKind::Closed);
    check(&stored(&connect(&node).await, "s").await, &ids);
    node.shutdown(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_appended_in_one_call_is_one_batch_in_every_compression() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(&directory).await;
    let client = connect(&node).await;
    create(&client, "s", 1).await;
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let options = AppendOptions::new().compression(compression).compression_level(1);
        let mut batch = RecordBatch::default();
        (0..500).for_each(|number| batch.push("k", format!("{number:0>100}").as_bytes()));
        let outcome = soon(client.append_batch_with("s", batch, options)).await.unwrap();
        let ids = outcome.into_result().unwrap();
        let place = |id: &RecordId| (id.shard_id, id.batch_id);
        assert!(ids.iter().all(|id| place(id) == place(&ids[0])), "{compression:?}");
    }
    let levels =
        AppendOptions::new().set("compression", "gzip").unwrap().set("compression_level", 12).unwrap();
    let error = soon(client.append_batch_with("s", RecordBatch::default(), levels)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let error = AppendOptions::new().set("batch_max_records", 1).unwrap_err();
    assert!(error.to_string().contains("compression_level"), "{error}");
    node.shutdown(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_record_counts_as_what_is_left_of_it_after_compression() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(&directory).await;
    let client = connect(&node).await;
    create(&client, "s", 1).await;
    let large = |compressible: bool| {
        let mut seed = 7_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        };
        let bytes: Vec<u8> = (0..2 << 20).map(|_| if compressible { b'x' } else { next() }).collect();
        Record::raw(bytes)
    };
    for compression in [Compression::None, Compression::Gzip] {
        let producer = client.producer("s").compression(compression).build().await.unwrap();
        for compressible in [true, false] {
            let small = producer.append(Record::raw("small")).await.unwrap();
            let result = match producer.append(large(compressible)).await {
                Ok(receipt) => soon(receipt).await,
                Err(error) => Err(error),
            };
            let accepted = compressible && compression != Compression::None;
            assert_eq!(result.is_ok(), accepted, "{compression:?} {compressible}: {result:?}");
            if let Err(error) = result {
                assert_eq!((error.kind(), error.code()), (ErrorKind::InvalidArgument, Some(207)), "{error}");
            }
            soon(small).await.unwrap();
        }
    }
    node.shutdown(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_does_not_exist_is_not_found() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(&directory).await;
    let client = connect(&node).await;
    let error = soon(client.producer("nowhere").build()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    node.shutdown(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_made_again_fails_what_was_meant_for_the_old_one_and_takes_what_comes() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(&directory).await;
    let client = Client::builder()
        .url(format!("hstream://{}", node.address()))
        .set("retry_base_ms", 5)
        .unwrap()
        .connect()
        .await
        .unwrap();
    create(&client, "s", 1).await;
    let producer = client.producer("s").batch_max_age(Duration::ZERO).build().await.unwrap();
    soon(producer.append(Record::raw("0")).await.unwrap()).await.unwrap();
    soon(client.delete_stream("s", hstreamdb::DeleteStreamOptions::default())).await.unwrap();
    let error = soon(producer.append(Record::raw("1")).await.unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    create(&client, "s", 2).await;
    let error = soon(producer.append(Record::raw("2")).await.unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Routing, "{error}");
    assert!(!error.may_have_been_applied());
    let id = soon(producer.append(Record::raw("3")).await.unwrap()).await.unwrap();
    let stored = stored(&client, "s").await;
    assert_eq!(stored[&id.shard_id], [(id, "3".to_owned())]);
    node.shutdown(Duration::from_secs(2)).await;
}
