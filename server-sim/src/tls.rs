//! TLS of the server: its certificate, and whom it lets in.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{Error as RustlsError, RootCertStore, ServerConfig};

/// The only protocol spoken over TLS.
const ALPN: &[u8] = b"h2";

/// Where key and certificates lie. All TLS listeners of a node share them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file with the private key.
    pub key: PathBuf,
    /// PEM file with the certificate and what leads from it to an authority clients know.
    pub certificate: PathBuf,
    /// PEM file with authorities; clients must then show a certificate that one of them signed.
    pub client_authorities: Option<PathBuf>,
}

/// Why TLS cannot be offered.
#[derive(Debug)]
pub struct TlsError(String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

impl TlsFiles {
    /// Reads the files; they are not read again.
    ///
    /// # Errors
    /// One sentence with the flag of the file that cannot be used, and why.
    pub fn load(&self) -> Result<TlsAcceptor, TlsError> {
        let certificates = certificates("--tls-cert-path", &self.certificate)?;
        let key =
            PrivateKeyDer::from_pem_slice(&read("--tls-key-path", &self.key)?).map_err(
                |error| match error {
                    PemError::NoItemsFound => wrong("--tls-key-path", &self.key, "it holds no private key"),
                    error => wrong("--tls-key-path", &self.key, &error.to_string()),
                },
            )?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError(format!("TLS cannot be used: {error}")))?;
        let builder = match &self.client_authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in self::certificates("--tls-ca-path", path)? {
                    roots.add(authority).map_err(|error| wrong("--tls-ca-path", path, &error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| wrong("--tls-ca-path", path, &error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(certificates, key).map_err(|error| match error {
            RustlsError::InconsistentKeys(_) => TlsError(format!(
                "the key in --tls-key-path {} does not belong to the certificate in --tls-cert-path {}",
                self.key.display(),
                self.certificate.display()
            )),
            error => wrong("--tls-cert-path", &self.certificate, &error.to_string()),
        })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(flag, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(found) if found.is_empty() => Err(wrong(flag, path, "it holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(flag, path, &error.to_string())),
    }
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| wrong(flag, path, &error.to_string()))
}

fn wrong(flag: &str, path: &Path, reason: &str) -> TlsError {
    TlsError(format!("cannot use {flag} {}: {reason}; it must be a PEM file", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        /// Two self-signed certificates with their keys.
        fn new() -> Files {
            let dir = tempfile::tempdir().unwrap();
            for name in ["a", "b"] {
                let made = rcgen::generate_simple_self_signed(["server.test".to_owned()]).unwrap();
                std::fs::write(dir.path().join(format!("{name}.pem")), made.cert.pem()).unwrap();
                std::fs::write(dir.path().join(format!("{name}.key")), made.signing_key.serialize_pem())
                    .unwrap();
            }
            std::fs::write(dir.path().join("garbage"), "neither\n").unwrap();
            let broken = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
            std::fs::write(dir.path().join("broken"), broken).unwrap();
            Files { dir }
        }

        fn load(&self, key: &str, certificate: &str, authority: Option<&str>) -> Result<(), String> {
            let path = |name: &str| self.dir.path().join(name);
            let files = TlsFiles {
                key: path(key),
                certificate: path(certificate),
                client_authorities: authority.map(path),
            };
            files.load().map(drop).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn key_and_certificate_that_belong_together_are_taken() {
        let files = Files::new();
        assert_eq!(files.load("a.key", "a.pem", None), Ok(()));
        assert_eq!(files.load("a.key", "a.pem", Some("b.pem")), Ok(()));
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_their_flag() {
        let files = Files::new();
        for (key, certificate, authority, words) in [
            ("missing", "a.pem", None, ["--tls-key-path", "No such file"]),
            ("garbage", "a.pem", None, ["--tls-key-path", "holds no private key"]),
            ("a.pem", "a.pem", None, ["--tls-key-path", "holds no private key"]),
            ("a.key", "missing", None, ["--tls-cert-path", "No such file"]),
            ("a.key", "garbage", None, ["--tls-cert-path", "holds no certificate"]),
            ("a.key", "broken", None, ["--tls-cert-path", "PEM"]),
            ("b.key", "a.pem", None, ["--tls-key-path", "does not belong"]),
            ("a.key", "a.pem", Some("missing"), ["--tls-ca-path", "No such file"]),
            ("a.key", "a.pem", Some("a.key"), ["--tls-ca-path", "holds no certificate"]),
        ] {
            let text = files.load(key, certificate, authority).unwrap_err();
            assert!(words.iter().all(|word| text.contains(word)), "{key} {certificate}: {text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }
}
