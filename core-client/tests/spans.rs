//! Spans, in a process of their own: a test beside them that has no subscriber can make `tracing` take a span for one
//! that nobody wants. So each test here begins by listening.

mod node_under_test;

use hstream_testkit::{Fault, RpcProxy, eventually};
use hstreamdb::{Client, Offset, Record, RecordBatch};
use node_under_test::{PATIENCE, TestNode, soon};
use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};
use tracing::subscriber::DefaultGuard;

/// What a subscriber wrote, one line per span that closed.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    /// Listens on this thread until the guard is dropped.
    fn listen() -> (Written, DefaultGuard) {
        let written = Written::default();
        let output = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
            .with_ansi(false)
            .with_writer(move || output.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        (written, guard)
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Waits until as many spans of this name and these fields are closed; more are an error.
    async fn closed(&self, span: &str, count: usize) {
        let span = format!("{span}: hstreamdb");
        eventually("the spans are closed", PATIENCE, || async {
            let text = self.text();
            let closed = text.lines().filter(|line| line.contains(&span) && line.contains(": close")).count();
            assert!(closed <= count, "more than {count} {span}: {text}");
            (closed == count).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn p20_a_call_is_one_span_with_its_node_and_tries_and_without_secrets() {
    let (written, _listening) = Written::listen();
    let node = TestNode::start().await;
    let client = Client::builder()
        .url(format!("hstream://{}", node.address()))
        .auth_token("hunter2")
        .unwrap()
        .metadata("x-secret", "hunter3");
    let client = soon(client.connect()).await.unwrap();
    soon(client.get_stream("missing")).await.unwrap_err();
    let fields = format!("operation=\"get stream\" resource=\"missing\" tries=1 node={}", node.address());
    written.closed(&format!("hstreamdb.call{{{fields}}}"), 1).await;
    assert!(!written.text().contains("hunter"), "{}", written.text());
}

#[tokio::test]
async fn each_batch_is_one_span_and_no_record_is() {
    let (written, _listening) = Written::listen();
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let proxy = RpcProxy::start(node.address().port()).await.unwrap();
    let client = soon(Client::connect(&proxy.url())).await.unwrap();
    let producer = client.producer("s").batch_max_records(4).max_inflight_per_shard(1).build().await.unwrap();
    proxy.set(Fault::LoseReplies(1));
    let batch: RecordBatch = vec![Record::raw("secret"); 6].iter().collect();
    soon(soon(producer.append_many(batch)).await.unwrap()).await.into_result().unwrap();
    for (sequence, records, bytes, tries) in [(0, 4, 56, 2), (1, 2, 28, 1)] {
        let sizes = format!("stream=s shard={shard} sequence={sequence} records={records} bytes={bytes}");
        // The node of every try is told.
        let nodes = format!(" node=127.0.0.1:{}", proxy.port()).repeat(tries);
        written.closed(&format!("hstreamdb.append{{{sizes}{nodes} tries={tries}}}"), 1).await;
    }
    let text = written.text();
    let closed = text.lines().filter(|line| line.contains(" hstreamdb.append{") && line.contains(": close"));
    assert_eq!(closed.count(), 2, "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn each_call_of_a_reader_is_a_span_with_its_stream_shard_and_node() {
    let (written, _listening) = Written::listen();
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.append_batches("s", shard, 30, 3).await;
    let client = node.client().await;
    let reader = client.shard_reader("s", shard).until(Offset::Latest).open().await.unwrap();
    while soon(reader.next_batch()).await.unwrap().is_some() {}
    let polled = client.polled_reader("s", shard).open().await.unwrap();
    soon(polled.read(5)).await.unwrap();
    let fields = format!("stream=s shard={shard} node={}", node.address());
    written.closed(&format!("hstreamdb.read{{{fields}}}"), 2).await;
}

#[tokio::test]
async fn each_session_of_a_consumer_is_a_span() {
    let (written, _listening) = Written::listen();
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    let consumer = node.client().await.consumer("sub").name("worker").start().await.unwrap();
    let fields = format!("subscription=sub consumer=worker node={}", node.address());
    for sessions in 1..3 {
        let ids = node.append_batches("s", shard, 3, 2).await;
        let mut received = 0;
        while received < ids.len() {
            let batch = soon(consumer.next_batch()).await.unwrap().unwrap();
            consumer.ack_batch(&batch).unwrap();
            received += batch.len();
        }
        soon(consumer.flush_acks()).await.unwrap();
        node.stop().await;
        written.closed(&format!("hstreamdb.consume{{{fields}}}"), sessions).await;
        node.start_again().await;
    }
}
