//! Signals to processes.

use anyhow::{Result, ensure};
use std::{
    process::Command,
    time::{Duration, Instant},
};

/// How long a process may take until all of its threads stand still.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// SIGSTOP, and waits until no thread of the process runs any more: the signal alone only asks for that.
pub(crate) fn pause(pid: u32) -> Result<()> {
    signal(pid, "STOP")?;
    let end = Instant::now() + STOPS_WITHIN;
    while !stands_still(pid) {
        ensure!(Instant::now() < end, "process {pid} goes on although it was sent SIGSTOP");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Where there is no `/proc` nobody can tell.
fn stands_still(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state stands behind the name, which is in parentheses.
        stat.rsplit(')')
            .next()
            .is_none_or(|rest| matches!(rest.trim_start().chars().next(), None | Some('T' | 'Z')))
    })
}

/// Sends one, `CONT` for example.
pub(crate) fn signal(pid: u32, signal: &str) -> Result<()> {
    let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).status()?;
    ensure!(status.success(), "process {pid} could not be sent SIG{signal}");
    Ok(())
}
