//! Readers against a real node.

mod node_under_test;

use futures::StreamExt as _;
use hstream_testkit::{Fault, RpcProxy, eventually};
use hstreamdb::{Client, ErrorKind, GapKind, Offset, ReadFrom, Reader, RecordId, StreamPosition};
use hstreamdb_proto::api;
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

fn counter(client: &Client, name: &str) -> u64 {
    client.metrics().counters.iter().find(|(known, _)| *known == name).unwrap().1
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_shard_of_a_stream_needs_no_name() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.stream("wide", 2).await;
    let ids = node.append_batches("s", shard, 12, 3).await;
    let client = node.client().await;
    let all = client.single_shard_reader("s").until(Offset::Latest).open().await.unwrap();
    assert_eq!(read_to_end(&all).await, ids);
    let some = client.single_shard_reader("s").from(Offset::Record(ids[6])).max_batches(3);
    assert_eq!(read_to_end(&some.open().await.unwrap()).await, ids[6..15]);
    let refused = client.single_shard_reader("wide").open().await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::InvalidArgument, Some(902)));
    assert!(refused.to_string().contains("stream_reader"), "{refused}");
    assert_eq!(client.single_shard_reader("nowhere").open().await.unwrap_err().kind(), ErrorKind::NotFound);

    // A stream of the same name is another stream.
    let follower = client.single_shard_reader("s").open().await.unwrap();
    for _ in 0..12 {
        soon(follower.next_batch()).await.unwrap().unwrap();
    }
    let delete = api::DeleteStreamRequest { stream_name: "s".into(), force: true, ignore_non_exist: false };
    node.wire.delete_stream(delete).await.unwrap();
    let shard = node.stream("s", 1).await[0];
    node.append_batches("s", shard, 1, 1).await;
    node.stop().await;
    node.start_again().await;
    let error = soon(follower.next_batch()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidArgument), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_ends_a_read_with_all_that_was_appended_by_then() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let client = node.client().await;
    let mut times: Vec<(i64, RecordId)> = Vec::new();
    // All at once, so that several share a millisecond.
    let appends = (0..40).map(|_| {
        let records = vec![api::HStreamRecord {
            header: Some(api::HStreamRecordHeader { flag: 1, key: "k".into(), ..Default::default() }),
            payload: b"x".to_vec().into(),
        }];
        let payload = prost::Message::encode_to_vec(&api::BatchHStreamRecords { records }).into();
        let records = Some(api::BatchedRecord { batch_size: 1, payload, ..Default::default() });
        let request = api::AppendRequest { stream_name: "s".into(), shard_id: shard, records };
        let mut wire = node.wire.clone();
        async move { wire.append(request).await.unwrap() }
    });
    futures::future::join_all(appends).await;
    let all = client.shard_reader("s", shard).until(Offset::Latest).open().await.unwrap();
    while let Some(batch) = soon(all.next_batch()).await.unwrap() {
        times.push((batch.publish_time_ms(), batch.ids()[0]));
    }
    assert_eq!(times.len(), 40);
    let ids: Vec<_> = times.iter().map(|(_, id)| *id).collect();
    let proxy = RpcProxy::start(node.address().port()).await.unwrap();
    let cut_off =
        Client::builder().url(proxy.url()).set("retry_base_ms", 1).unwrap().connect().await.unwrap();
    for end in [0, 10, 20, 30, 39] {
        let end = Offset::Timestamp(times[end].0);
        let Offset::Timestamp(ms) = end else { unreachable!() };
        let expected: Vec<_> = times.iter().filter(|(time, _)| *time <= ms).map(|(_, id)| *id).collect();
        let plain = client.shard_reader("s", shard).until(end).open().await.unwrap();
        assert_eq!(read_to_end(&plain).await, expected);
        let key = client.key_reader("s", "k").until(end).open().await.unwrap();
        assert_eq!(read_to_end(&key).await, expected);
        // Resumed inside the millisecond that ends it, too.
        let cut =
            cut_off.shard_reader("s", shard).until(end).prefetch_batches(1).unwrap().open().await.unwrap();
        let mut seen = Vec::new();
        while let Some(batch) = soon(cut.next_batch()).await.unwrap() {
            seen.extend_from_slice(batch.ids());
            proxy.cut_connections();
        }
        assert_eq!(seen, expected);
    }
    // One that goes on inside the millisecond that ends it.
    for (number, (time, id)) in times.iter().enumerate() {
        let position: StreamPosition = format!("{shard}:>{}-0", id.batch_id).parse().unwrap();
        let rest = client.shard_reader("s", shard).from(position).until(Offset::Timestamp(*time));
        let left = times[number + 1..].iter().filter(|(other, _)| other == time).map(|(_, id)| *id);
        assert_eq!(read_to_end(&rest.open().await.unwrap()).await, left.collect::<Vec<_>>());
    }
    let later = client.shard_reader("s", shard).until(Offset::Timestamp(i64::MAX)).open().await.unwrap();
    assert_eq!(read_to_end(&later).await, ids, "a time to come ends at what is the newest now");
    let before = client.shard_reader("s", shard).until(Offset::Timestamp(0)).open().await.unwrap();
    assert_eq!(read_to_end(&before).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_trimmed_before_it_was_read_is_passed_over_and_told() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let ids = node.append_batches("s", shard, 20, 1).await;
    let client = node.client().await;
    let half = client.shard_reader("s", shard).max_batches(5).open().await.unwrap();
    read_to_end(&half).await;
    let position = half.position();
    client.trim_shard("s", shard, Offset::Record(ids[12])).await.unwrap();
    let oldest = client.shard_reader("s", shard).until(Offset::Latest).open().await.unwrap();
    let left = read_to_end(&oldest).await;
    assert_eq!(left, ids[ids.len() - left.len()..]);
    assert!(left.len() <= 8 && oldest.gap_count() == 0, "nobody asked for what is gone");

    let missing = |first: RecordId| Some((first.batch_id, left[0].batch_id - 1));
    let proxy = RpcProxy::start_broken(node.address().port(), Fault::Published).await.unwrap();
    let published = Client::connect(&proxy.url()).await.unwrap();
    for (client, kind) in [(&client, GapKind::Trimmed), (&published, GapKind::Unknown)] {
        for (from, first) in
            [(ReadFrom::from(&position), ids[5]), (ReadFrom::from(Offset::Record(ids[3])), ids[3])]
        {
            let readers = [client.shard_reader("s", shard), client.single_shard_reader("s")];
            for reader in readers {
                let reader = reader.from(from.clone()).until(Offset::Latest).open().await.unwrap();
                assert_eq!(read_to_end(&reader).await, left);
                let gaps = reader.gaps();
                assert_eq!(gaps.len(), 1, "{gaps:?}");
                assert_eq!((gaps[0].shard_id, gaps[0].kind, gaps[0].batches), (shard, kind, missing(first)));
            }
            let polled = client.polled_reader("s", shard).from(from).open().await.unwrap();
            let batches = soon(polled.read(100)).await.unwrap();
            assert_eq!(batches.iter().flat_map(|batch| batch.ids()).copied().collect::<Vec<_>>(), left);
            assert_eq!(polled.gaps()[0].batches, missing(first));
            polled.close().await.unwrap();
        }
    }
    let key = client.key_reader("s", "k").from(&position).open().await.unwrap();
    assert_eq!(read_to_end(&key).await, left);
    assert_eq!(key.gaps()[0].batches, missing(ids[5]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_has_lost_is_passed_over_counted_and_told() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let mut ids = Vec::new();
    for number in 0..12 {
        ids.extend(node.append("s", shard, &[("k", format!("{number:0500}").into_bytes())]).await);
    }
    node.stop().await;
    node.start_damaged(format!("{:0500}", 7).as_bytes()).await;
    let lost = ids.remove(7);
    let client = node.client().await;
    let told = Some((lost.batch_id, lost.batch_id));

    let readers = [
        client.shard_reader("s", shard).until(Offset::Latest).open().await.unwrap(),
        client.stream_reader("s").until(Offset::Latest).open().await.unwrap(),
        client.key_reader("s", "k").open().await.unwrap(),
    ];
    for reader in readers {
        assert_eq!(read_to_end(&reader).await, ids);
        let gaps = reader.gaps();
        assert_eq!((gaps.len(), gaps[0].kind, gaps[0].batches), (1, GapKind::Lost, told));
        assert_eq!(gaps[0].to_string(), format!("shard {shard}: batch {} is missing (lost)", lost.batch_id));
    }
    let polled = client.polled_reader("s", shard).open().await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < ids.len() {
        let batches = soon(polled.read(3)).await.unwrap();
        seen.extend(batches.iter().flat_map(|batch| batch.ids()).copied());
    }
    assert_eq!(seen, ids);
    assert_eq!((polled.gap_count(), polled.gaps()[0].kind), (1, GapKind::Lost));
    assert_eq!(counter(&client, "reader_gaps"), 4);

    // A published server passes over it in silence.
    let proxy = RpcProxy::start_broken(node.address().port(), Fault::Published).await.unwrap();
    let published = Client::connect(&proxy.url()).await.unwrap();
    let reader = published.shard_reader("s", shard).until(Offset::Latest).open().await.unwrap();
    assert_eq!(read_to_end(&reader).await, ids);
    assert_eq!(reader.gap_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_not_read_takes_what_it_may_and_holds_up_nobody() {
    let mut node = TestNode::start().await;
    let shards = node.stream("s", 2).await;
    let mut expected = 0;
    for _ in 0..24 {
        for &shard in &shards {
            expected += node.append("s", shard, &[("k", vec![7; 512 * 1024])]).await.len();
        }
    }
    let client = node.client().await;
    let options = |reader: hstreamdb::ReaderBuilder| {
        reader.prefetch_bytes(1 << 20).unwrap().probe_interval(Duration::from_millis(20)).unwrap()
    };
    let idle = options(client.stream_reader("s")).until(Offset::Latest).open().await.unwrap();
    eventually("the reader has read ahead", Duration::from_secs(10), || async {
        (counter(&client, "reader_batches") >= 2).then_some(())
    })
    .await;
    // All of it passes by the reader that stands still.
    let other = options(client.stream_reader("s")).until(Offset::Latest).open().await.unwrap();
    assert_eq!(read_to_end(&other).await.len(), expected);
    let ahead = counter(&client, "reader_batches") - expected as u64;
    // A message of at most 4 MiB for each of two shards, and half a megabyte of room in each before it.
    assert!(ahead <= 2 * 9, "{ahead} batches were read ahead");
    assert_eq!(counter(&client, "reader_reconnects"), 0, "a silence of our own making is none");
    assert_eq!(read_to_end(&idle).await.len(), expected);
    assert_eq!(counter(&client, "reader_reconnects"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_is_a_stream_that_loses_nothing_when_it_is_dropped() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let ids = node.append_batches("s", shard, 10, 1).await;
    let client = node.client().await;
    let reader = client.shard_reader("s", shard).until(Offset::Latest).open().await.unwrap();
    let first: Vec<_> = soon(reader.batches().take(4).collect()).await;
    let rest: Vec<_> = soon(reader.batches().collect()).await;
    let seen: Vec<_> =
        first.into_iter().chain(rest).flat_map(|batch| batch.unwrap().ids().to_vec()).collect();
    assert_eq!(seen, ids);
    let failed: Vec<_> = soon(client.shard_reader("s", 1).open().await.unwrap().batches().collect()).await;
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].as_ref().unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_reader_resumes_passes_over_poison_and_takes_its_time() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let mut expected = Vec::new();
    for batch in 0..30u32 {
        let records: Vec<_> = (0..120u32)
            .map(|r| (if r % 2 == 0 { "even" } else { "odd" }, format!("{batch}/{r}").into_bytes()))
            .collect();
        let ids = node.append("s", shard, &records).await;
        expected.extend(ids.into_iter().filter(|id| id.batch_index % 2 == 1));
        if batch % 10 == 0 {
            let poison = api::AppendRequest {
                stream_name: "s".into(),
                shard_id: shard,
                records: Some(api::BatchedRecord {
                    compression_type: api::CompressionType::Gzip as i32,
                    batch_size: 2,
                    payload: b"no gzip".to_vec().into(),
                    ..Default::default()
                }),
            };
            node.wire.append(poison).await.unwrap();
        }
    }
    let proxy = RpcProxy::start(node.address().port()).await.unwrap();
    let client = Client::builder().url(proxy.url()).set("retry_base_ms", 1).unwrap().connect().await.unwrap();
    let reader = client.key_reader("s", "odd").prefetch_batches(1).unwrap().open().await.unwrap();
    let (mut seen, mut batches) = (Vec::new(), 0);
    while let Some(batch) = soon(reader.next_batch()).await.unwrap() {
        assert!(batch.records().unwrap().iter().all(|record| record.key == "odd"));
        seen.extend_from_slice(batch.ids());
        batches += 1;
        if batches % 5 == 0 {
            proxy.cut_connections();
        }
        if batches == 12 {
            let position = reader.position();
            let other = client.key_reader("s", "odd").from(&position).open().await.unwrap();
            assert_eq!(read_to_end(&other).await, expected[seen.len()..]);
        }
    }
    assert_eq!(seen, expected);
    assert!(counter(&client, "reader_reconnects") > 0);
}
