//! Signals to processes.

use anyhow::{Result, ensure};
use std::process::Command;

/// Sends one, `STOP` for example.
pub(crate) fn signal(pid: u32, signal: &str) -> Result<()> {
    let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).status()?;
    ensure!(status.success(), "process {pid} could not be sent SIG{signal}");
    Ok(())
}
