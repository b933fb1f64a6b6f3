//! TLS of a [`Client`](super::Client).

use crate::{client::ClientBuilder, error::Result};
use std::fmt;

/// How servers are trusted and how the client identifies itself. The system's roots are trusted when no certificate is
/// given.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientTlsConfig {
    ca: Option<Certificate>,
    identity: Option<Identity>,
    domain_name: Option<String>,
}

/// A certificate in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate(Vec<u8>);

/// A certificate with its private key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl ClientTlsConfig {
    /// Trusts the system's roots and sends no certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts what this certificate has signed, instead of the system's roots.
    #[must_use]
    pub fn ca_certificate(mut self, certificate: Certificate) -> Self {
        self.ca = Some(certificate);
        self
    }

    /// Sends this certificate to servers that ask for one.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Name that the servers' certificates must carry, instead of the host connected to.
    #[must_use]
    pub fn domain_name(mut self, name: impl Into<String>) -> Self {
        self.domain_name = Some(name.into());
        self
    }

    pub(super) fn apply(&self, mut builder: ClientBuilder) -> Result<ClientBuilder> {
        if let Some(Certificate(pem)) = &self.ca {
            builder = builder.ca_pem(pem.clone())?;
        }
        if let Some(Identity { cert, key }) = &self.identity {
            builder = builder.identity_pem(cert.clone(), key.clone())?;
        }
        match &self.domain_name {
            Some(name) => builder.domain_name(name.clone()),
            None => Ok(builder),
        }
    }
}

impl Certificate {
    /// From the text of a PEM file; it is read when the client connects.
    pub fn from_pem(pem: impl AsRef<[u8]>) -> Self {
        Certificate(pem.as_ref().to_vec())
    }
}

impl Identity {
    /// From the texts of two PEM files; they are read when the client connects.
    pub fn from_pem(cert: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        Identity { cert: cert.as_ref().to_vec(), key: key.as_ref().to_vec() }
    }
}

impl fmt::Debug for ClientTlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTlsConfig")
            .field("ca", &self.ca)
            .field("identity", &self.identity)
            .field("domain_name", &self.domain_name)
            .finish()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} bytes)", self.0.len())
    }
}

/// Leaves the key out.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({} bytes)", self.cert.len())
    }
}
