//! What flags and file say about a store that several nodes share.

use super::file::Shared;
use super::secret::Secret;
use crate::store::jetstream::{JetStreamOptions, REPLICAS, StoreUrl};
use std::path::PathBuf;
use std::time::Duration;

/// How long a call may wait for the store, in milliseconds: less is over before servers have noticed that one of them died,
/// more than half a minute is longer than clients wait.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 100..=30_000;
/// How long a start may wait for it.
const START_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;

/// Flags about the store.
#[derive(Debug, clap::Args)]
pub(super) struct StoreFlags {
    /// Keep logs and metadata on a NATS JetStream cluster that all nodes share instead of in --data-dir; a user and a password
    /// are better in the environment or the file than on a command line [default: --data-dir]
    #[arg(
        long,
        value_name = "nats://[USER:PASSWORD@]HOST[:PORT],...[/NAME]",
        env = "HSTREAM_STORE",
        hide_env_values = true
    )]
    store: Option<Secret>,
    /// Copies of the metadata, 1 to 5 [default: 3, or 1 on a lone server]
    #[arg(long, value_name = "NUMBER", env = "HSTREAM_STORE_REPLICAS")]
    store_replicas: Option<usize>,
    /// PEM file with the authorities that sign the certificates of the NATS servers [default: those of the system]
    #[arg(long, value_name = "FILE", env = "HSTREAM_STORE_TLS_CA_PATH")]
    store_tls_ca_path: Option<PathBuf>,
    /// PEM file with the certificate to show to the NATS servers
    #[arg(long, value_name = "FILE", env = "HSTREAM_STORE_TLS_CERT_PATH")]
    store_tls_cert_path: Option<PathBuf>,
    /// PEM file with its private key
    #[arg(long, value_name = "FILE", env = "HSTREAM_STORE_TLS_KEY_PATH")]
    store_tls_key_path: Option<PathBuf>,
}

/// Brings both together; `None` for a node that keeps its data itself.
///
/// # Errors
/// One sentence: which setting is wrong, and why.
pub(super) fn store(flags: StoreFlags, file: Shared) -> Result<Option<JetStreamOptions>, String> {
    let tls_ca = flags.store_tls_ca_path.or(file.tls_ca_path);
    let tls_cert = flags.store_tls_cert_path.or(file.tls_cert_path);
    let tls_key = flags.store_tls_key_path.or(file.tls_key_path);
    let replicas = flags.store_replicas.or(file.replicas);
    let Some(url) = flags.store.or(file.url) else {
        let others = [
            ("--store-tls-ca-path", tls_ca.is_some()),
            ("--store-tls-cert-path", tls_cert.is_some()),
            ("--store-tls-key-path", tls_key.is_some()),
            ("--store-replicas", replicas.is_some()),
            ("store.timeout-ms", file.timeout_ms.is_some()),
            ("store.start-timeout-ms", file.start_timeout_ms.is_some()),
        ];
        return match others.iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(format!("{name}: there is no --store that this is about")),
            None => Ok(None),
        };
    };
    // Never with the value: it may hold a password.
    let url: StoreUrl = url.reveal().parse().map_err(|error| format!("--store: {error}"))?;
    let tls_identity = match (tls_cert, tls_key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("--store-tls-cert-path and --store-tls-key-path: give both or none".to_owned()),
    };
    if let Some(replicas) = replicas.filter(|replicas| !REPLICAS.contains(replicas)) {
        let (least, most) = (REPLICAS.start(), REPLICAS.end());
        return Err(format!("--store-replicas: {replicas} is not between {least} and {most}"));
    }
    let within =
        |name: &str, given: Option<u64>, range: std::ops::RangeInclusive<u64>, default: Duration| match given
        {
            Some(ms) if !range.contains(&ms) => {
                let (least, most) = (range.start(), range.end());
                Err(format!("{name}: {ms} is not between {least} and {most} milliseconds"))
            }
            given => Ok(given.map_or(default, Duration::from_millis)),
        };
    let mut options = JetStreamOptions::new(url);
    options.timeout = within("store.timeout-ms", file.timeout_ms, TIMEOUT_MS, options.timeout)?;
    options.open_within =
        within("store.start-timeout-ms", file.start_timeout_ms, START_TIMEOUT_MS, options.open_within)?;
    options.tls_ca = tls_ca;
    options.tls_identity = tls_identity;
    options.replicas = replicas;
    Ok(Some(options))
}
