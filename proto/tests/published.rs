//! Our wire description against the one inside the PyPI package `hstreamdb-api` 0.6.1.
//!
//! `make setup` extracts the published descriptor; without it (plain `cargo test` on a fresh clone) the
//! comparison says so and ends.

use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use std::collections::BTreeMap;

/// What our description has beyond the published release, in order; a line too many fails the test.
const NEWER: &[&str] = &[
    "enum CacheStoreStats.CSAppendFailed",
    "enum CacheStoreStats.CSAppendInBytes",
    "enum CacheStoreStats.CSAppendInRecords",
    "enum CacheStoreStats.CSAppendTotal",
    "enum CacheStoreStats.CSDeliveredFailed",
    "enum CacheStoreStats.CSDeliveredInRecords",
    "enum CacheStoreStats.CSDeliveredTotal",
    "enum CacheStoreStats.CSReadInBytes",
    "enum CacheStoreStats.CSReadInRecords",
    "enum ConnectorStats.IsAlive",
    "enum ErrorCode.ShardReaderAccessGap",
    "enum ErrorCode.ShardReaderDataLossGap",
    "enum ErrorCode.ShardReaderNotInConfigGap",
    "enum ErrorCode.ShardReaderUnknownGap",
    "enum ErrorCode.StreamInvalidRecordId",
    "enum ErrorCode.StreamShardNotExists",
    "enum StreamStats.ReadInBatches",
    "enum StreamStats.ReadInBytes",
    "field AlterConnectorConfigRequest.config",
    "field AlterConnectorConfigRequest.name",
    "field ReadShardStreamRequest.streamName",
    "field StatType.cacheStoreStat",
    "field TrimShardsRequest.recordIds",
    "field TrimShardsRequest.streamName",
    "field TrimShardsResponse.TrimPointsEntry.key",
    "field TrimShardsResponse.TrimPointsEntry.value",
    "field TrimShardsResponse.trimPoints",
    "message AlterConnectorConfigRequest",
    "message TrimShardsRequest",
    "message TrimShardsResponse",
    "message TrimShardsResponse.TrimPointsEntry",
    "rpc HStreamApi.AlterConnectorConfig",
    "rpc HStreamApi.TrimShards",
];

/// Flat picture of a description: path of each element -> what must agree.
type Picture = BTreeMap<String, String>;

fn add_enum(picture: &mut Picture, prefix: &str, item: &EnumDescriptorProto) {
    for value in &item.value {
        picture.insert(format!("enum {prefix}{}.{}", item.name(), value.name()), value.number().to_string());
    }
}

fn add_message(picture: &mut Picture, prefix: &str, message: &DescriptorProto) {
    let path = format!("{prefix}{}", message.name());
    picture.insert(format!("message {path}"), String::new());
    for field in &message.field {
        let oneof = field
            .oneof_index
            .and_then(|index| message.oneof_decl.get(index as usize))
            .map_or("", |oneof| oneof.name());
        picture.insert(
            format!("field {path}.{}", field.name()),
            format!(
                "{} {:?} {:?} {} oneof={oneof}",
                field.number(),
                field.r#type(),
                field.label(),
                field.type_name()
            ),
        );
    }
    for item in &message.enum_type {
        add_enum(picture, &format!("{path}."), item);
    }
    for nested in &message.nested_type {
        add_message(picture, &format!("{path}."), nested);
    }
}

fn picture(files: &[FileDescriptorProto]) -> Picture {
    let mut picture = Picture::new();
    for file in files.iter().filter(|file| file.package() == "hstream.server") {
        file.enum_type.iter().for_each(|item| add_enum(&mut picture, "", item));
        file.message_type.iter().for_each(|message| add_message(&mut picture, "", message));
        for method in file
            .service
            .iter()
            .flat_map(|service| service.method.iter().map(move |method| (service.name().to_owned(), method)))
        {
            let (service, method) = method;
            picture.insert(
                format!("rpc {service}.{}", method.name()),
                format!(
                    "{} {} -> {} {}",
                    method.client_streaming(),
                    method.input_type(),
                    method.server_streaming(),
                    method.output_type()
                ),
            );
        }
    }
    picture
}

fn published() -> Option<FileDescriptorProto> {
    let path = std::env::var_os("HSTREAM_PUBLISHED_DESCRIPTOR")?;
    let bytes = std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; `make setup` puts it there", path.to_string_lossy()));
    Some(FileDescriptorProto::decode(&bytes[..]).expect("the published descriptor decodes"))
}

#[test]
fn description_agrees_with_the_published_one() {
    let Some(published) = published() else {
        println!("not compared: HSTREAM_PUBLISHED_DESCRIPTOR is not set (`make test` sets it)");
        return;
    };
    let theirs = picture(&[published]);
    let ours = picture(&FileDescriptorSet::decode(hstreamdb_proto::DESCRIPTORS).expect("ours decodes").file);
    assert!(theirs.len() > 500, "only {} elements were read from the published descriptor", theirs.len());

    let missing: Vec<_> = theirs.iter().filter(|(path, what)| ours.get(*path) != Some(what)).collect();
    assert!(missing.is_empty(), "published but missing or different here: {missing:#?}");

    let added: Vec<_> = ours.keys().filter(|path| !theirs.contains_key(*path)).map(String::as_str).collect();
    assert_eq!(added, NEWER, "the list of what is newer than 0.6.1 must be exact");
}
