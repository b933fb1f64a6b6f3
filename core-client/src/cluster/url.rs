//! The address a user types: `hstream://host:6570,host2`.

use super::address::NodeAddress;
use crate::error::{Error, ErrorKind, Result};

/// A parsed URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceUrl {
    /// Whether the scheme asks for TLS.
    pub tls: bool,
    /// At least one.
    pub addresses: Vec<NodeAddress>,
}

impl ServiceUrl {
    /// Reads `hstream://`, `hstreams://`, `http://` or `https://` with a comma-separated list of hosts.
    ///
    /// # Errors
    /// `InvalidArgument` that says what is wrong; credentials in the URL are refused and not repeated.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.contains('@') {
            return Err(refuse(
                "<url with credentials>",
                "credentials do not belong in the url; use the options username and password, or auth_token",
            ));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(refuse(text, "it has no scheme; write hstream://host:6570, or hstreams:// for TLS"));
        };
        let tls = scheme_is_tls(scheme).map_err(|reason| refuse(text, &reason))?;
        let mut addresses = Vec::new();
        for part in rest.split(',') {
            let mut part = part.trim();
            // `hstream://a,hstream://b` is accepted as well.
            if let Some((other, host)) = part.split_once("://") {
                if scheme_is_tls(other).map_err(|reason| refuse(text, &reason))? != tls {
                    return Err(refuse(text, "some addresses ask for TLS and some do not"));
                }
                part = host;
            }
            let host = part.strip_suffix('/').unwrap_or(part);
            if let Some(extra) = host.find(['/', '?', '#']) {
                let what = host.get(extra..).unwrap_or_default();
                return Err(refuse(text, &format!("{what:?} after the host has no meaning")));
            }
            let address = NodeAddress::parse(host).map_err(|reason| refuse(text, &reason))?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(ServiceUrl { tls, addresses })
    }
}

fn scheme_is_tls(scheme: &str) -> Result<bool, String> {
    match scheme.to_ascii_lowercase().as_str() {
        "hstream" | "http" => Ok(false),
        "hstreams" | "https" => Ok(true),
        _ => Err(format!("{scheme:?} is no known scheme; use hstream, hstreams, http or https")),
    }
}

fn refuse(url: &str, reason: &str) -> Error {
    let shown: String = url.chars().take(200).collect();
    Error::new(ErrorKind::InvalidArgument, "parse url").with_resource(shown).with_message(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (bool, Vec<String>) {
        let url = ServiceUrl::parse(text).unwrap();
        (url.tls, url.addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn schemes_lists_and_default_ports_are_read() {
        for (text, tls, addresses) in [
            ("hstream://localhost", false, vec!["localhost:6570"]),
            ("HSTREAM://localhost:1/", false, vec!["localhost:1"]),
            ("hstreams://a,b:7000, c", true, vec!["a:6570", "b:7000", "c:6570"]),
            ("http://127.0.0.1:6570", false, vec!["127.0.0.1:6570"]),
            ("https://a", true, vec!["a:6570"]),
            ("hstream://[::1],[fe80::1]:99", false, vec!["[::1]:6570", "[fe80::1]:99"]),
            ("hstream://a,hstream://b", false, vec!["a:6570", "b:6570"]),
            ("hstream://a,a:6570", false, vec!["a:6570"]),
        ] {
            let addresses: Vec<String> = addresses.into_iter().map(String::from).collect();
            assert_eq!(parsed(text), (tls, addresses), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, reason) in [
            ("localhost:6570", "no scheme"),
            ("", "no scheme"),
            ("ftp://a", "no known scheme"),
            ("hstream://", "names no host"),
            ("hstream://a,,b", "names no host"),
            ("hstream://a:port", "not a port"),
            ("hstream://a/path", "has no meaning"),
            ("hstream://a?tls=1", "has no meaning"),
            ("hstream://a,hstreams://b", "some do not"),
            ("hstream://::1", "in brackets"),
        ] {
            let error = ServiceUrl::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
            assert!(error.to_string().contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn credentials_in_the_url_are_refused_and_not_repeated() {
        let error = ServiceUrl::parse("hstream://me:hunter2@host").unwrap_err();
        assert!(error.to_string().contains("username and password"), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = ServiceUrl::parse(&text);
            let _ = ServiceUrl::parse(&format!("hstream://{text}"));
        }
    }
}
