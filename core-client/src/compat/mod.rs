//! The public API of the published crate `hstreamdb` 0.2, over this client: a program written for it compiles after
//! `hstreamdb::` was replaced by `hstreamdb::compat::`.
//!
//! Modules, names, argument orders and shapes are the published ones; what happens underneath is not. Batches of a shard keep
//! their order, calls have deadlines and are repeated where that is safe, producers and consumers outlive lost
//! connections, every result comes exactly once. `docs/migrating-from-the-published-rust-client.md` has the table of
//! differences. New programs use [`Client`](crate::Client) itself; [`compat::Client::inner`](Client::inner) leads there
//! step by step.

pub mod appender;
pub mod client;
pub mod consumer;
pub mod producer;
pub mod reader;
mod settings;
mod structure;
pub mod tls;
mod values;

/// The types that all modules share.
pub mod common {
    pub use super::structure::{ListValue, Struct, Value, value};
    pub use super::values::{
        CompressionType, Consumer, PartitionKey, Payload, Record, ShardId, SpecialOffset, Stream,
        StreamShardOffset, Subscription, SubscriptionId, Timestamp,
    };
    pub use crate::{error::Error, record::RecordId};

    /// Result of everything here.
    pub type Result<T> = crate::error::Result<T>;
}

/// Small helpers.
pub mod utils {
    use super::tls::{Certificate, ClientTlsConfig, Identity};
    use crate::{
        error::{Error, ErrorKind, Result},
        record::RecordId,
    };
    use std::{fs, path::Path};

    /// `<shard>-<batch>-<index>`, as `to_string` gives it.
    pub fn record_id_to_string(record_id: &RecordId) -> String {
        record_id.to_string()
    }

    /// TLS settings from PEM files: the certificate to trust, the client's own, and its key.
    ///
    /// # Errors
    /// `InvalidArgument` when a file cannot be read.
    pub fn try_new_client_tls_config_from_paths(
        ca_certificate: impl AsRef<Path>,
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<ClientTlsConfig> {
        let identity = Identity::from_pem(read(certificate.as_ref())?, read(key.as_ref())?);
        let ca_certificate = Certificate::from_pem(read(ca_certificate.as_ref())?);
        Ok(ClientTlsConfig::new().ca_certificate(ca_certificate).identity(identity))
    }

    fn read(path: &Path) -> Result<Vec<u8>> {
        fs::read(path).map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, "read certificate")
                .with_resource(path.display().to_string())
                .with_message(error.to_string())
                .with_source(error)
        })
    }
}

pub use appender::Appender;
pub use client::Client;
pub use common::{
    CompressionType, Consumer, Error, ListValue, Payload, Record, RecordId, Result, ShardId, SpecialOffset,
    Stream, StreamShardOffset, Struct, Subscription, SubscriptionId, Timestamp,
};
pub use consumer::{ConsumerStream, Responder};
pub use producer::{FlushCallback, FlushSettings, Producer};
pub use reader::ShardReader;
pub use settings::{ChannelProviderSettings, ChannelProviderSettingsBuilder};
