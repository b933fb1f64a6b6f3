//! `hstream init`.

use anyhow::{Context as _, Result, bail};
use clap::Args;
use hstreamdb::{AdminAnswer, Client};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Seconds until it is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    timeout: u64,
}

impl Init {
    pub(crate) async fn run(&self, client: &Client) -> Result<ExitCode> {
        let command = client.admin_command("server init");
        let answer =
            tokio::time::timeout(Duration::from_secs(self.timeout), command).await.with_context(|| {
                format!(
                    "no answer within {} s; the cluster may be founded all the same, asking again is safe",
                    self.timeout
                )
            })??;
        match answer.parse()? {
            AdminAnswer::Plain(text) => println!("{text}"),
            AdminAnswer::Error(text) => bail!(text),
            other => bail!("the server gave an answer this version does not know: {other:?}"),
        }
        Ok(ExitCode::SUCCESS)
    }
}
