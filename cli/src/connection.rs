//! Which cluster, and how to get in.

use anyhow::{Context as _, Result, bail};
use clap::Args;
use hstreamdb::{Client, ClientBuilder, ErrorKind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Pause between two tries to reach a server.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// Host name or address of a node
    #[arg(long, global = true, default_value = "127.0.0.1")]
    host: String,
    /// Its port for clients
    #[arg(long, global = true, default_value_t = 6570)]
    port: u16,
    /// Nodes as a URL, instead of --host and --port
    #[arg(
        long,
        global = true,
        value_name = "hstream(s)://HOST:PORT,...",
        conflicts_with_all = ["host", "port"]
    )]
    service_url: Option<String>,
    /// Speak TLS; PEM file with the authorities that are trusted
    #[arg(long, global = true, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// PEM file with the private key of this client
    #[arg(long, global = true, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// PEM file with the certificate of this client and its chain
    #[arg(long, global = true, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Sent as `authorization: Basic <token>`
    #[arg(long, global = true, env = "HSTREAM_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Seconds to go on trying while no server answers
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 60)]
    retry_timeout: u64,
}

impl Connection {
    /// Connects to the first node that answers.
    ///
    /// # Errors
    /// What is wrong with an option; that no node answered in time, and why; that the token is refused.
    pub(crate) async fn open(&self) -> Result<Client> {
        let until = Instant::now() + Duration::from_secs(self.retry_timeout);
        let mut told = false;
        loop {
            let error = match self.builder()?.connect().await {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            let hopeful = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
            if !hopeful || Instant::now() + PAUSE >= until {
                return Err(error.into());
            }
            if !told {
                eprintln!("hstream: {error}; trying again for {} s", self.retry_timeout);
                told = true;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn builder(&self) -> Result<ClientBuilder> {
        let url = self.url();
        let secure = url.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("hstreams"));
        let mut builder = Client::builder().url(url);
        if let Some(path) = &self.tls_ca {
            builder = builder.tls(true)?.ca_path(path).context("--tls-ca")?;
        }
        if let (Some(chain), Some(key)) = (&self.tls_cert, &self.tls_key) {
            if self.tls_ca.is_none() && !secure {
                bail!(
                    "--tls-cert: without TLS it is not shown to anybody; give --tls-ca, or hstreams:// in --service-url"
                );
            }
            builder = builder.identity_path(chain, key).context("--tls-cert and --tls-key")?;
        }
        if let Some(token) = &self.token {
            builder = builder.auth_token(token).context("--token")?;
        }
        Ok(builder)
    }

    fn url(&self) -> String {
        match &self.service_url {
            Some(url) => url.clone(),
            None if self.host.contains(':') && !self.host.starts_with('[') => {
                format!("hstream://[{}]:{}", self.host, self.port)
            }
            None => format!("hstream://{}:{}", self.host, self.port),
        }
    }
}
