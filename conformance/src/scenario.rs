//! Scenarios as data.

use crate::history::Redelivery;
use anyhow::{Context as _, Result};
use hstream_testkit::Fault;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fs, path::Path};

/// One scenario: steps in order, then the check of the history.
///
/// In the commands and options of its steps `$id:7` stands for the id of the record appended as number 7 (from 0),
/// `$shard:1` for the second shard of the stream by range, `$time:name` for the time of that [`Step::Mark`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Says the behaviour.
    pub name: String,
    /// Nodes of the cluster. With more than one there is no proxy before them.
    #[serde(default = "one")]
    pub nodes: u32,
    /// Shards of the stream.
    #[serde(default = "one")]
    pub shards: u32,
    /// Whether the subscription is there from the start, before anything is appended.
    #[serde(default = "yes")]
    pub subscribe: bool,
    /// Options of that subscription; without them it starts at the earliest record and waits 600 s for an ack.
    #[serde(default)]
    pub subscription: Map<String, Value>,
    /// Whether the subscription must have delivered everything acknowledged by the end.
    #[serde(default = "yes")]
    pub complete: bool,
    /// What may be delivered again.
    #[serde(default)]
    pub redelivery: Redelivery,
    /// Languages that cannot pass, each with the reason. They run all the same: one that passes is an error, so that
    /// this list can only shrink.
    #[serde(default)]
    pub except: BTreeMap<String, String>,
    /// What happens.
    pub steps: Vec<Step>,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

fn main_consumer() -> String {
    "main".into()
}

fn main_only() -> Vec<String> {
    vec![main_consumer()]
}

/// One step.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Opens a producer; options as in the core's table.
    Producer {
        /// Options.
        #[serde(default)]
        options: Map<String, Value>,
    },
    /// Appends `records` records over `keys` keys and waits for their ids.
    Append {
        /// How many.
        records: usize,
        /// Over how many keys.
        #[serde(default = "three")]
        keys: usize,
        /// Bytes of each payload; 0 takes what a short text needs.
        #[serde(default)]
        bytes: usize,
        /// The subscription must not deliver them.
        #[serde(default)]
        unrelated: bool,
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
    /// Appends `records` records and closes the producer at once, without waiting for their ids.
    CloseProducer {
        /// How many.
        records: usize,
        /// Longest time of the close, milliseconds.
        timeout_ms: u64,
        /// Whether they get their ids in that time; otherwise the report and the append must say that it is open.
        stored: bool,
    },
    /// Stores a batch that no language can read; the runner writes it without a client.
    Poison {
        /// In which way it is broken.
        kind: Poison,
    },
    /// Creates the subscription.
    Subscribe {
        /// Its options.
        #[serde(default)]
        options: Map<String, Value>,
    },
    /// Attaches a consumer.
    Attach {
        /// What later steps call it.
        #[serde(default = "main_consumer")]
        consumer: String,
        /// The name it gives to the server.
        #[serde(default)]
        name: Option<String>,
    },
    /// Receives at least `records` records, acknowledging them or not.
    Receive {
        /// How many.
        records: usize,
        /// Whether to acknowledge.
        #[serde(default = "yes")]
        ack: bool,
        /// Who receives, all together.
        #[serde(default = "main_only")]
        consumers: Vec<String>,
    },
    /// Receives and acknowledges until everything that was appended so far has been delivered.
    ReceiveAll {
        /// Who receives.
        #[serde(default = "main_consumer")]
        consumer: String,
    },
    /// Everything delivered and not acknowledged comes again, and nothing else does; it is acknowledged then.
    ReceiveAgain {
        /// Who receives.
        #[serde(default = "main_consumer")]
        consumer: String,
    },
    /// Nothing may arrive for this long.
    ReceiveNothing {
        /// Milliseconds.
        within_ms: u64,
        /// Who waits.
        #[serde(default = "main_consumer")]
        consumer: String,
    },
    /// A batch arrives that cannot be read; the language says so and goes on.
    ReceiveUnreadable {
        /// Whether to acknowledge it.
        #[serde(default = "yes")]
        ack: bool,
    },
    /// Acknowledges what was received and not acknowledged: all of it, or every record with an even index in its batch.
    Ack {
        /// Leave those with an odd index open.
        #[serde(default)]
        even_only: bool,
    },
    /// The consumer is told that it is over.
    Ended {
        /// Who.
        #[serde(default = "main_consumer")]
        consumer: String,
        /// How.
        error: ExpectedError,
    },
    /// Leaves cleanly.
    Detach {
        /// Who.
        #[serde(default = "main_consumer")]
        consumer: String,
    },
    /// Reads with a reader of the language and compares.
    Read(Read),
    /// Remembers the time as `$time:name`, with no append in the same millisecond.
    Mark {
        /// Its name.
        name: String,
    },
    /// Every record appended so far lies in the shard whose range holds its key, as the language lists shards.
    CheckRouting {},
    /// Sets the proxy's fault.
    Fault {
        /// Which.
        fault: Fault,
    },
    /// A command of the server's operator, given by the runner without a client.
    Operator {
        /// As `SendAdminCommand` takes it.
        command: String,
    },
    /// Breaks every open connection.
    CutConnections {},
    /// SIGKILL, then a start on the same directory.
    KillServer {},
    /// Switches a node of the cluster off without a word: its sockets stay as they are and say nothing.
    KillNode {
        /// Which.
        #[serde(default)]
        which: Victim,
        /// Meanwhile and once more afterwards so many records are appended at a time; 0 appends nothing.
        #[serde(default)]
        append: usize,
    },
    /// Starts the nodes that were killed, and waits until all serve.
    StartNode {
        /// As for [`Step::KillNode`].
        #[serde(default)]
        append: usize,
    },
    /// Stops every node in order and starts it again, one after the other.
    RollingRestart {
        /// As for [`Step::KillNode`].
        #[serde(default)]
        append: usize,
    },
    /// SIGKILL of the application, consumers and all; another one connects.
    KillClient {},
    /// Any other command of the adapter; its answer holds at least what is said here.
    Call {
        /// Command and arguments.
        command: Value,
        /// Members of the answer.
        #[serde(default)]
        answer: Value,
        /// Ask again until the answer is as expected: what it shows may lag behind.
        #[serde(default)]
        eventually: bool,
    },
    /// Any other command of the adapter, which must fail as expected.
    Refused {
        /// Command and arguments.
        command: Value,
        /// What it fails with.
        error: ExpectedError,
    },
    /// A command that several connections of the language give at the same time: one succeeds, the others fail.
    OneWins {
        /// How many give it.
        connections: usize,
        /// Command and arguments.
        command: Value,
        /// What the others fail with.
        error: ExpectedError,
    },
}

fn three() -> usize {
    3
}

/// A read and what it must give.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// `shard`, `stream`, `key`, or what only some languages have: `polled` and `single`.
    pub kind: String,
    /// Batches on the way that cannot be read; the reader says so and goes on.
    #[serde(default)]
    pub unreadable: usize,
    /// Of a shard reader.
    #[serde(default)]
    pub shard: Option<String>,
    /// Of a key reader.
    #[serde(default)]
    pub key: Option<String>,
    /// Options, as in the core's table.
    #[serde(default)]
    pub options: Map<String, Value>,
    /// From this number of the appended records on …
    #[serde(default)]
    pub first: usize,
    /// … until before this one; those with the reader's key only, if it has one.
    #[serde(default)]
    pub end: usize,
    /// Whether the reader comes to an end by itself.
    #[serde(default = "yes")]
    pub ends: bool,
    /// Appended while the reader is open, before anything is read.
    #[serde(default)]
    pub append: usize,
    /// Expected error instead of records.
    #[serde(default)]
    pub error: Option<ExpectedError>,
}

/// Which node it is.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Victim {
    /// One that runs.
    #[default]
    Any,
    /// The owner of the subscription.
    Owner,
}

/// What is wrong with a batch.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Poison {
    /// Bytes that are no records.
    Garbage,
    /// The first half of a gzip stream.
    TruncatedGzip,
    /// Bytes that are no zstd.
    GarbageZstd,
    /// A compression nobody knows.
    UnknownCompression,
    /// Fewer records than it claims.
    FewerRecords,
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
