//! Point 21: readers resume behind what they delivered, whatever happened in between.

use crate::node_under_test::{TestNode, soon};
use hstream_testkit::{Fault, Flow, Link, RpcProxy, Way, eventually};
use hstreamdb::{Client, ErrorKind, Offset, PolledReader, Reader, RecordId, StreamPosition};
use hstreamdb_proto::api;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};

async fn client_of(url: String) -> Client {
    Client::builder().url(url).set("retry_max_ms", 300).unwrap().connect().await.unwrap()
}

async fn take(reader: &Reader, records: usize) -> Vec<RecordId> {
    let mut ids = Vec::new();
    while ids.len() < records {
        ids.extend_from_slice(soon(reader.next_batch()).await.unwrap().unwrap().ids());
    }
    ids
}

async fn poll(reader: &PolledReader, records: usize, at_a_time: u32) -> Vec<RecordId> {
    let mut ids = Vec::new();
    soon(async {
        while ids.len() < records {
            for batch in reader.read(at_a_time).await.unwrap() {
                ids.extend_from_slice(batch.ids());
            }
        }
    })
    .await;
    ids
}

fn counter(client: &Client, name: &str) -> u64 {
    client.metrics().counters.iter().find(|(known, _)| *known == name).unwrap().1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p21_a_following_reader_resumes_without_a_repeat_or_a_hole() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let mut expected = node.append_batches("s", shard, 10, 2).await;
    let client = node.client().await;
    let by_id = client.shard_reader("s", shard).open().await.unwrap();
    let by_name = client.single_shard_reader("s").open().await.unwrap();
    let whole = client.stream_reader("s").open().await.unwrap();
    let readers = [by_id, by_name, whole];
    let mut seen: [Vec<RecordId>; 3] = Default::default();
    for round in 0..3 {
        if round > 0 {
            node.stop().await;
            node.start_again().await;
            expected.extend(node.append_batches("s", shard, 10, 2).await);
        }
        for (reader, seen) in readers.iter().zip(&mut seen) {
            let missing = expected.len() - seen.len();
            seen.extend(take(reader, missing).await);
        }
    }
    for seen in seen {
        assert_eq!(seen, expected);
    }
    assert!(readers.iter().all(|reader| reader.gap_count() == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p21_a_reader_from_latest_misses_nothing_appended_while_it_was_cut_off() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.append_batches("s", shard, 5, 1).await;
    let client = node.client().await;
    let reader = client.shard_reader("s", shard).from(Offset::Latest).open().await.unwrap();
    let polled = client.polled_reader("s", shard).from(Offset::Latest).open().await.unwrap();
    node.stop().await;
    node.start_again().await;
    let later = node.append_batches("s", shard, 5, 1).await;
    assert_eq!(take(&reader, 5).await, later);
    assert_eq!(poll(&polled, 5, 2).await, later);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p21_a_lost_reply_to_a_poll_makes_no_hole() {
    let mut node = TestNode::start().await;
    let proxy = RpcProxy::start(node.address().port()).await.unwrap();
    let shard = node.stream("s", 1).await[0];
    let expected = node.append_batches("s", shard, 30, 2).await;
    let client = client_of(proxy.url()).await;
    let reader = client.polled_reader("s", shard).open().await.unwrap();
    let first = reader.reader_id();
    let mut seen = poll(&reader, 10, 5).await;
    for lost in 1..=2 {
        // The server's reader has moved on; the second time the one that takes its place is not heard of, either.
        proxy.set(Fault::LoseReaderReplies(lost));
        seen.extend(poll(&reader, 10, 5).await);
    }
    proxy.set(Fault::None);
    let missing = expected.len() - seen.len();
    seen.extend(poll(&reader, missing, 5).await);
    assert_eq!(seen, expected);
    assert_ne!(reader.reader_id(), first);
    assert_eq!(counter(&client, "reader_reconnects"), 2);
    eventually("the readers that were given up are deleted", Duration::from_secs(10), || async {
        (client.list_shard_readers().await.unwrap() == [reader.reader_id().unwrap()]).then_some(())
    })
    .await;
}

/// A node that takes a polled reader over begins at the place it was created with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p21_a_polled_reader_that_fell_back_to_where_it_was_created_repeats_nothing() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let expected = node.append_batches("s", shard, 30, 2).await;
    let client = node.client().await;
    let reader = client.polled_reader("s", shard).reader_id("mine").open().await.unwrap();
    let mut seen = poll(&reader, 20, 5).await;
    client.delete_shard_reader("mine").await.unwrap();
    let again = api::CreateShardReaderRequest {
        stream_name: "s".into(),
        shard_id: shard,
        shard_offset: Some(api::ShardOffset {
            offset: Some(api::shard_offset::Offset::SpecialOffset(api::SpecialOffset::Earliest as i32)),
        }),
        reader_id: "mine".into(),
        timeout: 0,
    };
    node.wire.create_shard_reader(again).await.unwrap();
    let missing = expected.len() - seen.len();
    seen.extend(poll(&reader, missing, 5).await);
    assert_eq!(seen, expected);

    // Another one, which the server knows nothing of any more.
    client.delete_shard_reader(&reader.reader_id().unwrap()).await.unwrap();
    let later = node.append_batches("s", shard, 3, 2).await;
    assert_eq!(poll(&reader, later.len(), 5).await, later);
    soon(reader.close()).await.unwrap();
    assert_eq!(client.list_shard_readers().await.unwrap(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p21_another_process_goes_on_behind_a_position_even_inside_a_batch() {
    let mut node = TestNode::start().await;
    let shards = node.stream("s", 3).await;
    let mut expected = Vec::new();
    // The third shard has nothing yet, which must not make its first records be missed or read twice.
    for &shard in &shards[..2] {
        expected.extend(node.append_batches("s", shard, 6, 4).await);
    }
    let client = node.client().await;
    let reader = client.stream_reader("s").open().await.unwrap();
    let mut seen = take(&reader, 20).await;
    let position = reader.position();
    reader.close();
    // The process died in the middle of the next batch of the first shard.
    let done = expected.iter().rev().find(|id| id.shard_id == shards[0]).unwrap();
    let done = RecordId { batch_index: 1, ..*done };
    let mut inside = StreamPosition::new();
    inside.advance(done);

    expected.extend(node.append_batches("s", shards[2], 3, 4).await);
    let kept = position.to_string();
    let other = node.client().await;
    let reader = other.stream_reader("s").from(kept.parse::<StreamPosition>().unwrap());
    let reader = reader.until(Offset::Latest).open().await.unwrap();
    while let Some(batch) = soon(reader.next_batch()).await.unwrap() {
        seen.extend_from_slice(batch.ids());
    }
    let by_shard =
        |ids: &[RecordId], shard| ids.iter().filter(|id| id.shard_id == shard).copied().collect::<Vec<_>>();
    for &shard in &shards {
        assert_eq!(by_shard(&seen, shard), by_shard(&expected, shard));
    }

    let rest = other.shard_reader("s", shards[0]).from(&inside).until(Offset::Latest).open().await.unwrap();
    let batch = soon(rest.next_batch()).await.unwrap().unwrap();
    assert_eq!(batch.ids(), [2, 3].map(|batch_index| RecordId { batch_index, ..done }));
    let payloads: Vec<_> = batch.records().unwrap().into_iter().map(|record| record.payload).collect();
    assert_eq!(payloads, [&b"5/2"[..], &b"5/3"[..]]);
    assert!(soon(rest.next_batch()).await.unwrap().is_none());
    let polled = other.polled_reader("s", shards[0]).from(&inside).open().await.unwrap();
    assert_eq!(poll(&polled, 2, 1).await, batch.ids());
    polled.close().await.unwrap();

    // Kept where something had been read only.
    let unknown = StreamPosition::new();
    let all = other.stream_reader("s").from(unknown).until(Offset::Latest).open().await.unwrap();
    assert_eq!(take(&all, expected.len()).await.len(), expected.len());
    let strange: StreamPosition = "12345:>1-0".parse().unwrap();
    let refused = other.stream_reader("s").from(strange).open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
}

/// Forwards connections and counts those that are open.
async fn counting(target: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let open = Arc::new(AtomicUsize::new(0));
    let counter = open.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let counter = counter.clone();
            tokio::spawn(async move {
                counter.fetch_add(1, Ordering::SeqCst);
                if let Ok(mut far) = TcpStream::connect(target).await {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
                counter.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (address, open)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p21_a_reader_that_is_closed_or_dropped_ends_its_call_on_the_wire() {
    let mut node = TestNode::start().await;
    let shards = node.stream("s", 2).await;
    node.append_batches("s", shards[0], 3, 1).await;
    let (address, open) = counting(node.address()).await;
    let client = Client::builder()
        .url(format!("hstream://{address}"))
        .set("host_mapping", vec![(node.address().to_string(), address.to_string())])
        .unwrap()
        .connect()
        .await
        .unwrap();
    eventually("the client is connected", Duration::from_secs(10), || {
        let one = open.load(Ordering::SeqCst) == 1;
        async move { one.then_some(()) }
    })
    .await;
    for closed in [true, false] {
        let reader = client.stream_reader("s").open().await.unwrap();
        take(&reader, 3).await;
        assert_eq!(open.load(Ordering::SeqCst), 2, "a reader has a connection of its own");
        if closed {
            reader.close();
            reader.close();
            assert!(soon(reader.next_batch()).await.unwrap().is_none());
        } else {
            drop(reader);
        }
        eventually("the reader's connection ends", Duration::from_secs(10), || {
            let one = open.load(Ordering::SeqCst) == 1;
            async move { one.then_some(()) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p21_a_polled_reader_ends_a_read_under_way_and_says_that_it_is_closed() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let client = node.client().await;
    let reader = client.polled_reader("s", shard).timeout(Duration::from_secs(3600)).open().await.unwrap();
    let waiting = reader.read(1);
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    soon(reader.close()).await.unwrap();
    assert_eq!(soon(waiting).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(soon(reader.read(1)).await.unwrap_err().kind(), ErrorKind::Closed);
    soon(reader.close()).await.unwrap();
    assert_eq!(client.list_shard_readers().await.unwrap(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p21_a_connection_that_died_without_a_word_is_noticed_and_the_read_goes_on() {
    let mut node = TestNode::start().await;
    let shards = node.stream("s", 2).await;
    let mut expected = node.append_batches("s", shards[0], 3, 1).await;
    let link = Link::start(node.address().port(), 7).await.unwrap();
    let client = Client::builder()
        .url(link.url())
        .set("host_mapping", vec![(node.address().to_string(), link.address().to_string())])
        .and_then(|client| client.set("request_timeout_ms", 500))
        .and_then(|client| client.set("retry_max_ms", 100))
        .unwrap();
    let client = client.connect().await.unwrap();
    let reader = client.stream_reader("s").probe_interval(Duration::from_millis(50)).unwrap();
    let reader = reader.open().await.unwrap();
    let key = client.key_reader("s", "k").probe_interval(Duration::ZERO).unwrap().open().await.unwrap();
    while soon(key.next_batch()).await.unwrap().is_some() {}
    let mut seen = take(&reader, 3).await;
    eventually("a quiet connection is tried", Duration::from_secs(10), || async {
        (counter(&client, "reader_probes") >= 5).then_some(())
    })
    .await;
    assert_eq!(counter(&client, "reader_reconnects"), 0, "it answers, so nothing is to be done");

    let hole = Flow { swallow: true, ..Flow::default() };
    link.set(Way::ToServer, hole);
    link.set(Way::ToClient, hole);
    eventually("the silence is noticed", Duration::from_secs(10), || async {
        (counter(&client, "reader_reconnects") >= 2).then_some(())
    })
    .await;
    expected.extend(node.append_batches("s", shards[0], 3, 1).await);
    link.resume();
    seen.extend(take(&reader, 3).await);
    assert_eq!(seen, expected);
}
