//! What must not have happened.

use super::Id;
use std::fmt;

/// One thing that must not have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields say what they are")]
pub enum Violation {
    /// An acknowledged record is not stored under its id.
    Lost { record: u64, id: Id },
    /// A record is stored that nobody appended.
    Invented { record: u64, id: Id },
    /// A record is stored whose append certainly failed.
    FailedAndStored { record: u64, id: Id },
    /// A record is stored twice and must not be.
    Doubled { record: u64, first: Id, second: Id },
    /// Two records of one lane are in a shard the other way round.
    Inverted { earlier: (u64, Id), later: (u64, Id) },
    /// One id stands for two records.
    Ambiguous { id: Id, one: u64, other: u64 },
    /// The final look itself stepped back or repeated.
    Unsorted { id: Id },
    /// An append was answered twice.
    ResolvedTwice { record: u64 },
    /// An append was never answered.
    Unresolved { record: u64 },
    /// A producer holds room for records that are all resolved.
    RoomHeld { producer: u32, records: usize, bytes: usize },
    /// A record was shown that is not stored: it was shown before it was safe, or made up.
    Phantom { record: u64, id: Id },
    /// A consumer was shown a batch again that it had acknowledged whole.
    ShownAfterAck { consumer: u32, id: Id },
    /// A record came to a consumer that began after its acknowledgement was safe.
    ShownAfterConfirmation { consumer: u32, id: Id },
    /// A consumer was shown an earlier record after a later one, without a reason.
    DeliveredBackwards { consumer: u32, id: Id, after: Id },
    /// A subscription that is said to be drained has not delivered a record.
    Undelivered { subscription: u32, id: Id },
    /// A reader gave a record again, or an earlier one after a later one.
    ReadBackwards { reader: u32, id: Id, after: Id },
    /// A reader has left out a record.
    ReadHole { reader: u32, id: Id },
    /// A reader has ended before a record that was acknowledged when it was opened.
    ReadShort { reader: u32, id: Id },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Lost { record, id } => write!(f, "record {record}, acknowledged as {id}, is lost"),
            Violation::Invented { record, id } => {
                write!(f, "{id} holds record {record}, which nobody appended")
            }
            Violation::FailedAndStored { record, id } => {
                write!(f, "record {record} certainly failed, and is stored as {id}")
            }
            Violation::Doubled { record, first, second } => {
                write!(f, "record {record} is stored as {first} and as {second}")
            }
            Violation::Inverted { earlier, later } => write!(
                f,
                "record {} ({}) was appended before record {} ({})",
                earlier.0, earlier.1, later.0, later.1
            ),
            Violation::Ambiguous { id, one, other } => write!(f, "{id} stands for records {one} and {other}"),
            Violation::Unsorted { id } => write!(f, "the final look came to {id} out of order"),
            Violation::ResolvedTwice { record } => write!(f, "record {record} was answered twice"),
            Violation::Unresolved { record } => write!(f, "record {record} was never answered"),
            Violation::RoomHeld { producer, records, bytes } => write!(
                f,
                "producer {producer} still holds room for {records} records ({bytes} bytes), all of them resolved"
            ),
            Violation::Phantom { record, id } => {
                write!(f, "record {record} was shown as {id} and is not stored there")
            }
            Violation::ShownAfterAck { consumer, id } => {
                write!(
                    f,
                    "consumer {consumer} was shown the batch of {id} again after it had acknowledged it"
                )
            }
            Violation::ShownAfterConfirmation { consumer, id } => {
                write!(
                    f,
                    "consumer {consumer} was shown {id}, whose acknowledgement was safe before it began"
                )
            }
            Violation::DeliveredBackwards { consumer, id, after } => {
                write!(f, "consumer {consumer} was shown {id} after {after}")
            }
            Violation::Undelivered { subscription, id } => {
                write!(
                    f,
                    "subscription {subscription} is drained, but {id} was not delivered and acknowledged"
                )
            }
            Violation::ReadBackwards { reader, id, after } => {
                write!(f, "reader {reader} gave {id} after {after}")
            }
            Violation::ReadHole { reader, id } => write!(f, "reader {reader} left out {id}"),
            Violation::ReadShort { reader, id } => {
                write!(
                    f,
                    "reader {reader} ended before {id}, which was acknowledged before the reader was opened"
                )
            }
        }
    }
}

/// All that must not have happened in a history. Shows the first twenty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violations(pub Vec<Violation>);

impl std::error::Error for Violations {}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} things must not have happened:", self.0.len())?;
        for violation in self.0.iter().take(20) {
            write!(f, "\n  {violation}")?;
        }
        Ok(())
    }
}
