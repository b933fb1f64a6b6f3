//! On whose behalf a consumer's call comes.

use crate::connection::Peer;
use hstreamdb_proto::metadata;
use std::net::SocketAddr;
use tonic::Request;
use tonic::metadata::{KeyAndValueRef, MetadataMap};

/// The client that a proxy calls for.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// Its software.
const PROXY_AGENT: &str = "proxy-agent";
const USER_AGENT: &str = "user-agent";

/// Longest mark of a consumer, in bytes; it is kept as long as the consumer is there.
const MAX_INSTANCE: usize = 64;

/// What belongs to one connection and means nothing on the next one.
const OF_THE_CONNECTION: [&str; 4] = ["te", "content-type", "content-length", USER_AGENT];
/// The same, by how it begins: deadlines and encodings are agreed on anew.
const OF_THE_PROTOCOL: &str = "grpc-";

/// Who calls, as `ListConsumers` shows it, and what the call asks for beyond its messages.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) uri: String,
    pub(super) user_agent: String,
    /// Whether it asked to be told which checkpoints are durable.
    pub(super) confirm: bool,
    /// The incarnation of the subscription its acknowledgements are for.
    pub(super) incarnation: Option<u64>,
    /// What tells the consumer from others of its name.
    pub(super) instance: Option<String>,
    /// As they came.
    keys: MetadataMap,
}

impl Origin {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let keys = request.metadata();
        let text = |key: &str| keys.get(key).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // A proxy in front says on whose behalf it calls.
        let address = request.extensions().get::<Peer>().map(|peer| peer.address);
        Origin {
            uri: text(FORWARDED_FOR).or_else(|| address.map(peer)).unwrap_or_default(),
            user_agent: text(PROXY_AGENT).or_else(|| text(USER_AGENT)).unwrap_or_default(),
            confirm: text(metadata::ACK_CONFIRMATION).as_deref() == Some("1"),
            incarnation: text(metadata::SUBSCRIPTION_INCARNATION).and_then(|text| text.parse().ok()),
            instance: text(metadata::CONSUMER_INSTANCE).filter(|text| text.len() <= MAX_INSTANCE),
            keys: keys.clone(),
        }
    }

    /// The metadata for the next node: what the client sent, its credentials included, and who it is.
    pub(super) fn passed_on(&self) -> MetadataMap {
        let mut keys = MetadataMap::with_capacity(self.keys.len() + 2);
        for entry in self.keys.iter() {
            match entry {
                KeyAndValueRef::Ascii(key, value) => {
                    let key_text = key.as_str();
                    if !OF_THE_CONNECTION.contains(&key_text) && !key_text.starts_with(OF_THE_PROTOCOL) {
                        keys.append(key.clone(), value.clone());
                    }
                }
                KeyAndValueRef::Binary(key, value) => {
                    if !key.as_str().starts_with(OF_THE_PROTOCOL) {
                        keys.append_bin(key.clone(), value.clone());
                    }
                }
            }
        }
        // Both came out of metadata or are an address, so they fit in again.
        for (key, text) in [(FORWARDED_FOR, &self.uri), (PROXY_AGENT, &self.user_agent)] {
            if let Ok(value) = text.parse() {
                keys.insert(key, value);
            }
        }
        keys
    }
}

/// The peer of a connection in gRPC's notation.
fn peer(address: SocketAddr) -> String {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    format!("{family}:{address}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_util::sync::CancellationToken;
    use tonic::metadata::MetadataValue;

    fn request(keys: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::new(());
        for (key, value) in keys {
            request.metadata_mut().append(*key, value.parse().unwrap());
        }
        let peer = Peer {
            address: "10.0.0.1:4000".parse().unwrap(),
            listener: None,
            close: CancellationToken::new(),
        };
        request.extensions_mut().insert(peer);
        request
    }

    #[test]
    fn the_next_node_is_told_the_client_and_what_it_sent_and_nothing_of_the_connection() {
        let mut request = request(&[
            ("authorization", "Basic abc"),
            ("user-agent", "grpc-python/1.60"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", "5S"),
            ("grpc-accept-encoding", "gzip"),
            ("x-hstream-ack-confirmation", "1"),
            ("x-own", "a"),
            ("x-own", "b"),
        ]);
        request.metadata_mut().insert_bin("x-own-bin", MetadataValue::from_bytes(&[0, 255]));
        let origin = Origin::of(&request);
        assert_eq!(
            (origin.uri.as_str(), origin.user_agent.as_str()),
            ("ipv4:10.0.0.1:4000", "grpc-python/1.60")
        );
        assert!(origin.confirm);
        let keys = origin.passed_on();
        let mut names: Vec<String> = keys
            .keys()
            .map(|key| match key {
                tonic::metadata::KeyRef::Ascii(key) => key.to_string(),
                tonic::metadata::KeyRef::Binary(key) => key.to_string(),
            })
            .collect();
        names.sort();
        let expected = [
            "authorization",
            "proxy-agent",
            "x-forwarded-for",
            "x-hstream-ack-confirmation",
            "x-own",
            "x-own-bin",
        ];
        assert_eq!(names, expected);
        assert_eq!(keys.get_all("x-own").iter().count(), 2);
        assert_eq!(keys.get("x-forwarded-for").unwrap(), "ipv4:10.0.0.1:4000");
        assert_eq!(keys.get("proxy-agent").unwrap(), "grpc-python/1.60");
        assert_eq!(keys.get("authorization").unwrap(), "Basic abc");
        assert_eq!(keys.get_bin("x-own-bin").unwrap().to_bytes().unwrap().as_ref(), [0, 255]);
    }

    #[test]
    fn what_a_proxy_in_front_said_is_passed_on_as_it_was() {
        let request = request(&[
            ("x-forwarded-for", "ipv4:1.2.3.4:5"),
            ("proxy-agent", "java/1"),
            ("user-agent", "envoy"),
        ]);
        let keys = Origin::of(&request).passed_on();
        assert_eq!(keys.get("x-forwarded-for").unwrap(), "ipv4:1.2.3.4:5");
        assert_eq!(keys.get("proxy-agent").unwrap(), "java/1");
        assert_eq!(keys.get_all("x-forwarded-for").iter().count(), 1);
    }
}
