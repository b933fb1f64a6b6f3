//! Scenarios as data.

use anyhow::{Context as _, Result};
use hstream_testkit::Fault;
use serde::Deserialize;
use serde_json::Value;
use std::{fs, path::Path};

/// One scenario: steps in order, then the check of the history.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Says the behaviour.
    pub name: String,
    /// Shards of the stream.
    #[serde(default = "one")]
    pub shards: u32,
    /// Seconds until a record that is not acknowledged is delivered again.
    #[serde(default = "long")]
    pub ack_timeout_secs: u32,
    /// Whether the subscription must have delivered everything acknowledged by the end.
    #[serde(default = "yes")]
    pub complete: bool,
    /// Whether a record may be delivered again (after a lost connection it may; design of the protocol).
    #[serde(default)]
    pub redelivery: bool,
    /// What happens.
    pub steps: Vec<Step>,
}

fn one() -> u32 {
    1
}

fn long() -> u32 {
    600
}

fn yes() -> bool {
    true
}

/// One step.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Opens a producer; options as in the core's table.
    Producer {
        /// Options.
        #[serde(default)]
        options: Value,
    },
    /// Appends `records` records over `keys` keys and waits for their ids.
    Append {
        /// How many.
        records: usize,
        /// Over how many keys.
        #[serde(default = "three")]
        keys: usize,
        /// Expected error instead of ids.
        #[serde(default)]
        error: Option<ExpectedError>,
    },
    /// Appends exactly these records: `[[key, base64 payload], …]`.
    AppendExactly {
        /// The records.
        records: Vec<(String, String)>,
    },
    /// Starts an append and goes on; [`Step::Await`] collects it.
    StartAppend {
        /// How many.
        records: usize,
        /// Over how many keys.
        #[serde(default = "three")]
        keys: usize,
    },
    /// Waits for the started append.
    Await {},
    /// Attaches a consumer.
    Attach {},
    /// Receives at least `records` records, acknowledging them or not.
    Receive {
        /// How many.
        records: usize,
        /// Whether to acknowledge.
        #[serde(default = "yes")]
        ack: bool,
    },
    /// Nothing may arrive for this long.
    ReceiveNothing {
        /// Milliseconds.
        within_ms: u64,
    },
    /// Leaves cleanly.
    Detach {},
    /// Sets the proxy's fault.
    Fault {
        /// Which.
        fault: Fault,
    },
    /// Breaks every open connection.
    CutConnections {},
    /// SIGKILL, then a start on the same directory and port.
    KillServer {},
    /// Any other command of the adapter, which must fail as expected.
    Refused {
        /// Command and arguments.
        command: Value,
        /// What it fails with.
        error: ExpectedError,
    },
}

fn three() -> usize {
    3
}

/// How a command must fail.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedError {
    /// Any of these kinds.
    pub kind: Vec<String>,
    /// Server code, where one is promised.
    #[serde(default)]
    pub code: Option<i64>,
    /// Whether sending again could double a record, where it is promised.
    #[serde(default)]
    pub may_have_been_applied: Option<bool>,
}

/// All scenarios of a folder, by file name.
///
/// # Errors
/// When a file cannot be read or is no scenario.
pub fn load(folder: &Path) -> Result<Vec<Scenario>> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path)?;
            serde_json::from_str(&text).with_context(|| format!("{} is no scenario", path.display()))
        })
        .collect()
}
