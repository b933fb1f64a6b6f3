//! `hstream`: the command line of HStreamDB.
//!
//! Exit codes: 0 done; 1 it failed, with the reason on stderr; 2 the command line is wrong.

mod connection;
mod init;
mod node;
mod table;

use anyhow::Result;
use clap::{ArgAction, Parser, Subcommand};
use connection::Connection;
use std::process::ExitCode;
use std::time::Duration;

/// How long the connections may take to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// The command line of HStreamDB.
#[derive(Debug, Parser)]
#[command(name = "hstream", version, disable_version_flag = true)]
struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// Print the version
    #[arg(long, short = 'v', short_alias = 'V', action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Found the cluster: once, when its seed nodes are up; again does no harm
    Init(init::Init),
    /// The nodes of the cluster
    #[command(subcommand)]
    Node(node::Node),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Usage goes to stderr with exit code 2, help and version to stdout with 0.
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hstream: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and what it rests on. An error of the client names most of that in its own line already; what it does not
/// name is at the bottom.
fn sentence(error: &anyhow::Error) -> String {
    let mut parts = Vec::new();
    for part in error.chain() {
        parts.push(part.to_string());
        if part.is::<hstreamdb::Error>() {
            break;
        }
    }
    let mut text = parts.join(": ");
    let root = error.root_cause().to_string();
    if !text.contains(&root) {
        text = format!("{text}: {root}");
    }
    text
}

async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let client = arguments.connection.open().await?;
    let outcome = match &arguments.command {
        Command::Init(command) => command.run(&client).await,
        Command::Node(command) => command.run(&client).await,
    };
    // What was asked for is known by now; nothing is lost if this takes too long.
    let _ = client.close(CLOSE_WITHIN).await;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_grammar_is_consistent() {
        Arguments::command().debug_assert();
    }
}
