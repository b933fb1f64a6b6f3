//! One NATS server process.

use super::{monitor::Monitor, ports::Ports};
use crate::leash;
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long one may take to end in order.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// Last lines of the log in an error.
const KEPT_LINES: usize = 20;

/// A server that can be ended and started again on the same ports and data.
#[derive(Debug)]
pub(super) struct Peer {
    pub name: String,
    pub ports: Ports,
    pub monitor: Monitor,
    binary: PathBuf,
    /// Its configuration file.
    config: PathBuf,
    log: PathBuf,
    process: Option<Child>,
    paused: bool,
}

impl Peer {
    pub(super) fn new(name: String, ports: Ports, binary: PathBuf, config: PathBuf, log: PathBuf) -> Peer {
        let monitor = Monitor::new(ports.monitor);
        Peer { name, ports, monitor, binary, config, log, process: None, paused: false }
    }

    /// Starts the process; whether it is ready is another matter.
    pub(super) fn launch(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.binary)
            .arg("-c")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        leash::hold(child.id());
        self.process = Some(child);
        Ok(())
    }

    /// Whether it has a process that can answer.
    pub(super) fn runs(&self) -> bool {
        self.process.is_some() && !self.paused
    }

    /// An error if the process has ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        let Some(process) = &mut self.process else { return Ok(()) };
        if let Some(status) = process.try_wait()? {
            leash::release(process.id());
            self.process = None;
            bail!("{} has ended by itself ({status}); it said:\n{}", self.name, self.last_words());
        }
        Ok(())
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().with_context(|| format!("{} does not run", self.name))?;
        self.paused = false;
        process.kill()?;
        leash::release(process.id());
        process.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub(super) fn stop(&mut self) -> Result<()> {
        ensure!(!self.paused, "{} is paused", self.name);
        self.signal("TERM")?;
        let mut process = self.process.take().with_context(|| format!("{} does not run", self.name))?;
        let end = Instant::now() + STOP_WITHIN;
        while process.try_wait()?.is_none() {
            if Instant::now() > end {
                self.process = Some(process);
                bail!("{} did not stop within {STOP_WITHIN:?}; it said:\n{}", self.name, self.last_words());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        leash::release(process.id());
        Ok(())
    }

    /// SIGSTOP.
    pub(super) fn pause(&mut self) -> Result<()> {
        let process = self.process.as_ref().with_context(|| format!("{} does not run", self.name))?;
        crate::signal::pause(process.id())?;
        self.paused = true;
        Ok(())
    }

    /// SIGCONT.
    pub(super) fn resume(&mut self) -> Result<()> {
        self.signal("CONT")?;
        self.paused = false;
        Ok(())
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let process = self.process.as_ref().with_context(|| format!("{} does not run", self.name))?;
        crate::signal::signal(process.id(), signal)
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(KEPT_LINES)..].join("\n")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if self.process.is_some() {
            let _ = self.kill();
        }
    }
}
