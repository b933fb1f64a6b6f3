//! The golden vectors every language is held to, against the rules of this crate.

use bytes::Bytes;
use hstreamdb_proto::{
    api::{CompressionType, HStreamRecord},
    batch::split_records,
    compression::decompress,
    error_body::ErrorBody,
    partition::{even_range, key_hash},
};
use prost::Message as _;
use serde_json::Value;

fn vectors(name: &str) -> Value {
    let path = format!("{}/../conformance/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

fn base64(value: &Value) -> Bytes {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap().into()
}

#[test]
fn keys_hash_and_route_as_published() {
    let vectors = vectors("routing");
    let keys = vectors["keys"].as_array().unwrap();
    assert!(keys.len() >= 6);
    for case in keys {
        let key = case["key"].as_str().unwrap();
        let hash = key_hash(key);
        assert_eq!(hash.to_string(), case["hash"], "{key:?}");
        for (shards, index) in case["shard"].as_object().unwrap() {
            let shards: u32 = shards.parse().unwrap();
            let found = (0..shards)
                .find(|index| {
                    let (start, end) = even_range(*index, shards);
                    start <= hash && hash <= end
                })
                .unwrap();
            assert_eq!(u64::from(found), index.as_u64().unwrap(), "{key:?} among {shards}");
        }
    }
    for range in vectors["ranges"].as_array().unwrap() {
        let number = |name: &str| u32::try_from(range[name].as_u64().unwrap()).unwrap();
        let (start, end) = even_range(number("index"), number("shards"));
        assert_eq!((start.to_string(), end.to_string()), (text(&range["start"]), text(&range["end"])));
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn batches_of_other_writers_are_read() {
    let vectors = vectors("codec");
    let cases = vectors["decode"].as_array().unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let kind = match case["compression"].as_str().unwrap() {
            "none" => CompressionType::None,
            "gzip" => CompressionType::Gzip,
            "zstd" => CompressionType::Zstd,
            other => panic!("{other}"),
        };
        let content = decompress(kind, &base64(&case["payload"]), 1 << 20).unwrap();
        let records = split_records(&content).unwrap();
        assert_eq!(records.len() as u64, case["records"].as_u64().unwrap(), "{name}");
        for record in records {
            let record = HStreamRecord::decode(record).unwrap();
            assert_eq!(record.payload, base64(&case["record"]), "{name}");
            assert_eq!(record.header.unwrap().key, case["key"].as_str().unwrap(), "{name}");
        }
    }
}

#[test]
fn error_bodies_parse_as_published() {
    for case in vectors("errors")["bodies"].as_array().unwrap() {
        let body = ErrorBody::parse(case["message"].as_str().unwrap());
        assert_eq!(body.as_ref().map(|body| i64::from(body.error)), case["code"].as_i64());
        assert_eq!(body.map(|body| body.extra.to_string()).as_deref(), case["extra"].as_str());
    }
}
