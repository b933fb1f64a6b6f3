//! Where to look for other nodes.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// One entry of `--seed-nodes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    host: String,
    port: u16,
}

impl Seed {
    /// Reads `host` or `host:internal-port`; an IPv6 address with a port stands in brackets.
    ///
    /// # Errors
    /// What is wrong with the entry, as a sentence.
    pub fn parse(text: &str, default_port: u16) -> Result<Seed, String> {
        let wrong = |reason: &str| format!("{text:?} {reason}; write host or host:internal-port");
        let whole = text.trim();
        // An IPv6 address without brackets has no port.
        let bare_ipv6 = whole.parse::<std::net::Ipv6Addr>().is_ok();
        let (host, port) = match whole.rsplit_once(':') {
            _ if bare_ipv6 => (whole, None),
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (whole, None),
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| wrong("has a port that is no number from 1 to 65535"))?,
            None if default_port == 0 => {
                return Err(wrong("has no port, and this node's own --internal-port is 0 (any)"));
            }
            None => default_port,
        };
        if port == 0 {
            return Err(wrong("has the port 0, on which nobody can be reached"));
        }
        let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = inside.unwrap_or(host);
        let ipv6 = host.parse::<std::net::Ipv6Addr>().is_ok();
        let name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host.is_empty() || !(ipv6 || (inside.is_none() && host.chars().all(name))) {
            return Err(wrong("names no host"));
        }
        Ok(Seed { host: host.to_owned(), port })
    }

    /// Host name or address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Internal port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The addresses it has at this moment; names are looked up anew every time, because nodes move.
    ///
    /// # Errors
    /// What the resolver says.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        Ok(tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect())
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_read_as_published_deployments_write_them() {
        for (text, host, port) in [
            ("hs-0.hs-headless", "hs-0.hs-headless", 6571),
            (" 10.0.0.1:7571 ", "10.0.0.1", 7571),
            ("[::1]:7571", "::1", 7571),
            ("[::1]", "::1", 6571),
            ("::1", "::1", 6571),
            ("server_0", "server_0", 6571),
        ] {
            let seed = Seed::parse(text, 6571).unwrap();
            assert_eq!((seed.host(), seed.port()), (host, port), "{text:?}");
            assert_eq!(Seed::parse(&seed.to_string(), 1).unwrap(), seed, "{text:?}");
        }
    }

    #[test]
    fn a_wrong_seed_is_named_with_its_reason() {
        for (text, default_port, reason) in [
            ("", 1, "names no host"),
            (":1", 1, "names no host"),
            ("a b", 1, "names no host"),
            ("[a]:1", 1, "names no host"),
            ("hstream://a:1", 1, "names no host"),
            ("a:many", 1, "port that is no number"),
            ("a:65536", 1, "port that is no number"),
            ("a:0", 1, "has the port 0"),
            ("a", 0, "has no port"),
        ] {
            let error = Seed::parse(text, default_port).unwrap_err();
            assert!(error.contains(reason) && error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[tokio::test]
    async fn names_and_addresses_are_resolved_with_the_port() {
        let of = |text: &str| Seed::parse(text, 6571).unwrap();
        assert_eq!(of("127.0.0.1").resolve().await.unwrap(), ["127.0.0.1:6571".parse().unwrap()]);
        let found = of("localhost:7").resolve().await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 7), "{found:?}");
        assert!(!found.is_empty());
    }
}
