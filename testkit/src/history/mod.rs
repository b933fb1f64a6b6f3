//! What happened in a run, and whether it may have.
//!
//! A test records every append with its outcome, every delivery, acknowledgement and read, and at the end what is stored
//! ([`History::keep`]). [`History::check`] compares all of it with the delivery contract. The events are plain data, so a
//! history can also be put together by hand or come from another process as lines of JSON.
//!
//! ```
//! use hstream_testkit::history::{History, Id, Outcome, Promise};
//!
//! let history = History::default();
//! let lane = history.lane(Promise::ExactlyOnce);
//! let record = history.invoke(lane);
//! let id = Id { shard: 1, batch: 10, index: 0 };
//! history.resolve(record, Outcome::Stored(id));
//! assert!(history.check().is_err(), "acknowledged and not there");
//! history.keep(&[(id, record)]);
//! assert_eq!(history.check().unwrap().stored, 1);
//! ```

mod check;
mod payload;
mod violation;

pub use check::Summary;
pub use payload::{payload, record_of};
pub use violation::{Violation, Violations};

use hstreamdb_proto::api;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

/// Identity and place of a stored record; ordered within a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Id {
    /// Its shard.
    pub shard: u64,
    /// Its batch.
    pub batch: u64,
    /// Its place in the batch.
    pub index: u32,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.shard, self.batch, self.index)
    }
}

impl From<api::RecordId> for Id {
    fn from(id: api::RecordId) -> Self {
        Id { shard: id.shard_id, batch: id.batch_id, index: id.batch_index }
    }
}

/// What holds for the records of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// Stored once and in order, whatever the outcome was.
    ExactlyOnce,
    /// Stored at most once; one whose outcome is unknown may come late.
    AtMostOnce,
    /// May be stored more than once; what is acknowledged is in order.
    Duplicates,
}

/// What an append was answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is stored under this id.
    Stored(Id),
    /// It is certainly not stored.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// Something that happened. Numbers of records, lanes, producers, consumers, subscriptions and readers are the test's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
#[allow(missing_docs, reason = "the fields say what they are")]
pub enum Event {
    /// A caller begins that appends one record after the other.
    Lane { lane: u32, promise: Promise },
    /// An append begins.
    Invoked { record: u64, lane: u32 },
    /// An append has ended.
    Resolved { record: u64, outcome: Outcome },
    /// Nobody will hear how the append ended.
    Released { record: u64 },
    /// A producer says what it holds when all its records are resolved.
    Idle { producer: u32, records: usize, bytes: usize },
    /// A consumer begins. One that is `in_order` has had no loss of connection and no ack timeout to explain a step back.
    Attached { consumer: u32, subscription: u32, in_order: bool },
    /// A consumer was shown a batch.
    Delivered { consumer: u32, records: Vec<(Id, u64)> },
    /// A consumer has acknowledged records.
    Acked { consumer: u32, ids: Vec<Id> },
    /// A consumer begins to leave in order.
    Leaving { consumer: u32 },
    /// The consumer has left in order: the server has read all that it had acknowledged.
    Confirmed { consumer: u32 },
    /// The server forgets what it had not made durable, which includes acknowledgements behind an open record. To be
    /// noted before and after.
    Restarted,
    /// Everything stored is said to have been delivered and acknowledged.
    Drained { subscription: u32 },
    /// A reader is opened at the earliest record of one shard or of all.
    Opened { reader: u32, shard: Option<u64> },
    /// A reader has given a batch.
    Read { reader: u32, records: Vec<(Id, u64)> },
    /// A reader has come to its end, which was what was the newest record when it was opened.
    Finished { reader: u32 },
    /// What is stored at the end, in the order in which it is read, all shards one after the other.
    Kept { records: Vec<(Id, u64)> },
}

/// Everything that happened in one run, in the order in which it was noticed.
#[derive(Debug, Default)]
pub struct History {
    events: Mutex<Vec<Event>>,
    lanes: AtomicU32,
    records: AtomicU64,
    consumers: AtomicU32,
    readers: AtomicU32,
}

impl From<Vec<Event>> for History {
    fn from(events: Vec<Event>) -> Self {
        History { events: Mutex::new(events), ..History::default() }
    }
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event.
    pub fn note(&self, event: Event) {
        self.lock().push(event);
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    /// A new caller of appends.
    pub fn lane(&self, promise: Promise) -> u32 {
        let lane = self.lanes.fetch_add(1, Ordering::Relaxed);
        self.note(Event::Lane { lane, promise });
        lane
    }

    /// An append of a new record begins; call it before the append.
    pub fn invoke(&self, lane: u32) -> u64 {
        let record = self.records.fetch_add(1, Ordering::Relaxed);
        self.note(Event::Invoked { record, lane });
        record
    }

    /// An append has ended.
    pub fn resolve(&self, record: u64, outcome: Outcome) {
        self.note(Event::Resolved { record, outcome });
    }

    /// The receipt was dropped.
    pub fn release(&self, record: u64) {
        self.note(Event::Released { record });
    }

    /// What a producer holds when all its records are resolved.
    pub fn idle(&self, producer: u32, records: usize, bytes: usize) {
        self.note(Event::Idle { producer, records, bytes });
    }

    /// A new consumer of a subscription.
    pub fn attach(&self, subscription: u32, in_order: bool) -> u32 {
        let consumer = self.consumers.fetch_add(1, Ordering::Relaxed);
        self.note(Event::Attached { consumer, subscription, in_order });
        consumer
    }

    /// A consumer was shown a batch.
    pub fn deliver(&self, consumer: u32, records: &[(Id, u64)]) {
        self.note(Event::Delivered { consumer, records: records.to_vec() });
    }

    /// A consumer has acknowledged records.
    pub fn ack(&self, consumer: u32, ids: &[Id]) {
        self.note(Event::Acked { consumer, ids: ids.to_vec() });
    }

    /// A consumer begins to leave in order.
    pub fn leave(&self, consumer: u32) {
        self.note(Event::Leaving { consumer });
    }

    /// The consumer has left in order.
    pub fn confirm(&self, consumer: u32) {
        self.note(Event::Confirmed { consumer });
    }

    /// A reader is opened at the earliest record, of one shard or of all.
    pub fn open(&self, shard: Option<u64>) -> u32 {
        let reader = self.readers.fetch_add(1, Ordering::Relaxed);
        self.note(Event::Opened { reader, shard });
        reader
    }

    /// A reader has given a batch.
    pub fn read(&self, reader: u32, records: &[(Id, u64)]) {
        self.note(Event::Read { reader, records: records.to_vec() });
    }

    /// What is stored at the end.
    pub fn keep(&self, records: &[(Id, u64)]) {
        self.note(Event::Kept { records: records.to_vec() });
    }

    /// Compares everything with the contract.
    ///
    /// # Errors
    /// All that must not have happened.
    pub fn check(&self) -> Result<Summary, Violations> {
        check::check(&self.lock())
    }
}

#[cfg(test)]
mod tests;
