//! Readers against a real node.

mod node_under_test;

use hstreamdb::{ErrorKind, Offset, Reader, RecordId};
use node_under_test::{TestNode, soon};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

async fn read_to_end(reader: &Reader) -> Vec<RecordId> {
    let mut ids = Vec::new();
    while let Some(batch) = soon(reader.next_batch()).await.unwrap() {
        ids.extend_from_slice(batch.ids());
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_shard_reader_gives_everything_and_ends() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let ids = node.append_batches("s", shard, 35, 3).await;
    let client = node.client().await;
    let reader = client.shard_reader("s", shard).until(Offset::Latest).open().await.unwrap();
    assert_eq!(read_to_end(&reader).await, ids);
    assert!(soon(reader.next_batch()).await.unwrap().is_none(), "the end stays the end");

    let middle = client.shard_reader("s", shard).from(Offset::Record(ids[30])).until(Offset::Record(ids[60]));
    assert_eq!(read_to_end(&middle.open().await.unwrap()).await, ids[30..63]);
    let limited = client.shard_reader("s", shard).max_batches(7).open().await.unwrap();
    assert_eq!(read_to_end(&limited).await, ids[..21]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_reader_of_nothing_ends_at_once() {
    let mut node = TestNode::start().await;
    let shards = node.stream("s", 3).await;
    let client = node.client().await;
    for from in [Offset::Earliest, Offset::Latest] {
        let shard = client.shard_reader("s", shards[0]).from(from).until(Offset::Latest);
        assert_eq!(read_to_end(&shard.open().await.unwrap()).await, []);
        let stream = client.stream_reader("s").from(from).until(Offset::Latest);
        assert_eq!(read_to_end(&stream.open().await.unwrap()).await, []);
        let key = client.key_reader("s", "k").from(from);
        assert_eq!(read_to_end(&key.open().await.unwrap()).await, []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_following_reader_resumes_without_a_repeat_or_a_hole() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let mut expected = node.append_batches("s", shard, 10, 2).await;
    let client = node.client().await;
    let reader = client.shard_reader("s", shard).open().await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        seen.extend_from_slice(soon(reader.next_batch()).await.unwrap().unwrap().ids());
    }
    for _ in 0..2 {
        node.stop().await;
        node.start_again().await;
        expected.extend(node.append_batches("s", shard, 10, 2).await);
        while seen.len() < expected.len() {
            seen.extend_from_slice(soon(reader.next_batch()).await.unwrap().unwrap().ids());
        }
    }
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_from_latest_misses_nothing_appended_while_it_was_cut_off() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.append_batches("s", shard, 5, 1).await;
    let client = node.client().await;
    let reader = client.shard_reader("s", shard).from(Offset::Latest).open().await.unwrap();
    node.stop().await;
    node.start_again().await;
    let later = node.append_batches("s", shard, 5, 1).await;
    let mut seen = Vec::new();
    while seen.len() < later.len() {
        seen.extend_from_slice(soon(reader.next_batch()).await.unwrap().unwrap().ids());
    }
    assert_eq!(seen, later);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_reader_gives_all_shards_each_in_order() {
    let mut node = TestNode::start().await;
    let shards = node.stream("s", 4).await;
    let mut expected = BTreeMap::new();
    for (index, &shard) in shards.iter().enumerate() {
        expected.insert(shard, node.append_batches("s", shard, 5 + 10 * index as u32, 2).await);
    }
    let client = node.client().await;
    let reader = client.stream_reader("s").until(Offset::Latest).open().await.unwrap();
    // After "latest" was fixed.
    node.append_batches("s", shards[0], 3, 1).await;
    let mut seen: BTreeMap<u64, Vec<RecordId>> = BTreeMap::new();
    for id in read_to_end(&reader).await {
        seen.entry(id.shard_id).or_default().push(id);
    }
    assert_eq!(seen, expected);

    let limited = client.stream_reader("s").max_batches(9).open().await.unwrap();
    // Batches are what is counted; how many records they hold depends on how the shards interleave.
    let batches: BTreeSet<_> =
        read_to_end(&limited).await.into_iter().map(|id| (id.shard_id, id.batch_id)).collect();
    assert_eq!(batches.len(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_reader_gives_the_records_of_its_key_only_and_ends() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let mut expected = Vec::new();
    for batch in 0..40u32 {
        let records: Vec<_> = (0..60u32)
            .map(|r| (if r % 2 == 0 { "even" } else { "odd" }, format!("{batch}/{r}").into_bytes()))
            .collect();
        let ids = node.append("s", shard, &records).await;
        expected.extend(ids.into_iter().zip(records).filter(|(_, (key, _))| *key == "odd"));
    }
    let client = node.client().await;
    let reader = client.key_reader("s", "odd").open().await.unwrap();
    let mut seen = Vec::new();
    while let Some(batch) = soon(reader.next_batch()).await.unwrap() {
        seen.extend(batch.records().unwrap());
    }
    assert_eq!(seen.len(), 1200, "more than one credit's worth");
    for (record, (id, (key, payload))) in seen.iter().zip(&expected) {
        assert_eq!((record.id, record.key.as_str(), &record.payload[..]), (*id, *key, &payload[..]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_a_typed_error_once() {
    let mut node = TestNode::start().await;
    let shards = node.stream("s", 2).await;
    let client = node.client().await;
    let reader = client.shard_reader("s", 12_345).open().await.unwrap();
    assert_eq!(soon(reader.next_batch()).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(soon(reader.next_batch()).await.unwrap().is_none());
    let unknown = client.stream_reader("nowhere").open().await;
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::NotFound);
    let id = RecordId { shard_id: shards[1], batch_id: 1, batch_index: 0 };
    let other = client.shard_reader("s", shards[0]).from(Offset::Record(id)).open().await;
    assert_eq!(other.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_ends_with_the_timeout_and_with_close() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let client = node.client().await;
    let reader = client.shard_reader("s", shard).timeout(Duration::from_millis(50)).open().await.unwrap();
    assert_eq!(soon(reader.next_batch()).await.unwrap_err().kind(), ErrorKind::Timeout);
    let ids = node.append_batches("s", shard, 1, 1).await;
    let mut got = soon(reader.next_batch()).await;
    while got.as_ref().is_err_and(|error| error.kind() == ErrorKind::Timeout) {
        got = soon(reader.next_batch()).await;
    }
    assert_eq!(got.unwrap().unwrap().ids(), ids);
    reader.close();
    assert!(soon(reader.next_batch()).await.unwrap().is_none());

    let follower = client.stream_reader("s").from(Offset::Latest).open().await.unwrap();
    let (end, closed) = tokio::join!(soon(follower.next_batch()), client.close(Duration::from_secs(5)));
    assert!(end.unwrap().is_none(), "closing the client ends its readers");
    closed.unwrap();
}
