//! `SendAdminCommand`: the operator's command line.
//!
//! A command is a line of words that begins with `server`. Each family of commands is a file: its grammar as a
//! `clap` enum, and what its commands do. A new command is a variant and a match arm there.

mod answer;
mod beyond;
mod connector;
mod interval;
mod lookup;
mod meta;
mod node;
mod query;
mod stats;
mod stream;
mod sub;
mod view;

use answer::Answer;

use super::cluster;
use crate::error::{Result, ServerError};
use crate::listener::ListenerKey;
use crate::node::context::NodeContext;
use clap::{Parser, Subcommand};
use hstreamdb_proto::api as wire;
use std::sync::Arc;
use tonic::Code;

/// Longest command in bytes.
const MAX_COMMAND: usize = 16 * 1024;
/// Most words of a command.
const MAX_WORDS: usize = 256;

/// Commands for one node.
#[derive(Debug, Parser)]
#[command(name = "server", disable_version_flag = true, color = clap::ColorChoice::Never, term_width = 120)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Counters, rates and latencies of this node
    Stats(stats::Stats),
    /// Set all counters of this node to 0
    ResetStats,
    /// Which node serves a resource
    Lookup(lookup::Lookup),
    /// Streams
    #[command(subcommand)]
    Stream(stream::Stream),
    /// Subscriptions
    #[command(subcommand, visible_alias = "subscription")]
    Sub(sub::Sub),
    /// Views
    #[command(subcommand)]
    View(view::View),
    /// Queries
    #[command(subcommand)]
    Query(query::Query),
    /// Connectors
    #[command(subcommand)]
    Connector(connector::Connector),
    /// What is stored about resources
    #[command(subcommand)]
    Meta(meta::Meta),
    /// State of the nodes of the cluster
    Status,
    /// Bootstrap the cluster
    Init,
    /// Whether the cluster is ready
    Ready,
}

pub(super) async fn command(
    node: &Arc<NodeContext>,
    through: Option<ListenerKey>,
    request: wire::AdminCommandRequest,
) -> Result<wire::AdminCommandResponse> {
    let answer = match parse(&request.command)? {
        Ok(command) => run(node, through, command).await?,
        Err(help) => Answer::Plain(help),
    };
    Ok(wire::AdminCommandResponse { result: answer.to_json() })
}

async fn run(node: &Arc<NodeContext>, through: Option<ListenerKey>, command: Command) -> Result<Answer> {
    match command {
        Command::Stats(command) => command.run(node),
        Command::ResetStats => Ok(stats::reset(node)),
        Command::Lookup(command) => command.run(node, through).await,
        Command::Stream(command) => command.run(node).await,
        Command::Sub(command) => command.run(node).await,
        Command::View(command) => Ok(command.run()),
        Command::Query(command) => command.run(),
        Command::Connector(command) => command.run(),
        Command::Meta(command) => command.run(node).await,
        Command::Status => Ok(node::status(node, through.as_deref())),
        Command::Init => node::init(node).await,
        Command::Ready => Ok(node::ready(node)),
    }
}

/// The command, or the help that was asked for.
///
/// # Errors
/// Plain text and INTERNAL, as published servers answer: what is wrong and how the command is used.
fn parse(line: &str) -> Result<std::result::Result<Command, String>> {
    let unusable = |text: String| ServerError::plain(Code::Internal, text);
    if line.len() > MAX_COMMAND {
        return Err(unusable(format!(
            "the command has {} bytes, at most {MAX_COMMAND} are read",
            line.len()
        )));
    }
    let words = shlex::split(line)
        .ok_or_else(|| unusable("the command ends inside a quotation; close it".to_owned()))?;
    if words.len() > MAX_WORDS {
        return Err(unusable(format!("the command has {} words, at most {MAX_WORDS} are read", words.len())));
    }
    if words.first().is_none_or(|first| first != "server") {
        return Err(unusable("a command begins with the word server; see `server --help`".to_owned()));
    }
    match Line::try_parse_from(words) {
        Ok(line) => Ok(Ok(line.command)),
        Err(error) if error.use_stderr() => Err(unusable(error.to_string())),
        Err(help) => Ok(Err(help.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn refusal(line: &str) -> String {
        match parse(line) {
            Err(ServerError::Plain { status: Code::Internal, text }) => text,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn the_grammar_is_consistent() {
        Line::command().debug_assert();
    }

    #[test]
    fn what_is_no_command_is_refused_with_the_usage() {
        for (line, says) in [
            ("", "begins with the word server"),
            ("stream list", "begins with the word server"),
            ("server", "Usage: server"),
            ("server fly", "unrecognized subcommand 'fly'"),
            ("server stream", "Usage: server stream"),
            ("server stream create", "<NAME>"),
            ("server stream create s -s many", "invalid value 'many'"),
            ("server sub create s", "--stream"),
            ("server stats nothing appends", "possible values"),
            ("server stream describe 'open", "inside a quotation"),
        ] {
            let text = refusal(line);
            assert!(text.contains(says), "{line:?}: {text}");
        }
    }

    #[test]
    fn commands_are_bounded() {
        assert!(refusal(&format!("server {}", "x".repeat(MAX_COMMAND))).contains("bytes"));
        assert!(refusal(&format!("server {}", "x ".repeat(MAX_WORDS))).contains("words"));
    }

    #[test]
    fn options_are_taken_in_every_gnu_form() {
        for line in [
            "server stream create s -s 3 -b 60",
            "server stream create -s3 -b60 s",
            "server stream create --shards=3 --backlog-duration 60 s",
            "  server   stream create 's'   --shards 3 -b=60 ",
        ] {
            match parse(line).unwrap().unwrap() {
                Command::Stream(stream::Stream::Create { name, shards, backlog_duration, .. }) => {
                    assert_eq!((name.as_str(), shards, backlog_duration), ("s", 3, 60), "{line:?}");
                }
                other => panic!("{line:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn help_is_an_answer_and_no_error() {
        let help = parse("server sub --help").unwrap().unwrap_err();
        assert!(help.contains("deleteall"), "{help}");
    }
}
