//! The published Rust API over this client: a program written for it runs, and what was wrong underneath is not.

mod node_under_test;

use hstream_server::{
    node::{Node, NodeConfig},
    tls::TlsFiles,
};
use hstream_testkit::{Fault, RpcProxy, eventually};
use hstreamdb::ErrorKind;
use hstreamdb::compat::{
    ChannelProviderSettings, Client, CompressionType, ListValue, Payload, Record, SpecialOffset, Stream,
    StreamShardOffset, Struct, Subscription,
    common::{Value, value::Kind},
    producer::FlushSettings,
    tls::{Certificate, ClientTlsConfig},
    utils,
};
use node_under_test::{PATIENCE, TestNode, soon};
use std::{
    path::Path,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

#[allow(dead_code, reason = "the example's main")]
#[path = "../examples/migrated.rs"]
mod migrated;

async fn client(port: u16) -> Client {
    let settings = ChannelProviderSettings::builder().set_concurrency_limit(8).build();
    Client::new(format!("hstream://127.0.0.1:{port}"), settings).await.unwrap()
}

fn stream(name: &str, shard_count: u32) -> Stream {
    Stream {
        stream_name: name.into(),
        replication_factor: 1,
        backlog_duration: 1800,
        shard_count,
        creation_time: None,
    }
}

fn subscription(id: &str, stream: &str) -> Subscription {
    Subscription {
        subscription_id: id.into(),
        stream_name: stream.into(),
        ack_timeout_seconds: 600,
        max_unacked_records: 1000,
        offset: SpecialOffset::Earliest,
        creation_time: None,
    }
}

fn raw(key: &str, payload: impl Into<Vec<u8>>) -> Record {
    Record { partition_key: key.into(), payload: Payload::RawRecord(payload.into()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_migrated_program_runs_twice() {
    let node = TestNode::start().await;
    let url = format!("hstream://{}", node.address());
    soon(migrated::run(&url)).await.unwrap();
    soon(migrated::run(&url)).await.unwrap();
}

/// What the migration note shows as written for the published crate becomes the example by the one replacement it names.
#[test]
fn the_program_of_the_note_becomes_the_example_by_one_replacement() {
    let note = include_str!("../../docs/migrating-from-the-published-rust-client.md");
    let example = include_str!("../examples/migrated.rs");
    let (_, program) = note.split_once("## A program before\n\n```rust,ignore\n").unwrap();
    let (program, _) = program.split_once("\n```").unwrap();
    let migrated = program.replace("hstreamdb::", "hstreamdb::compat::");
    let (uses, body) = migrated.split_once("\n\n").unwrap();
    assert!(example.contains(uses), "{uses}");
    assert!(example.contains(body.trim()), "{body}");
}

#[tokio::test]
async fn streams_and_subscriptions_come_back_as_they_were_created() {
    let node = TestNode::start().await;
    let client = client(node.address().port()).await;
    let created = soon(client.create_stream(stream("s", 3))).await.unwrap();
    assert!(created.creation_time.is_some());
    assert_eq!(client.list_streams().await.unwrap(), std::slice::from_ref(&created));
    assert_eq!(client.get_stream("s").await.unwrap(), created);
    let created = client.create_subscription(subscription("sub", "s")).await.unwrap();
    assert_eq!(Subscription { creation_time: None, ..created.clone() }, subscription("sub", "s"));
    assert_eq!(client.list_subscriptions().await.unwrap(), std::slice::from_ref(&created));
    assert_eq!(client.get_subscription("sub").await.unwrap(), created);
    assert!(client.list_consumers("sub").await.unwrap().is_empty());
    assert_eq!(client.echo("hi").await.unwrap(), "hi");
    client.delete_subscription("sub".into(), false).await.unwrap();
    client.delete_stream("s".into(), false, true).await.unwrap();
    let error = client.delete_stream("s".into(), false, true).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::NotFound, Some(5)));
    client.delete_stream("s".into(), true, true).await.unwrap();
}

/// R1 and R2: one task per batch and no retry.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_key_keep_their_order_when_answers_are_lost() {
    let node = TestNode::start().await;
    let proxy = RpcProxy::start(node.address().port()).await.unwrap();
    let client = client(proxy.port()).await;
    client.create_stream(stream("s", 1)).await.unwrap();
    let batches = Arc::new(Mutex::new(Vec::new()));
    let told = batches.clone();
    let (appender, producer) = client
        .new_producer(
            "s".into(),
            CompressionType::Gzip,
            None,
            FlushSettings::builder().set_max_batch_len(5).build(),
            ChannelProviderSettings::default(),
            Some(Arc::new(move |ok, records, bytes| told.lock().unwrap().push((ok, records, bytes > 0)))),
        )
        .await
        .unwrap();
    proxy.set(Fault::LoseReplies(2));
    let mut results = Vec::new();
    for number in 0..100 {
        results.push(soon(appender.append(raw("k", format!("{number}")))).await.unwrap());
    }
    drop(appender);
    soon(producer.start()).await;
    let mut ids = Vec::new();
    for result in results {
        ids.push(soon(result).await.unwrap().unwrap());
    }
    assert!(ids.is_sorted(), "{ids:?}");
    assert_eq!(*batches.lock().unwrap(), vec![(true, 5, true); 20]);
    assert_eq!(utils::record_id_to_string(&ids[0]), ids[0].to_string());

    let reader = client
        .create_shard_reader(
            "r".into(),
            "s".into(),
            ids[0].shard_id,
            StreamShardOffset::Normal(ids[50]),
            1000,
            ChannelProviderSettings::default(),
        )
        .await
        .unwrap();
    let mut read = Vec::new();
    while read.len() < 50 {
        read.extend(soon(reader.read(3)).await.unwrap());
    }
    let expected = (50..100).map(|number| Payload::RawRecord(format!("{number}").into_bytes()));
    assert!(read.iter().map(|(id, _)| id).eq(&ids[50..]));
    assert!(read.into_iter().map(|(_, payload)| payload.unwrap()).eq(expected));
    reader.delete().await.unwrap();
    assert!(client.inner().list_shard_readers().await.unwrap().is_empty());
}

/// The published producer waits for the last appender, wherever it is.
#[tokio::test(flavor = "multi_thread")]
async fn start_waits_for_all_appenders_and_no_result_is_lost_without_it() {
    let node = TestNode::start().await;
    let client = client(node.address().port()).await;
    client.create_stream(stream("s", 1)).await.unwrap();
    let settings = ChannelProviderSettings::default;
    let new_producer = || {
        client.new_producer(
            "s".into(),
            CompressionType::None,
            Some(1000),
            FlushSettings::sync(),
            settings(),
            None,
        )
    };
    let (appender, producer) = new_producer().await.unwrap();
    let late = appender.clone();
    drop(appender);
    let mut started = pin!(producer.start());
    for number in 0..3 {
        assert!(futures::poll!(started.as_mut()).is_pending());
        let result = soon(late.append(raw("", format!("{number}")))).await.unwrap();
        soon(result).await.unwrap().unwrap();
    }
    drop(late);
    soon(started).await;

    let (appender, producer) = new_producer().await.unwrap();
    drop(producer);
    let result = soon(appender.append(raw("", "2"))).await.unwrap();
    soon(result).await.unwrap().unwrap();
    let error = soon(appender.append(raw("", vec![0; 1001]))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hrecords_are_written_and_read() {
    let node = TestNode::start().await;
    let client = client(node.address().port()).await;
    client.create_stream(stream("s", 1)).await.unwrap();
    client.create_subscription(subscription("sub", "s")).await.unwrap();
    let number = |number| Value { kind: Some(Kind::NumberValue(number)) };
    let list = ListValue { values: vec![number(1.0), Value { kind: Some(Kind::NullValue(0)) }] };
    let fields = Struct {
        fields: [
            ("n".to_string(), number(0.5)),
            ("l".to_string(), Value { kind: Some(Kind::ListValue(list)) }),
        ]
        .into(),
    };
    let (appender, producer) = client
        .new_producer(
            "s".into(),
            CompressionType::None,
            None,
            FlushSettings::sync(),
            ChannelProviderSettings::default(),
            None,
        )
        .await
        .unwrap();
    for payload in [Payload::from(fields.clone()), Payload::from(Vec::new())] {
        let record = Record { partition_key: "k".into(), payload };
        soon(soon(appender.append(record)).await.unwrap()).await.unwrap().unwrap();
    }
    drop(appender);
    soon(producer.start()).await;

    let mut records = client.streaming_fetch("c".into(), "sub".into()).await.unwrap();
    let (payload, responder) = soon(records.next()).await.unwrap();
    assert_eq!(payload, Payload::HRecord(fields));
    assert_eq!((responder.record().key.as_str(), responder.record_id()), ("k", responder.record().id));
    responder.ack().unwrap();
    let (payload, responder) = soon(records.next()).await.unwrap();
    assert_eq!(payload, Payload::RawRecord(Vec::new()));
    responder.ack().unwrap();
}

/// R4: a fetch that goes on after its stream was dropped, and can then no longer be acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_stream_ends_the_consumer_once_its_responders_are_gone() {
    let mut node = TestNode::start().await;
    let client = client(node.address().port()).await;
    let shard = node.stream("s", 1).await[0];
    client
        .create_subscription(Subscription { ack_timeout_seconds: 1, ..subscription("sub", "s") })
        .await
        .unwrap();
    let ids = node.append_batches("s", shard, 1, 3).await;
    let mut records = client.streaming_fetch("c".into(), "sub".into()).await.unwrap();
    let mut responders = Vec::new();
    for id in &ids {
        let (_, responder) = soon(records.next()).await.unwrap();
        assert_eq!(responder.record_id(), *id);
        responders.push(responder);
    }
    drop(records);
    assert_eq!(client.list_consumers("sub").await.unwrap().len(), 1, "it can still be acknowledged");
    for responder in responders {
        responder.ack().unwrap();
    }
    let gone = async || client.list_consumers("sub").await.unwrap().is_empty().then_some(());
    eventually("leaving", PATIENCE, gone).await;
    let acknowledged = async || {
        let offsets = client.inner().subscription_offsets("sub").await.unwrap();
        offsets.iter().find(|(_, batch)| *batch == ids[2].batch_id).copied()
    };
    eventually("the acknowledgement", PATIENCE, acknowledged).await;
}

/// R4: a reason that is only logged.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_fetch_has_a_reason() {
    let mut node = TestNode::start().await;
    let client = client(node.address().port()).await;
    node.stream("s", 1).await;
    let error = soon(client.streaming_fetch("c".into(), "none".into())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    client.create_subscription(subscription("sub", "s")).await.unwrap();
    let mut records = client.streaming_fetch("c".into(), "sub".into()).await.unwrap();
    assert!(records.error().is_none());
    client.delete_subscription("sub".into(), true).await.unwrap();
    assert!(soon(records.next()).await.is_none());
    let error = records.error().unwrap();
    assert!(matches!(error.kind(), ErrorKind::FailedPrecondition | ErrorKind::NotFound), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_outlives_its_node() {
    let mut node = TestNode::start().await;
    let client = client(node.address().port()).await;
    let shard = node.stream("s", 1).await[0];
    client.create_subscription(subscription("sub", "s")).await.unwrap();
    let ids = node.append_batches("s", shard, 1, 1).await;
    let mut records = client.streaming_fetch("c".into(), "sub".into()).await.unwrap();
    let (_, responder) = soon(records.next()).await.unwrap();
    assert_eq!(responder.record_id(), ids[0]);
    responder.ack().unwrap();
    node.stop().await;
    node.start_again().await;
    let ids = node.append_batches("s", shard, 1, 1).await;
    let (_, responder) = soon(records.next()).await.unwrap();
    assert_eq!(responder.record_id(), ids[0]);
    responder.ack().unwrap();
}

/// R8: without TLS to nodes that were not known at the start, and here with the files and the scheme as published.
#[tokio::test(flavor = "multi_thread")]
async fn tls_settings_turn_hstream_urls_into_tls_and_hold_for_producers() {
    let certificates = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    let (ca, cert, key) =
        (certificates.join("ca.pem"), certificates.join("server.pem"), certificates.join("server.key"));
    let directory = tempfile::tempdir().unwrap();
    let tls = TlsFiles { key: key.clone(), certificate: cert.clone(), client_authorities: Some(ca.clone()) };
    let config = NodeConfig {
        port: 0,
        data_dir: directory.path().join("data"),
        enable_tls: true,
        tls: Some(tls),
        ..NodeConfig::default()
    };
    let node = Node::start(config).await.unwrap();
    let url = format!("hstream://127.0.0.1:{}", node.address().port());

    let config = utils::try_new_client_tls_config_from_paths(&ca, &cert, &key).unwrap();
    assert!(!format!("{config:?}").contains("PRIVATE"));
    let settings =
        ChannelProviderSettings::builder().set_tls_config(config.domain_name("server.test")).build();
    let client = soon(Client::new(url.clone(), settings.clone())).await.unwrap();
    client.create_stream(stream("s", 1)).await.unwrap();
    let (appender, producer) = client
        .new_producer("s".into(), CompressionType::None, None, FlushSettings::sync(), settings, None)
        .await
        .unwrap();
    let result = soon(appender.append(raw("", "hidden"))).await.unwrap();
    soon(result).await.unwrap().unwrap();
    drop(appender);
    soon(producer.start()).await;

    let anonymous = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(std::fs::read(&ca).unwrap()))
        .domain_name("server.test");
    let settings = ChannelProviderSettings::builder().set_tls_config(anonymous).build();
    assert!(soon(Client::new(url.clone(), settings)).await.is_err());
    assert!(soon(Client::new(url, ChannelProviderSettings::default())).await.is_err());
    node.shutdown(Duration::from_secs(2)).await;
}

#[tokio::test]
async fn a_client_with_other_options_has_the_published_methods_too() {
    let node = TestNode::start().await;
    let client = Client::from(node.client().await);
    assert_eq!(soon(client.echo("e")).await.unwrap(), "e");
}

#[tokio::test]
async fn tls_settings_hold_for_the_whole_client() {
    let node = TestNode::start().await;
    let client = client(node.address().port()).await;
    client.create_stream(stream("s", 1)).await.unwrap();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem("pem"));
    let settings = ChannelProviderSettings::builder().set_tls_config(tls.clone()).build();
    let refused = client
        .new_producer("s".into(), CompressionType::None, None, FlushSettings::sync(), settings.clone(), None)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
    let offset = StreamShardOffset::Special(SpecialOffset::Latest);
    let refused =
        client.create_shard_reader("r".into(), "s".into(), 1, offset, 0, settings.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
    // The client itself reads them when it connects.
    let error = Client::new("hstream://127.0.0.1:1", settings).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let error = utils::try_new_client_tls_config_from_paths("/none", "/none", "/none").unwrap_err();
    assert_eq!((error.kind(), error.resource()), (ErrorKind::InvalidArgument, Some("/none")));
}
