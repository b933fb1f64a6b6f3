//! How NATS servers are started.

use super::ports::Ports;
use std::{
    fmt::{self, Write as _},
    path::{Path, PathBuf},
};

/// What NATS servers are started with.
#[derive(Clone)]
pub struct NatsOptions {
    /// One lone server, or a cluster of so many.
    pub peers: usize,
    /// Without it nothing but plain messages.
    pub jetstream: bool,
    /// When written data is flushed to disk: `always`, or a time such as `10s`. NATS itself says `2m`.
    pub sync_interval: Option<String>,
    /// The largest message in bytes. NATS itself says 1 MiB.
    pub max_payload: Option<usize>,
    /// User and password that clients need.
    pub user: Option<(String, String)>,
    /// Clients need TLS.
    pub tls: Option<NatsTls>,
    /// Another executable than [`nats_binary`](super::nats_binary).
    pub binary: Option<PathBuf>,
    /// Further lines of each configuration file.
    pub further: String,
}

impl Default for NatsOptions {
    fn default() -> Self {
        NatsOptions {
            peers: 1,
            jetstream: true,
            sync_interval: None,
            max_payload: None,
            user: None,
            tls: None,
            binary: None,
            further: String::new(),
        }
    }
}

impl NatsOptions {
    /// What a store of HStream nodes needs: messages may be larger than a batch of the default size.
    pub fn for_nodes() -> NatsOptions {
        NatsOptions { max_payload: Some(8 << 20), ..NatsOptions::default() }
    }
}

/// PEM files of NATS servers.
#[derive(Debug, Clone)]
pub struct NatsTls {
    /// Certificate of the servers.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Clients have to show a certificate that this authority has signed.
    pub client_ca: Option<PathBuf>,
}

impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsOptions")
            .field("peers", &self.peers)
            .field("jetstream", &self.jetstream)
            .field("sync_interval", &self.sync_interval)
            .field("max_payload", &self.max_payload)
            .field("user", &self.user.as_ref().map(|(user, _)| user))
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl NatsOptions {
    /// The configuration file of one peer.
    pub(super) fn file(&self, name: &str, cluster: &str, own: &Ports, all: &[Ports], data: &Path) -> String {
        let mut file = format!(
            "server_name: {name}\nlisten: 127.0.0.1:{}\nhttp: 127.0.0.1:{}\n",
            own.client, own.monitor
        );
        let mut line = |text: String| {
            let _ = writeln!(file, "{text}");
        };
        if self.jetstream {
            let sync = self.sync_interval.as_ref().map(|sync| format!(", sync_interval: {}", quoted(sync)));
            line(format!(
                "jetstream {{ store_dir: {}, max_mem: 256M, max_file: 16G{} }}",
                quoted(&data.to_string_lossy()),
                sync.unwrap_or_default()
            ));
        }
        if let Some(bytes) = self.max_payload {
            // NATS wants to hold at least one of them for a client that is slow.
            line(format!("max_payload: {bytes}\nmax_pending: {}", bytes.max(64 << 20)));
        }
        if let Some((user, password)) = &self.user {
            line(format!("authorization {{ user: {}, password: {} }}", quoted(user), quoted(password)));
        }
        if let Some(tls) = &self.tls {
            let file = |path: &Path| quoted(&path.to_string_lossy());
            let ca = tls.client_ca.as_deref().map(|ca| format!(", ca_file: {}, verify: true", file(ca)));
            line(format!(
                "tls {{ cert_file: {}, key_file: {}{} }}",
                file(&tls.cert),
                file(&tls.key),
                ca.unwrap_or_default()
            ));
        }
        if all.len() > 1 {
            let routes: Vec<_> = all.iter().map(|peer| format!("nats://127.0.0.1:{}", peer.route)).collect();
            line(format!(
                "cluster {{ name: {cluster}, listen: 127.0.0.1:{}, routes: [{}] }}",
                own.route,
                routes.join(", ")
            ));
        }
        line(self.further.clone());
        file
    }
}

/// As a string of the configuration language.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
