//! TLS of all connections of a client.

use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use std::{fmt, fs};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// Bundles of the system's certificates, first that exists wins: Debian, Fedora, SUSE, Alpine and macOS, FreeBSD.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// What the TLS options say.
#[derive(Clone, Default)]
pub(crate) struct TlsSettings {
    pub ca_pem: Option<Bytes>,
    pub cert_pem: Option<Bytes>,
    pub key_pem: Option<Bytes>,
    pub domain_name: Option<String>,
}

impl TlsSettings {
    /// Whether any option was given.
    pub(crate) fn is_set(&self) -> bool {
        self.ca_pem.is_some()
            || self.cert_pem.is_some()
            || self.key_pem.is_some()
            || self.domain_name.is_some()
    }

    /// The configuration of a connection.
    ///
    /// # Errors
    /// `InvalidArgument` when certificate and key do not come together or no trusted certificates are found.
    pub(crate) fn config(&self) -> Result<ClientTlsConfig> {
        let mut config = ClientTlsConfig::new();
        config = match &self.ca_pem {
            Some(pem) => config.ca_certificate(Certificate::from_pem(require_pem("tls_ca_pem", pem)?)),
            None => config.ca_certificate(Certificate::from_pem(system_bundle()?)),
        };
        match (&self.cert_pem, &self.key_pem) {
            (Some(cert), Some(key)) => {
                let identity =
                    Identity::from_pem(require_pem("tls_cert_pem", cert)?, require_pem("tls_key_pem", key)?);
                config = config.identity(identity);
            }
            (None, None) => {}
            (Some(_), None) => return Err(refuse("tls_key_pem", "tls_cert_pem is set without it")),
            (None, Some(_)) => return Err(refuse("tls_cert_pem", "tls_key_pem is set without it")),
        }
        if let Some(name) = &self.domain_name {
            config = config.domain_name(name.clone());
        }
        Ok(config)
    }
}

/// Nothing of what it holds.
impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings").field("domain_name", &self.domain_name).finish_non_exhaustive()
    }
}

fn require_pem<'a>(option: &str, pem: &'a Bytes) -> Result<&'a Bytes> {
    if pem.windows(11).any(|window| window == b"-----BEGIN ") {
        Ok(pem)
    } else {
        Err(refuse(option, "it holds no PEM block; give the text of the file, not its path"))
    }
}

fn system_bundle() -> Result<Vec<u8>> {
    // The variable OpenSSL and most tools know.
    if let Some(path) = std::env::var_os("SSL_CERT_FILE") {
        return fs::read(&path).map_err(|error| {
            refuse("tls_ca_pem", "cannot read the file that SSL_CERT_FILE names").with_source(error)
        });
    }
    SYSTEM_BUNDLES.iter().find_map(|path| fs::read(path).ok()).ok_or_else(|| {
        refuse("tls_ca_pem", "the system's certificates were not found; set this option, or SSL_CERT_FILE")
    })
}

fn refuse(option: &str, reason: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, "set client option").with_resource(option).with_message(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_and_key_come_together() {
        let pem = Bytes::from_static(b"-----BEGIN CERTIFICATE-----");
        let settings = TlsSettings { ca_pem: Some(pem.clone()), cert_pem: Some(pem), ..Default::default() };
        assert!(settings.config().unwrap_err().to_string().contains("tls_key_pem"));
    }

    #[test]
    fn a_path_in_place_of_pem_text_is_noticed() {
        let settings = TlsSettings { ca_pem: Some(Bytes::from_static(b"/etc/ca.pem")), ..Default::default() };
        assert!(settings.config().unwrap_err().to_string().contains("not its path"));
    }
}
