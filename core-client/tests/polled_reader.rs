//! Polled readers against a real node.

mod node_under_test;

use hstream_testkit::{Fault, RpcProxy, eventually};
use hstreamdb::{Client, ErrorKind, Offset, PolledReader, RecordId};
use hstreamdb_proto::{api::ErrorCode, error_body::ErrorBody};
use node_under_test::{TestNode, soon};
use std::time::Duration;

async fn ids(reader: &PolledReader, at_a_time: u32) -> Vec<RecordId> {
    let batches = soon(reader.read(at_a_time)).await.unwrap();
    batches.iter().flat_map(|batch| batch.ids()).copied().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_read_gives_what_follows_and_waits_only_where_nothing_is() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let expected = node.append_batches("s", shard, 10, 2).await;
    let client = node.client().await;
    let reader = client.polled_reader("s", shard).open().await.unwrap();
    assert_eq!(ids(&reader, 3).await, expected[..6], "batches are counted, not records");
    assert_eq!(ids(&reader, 100).await, expected[6..]);
    assert_eq!(ids(&reader, 1).await, []);
    assert_eq!(reader.position().last_read(shard), expected.last().copied());
    assert_eq!(soon(reader.read(0)).await.unwrap_err().kind(), ErrorKind::InvalidArgument);

    let patient = client.polled_reader("s", shard).from(Offset::Latest).timeout(Duration::from_secs(3600));
    let patient = patient.open().await.unwrap();
    let (read, appended) =
        tokio::join!(soon(patient.read(5)), async { node.append_batches("s", shard, 1, 2).await });
    assert_eq!(read.unwrap()[0].ids(), appended);
    assert_eq!(ids(&reader, 5).await, appended);

    let middle = client.polled_reader("s", shard).from(Offset::Record(expected[8])).open().await.unwrap();
    assert_eq!(ids(&middle, 2).await, expected[8..12]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_the_servers_to_keep_until_a_reader_is_closed_or_dropped() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let client = node.client().await;
    let named = client.polled_reader("s", shard).reader_id("mine").open().await.unwrap();
    assert_eq!(named.reader_id().as_deref(), Some("mine"));
    let taken = client.polled_reader("s", shard).reader_id("mine").open().await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    assert_eq!(client.list_shard_readers().await.unwrap(), ["mine"]);
    let bad = client.polled_reader("s", shard).reader_id("7 of 9").open().await.unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::InvalidArgument);
    let gone = client.polled_reader("s", 99).open().await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);

    let dropped = client.polled_reader("s", shard).open().await.unwrap();
    assert_eq!(client.list_shard_readers().await.unwrap().len(), 2);
    drop(dropped);
    eventually("a dropped reader is deleted", Duration::from_secs(10), || async {
        (client.list_shard_readers().await.unwrap() == ["mine"]).then_some(())
    })
    .await;
    let missing = client.delete_shard_reader("nobody").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let other = node.client().await;
    soon(client.close(Duration::from_secs(5))).await.unwrap();
    assert_eq!(
        other.list_shard_readers().await.unwrap(),
        [] as [String; 0],
        "closing the client deletes them, too"
    );
    assert_eq!(soon(named.read(1)).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_is_dropped_loses_nothing() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let client = node.client().await;
    let reader = client.polled_reader("s", shard).timeout(Duration::from_secs(60)).open().await.unwrap();
    let mut expected = Vec::new();
    let mut seen = Vec::new();
    for round in 0..5 {
        let waiting = tokio::time::timeout(Duration::from_millis(30), reader.read(10));
        let (read, appended) = tokio::join!(waiting, async {
            // Around the moment at which the read is given up.
            tokio::time::sleep(Duration::from_millis(26 + 2 * round)).await;
            node.append_batches("s", shard, 1, 3).await
        });
        expected.extend(appended);
        if let Ok(batches) = read {
            seen.extend(batches.unwrap().iter().flat_map(|batch| batch.ids().to_vec()));
        }
    }
    while seen.len() < expected.len() {
        seen.extend(ids(&reader, 10).await);
    }
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_survive_a_server_that_starts_again() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let mut expected = node.append_batches("s", shard, 10, 2).await;
    let client = node.client().await;
    let reader = client.polled_reader("s", shard).open().await.unwrap();
    let mut seen = ids(&reader, 4).await;
    for _ in 0..2 {
        node.stop().await;
        node.start_again().await;
        expected.extend(node.append_batches("s", shard, 10, 2).await);
        seen.extend(ids(&reader, 4).await);
    }
    while seen.len() < expected.len() {
        seen.extend(ids(&reader, 4).await);
    }
    assert_eq!(seen, expected);
    reader.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_gap_ends_a_read_within_bounds() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let expected = node.append_batches("s", shard, 3, 1).await;
    let proxy = RpcProxy::start(node.address().port()).await.unwrap();
    let client = Client::connect(&proxy.url()).await.unwrap();
    let reader = client.polled_reader("s", shard).open().await.unwrap();
    let answer = |status, code: ErrorCode| {
        let body = ErrorBody::new(code, "Gap", "of some kind").to_json();
        proxy.answer("ReadShard", status, &body);
    };
    // Told again and again: the application gets its turn.
    answer(15, ErrorCode::ShardReaderDataLossGap);
    assert_eq!(ids(&reader, 5).await, []);
    answer(7, ErrorCode::ShardReaderAccessGap);
    assert_eq!(ids(&reader, 5).await, []);
    let passed_over = reader.gap_count();
    answer(2, ErrorCode::ShardReaderUnknownGap);
    assert_eq!(soon(reader.read(5)).await.unwrap_err().code(), Some(906));
    assert_eq!(reader.gap_count(), passed_over + 2, "tried once more");
    answer(5, ErrorCode::ShardReaderNotInConfigGap);
    assert_eq!(soon(reader.read(5)).await.unwrap_err().kind(), ErrorKind::NotFound);
    let kinds: std::collections::BTreeSet<_> = reader.gaps().iter().map(|gap| gap.kind.name()).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["forbidden", "lost", "unknown"]);
    // The next call has another name: nothing is answered by the proxy itself any more.
    proxy.answer("Nothing", 0, "");
    assert_eq!(ids(&reader, 5).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_too_large_to_be_received_is_asked_for_in_parts() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let mut expected = Vec::new();
    for _ in 0..8 {
        expected.extend(node.append("s", shard, &[("k", vec![7; 100 * 1024])]).await);
    }
    let client = Client::builder()
        .url(format!("hstream://{}", node.address()))
        .set("max_receive_bytes", 256 * 1024)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let reader = client.polled_reader("s", shard).open().await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        seen.extend(ids(&reader, 8).await);
    }
    assert_eq!(seen, expected);
    reader.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stays_away_is_an_error_and_the_reader_goes_on_after_it() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let expected = node.append_batches("s", shard, 3, 1).await;
    let proxy = RpcProxy::start(node.address().port()).await.unwrap();
    let client = Client::builder().url(proxy.url()).set("retry_base_ms", 1).unwrap().connect().await.unwrap();
    let reader = client.polled_reader("s", shard).open().await.unwrap();
    proxy.answer("ReadShard", 14, "away");
    let error = soon(reader.read(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.tries()), (ErrorKind::Unavailable, 5));
    assert!(!error.may_have_been_applied());
    proxy.answer("Nothing", 0, "");
    assert_eq!(ids(&reader, 5).await, expected);
    reader.close().await.unwrap();
    assert_eq!(client.list_shard_readers().await.unwrap(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_that_was_not_heard_of_is_ours_unless_the_id_was_given() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let expected = node.append_batches("s", shard, 3, 1).await;
    let proxy = RpcProxy::start(node.address().port()).await.unwrap();
    let client = Client::connect(&proxy.url()).await.unwrap();
    proxy.set(Fault::LoseReaderReplies(1));
    let reader = client.polled_reader("s", shard).open().await.unwrap();
    assert_eq!(client.list_shard_readers().await.unwrap(), [reader.reader_id().unwrap()]);
    assert_eq!(ids(&reader, 5).await, expected);
    reader.close().await.unwrap();

    proxy.set(Fault::LoseReaderReplies(1));
    let named = client.polled_reader("s", shard).reader_id("mine").open().await.unwrap();
    let id = named.reader_id().unwrap();
    assert!(id.starts_with("mine-"), "{id}");
    assert_eq!(ids(&named, 5).await, expected);
    named.close().await.unwrap();
    assert_eq!(client.list_shard_readers().await.unwrap(), ["mine"], "it might be somebody else's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_left_on_the_server_is_read_by_its_id_from_anywhere() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let expected = node.append_batches("s", shard, 6, 2).await;
    let maker = node.client().await;
    let wait = Duration::from_secs(1);
    let id = maker.polled_reader("s", shard).reader_id("shared").create().await.unwrap();
    assert_eq!(id, "shared");
    let again = maker.polled_reader("s", shard).reader_id("shared").create().await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    let ids = |batches: Vec<hstreamdb::ReceivedBatch>| -> Vec<RecordId> {
        batches.iter().flat_map(|batch| batch.ids()).copied().collect()
    };
    assert_eq!(ids(maker.read_shard_reader("shared", 2, wait).await.unwrap()), expected[..4]);
    soon(maker.close(Duration::from_secs(5))).await.unwrap();

    let other = node.client().await;
    assert_eq!(ids(other.read_shard_reader("shared", 100, wait).await.unwrap()), expected[4..]);
    assert_eq!(ids(other.read_shard_reader("shared", 100, wait).await.unwrap()), []);
    other.delete_shard_reader("shared").await.unwrap();
    let gone = other.read_shard_reader("shared", 1, wait).await.unwrap_err();
    assert_eq!((gone.kind(), gone.may_have_been_applied()), (ErrorKind::NotFound, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_by_id_whose_answer_is_lost_says_that_it_may_have_moved_the_reader() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.append_batches("s", shard, 2, 1).await;
    let client = node.client().await;
    let id = client.polled_reader("s", shard).create().await.unwrap();
    node.stop().await;
    let error = soon(client.read_shard_reader(&id, 1, Duration::ZERO)).await.unwrap_err();
    assert!(!error.may_have_been_applied(), "not even the lookup got through: {error}");
}
