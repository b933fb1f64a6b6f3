//! Spans, in a process of their own: a test beside it that has no subscriber can make `tracing` take a span for one that
//! nobody wants.

mod node_under_test;

use hstream_testkit::eventually;
use hstreamdb::Offset;
use node_under_test::{TestNode, soon};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[tokio::test]
async fn each_call_of_a_reader_is_a_span_with_its_stream_shard_and_node() {
    let written = Written::default();
    let output = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer(move || output.clone())
        .finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.append_batches("s", shard, 30, 3).await;
    let client = node.client().await;
    let reader = client.shard_reader("s", shard).until(Offset::Latest).open().await.unwrap();
    while soon(reader.next_batch()).await.unwrap().is_some() {}
    let polled = client.polled_reader("s", shard).open().await.unwrap();
    soon(polled.read(5)).await.unwrap();
    let span = format!("hstreamdb.read{{stream=s shard={shard} node={}}}: hstreamdb", node.address());
    eventually("both spans are closed", Duration::from_secs(10), || async {
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let closed = text.lines().filter(|line| line.contains(&span) && line.contains(": close")).count();
        assert!(closed <= 2, "one per call, not per batch: {text}");
        (closed == 2).then_some(())
    })
    .await;
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
