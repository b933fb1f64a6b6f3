//! Point 18: the application's pace reaches the server, by pull, by stream and by credits.

use super::*;
use futures::StreamExt as _;
use hstreamdb::{ConsumerSink, Error, ReceivedBatch};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Forwards connections and counts what servers have sent.
struct Meter {
    address: SocketAddr,
    received: Arc<AtomicU64>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Meter {
    async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(AtomicU64::new(0));
        let count = received.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let count = count.clone();
                tokio::spawn(async move {
                    let server = TcpStream::connect(target).await.unwrap();
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                        count.fetch_add(length as u64, Ordering::SeqCst);
                        if to_client.write_all(&buffer[..length]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Meter { address, received, accepting }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p18_a_slow_application_bounds_what_the_server_sends() {
    const BATCH: u64 = 500_000;
    const BATCHES: u64 = 60;
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    for _ in 0..BATCHES {
        node.append("s", shard, &[("k", vec![7; BATCH as usize])]).await;
    }
    // The option, one batch, and as much again that HTTP/2 lets the server send ahead, but 64 KiB to 2 MiB.
    for (prefetch, window) in [(1 << 20, 1 << 20), (4 << 20, 2 << 20), (1, 64 << 10)] {
        let meter = Meter::start(node.address()).await;
        let mapped = (node.address().to_string(), meter.address.to_string());
        let builder = Client::builder().url(format!("hstream://{}", meter.address));
        let client = builder.set("host_mapping", vec![mapped]).unwrap().connect().await.unwrap();
        let id = format!("sub-{prefetch}");
        node.subscription(&id, "s").await;
        let consumer = client.consumer(&id).prefetch_bytes(prefetch).start().await.unwrap();
        // What else is answered, and what HTTP/2 and gRPC put around.
        let slack = 100_000;
        let bound = prefetch as u64 + BATCH + window + slack;
        let mut taken = 0;
        eventually("filling the buffer", GRACE, || async {
            (consumer.stats().buffered_bytes >= prefetch).then_some(())
        })
        .await;
        let check = |taken: u64| {
            let sent = meter.received.load(Ordering::SeqCst);
            assert!(
                sent <= taken * (BATCH + 1000) + bound,
                "{sent} sent, {taken} taken, prefetch {prefetch}"
            );
            let stats = consumer.stats();
            assert!(stats.buffered_bytes as u64 <= prefetch as u64 + BATCH + 1000, "{stats:?}");
        };
        // Time for a server that nothing holds back to send all 30 MB.
        for _ in 0..50 {
            check(0);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        while taken < BATCHES {
            check(taken);
            soon(consumer.next_batch()).await.unwrap().unwrap();
            taken += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p18_batches_are_a_stream_that_ends_with_the_consumer() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    let ids = node.append_batches("s", shard, 5, 2).await;
    let consumer = node.client().await.consumer("sub").start().await.unwrap();
    // Letting go of a stream that was polled loses nothing.
    let first = soon(consumer.batches().next()).await.unwrap().unwrap();
    let mut batches = consumer.batches();
    let mut seen = first.ids().to_vec();
    while seen.len() < 10 {
        let batch = soon(batches.next()).await.unwrap().unwrap();
        consumer.acker().ack_batch(&batch).unwrap();
        seen.extend_from_slice(batch.ids());
    }
    assert_eq!(seen, ids);
    consumer.acker().ack_batch(&first).unwrap();
    assert!(soon(consumer.stop(GRACE)).await.unwrap().clean);
    assert!(soon(batches.next()).await.is_none());
    assert!(consumer.acker().ack(&ids).is_err());
}

#[derive(Default)]
struct Sink {
    batches: Mutex<Vec<ReceivedBatch>>,
    events: Mutex<Vec<&'static str>>,
    closed: Mutex<Vec<Option<Error>>>,
}

impl ConsumerSink for Sink {
    fn batch(&self, batch: ReceivedBatch) {
        self.batches.lock().unwrap().push(batch);
    }

    fn event(&self, event: ConsumerEvent) {
        self.events.lock().unwrap().push(event.name());
    }

    fn closed(&self, reason: Option<Error>) {
        self.closed.lock().unwrap().push(reason);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p18_a_sink_gets_what_was_granted_and_one_end() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    node.append_batches("s", shard, 10, 1).await;
    let sink = Arc::new(Sink::default());
    let client = node.client().await;
    let consumer = client.consumer("sub").start_with_sink(sink.clone()).await.unwrap();
    let received = || sink.batches.lock().unwrap().len();
    consumer.grant(2);
    consumer.grant(1);
    eventually("three granted batches", GRACE, || async { (received() == 3).then_some(()) }).await;
    eventually("buffering the rest", GRACE, || async {
        (consumer.stats().buffered_batches == 7).then_some(())
    })
    .await;
    assert_eq!(received(), 3, "no more than was granted");
    consumer.grant(100);
    eventually("all batches", GRACE, || async { (received() == 10).then_some(()) }).await;
    let ids: Vec<_> = sink.batches.lock().unwrap().iter().flat_map(|batch| batch.ids().to_vec()).collect();
    consumer.ack(&ids).unwrap();
    assert!(soon(consumer.stop(GRACE)).await.unwrap().clean);
    eventually("the end", GRACE, || async { (!sink.closed.lock().unwrap().is_empty()).then_some(()) }).await;
    let closed = sink.closed.lock().unwrap();
    assert!(closed.len() == 1 && closed[0].is_none(), "{closed:?}");
    assert_eq!(sink.events.lock().unwrap()[..], ["connected"]);
}
