//! TLS, a client certificate and a token: they hold for every connection, also to nodes found later.
//!
//! `HSTREAM_URL=hstreams://db.example:6570 HSTREAM_CA=ca.pem cargo run --example tls`. `HSTREAM_CERT` and `HSTREAM_KEY`
//! add a client certificate, `HSTREAM_TOKEN` a token. Our server offers all three with
//! `--enable-tls --tls-cert-path … --tls-key-path … --tls-ca-path … --tokens …`.

use hstreamdb::{Client, Result};
use std::{env, path::PathBuf, time::Duration};

/// Where the certificates are, and the token.
#[derive(Debug, Default)]
pub struct Credentials {
    /// Authorities that servers must be signed by; the system's when there is none.
    pub ca: Option<PathBuf>,
    /// Certificate chain and private key of this client.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Token of this client.
    pub token: Option<String>,
    /// Name in the servers' certificates where it is not the one in the URL.
    pub server_name: Option<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = env::var("HSTREAM_URL").unwrap_or_else(|_| "hstreams://127.0.0.1:6570".into());
    let path = |name| env::var_os(name).map(PathBuf::from);
    let credentials = Credentials {
        ca: path("HSTREAM_CA"),
        identity: path("HSTREAM_CERT").zip(path("HSTREAM_KEY")),
        token: env::var("HSTREAM_TOKEN").ok(),
        server_name: env::var("HSTREAM_SERVER_NAME").ok(),
    };
    run(&url, &credentials).await
}

/// The example; tests call it too.
pub async fn run(url: &str, credentials: &Credentials) -> Result<()> {
    let mut builder = Client::builder().url(url);
    if let Some(ca) = &credentials.ca {
        builder = builder.ca_path(ca)?;
    }
    if let Some((certificate, key)) = &credentials.identity {
        builder = builder.identity_path(certificate, key)?;
    }
    if let Some(name) = &credentials.server_name {
        builder = builder.domain_name(name)?;
    }
    if let Some(token) = &credentials.token {
        // For tokens that expire there is `token_provider`.
        builder = builder.auth_token(token)?;
    }
    let client = builder.connect().await?;
    let cluster = client.describe_cluster().await?;
    println!("talking TLS to {} nodes, the first is {:?}", cluster.nodes.len(), cluster.nodes.first());
    client.close(Duration::from_secs(10)).await
}
