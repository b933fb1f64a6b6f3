//! Where a node listens, and the rewriting of such addresses.

use crate::error::{Error, ErrorKind, Result};
use hstreamdb_proto::{DEFAULT_PORT, api::ServerNode};
use std::{collections::HashMap, fmt, str::FromStr, sync::Arc};

/// Host and port of a node, as this client connects to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeAddress {
    host: Arc<str>,
    port: u16,
}

impl NodeAddress {
    /// From a host name or an IP address (IPv6 without brackets) and a port.
    pub fn new(host: &str, port: u16) -> Self {
        NodeAddress { host: host.into(), port }
    }

    /// Host name or IP address, IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`; the reason is for an error's text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = split_port(text)?;
        Ok(NodeAddress::new(host, port.unwrap_or(DEFAULT_PORT)))
    }
}

/// From `host:port`; IPv6 in brackets. The port may be left out.
impl FromStr for NodeAddress {
    type Err = Error;

    /// # Errors
    /// `InvalidArgument` for text that is none.
    fn from_str(text: &str) -> Result<Self> {
        NodeAddress::parse(text).map_err(|reason| {
            Error::new(ErrorKind::InvalidArgument, "parse node address").with_message(reason)
        })
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Host without brackets, and the port if one is there.
fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((host, after)) = rest.split_once(']') else {
            return Err(format!("{text:?} has no closing bracket"));
        };
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!("{host:?} is not an IPv6 address"));
        }
        match after {
            "" => (host, None),
            _ => match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => return Err(format!("{text:?} has text after its closing bracket")),
            },
        }
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(format!("{text:?} looks like an IPv6 address; write it in brackets: [{text}]"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() {
        return Err(format!("{text:?} names no host"));
    }
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-._:%".contains(letter);
    if let Some(letter) = host.chars().find(|letter| !allowed(*letter)) {
        return Err(format!("{host:?} is not a host name: it contains {letter:?}"));
    }
    let port = match port {
        None => None,
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => Some(number),
            _ => return Err(format!("{port:?} is not a port from 1 to 65535")),
        },
    };
    Ok((host, port))
}

/// From addresses as the cluster names them to addresses this client can reach.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostMapping(HashMap<(String, Option<u16>), (String, Option<u16>)>);

impl HostMapping {
    /// From pairs of `host:port` or `host`; a pair with a port wins over one without.
    pub(crate) fn new(pairs: &[(String, String)]) -> Result<Self> {
        let parse = |text: &str| {
            split_port(text).map(|(host, port)| (host.to_owned(), port)).map_err(|reason| {
                Error::new(ErrorKind::InvalidArgument, "set client option")
                    .with_resource("host_mapping")
                    .with_message(reason)
            })
        };
        let mut map = HashMap::with_capacity(pairs.len());
        for (from, to) in pairs {
            map.insert(parse(from)?, parse(to)?);
        }
        Ok(HostMapping(map))
    }

    /// The address to connect to.
    pub(crate) fn apply(&self, host: &str, port: u16) -> NodeAddress {
        if self.0.is_empty() {
            return NodeAddress::new(host, port);
        }
        let exact = self.0.get(&(host.to_owned(), Some(port)));
        match exact.or_else(|| self.0.get(&(host.to_owned(), None))) {
            Some((to, to_port)) => NodeAddress::new(to, to_port.unwrap_or(port)),
            None => NodeAddress::new(host, port),
        }
    }

    /// The address of a node as a server described it; `None` when that is no address.
    pub(crate) fn node(&self, node: &ServerNode) -> Option<NodeAddress> {
        let port = u16::try_from(node.port).ok().filter(|port| *port > 0)?;
        // A server may bracket what it advertises.
        let host = node.host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return None;
        }
        Some(self.apply(host, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_shown_in_brackets() {
        assert_eq!(NodeAddress::parse("[::1]:7000").unwrap().to_string(), "[::1]:7000");
        assert_eq!(NodeAddress::parse("[::1]").unwrap(), NodeAddress::new("::1", 6570));
    }

    #[test]
    fn bad_addresses_say_why() {
        for (text, reason) in [
            ("", "names no host"),
            (":6570", "names no host"),
            ("::1", "in brackets"),
            ("[::1", "closing bracket"),
            ("[::1]x", "after its closing bracket"),
            ("[zz]", "not an IPv6"),
            ("h:0", "not a port"),
            ("h:+1", "not a port"),
            ("h:65536", "not a port"),
            ("h ost", "not a host name"),
        ] {
            let error = NodeAddress::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn mapping_with_a_port_wins() {
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let mapping = HostMapping::new(&[
            pair("inner", "outer"),
            pair("inner:7000", "special:7001"),
            pair("[fd00::1]", "127.0.0.1:9"),
        ])
        .unwrap();
        assert_eq!(mapping.apply("inner", 6570), NodeAddress::new("outer", 6570));
        assert_eq!(mapping.apply("inner", 7000), NodeAddress::new("special", 7001));
        assert_eq!(mapping.apply("fd00::1", 6570), NodeAddress::new("127.0.0.1", 9));
        assert_eq!(mapping.apply("other", 1), NodeAddress::new("other", 1));
    }
}
