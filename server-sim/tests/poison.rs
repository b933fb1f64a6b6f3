//! Batches that their writer spoilt: every way of reading survives them, and nobody loses what is good around them.

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hstreamdb_proto::api::*;
use hstreamdb_proto::compression::{compress, decompress};
use prost::Message as _;
use std::collections::BTreeMap;
use support::fetch::{attach, subscription};
use support::*;

struct Poison {
    name: &'static str,
    batch: BatchedRecord,
    /// Records of key `k` that can be had; `None`: some.
    of_key: Option<usize>,
    /// Whether what is open can be packed on its own; otherwise the whole batch comes again.
    packs: bool,
}

/// What other implementations wrote.
fn golden(name: &str) -> Bytes {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../conformance/vectors/codec.json");
    let vectors: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let found = vectors["decode"].as_array().unwrap().iter().find(|vector| vector["name"] == name).unwrap();
    assert_eq!((found["records"].as_u64(), found["key"].as_str()), (Some(20), Some("k")));
    BASE64.decode(found["payload"].as_str().unwrap()).unwrap().into()
}

fn poisons() -> Vec<Poison> {
    let poison = |name, kind: i32, batch_size, payload: Bytes, of_key, packs| Poison {
        name,
        batch: BatchedRecord { compression_type: kind, publish_time: None, batch_size, payload },
        of_key,
        packs,
    };
    let (none, gzip, zstd) =
        (CompressionType::None as i32, CompressionType::Gzip as i32, CompressionType::Zstd as i32);
    let garbage = Bytes::from_static(b"\xff\xff\xff\xff neither protobuf nor anything else");
    let complete = golden("gzip");
    let bomb = compress(CompressionType::Zstd, None, Bytes::from(vec![0; 70 << 20])).unwrap();
    vec![
        poison("zstd without content size", zstd, 20, golden("zstd without content size"), Some(20), true),
        poison("gzip without trailer", gzip, 20, golden("gzip without trailer"), Some(20), true),
        poison("gzip cut in the middle", gzip, 20, complete.slice(..complete.len() * 3 / 4), None, false),
        poison("no protobuf", none, 20, garbage.clone(), Some(0), false),
        poison("no gzip", gzip, 20, garbage.clone(), Some(0), false),
        poison("no zstd", zstd, 20, garbage, Some(0), false),
        poison("unknown compression", 9, 20, golden("none"), Some(0), false),
        poison("more claimed than there are", none, 25, golden("none"), Some(20), false),
        poison("less claimed than there are", none, 3, golden("none"), Some(3), false),
        poison("a zstd bomb", zstd, 20, bomb, Some(0), false),
    ]
}

/// A good batch before, between and behind all of them; the ids of the bad ones.
async fn spoilt(client: &mut Client) -> (u64, BTreeMap<u64, Poison>) {
    let shard = create(client, "s", 1).await[0];
    let mut bad = BTreeMap::new();
    for (number, poison) in poisons().into_iter().enumerate() {
        let good = batch(vec![record("k", &format!("good {number}"))]);
        client.append(append_request(shard, good)).await.unwrap();
        let appended = client.append(append_request(shard, poison.batch.clone())).await;
        let ids = appended.expect(poison.name).into_inner().record_ids;
        assert_eq!(ids.len(), poison.batch.batch_size as usize);
        bad.insert(ids[0].batch_id, poison);
    }
    client.append(append_request(shard, batch(vec![record("k", "good end")]))).await.unwrap();
    (shard, bad)
}

fn assert_as_stored(received: &[ReceivedRecord], bad: &BTreeMap<u64, Poison>) {
    assert_eq!(received.len(), 2 * bad.len() + 1);
    let mut seen = 0;
    for each in received {
        let record = each.record.as_ref().unwrap();
        assert_eq!(each.record_ids.len(), record.batch_size as usize);
        if let Some(poison) = bad.get(&each.record_ids[0].batch_id) {
            let stored = BatchedRecord { publish_time: None, ..record.clone() };
            assert_eq!(stored, poison.batch, "{}", poison.name);
            seen += 1;
        }
    }
    assert_eq!(seen, bad.len());
}

#[tokio::test]
async fn reads_of_whole_batches_return_poison_as_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let (shard, bad) = spoilt(client).await;
    assert_as_stored(&read_all(client, shard).await, &bad);

    let latest = Some(stream_offset::Offset::SpecialOffset(SpecialOffset::Latest as i32));
    let request = ReadStreamRequest {
        stream_name: "s".into(),
        until: Some(StreamOffset { offset: latest }),
        ..Default::default()
    };
    let mut answer = client.read_stream(request).await.unwrap().into_inner();
    let mut received = Vec::new();
    while let Some(message) = answer.message().await.unwrap() {
        received.extend(message.received_records);
    }
    assert_as_stored(&received, &bad);

    let request = ReadSingleShardStreamRequest {
        stream_name: "s".into(),
        until: special(SpecialOffset::Latest),
        ..Default::default()
    };
    let mut answer = client.read_single_shard_stream(request).await.unwrap().into_inner();
    let mut received = Vec::new();
    while let Some(message) = answer.message().await.unwrap() {
        received.extend(message.received_records);
    }
    assert_as_stored(&received, &bad);

    let reader = CreateShardReaderRequest {
        stream_name: "s".into(),
        shard_id: shard,
        shard_offset: special(SpecialOffset::Earliest),
        reader_id: "r".into(),
        timeout: 0,
    };
    client.create_shard_reader(reader).await.unwrap();
    let mut received = Vec::new();
    loop {
        let request = ReadShardRequest { reader_id: "r".into(), max_records: 3 };
        let more = client.read_shard(request).await.unwrap().into_inner().received_records;
        if more.is_empty() {
            break;
        }
        received.extend(more);
    }
    assert_as_stored(&received, &bad);
    node.stop().await;
}

#[tokio::test]
async fn a_read_by_key_gets_past_poison_with_all_that_can_be_had() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let (_, bad) = spoilt(client).await;
    let request = ReadStreamByKeyRequest {
        stream_name: "s".into(),
        key: "k".into(),
        read_record_count: 10_000,
        ..Default::default()
    };
    let mut answer = client.read_stream_by_key(tokio_stream::iter([request])).await.unwrap().into_inner();
    let mut found: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let mut good = 0;
    while let Some(message) = answer.message().await.unwrap() {
        for (id, record) in message.record_ids.into_iter().zip(message.received_records) {
            assert_eq!(record.header.unwrap().key, "k");
            if bad.contains_key(&id.batch_id) {
                found.entry(id.batch_id).or_default().push(id.batch_index);
            } else {
                good += 1;
            }
        }
    }
    assert_eq!(good, bad.len() + 1);
    for (batch_id, poison) in bad {
        let found = found.remove(&batch_id).unwrap_or_default();
        let count = u32::try_from(found.len()).unwrap();
        assert_eq!(found, (0..count).collect::<Vec<_>>(), "{}", poison.name);
        match poison.of_key {
            Some(expected) => assert_eq!(found.len(), expected, "{}", poison.name),
            None => assert!((1..20).contains(&found.len()), "{}: {}", poison.name, found.len()),
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn a_subscription_delivers_and_redelivers_poison_and_gets_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let (shard, bad) = spoilt(client).await;
    client.create_subscription(subscription("sub", "s", 1)).await.unwrap();
    let mut consumer = attach(client, "sub", "c").await;
    let mut received = Vec::new();
    while received.len() < 2 * bad.len() + 1 {
        let each = consumer.next().await;
        // Of the bad ones only the first record is done: the rest has to be taken out of the batch.
        let done = if bad.contains_key(&each.record_ids[0].batch_id) { 1 } else { each.record_ids.len() };
        consumer.ack(each.record_ids[..done].to_vec()).await;
        received.push(each);
    }
    assert_as_stored(&received, &bad);

    let mut again = BTreeMap::new();
    while again.len() < bad.len() {
        let each = consumer.next().await;
        consumer.ack(each.record_ids.clone()).await;
        again.insert(each.record_ids[0].batch_id, each);
    }
    for (batch_id, poison) in &bad {
        let each = again.remove(batch_id).expect(poison.name);
        let record = each.record.unwrap();
        let indexes: Vec<u32> = each.record_ids.iter().map(|id| id.batch_index).collect();
        assert_eq!(record.compression_type, poison.batch.compression_type);
        if poison.packs {
            assert_eq!(indexes, (1..poison.batch.batch_size).collect::<Vec<_>>(), "{}", poison.name);
            let kind = CompressionType::try_from(record.compression_type).unwrap();
            let content = decompress(kind, &record.payload, 1 << 20).unwrap();
            let records = BatchHStreamRecords::decode(content).unwrap().records;
            assert_eq!((records.len(), record.batch_size), (indexes.len(), poison.batch.batch_size - 1));
        } else {
            assert_eq!(indexes, (0..poison.batch.batch_size).collect::<Vec<_>>(), "{}", poison.name);
            assert_eq!(record.payload, poison.batch.payload, "{}", poison.name);
        }
    }
    // The call lives, new records arrive, and everything is committed.
    let last = append(client, shard, "new").await;
    assert_eq!(consumer.take().await, ["new"]);
    consumer.finish().await;
    let got = client.get_subscription(GetSubscriptionRequest { id: "sub".into() }).await.unwrap();
    let expected = [SubscriptionOffset { shard_id: shard, batch_id: last.batch_id }];
    assert_eq!(got.into_inner().offsets, expected);
    node.stop().await;
}
