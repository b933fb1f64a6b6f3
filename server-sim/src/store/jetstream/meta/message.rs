//! One change of a key as a message of the bucket.

use super::bucket::Bucket;
use super::chain::Chain;
use super::key;
use async_nats::HeaderMap;
use bytes::Bytes;
use std::time::Duration;

/// Which write it is, so that one that comes twice is stored once.
const ID: &str = "Nats-Msg-Id";
/// The message of this subject that has to be the last one.
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// The subject that is meant, if it is another one.
const EXPECTED_OF: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
/// When the servers remove a message by themselves.
const TTL: &str = "Nats-TTL";
/// How tools tell a removal.
const OPERATION: &str = "KV-Operation";
/// The writes of this key that came before; see [`Chain`].
const CHAIN: &str = "Hstream-Chain";
/// CRC32C of the key and the value in hexadecimal.
const CHECKSUM: &str = "Hstream-Crc32c";

/// How long the servers remember removed keys, and so do we.
pub(super) const REMOVAL_TTL: Duration = Duration::from_secs(600);
/// Room that headers of a change take in a message.
pub(super) const HEADER_ROOM: usize = 1024;

/// What a change leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Value(Bytes),
    Absent,
    /// It does not match its checksum.
    Damaged,
}

/// A change as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) content: Content,
    /// Which write it was, if it was one of ours.
    pub(super) id: Option<u128>,
    /// What came before it, if its writer knew.
    pub(super) chain: Option<Chain>,
}

/// What has to be so when a change is stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Condition<'a> {
    /// The last change of the key itself, and those before that.
    Last(u64, &'a Chain),
    /// The last change of another key.
    Guard {
        /// The encoded key.
        key: &'a str,
        version: u64,
    },
}

/// Headers and payload of a change.
pub(super) fn compose(
    bucket: &Bucket,
    key: &str,
    value: Option<&Bytes>,
    id: u128,
    condition: Condition<'_>,
) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert(ID, format!("{id:032x}"));
    match condition {
        Condition::Last(version, chain) => {
            headers.insert(EXPECTED, version.to_string());
            headers.insert(CHAIN, chain.to_string());
        }
        Condition::Guard { key, version } => {
            headers.insert(EXPECTED, version.to_string());
            headers.insert(EXPECTED_OF, format!("{}{key}", bucket.prefix));
        }
    }
    let Some(value) = value else {
        headers.insert(OPERATION, "DEL");
        headers.insert(TTL, format!("{}s", REMOVAL_TTL.as_secs()));
        return (headers, Bytes::new());
    };
    headers.insert(CHECKSUM, format!("{:08x}", checksum(key, value)));
    (headers, value.clone())
}

/// A message without meaning, which only has a place in the order of all.
pub(super) fn barrier() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(TTL, format!("{}s", REMOVAL_TTL.as_secs()));
    headers
}

fn checksum(key: &str, value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), value)
}

/// What a message says, whoever wrote it: tools write a value and nothing else.
pub(super) fn read(key: &str, headers: Option<&HeaderMap>, payload: Bytes) -> Change {
    let header = |name: &str| headers.and_then(|headers| headers.get(name)).map(|value| value.as_str());
    let id = header(ID).and_then(|id| u128::from_str_radix(id, 16).ok());
    let chain = header(CHAIN).and_then(|chain| chain.parse().ok());
    // The second is what a tool says to remove the history, too; the third is left by servers.
    let removal = header(OPERATION).is_some_and(|operation| matches!(operation, "DEL" | "PURGE"))
        || header("Nats-Marker-Reason").is_some();
    if removal {
        return Change { content: Content::Absent, id, chain };
    }
    let right = match header(CHECKSUM) {
        Some(stored) => u32::from_str_radix(stored, 16) == Ok(checksum(key, &payload)),
        None => true,
    };
    let content = if right { Content::Value(payload) } else { Content::Damaged };
    Change { content, id, chain }
}

/// The key of a subject; `None` for what is no key.
pub(super) fn key_of(bucket: &Bucket, subject: &str) -> Option<String> {
    key::decode(subject.strip_prefix(&bucket.prefix)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket() -> Bucket {
        Bucket { stream: "KV_x_meta".into(), prefix: "$KV.x_meta.".into() }
    }

    #[test]
    fn a_value_comes_back_with_the_write_that_made_it() {
        let value = Bytes::from_static(b"v");
        let chain = Chain::from(2).then(3, Some(5));
        let (headers, payload) = compose(&bucket(), "a/b", Some(&value), 7, Condition::Last(3, &chain));
        let expected = Change { content: Content::Value(value), id: Some(7), chain: Some(chain.clone()) };
        assert_eq!(read("a/b", Some(&headers), payload), expected);
        let (headers, payload) = compose(&bucket(), "a/b", None, 8, Condition::Last(4, &chain));
        let expected = Change { content: Content::Absent, id: Some(8), chain: Some(chain) };
        assert_eq!(read("a/b", Some(&headers), payload), expected);
    }

    #[test]
    fn a_bit_that_flipped_and_a_value_of_another_key_are_noticed() {
        let value = Bytes::from_static(b"v");
        let guard = Condition::Guard { key: "owner", version: 9 };
        let (headers, payload) = compose(&bucket(), "a", Some(&value), 7, guard);
        let content = |key: &str, payload: Bytes| read(key, Some(&headers), payload).content;
        assert_eq!(content("a", payload.clone()), Content::Value(value));
        assert_eq!(content("a", Bytes::from_static(b"w")), Content::Damaged);
        assert_eq!(content("b", payload), Content::Damaged);
    }

    #[test]
    fn what_tools_write_is_taken() {
        let value = Bytes::from_static(b"v");
        let plain = |content| Change { content, id: None, chain: None };
        assert_eq!(read("a", None, value.clone()), plain(Content::Value(value)));
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "PURGE");
        assert_eq!(read("a", Some(&headers), Bytes::new()), plain(Content::Absent));
    }
}
