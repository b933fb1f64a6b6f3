//! By which addresses a node is known: one through its main listener, further ones per listener key.
//!
//! A client that comes in through an extra listener is told the addresses under that listener's key, so that
//! one node can be known by different names inside and outside of a network.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Name of an extra listener; what came in through the main one has none.
pub type ListenerKey = Arc<str>;

/// One more socket to listen on, and the address clients are told when they come in through its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraListener {
    /// Name of the group of addresses it belongs to; several listeners may share one.
    pub key: ListenerKey,
    /// Host name or address that clients are told, an IPv6 address without brackets.
    pub host: String,
    /// Port to listen on and to tell; 0 takes a free one and tells that.
    pub port: u16,
    /// Whether connections start with a TLS handshake.
    pub tls: bool,
}

impl fmt::Display for ExtraListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "{}:hstream://[{}]:{}", self.key, self.host, self.port);
        }
        write!(f, "{}:hstream://{}:{}", self.key, self.host, self.port)
    }
}

/// Reads `key:hstream://host:port`.
impl FromStr for ExtraListener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |reason: &str| format!("{text:?} {reason}; write key:hstream://host:port");
        let (key, url) = text.split_once(':').ok_or_else(|| wrong("has no key"))?;
        check_key(key).map_err(|reason| wrong(&reason))?;
        let address =
            url.strip_prefix("hstream://").ok_or_else(|| wrong("has no hstream:// after its key"))?;
        let (host, port) = address.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
        let port = port.parse().map_err(|_| wrong("has a port that is no number from 0 to 65535"))?;
        ExtraListener::new(key, host, port).map_err(|reason| wrong(&reason))
    }
}

impl ExtraListener {
    /// A plaintext listener.
    ///
    /// # Errors
    /// What is wrong with the key or the host, as the end of a sentence about it.
    pub fn new(key: &str, host: &str, port: u16) -> Result<Self, String> {
        check_key(key)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let ipv6 = bare.parse::<std::net::Ipv6Addr>().is_ok();
        let name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
        if !ipv6 && (bare.len() != host.len() || bare.is_empty() || !bare.chars().all(name)) {
            return Err(format!("has the host {host:?}, which is neither a name nor an address"));
        }
        Ok(ExtraListener { key: key.into(), host: bare.to_owned(), port, tls: false })
    }
}

fn check_key(key: &str) -> Result<(), String> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if key.is_empty() || !key.chars().all(fits) {
        return Err(format!("has the key {key:?}; keys are letters, digits, dashes, underscores and dots"));
    }
    Ok(())
}

/// Reads `key:hstream://host:port,key2:hstream://…`; nothing is an empty list.
///
/// # Errors
/// The entry that is wrong, and why.
pub fn parse_listeners(text: &str) -> Result<Vec<ExtraListener>, String> {
    entries(text).map(str::parse).collect()
}

/// Applies `key:plaintext,key2:tls` to the listeners; keys that are not named stay plaintext.
///
/// # Errors
/// The entry that is wrong: a key without a listener or named twice, or a protocol that is none.
pub fn apply_protocols(listeners: &mut [ExtraListener], text: &str) -> Result<(), String> {
    let mut seen: Vec<&str> = Vec::new();
    for entry in entries(text) {
        let wrong = |reason: String| format!("{entry:?} {reason}; write key:plaintext or key:tls");
        let (key, protocol) = entry.split_once(':').ok_or_else(|| wrong("has no protocol".to_owned()))?;
        let (key, protocol) = (key.trim(), protocol.trim());
        let tls = match protocol.to_ascii_lowercase().as_str() {
            "tls" => true,
            "plaintext" => false,
            _ => return Err(wrong(format!("has the protocol {protocol:?}"))),
        };
        if seen.contains(&key) {
            return Err(wrong("names its key a second time".to_owned()));
        }
        seen.push(key);
        let mut known = false;
        for listener in listeners.iter_mut().filter(|listener| *listener.key == *key) {
            (listener.tls, known) = (tls, true);
        }
        if !known {
            return Err(wrong("names a key that no advertised listener has".to_owned()));
        }
    }
    Ok(())
}

fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

/// Finds two listeners of one node that want the same port.
///
/// # Errors
/// The entry whose port is taken, and by whom.
pub fn check_ports(main: u16, listeners: &[ExtraListener]) -> Result<(), String> {
    for (position, listener) in listeners.iter().enumerate() {
        if listener.port == 0 {
            continue;
        }
        if listener.port == main {
            return Err(format!("{:?} has the port of the main listener", listener.to_string()));
        }
        let before = listeners.iter().take(position).find(|other| other.port == listener.port);
        if let Some(other) = before {
            return Err(format!("{:?} has the port of {:?}", listener.to_string(), other.to_string()));
        }
    }
    Ok(())
}

/// An address as clients are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Every address of one node, with the ports that were really opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advertised {
    /// For calls through the main listener.
    pub main: Address,
    /// For calls through the extra listeners.
    pub extra: Vec<(ListenerKey, Address)>,
}

impl Advertised {
    /// What a client is told that came in through the listener of this key; nothing when the node does not
    /// have the key.
    pub fn through(&self, key: Option<&str>) -> Vec<&Address> {
        match key {
            None => vec![&self.main],
            Some(key) => {
                let of_key = self.extra.iter().filter(|(its_key, _)| **its_key == *key);
                of_key.map(|(_, address)| address).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_published_deployments_write_them() {
        let text = "public:hstream://hstream.example.com:6580, private:hstream://[::1]:0,";
        let listeners = parse_listeners(text).unwrap();
        let expected = [("public", "hstream.example.com", 6580), ("private", "::1", 0)];
        let expected: Vec<_> =
            expected.map(|(key, host, port)| ExtraListener::new(key, host, port).unwrap()).into();
        assert_eq!(listeners, expected);
        let written: Vec<String> = listeners.iter().map(ToString::to_string).collect();
        assert_eq!(parse_listeners(&written.join(",")).unwrap(), expected);
        assert_eq!(parse_listeners("").unwrap(), []);
    }

    #[test]
    fn a_wrong_entry_is_named_with_its_reason() {
        for (entry, reason) in [
            ("public", "has no key"),
            (":hstream://a:1", "has the key \"\""),
            ("a b:hstream://a:1", "has the key \"a b\""),
            ("k:http://a:1", "no hstream://"),
            ("k:hstream://a", "has no port"),
            ("k:hstream://a:65536", "port that is no number"),
            ("k:hstream://:1", "neither a name nor an address"),
            ("k:hstream://a/b:1", "neither a name nor an address"),
            ("k:hstream://::1:1", ""),
            ("k:hstream://[a]:1", "neither a name nor an address"),
        ] {
            let outcome = parse_listeners(&format!("good:hstream://good:1,{entry}"));
            if reason.is_empty() {
                assert_eq!(outcome.unwrap()[1].host, "::1");
                continue;
            }
            let text = outcome.unwrap_err();
            assert!(text.contains(reason) && text.contains(&format!("{entry:?}")), "{entry}: {text}");
        }
    }

    #[test]
    fn protocols_apply_to_every_listener_of_a_key() {
        let mut listeners = parse_listeners("a:hstream://h:1,b:hstream://h:2,a:hstream://h:3").unwrap();
        apply_protocols(&mut listeners, " a:TLS , b:plaintext").unwrap();
        assert_eq!(listeners.iter().map(|listener| listener.tls).collect::<Vec<_>>(), [true, false, true]);
        for (map, reason) in [
            ("c:tls", "no advertised listener"),
            ("a:ssl", "has the protocol \"ssl\""),
            ("a", "has no protocol"),
            ("a:tls,a:plaintext", "a second time"),
        ] {
            let text = apply_protocols(&mut listeners, map).unwrap_err();
            assert!(text.contains(reason), "{map}: {text}");
        }
    }

    #[test]
    fn two_listeners_on_one_port_are_refused() {
        let listeners = |text| parse_listeners(text).unwrap();
        assert_eq!(check_ports(0, &listeners("a:hstream://h:0,b:hstream://h:0")), Ok(()));
        assert_eq!(check_ports(1, &listeners("a:hstream://h:2,a:hstream://h:3")), Ok(()));
        let text = check_ports(1, &listeners("a:hstream://h:1")).unwrap_err();
        assert!(text.contains("a:hstream://h:1") && text.contains("main"), "{text}");
        let text = check_ports(1, &listeners("a:hstream://h:2,b:hstream://g:2")).unwrap_err();
        assert!(text.contains("b:hstream://g:2") && text.contains("a:hstream://h:2"), "{text}");
    }

    #[test]
    fn a_key_leads_to_its_own_addresses_and_to_no_others() {
        let address = |host: &str| Address { host: host.to_owned(), port: 1 };
        let advertised = Advertised {
            main: address("main"),
            extra: vec![("a".into(), address("a1")), ("b".into(), address("b")), ("a".into(), address("a2"))],
        };
        let hosts = |key| advertised.through(key).iter().map(|a| a.host.clone()).collect::<Vec<_>>();
        assert_eq!(hosts(None), ["main"]);
        assert_eq!(hosts(Some("a")), ["a1", "a2"]);
        assert_eq!(hosts(Some("c")), Vec::<String>::new());
    }
}
