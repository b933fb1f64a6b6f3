//! TLS of all connections of a client.

use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use std::{error::Error as _, fmt, fs, path::PathBuf};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// Bundles of the system's certificates, first that exists wins: Debian, Fedora, SUSE, Alpine and macOS, FreeBSD.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// PEM text, or the file that holds it.
#[derive(Clone)]
pub(crate) enum Pem {
    Text(Bytes),
    File(PathBuf),
}

impl Pem {
    /// The text; files are read now.
    fn read(&self, option: &str) -> Result<Bytes> {
        let (text, hint) = match self {
            Pem::Text(text) => (text.clone(), "give the text of the file, or its path as the _path option"),
            Pem::File(path) => {
                let text = fs::read(path).map_err(|error| {
                    refuse(&path_option(option), &format!("cannot read {}: {error}", path.display()))
                        .with_source(error)
                })?;
                (Bytes::from(text), "it must be a PEM file")
            }
        };
        if text.windows(11).any(|window| window == b"-----BEGIN ") {
            return Ok(text);
        }
        match self {
            Pem::Text(_) => Err(refuse(option, &format!("it holds no PEM block; {hint}"))),
            Pem::File(path) => {
                Err(refuse(&path_option(option), &format!("{} holds no PEM block; {hint}", path.display())))
            }
        }
    }
}

fn path_option(option: &str) -> String {
    option.replace("_pem", "_path")
}

/// What the TLS options say.
#[derive(Clone, Default)]
pub(crate) struct TlsSettings {
    pub ca: Option<Pem>,
    pub use_system_roots: bool,
    pub cert: Option<Pem>,
    pub key: Option<Pem>,
    pub domain_name: Option<String>,
}

impl TlsSettings {
    /// Whether any option was given.
    pub(crate) fn is_set(&self) -> bool {
        self.ca.is_some()
            || self.use_system_roots
            || self.cert.is_some()
            || self.key.is_some()
            || self.domain_name.is_some()
    }

    /// The configuration of a connection; files are read now.
    ///
    /// # Errors
    /// `InvalidArgument` when a file cannot be read, certificate and key do not come together or no trusted certificates
    /// are found.
    pub(crate) fn config(&self) -> Result<ClientTlsConfig> {
        let mut config = ClientTlsConfig::new();
        if let Some(ca) = &self.ca {
            config = config.ca_certificate(Certificate::from_pem(ca.read("tls_ca_pem")?));
        }
        if self.ca.is_none() || self.use_system_roots {
            config = config.ca_certificate(Certificate::from_pem(system_bundle()?));
        }
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                config =
                    config.identity(Identity::from_pem(cert.read("tls_cert_pem")?, key.read("tls_key_pem")?));
            }
            (None, None) => {}
            (Some(_), None) => {
                return Err(refuse("tls_key_pem", "the certificate is set without the key; set both"));
            }
            (None, Some(_)) => {
                return Err(refuse("tls_cert_pem", "the key is set without the certificate; set both"));
            }
        }
        if let Some(name) = &self.domain_name {
            config = config.domain_name(name.clone());
        }
        // What fits together only by its looks (a key of another certificate) is told now, not by every connection.
        let probe = Endpoint::from_static("https://localhost").tls_config(config.clone());
        probe.map_err(|error| {
            let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            refuse("tls options", &format!("certificates and key cannot be used: {reason}"))
        })?;
        Ok(config)
    }
}

/// Nothing of what it holds.
impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings").field("domain_name", &self.domain_name).finish_non_exhaustive()
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

    fn text(pem: &'static str) -> Option<Pem> {
        Some(Pem::Text(Bytes::from_static(pem.as_bytes())))
    }

    fn refusal(settings: TlsSettings) -> String {
        settings.config().unwrap_err().to_string()
    }

    #[test]
    fn certificate_and_key_come_together() {
        let pem = "-----BEGIN CERTIFICATE-----";
        let settings = TlsSettings { ca: text(pem), cert: text(pem), ..Default::default() };
        assert!(refusal(settings).contains("tls_key_pem"));
        let settings = TlsSettings { ca: text(pem), key: text(pem), ..Default::default() };
        assert!(refusal(settings).contains("tls_cert_pem"));
    }

    #[test]
    fn a_path_in_place_of_pem_text_is_noticed() {
        let settings = TlsSettings { ca: text("/etc/ca.pem"), ..Default::default() };
        assert!(refusal(settings).contains("its path as the _path option"));
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_their_option() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing.pem");
        let settings = TlsSettings { ca: Some(Pem::File(missing.clone())), ..Default::default() };
        let error = refusal(settings);
        assert!(error.contains("\"tls_ca_path\"") && error.contains("missing.pem"), "{error}");
        let empty = directory.path().join("empty.pem");
        fs::write(&empty, "nothing").unwrap();
        let pem = "-----BEGIN CERTIFICATE-----";
        let settings =
            TlsSettings { ca: text(pem), cert: text(pem), key: Some(Pem::File(empty)), ..Default::default() };
        let error = refusal(settings);
        assert!(error.contains("\"tls_key_path\"") && error.contains("must be a PEM file"), "{error}");
    }

    #[test]
    fn what_only_looks_like_pem_is_refused_before_connecting() {
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let settings = TlsSettings { ca: text(pem), cert: text(pem), key: text(pem), ..Default::default() };
        assert!(refusal(settings).contains("cannot be used"));
    }
}
