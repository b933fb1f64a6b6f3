//! The languages and how their workers are started.

use crate::progress::Progress;
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use std::{path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::timeout,
};

/// A worker that says nothing for this long is stuck.
const SILENCE: Duration = Duration::from_secs(90);

/// A language of the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// The core itself.
    Rust,
    /// The wheel.
    Python,
    /// The npm module.
    Node,
    /// The NIF.
    Erlang,
}

/// What a worker reports at the end.
#[derive(Debug, Clone, Deserialize)]
pub struct Done {
    /// Rows appended or received.
    pub rows: u64,
    /// Order violations, when reading.
    #[serde(default)]
    pub violations: u64,
    /// Doubled rows, when reading.
    #[serde(default)]
    pub duplicates: u64,
    /// Sixteen hexadecimal digits, when reading.
    #[serde(default)]
    pub checksum: String,
    /// Wall-clock seconds of the work.
    pub seconds: f64,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Progress { rows: u64 },
    Done(Done),
}

impl Language {
    /// Lower-case name, also the producer name in the rows.
    pub fn name(self) -> &'static str {
        match self {
            Language::Rust => "rust",
            Language::Python => "python",
            Language::Node => "node",
            Language::Erlang => "erlang",
        }
    }

    fn command(self) -> Result<Command> {
        // Set by dev/demo.sh, which installs the packages the workers import.
        let variable = |name: &str| {
            std::env::var(name).with_context(|| format!("{name} is not set; start the demo with `make demo`"))
        };
        let mut command;
        match self {
            Language::Rust => {
                command = Command::new(std::env::current_exe()?);
                command.arg("worker");
            }
            Language::Python => {
                command = Command::new(variable("HSTREAM_DEMO_PYTHON")?);
                command.arg("demo/workers/worker.py");
            }
            Language::Node => {
                command = Command::new("node");
                command.arg("demo/workers/worker.mjs");
            }
            Language::Erlang => {
                command = Command::new("escript");
                command.arg("demo/workers/worker.escript");
            }
        }
        Ok(command)
    }

    /// Runs the appending worker.
    ///
    /// # Errors
    /// When the worker fails, gets stuck or says something unexpected.
    pub async fn append(self, url: &str, stream: &str, rows: &Path, progress: &Progress) -> Result<Done> {
        let mut command = self.command()?;
        command.arg("append").args([url, stream]).arg(rows);
        self.run(command, progress).await
    }

    /// Runs the reading worker.
    ///
    /// # Errors
    /// As [`Language::append`].
    pub async fn read(
        self,
        url: &str,
        subscription: &str,
        expected: u64,
        progress: &Progress,
    ) -> Result<Done> {
        let mut command = self.command()?;
        command.arg("read").args([url, subscription]).arg(expected.to_string());
        self.run(command, progress).await
    }

    async fn run(self, mut command: Command, progress: &Progress) -> Result<Done> {
        let name = self.name();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the {name} worker"))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let mut counted = 0;
        let mut done = None;
        loop {
            let line = timeout(SILENCE, lines.next_line())
                .await
                .with_context(|| format!("the {name} worker said nothing for {SILENCE:?}"))??;
            let Some(line) = line else { break };
            let event = serde_json::from_str(&line)
                .with_context(|| format!("the {name} worker said {line:?}, which is no event"))?;
            let rows = match event {
                Event::Progress { rows } => rows,
                Event::Done(report) => {
                    let rows = report.rows;
                    done = Some(report);
                    rows
                }
            };
            progress.advance(rows.saturating_sub(counted));
            counted = counted.max(rows);
        }
        let status = timeout(SILENCE, child.wait())
            .await
            .with_context(|| format!("the {name} worker did not end within {SILENCE:?}"))??;
        ensure!(status.success(), "the {name} worker failed ({status})");
        match done {
            Some(done) => Ok(done),
            None => bail!("the {name} worker ended without a report"),
        }
    }
}
