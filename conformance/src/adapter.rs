//! One language's adapter process: JSON lines in, JSON lines out, one answer per command.

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};
use std::{path::PathBuf, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// An adapter that answers nothing for this long hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);

/// How an adapter is started.
#[derive(Debug, Clone)]
pub struct AdapterCommand {
    /// Language, for messages.
    pub language: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Folder it runs in.
    pub folder: PathBuf,
}

/// A failed command.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Failure {
    /// Error kind, as the core names it.
    pub kind: String,
    /// Server code, if any.
    #[serde(default)]
    pub code: Option<i64>,
    /// Whether sending again could double.
    #[serde(default)]
    pub may_have_been_applied: bool,
    /// The sentence.
    #[serde(default)]
    pub message: String,
}

/// A running adapter, killed on drop.
#[derive(Debug)]
pub struct Adapter {
    language: String,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    pending: bool,
}

impl Adapter {
    /// Starts the process.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &AdapterCommand) -> Result<Adapter> {
        let (program, arguments) = command.command.split_first().context("an empty adapter command")?;
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(&command.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the {} adapter ({program})", command.language))?;
        let input = child.stdin.take().context("no stdin")?;
        let output = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        Ok(Adapter { language: command.language.clone(), child, input, output, pending: false })
    }

    /// Sends a command without waiting for its answer.
    ///
    /// # Errors
    /// When the adapter is gone or an answer is outstanding.
    pub async fn send(&mut self, command: &Value) -> Result<()> {
        anyhow::ensure!(!self.pending, "a command is under way");
        let mut line = command.to_string();
        line.push('\n');
        self.input
            .write_all(line.as_bytes())
            .await
            .with_context(|| format!("the {} adapter is gone", self.language))?;
        self.input.flush().await?;
        self.pending = true;
        Ok(())
    }

    /// The answer of the command that was sent.
    ///
    /// # Errors
    /// When the adapter hangs, ends or says something that is no answer.
    pub async fn answer(&mut self) -> Result<Result<Map<String, Value>, Failure>> {
        let line = timeout(ANSWER_WITHIN, self.output.next_line()).await.with_context(|| {
            format!("the {} adapter gave no answer within {ANSWER_WITHIN:?}", self.language)
        })??;
        self.pending = false;
        let Some(line) = line else { bail!("the {} adapter ended", self.language) };
        let value: Value = serde_json::from_str(&line)
            .with_context(|| format!("the {} adapter said {line:?}", self.language))?;
        if let Some(error) = value.get("error") {
            return Ok(Err(serde_json::from_value(error.clone())?));
        }
        match value.get("ok").and_then(Value::as_object) {
            Some(ok) => Ok(Ok(ok.clone())),
            None => bail!("the {} adapter said {line:?}, neither ok nor error", self.language),
        }
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// As [`Adapter::answer`].
    pub async fn call(&mut self, command: &Value) -> Result<Result<Map<String, Value>, Failure>> {
        self.send(command).await?;
        self.answer().await
    }

    /// SIGKILL: the application goes without a word to anybody.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// A command that must succeed.
    ///
    /// # Errors
    /// Also when the command fails.
    pub async fn done(&mut self, command: &Value) -> Result<Map<String, Value>> {
        match self.call(command).await? {
            Ok(ok) => Ok(ok),
            Err(failure) => bail!("{} failed: {}: {}", command["do"], failure.kind, failure.message),
        }
    }
}
