use super::*;
use crate::record::{Record, RecordBatch};
use proptest::prelude::*;

fn encode(records: &[Record], kind: api::CompressionType) -> api::BatchedRecord {
    let mut encoder = BatchEncoder::default();
    for record in records {
        let view = record.view();
        let layout = RecordLayout::of(&view);
        let expected = encoder.encoded_len_with(layout);
        encoder.push(&view, layout);
        assert_eq!(encoder.encoded_len(), expected);
    }
    let promised = encoder.encoded_len();
    let batch = encoder.finish(kind, None).unwrap();
    assert!(batch.encoded_len() <= promised);
    if batch.compression_type == 0 {
        assert_eq!(batch.encoded_len(), promised);
    }
    batch
}

fn ids(count: usize) -> Vec<RecordId> {
    (0..count as u32).map(|batch_index| RecordId { shard_id: 1, batch_id: 2, batch_index }).collect()
}

fn decode(batch: &api::BatchedRecord) -> Vec<Record> {
    decode_batch(batch, &ids(batch.batch_size as usize), 7, 1 << 26)
        .unwrap()
        .into_iter()
        .map(|r| Record { key: r.key, payload: r.payload, kind: r.kind, attributes: r.attributes })
        .collect()
}

fn samples() -> Vec<Record> {
    vec![
        Record::raw("payload").with_key("key"),
        Record::raw(""),
        Record::raw(vec![0xff; 300]).with_key("k".repeat(200)).with_attribute("a", "1"),
        Record::hrecord_json("{}").unwrap(),
        Record::hrecord_json(r#"{"n":1}"#).unwrap().with_key("中文").with_attribute("", ""),
    ]
}

#[test]
fn bytes_are_what_a_protobuf_library_writes() {
    let records = samples();
    let batch = encode(&records, api::CompressionType::None);
    let expected = api::BatchHStreamRecords {
        records: records
            .iter()
            .map(|record| api::HStreamRecord {
                header: Some(api::HStreamRecordHeader {
                    flag: i32::from(record.kind == PayloadKind::Raw),
                    attributes: record.attributes.iter().cloned().collect(),
                    key: record.key.clone(),
                }),
                payload: record.payload.clone(),
            })
            .collect(),
    };
    assert_eq!(batch.payload, expected.encode_to_vec());
    assert_eq!(batch.batch_size, 5);
}

#[test]
fn golden_bytes_of_one_record() {
    let batch = encode(&[Record::raw("hi").with_key("k")], api::CompressionType::None);
    assert_eq!(&batch.payload[..], b"\x0a\x0b\x0a\x05\x08\x01\x1a\x01k\x12\x02hi");
}

#[test]
fn every_compression_survives_a_round_trip() {
    let mut records = samples();
    records.push(Record::raw("compress me ".repeat(200)));
    for kind in [api::CompressionType::None, api::CompressionType::Gzip, api::CompressionType::Zstd] {
        let batch = encode(&records, kind);
        assert_eq!(batch.compression_type, kind as i32);
        assert_eq!(decode(&batch), records);
    }
}

#[test]
fn content_that_does_not_shrink_is_sent_as_it_is() {
    let batch = encode(&[Record::raw("x")], api::CompressionType::Gzip);
    assert_eq!(batch.compression_type, api::CompressionType::None as i32);
    assert_eq!(decode(&batch), [Record::raw("x")]);
}

#[test]
fn levels_out_of_range_are_invalid_arguments() {
    let error = BatchEncoder::default().finish(api::CompressionType::Gzip, Some(11)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn part_of_a_batch_is_selected_by_index() {
    let batch = encode(&samples(), api::CompressionType::Zstd);
    let wanted = [ids(5)[1], ids(5)[4]];
    let records = decode_batch(&batch, &wanted, 0, 1 << 20).unwrap();
    assert_eq!(records.iter().map(|r| r.id).collect::<Vec<_>>(), wanted);
    assert_eq!(records[1].key, "中文");
}

#[test]
fn broken_batches_are_codec_errors() {
    let good = encode(&samples(), api::CompressionType::None);
    let unknown = api::BatchedRecord { compression_type: 9, ..good.clone() };
    let garbage = api::BatchedRecord { payload: Bytes::from_static(b"\xff\xff"), ..good.clone() };
    for (batch, ids) in [(&unknown, ids(5)), (&garbage, ids(5)), (&good, ids(6))] {
        assert_eq!(decode_batch(batch, &ids, 0, 1 << 20).unwrap_err().kind(), ErrorKind::Codec);
    }
    assert_eq!(decode_batch(&good, &ids(5), 0, 10).unwrap_err().kind(), ErrorKind::Codec);
}

#[test]
fn payloads_share_the_buffer_of_their_batch() {
    let batch = encode(&[Record::raw("abc"), Record::raw("def")], api::CompressionType::None);
    let whole = batch.payload.as_ptr() as usize..batch.payload.as_ptr() as usize + batch.payload.len();
    let records = decode_batch(&batch, &ids(2), 0, 1 << 20).unwrap();
    assert!(records.iter().all(|record| whole.contains(&(record.payload.as_ptr() as usize))));
}

proptest! {
    #[test]
    fn any_records_survive_a_round_trip(
        parts in prop::collection::vec((".{0,40}", prop::collection::vec(any::<u8>(), 0..300), any::<bool>()), 1..20)
    ) {
        let records: Vec<Record> = parts
            .into_iter()
            .map(|(key, payload, raw)| Record {
                key,
                payload: payload.into(),
                kind: if raw { PayloadKind::Raw } else { PayloadKind::HRecord },
                attributes: Vec::new(),
            })
            .collect();
        prop_assert_eq!(decode(&encode(&records, api::CompressionType::Zstd)), records);
    }

    #[test]
    fn arbitrary_batches_never_panic(payload: Vec<u8>, kind in 0..4, count in 0..5usize) {
        let batch = api::BatchedRecord {
            compression_type: kind,
            publish_time: None,
            batch_size: count as u32,
            payload: payload.into(),
        };
        let _ = decode_batch(&batch, &ids(count), 0, 1 << 16);
    }
}

#[test]
fn columnar_input_encodes_like_single_records() {
    let records = samples();
    let columns: RecordBatch = records.iter().collect();
    let mut encoder = BatchEncoder::default();
    for view in columns.views() {
        encoder.push(&view, RecordLayout::of(&view));
    }
    let batch = encoder.finish(api::CompressionType::None, None).unwrap();
    assert_eq!(batch, encode(&records, api::CompressionType::None));
}

#[test]
fn golden_batches_are_written_byte_for_byte() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../conformance/vectors/codec.json");
    let vectors: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = vectors["encode"].as_array().unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let records: Vec<Record> = case["records"]
            .as_array()
            .unwrap()
            .iter()
            .map(|record| Record {
                key: record["key"].as_str().unwrap().to_owned(),
                payload: STANDARD.decode(record["payload"].as_str().unwrap()).unwrap().into(),
                kind: if record["kind"] == "raw" { PayloadKind::Raw } else { PayloadKind::HRecord },
                attributes: record["attributes"]
                    .as_object()
                    .unwrap()
                    .iter()
                    .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
                    .collect(),
            })
            .collect();
        let batch = encode(&records, api::CompressionType::None);
        let expected = STANDARD.decode(case["content"].as_str().unwrap()).unwrap();
        assert_eq!(batch.payload, expected, "{}", case["name"]);
        assert_eq!(decode(&batch), records, "{}", case["name"]);
    }
}
