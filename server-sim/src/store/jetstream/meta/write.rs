//! Changing the metadata.
//!
//! A write is sent until it is answered or its time is over, always as the same write: the servers store it once. If it was
//! refused and an earlier copy of it may have been what changed the key, the key's chain tells.

use super::chain::Fate;
use super::message::{Condition, HEADER_ROOM, compose};
use super::mirror::Last;
use super::{Meta, Outcome, key};
use crate::store::jetstream::failure::{ApiError, Lost};
use crate::store::{Expect, Guard, Result, StoreError};
use async_nats::HeaderMap;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Writes of one call under way at a time.
const AT_A_TIME: usize = 64;
/// A write that was stored is answered when this node's watches have it, or after this long.
const SEEN_WITHIN: Duration = Duration::from_secs(1);
/// Pauses before a write is sent again.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

const WRONG_LAST: u32 = 10071;
/// The same while another write of the key is on its way.
const WRONG_LAST_UNKNOWN: u32 = 10164;
/// The same message is on its way.
const TWICE: u32 = 10158;
const NO_ROOM: [u32; 3] = [10023, 10047, 10077];

/// One value to write, or one key to remove.
#[derive(Debug)]
pub(super) struct Write {
    key: String,
    /// As the bucket has it.
    encoded: String,
    /// `None` removes it.
    value: Option<Bytes>,
    id: u128,
}

/// What the servers said.
#[derive(Debug)]
pub(super) enum Sent {
    /// Stored, now or by an earlier copy, as this change.
    Stored(u64),
    /// The condition does not hold; the last change, if they said so.
    Conflict(Option<u64>),
    /// No answer, or one that says to try again.
    Lost(Lost),
    /// It cannot be stored.
    Refused(StoreError),
}

/// What the servers answer to a message.
#[derive(Deserialize)]
struct Ack {
    error: Option<ApiError>,
    #[serde(default)]
    seq: u64,
}

impl Write {
    pub(super) fn put(key: &str, value: Bytes) -> Result<Write> {
        Write::new(key, Some(value))
    }

    pub(super) fn delete(key: &str) -> Result<Write> {
        Write::new(key, None)
    }

    fn new(key: &str, value: Option<Bytes>) -> Result<Write> {
        let encoded = key::encode(key)
            .ok_or_else(|| StoreError::Io(format!("the key {key:?} is empty or too long for a bucket")))?;
        // Never 0, which stands for nobody's.
        Ok(Write { key: key.to_owned(), encoded, value, id: rand::random::<u128>().max(1) })
    }

    fn is_removal(&self) -> bool {
        self.value.is_none()
    }
}

/// How often, how long and how it went so far.
struct Attempts {
    deadline: Instant,
    pause: Duration,
    /// An earlier copy may have been stored.
    open: bool,
}

impl Attempts {
    fn until(deadline: Instant) -> Self {
        Attempts { deadline, pause: PAUSE, open: false }
    }

    fn outcome(&self) -> Outcome {
        if self.open { Outcome::Open } else { Outcome::Nothing }
    }

    /// Waits before the next one; false if there is no time for it.
    async fn pause(&mut self) -> bool {
        let next = Instant::now() + self.pause;
        if next >= self.deadline {
            return false;
        }
        sleep_until(next).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

impl Meta {
    /// Writes if the expectation holds and returns the version; 0 if there was nothing to remove.
    pub(super) async fn change(&self, write: Write, expect: Expect) -> Result<u64> {
        let mut attempts = Attempts::until(self.deadline());
        let conflict = || Err(StoreError::Conflict { key: write.key.clone() });
        let mut last = self.mirror.last(&write.key);
        // Whether there is anything may have changed since this node looked.
        let nothing = expect != Expect::Any || write.is_removal();
        let doubtful = match expect {
            // To expect a removal is to expect a value that is not there.
            Expect::Version(version) if last == (Last { version, present: false }) => return conflict(),
            Expect::Version(_) => false,
            Expect::Absent => last.present || write.is_removal(),
            Expect::Any => nothing && !last.present,
        };
        if doubtful {
            last = self.look(&write, &attempts).await?;
        }
        loop {
            match expect {
                Expect::Absent if last.present => return conflict(),
                Expect::Absent | Expect::Any if write.is_removal() && !last.present => return Ok(0),
                _ => {}
            }
            let expected = match expect {
                Expect::Version(version) => version,
                Expect::Absent | Expect::Any => last.version,
            };
            let chain = self.mirror.chain(&write.key, expected);
            match self.send_write(&write, Condition::Last(expected, &chain), attempts.deadline).await {
                Sent::Stored(version) => return Ok(self.stored(version, &attempts).await),
                Sent::Refused(error) => return Err(error),
                Sent::Lost(lost) => {
                    attempts.open |= lost.sent;
                    if !attempts.pause().await {
                        return Err(self.unreachable(&write.key, &lost, attempts.outcome()));
                    }
                }
                Sent::Conflict(hint) => {
                    last = self.look(&write, &attempts).await?;
                    if attempts.open {
                        match self.mirror.fate(&write.key, expected, write.id) {
                            Fate::Stored(version) => return Ok(version),
                            // No copy of it can be stored any more: the last change is a later one for good.
                            Fate::Refused => attempts.open = false,
                            Fate::Unknown if last.version == expected => {}
                            Fate::Unknown => {
                                let why = "others have written it since, too often to tell".to_owned();
                                let lost = Lost { sent: true, why };
                                return Err(self.unreachable(&write.key, &lost, Outcome::Open));
                            }
                        }
                    }
                    match expect {
                        Expect::Version(version) if last != (Last { version, present: true }) => {
                            return conflict();
                        }
                        Expect::Version(_) => {}
                        Expect::Absent | Expect::Any => {
                            // Removals are forgotten, here and there, and not at the same time.
                            if let Some(hint) = hint.filter(|_| !last.present) {
                                last.version = hint;
                            }
                        }
                    }
                    // Another write was on its way and may not have come about.
                    if !attempts.pause().await {
                        let lost = Lost { sent: false, why: "others write it all the time".to_owned() };
                        return Err(self.unreachable(&write.key, &lost, attempts.outcome()));
                    }
                }
            }
        }
    }

    /// Writes many values, under a guard if there is one.
    pub(super) async fn change_many(&self, writes: Vec<Write>, guard: Option<Guard>) -> Result<()> {
        let guard = guard.as_ref();
        let work = writes.into_iter().map(|write| async move {
            match guard {
                None => self.change(write, Expect::Any).await.map(|_| ()),
                Some(guard) => self.change_under(write, guard).await,
            }
        });
        futures::stream::iter(work).buffer_unordered(AT_A_TIME).try_collect::<()>().await
    }

    /// Writes if the guard holds.
    async fn change_under(&self, write: Write, guard: &Guard) -> Result<()> {
        let mut attempts = Attempts::until(self.deadline());
        let conflict = || Err(StoreError::Conflict { key: guard.key.clone() });
        let version = guard.version;
        let Some(key) = key::encode(&guard.key).filter(|_| version > 0) else { return conflict() };
        if self.mirror.last(&guard.key) == (Last { version, present: false }) {
            return conflict();
        }
        loop {
            let condition = Condition::Guard { key: &key, version };
            match self.send_write(&write, condition, attempts.deadline).await {
                Sent::Stored(version) => {
                    self.stored(version, &attempts).await;
                    return Ok(());
                }
                Sent::Refused(error) => return Err(error),
                Sent::Lost(lost) => {
                    attempts.open |= lost.sent;
                    if !attempts.pause().await {
                        return Err(self.unreachable(&write.key, &lost, attempts.outcome()));
                    }
                }
                Sent::Conflict(_) => {
                    self.look(&write, &attempts).await?;
                    // Whether a copy was stored before the guard changed matters to nobody: whoever changed it reads
                    // what is there now.
                    if self.mirror.last(&guard.key) != (Last { version, present: true }) {
                        return conflict();
                    }
                    if !attempts.pause().await {
                        let lost = Lost { sent: false, why: "the guard is being written".to_owned() };
                        return Err(self.unreachable(&write.key, &lost, attempts.outcome()));
                    }
                }
            }
        }
    }

    /// What the key holds after everything that was written before.
    async fn look(&self, write: &Write, attempts: &Attempts) -> Result<Last> {
        let fresh = self.fresh(attempts.deadline).await;
        fresh.map_err(|lost| self.unreachable(&write.key, &lost, attempts.outcome()))?;
        Ok(self.mirror.last(&write.key))
    }

    /// Answers once the watches have it, so that whoever is answered finds it in every copy of this node.
    async fn stored(&self, version: u64, attempts: &Attempts) -> u64 {
        self.mirror.reached(version, attempts.deadline.min(Instant::now() + SEEN_WITHIN)).await;
        version
    }

    async fn send_write(&self, write: &Write, condition: Condition<'_>, deadline: Instant) -> Sent {
        let size = write.value.as_ref().map_or(0, Bytes::len) + write.encoded.len() + HEADER_ROOM;
        let most = self.connection.max_payload();
        if size > most {
            return Sent::Refused(StoreError::Io(format!(
                "the value of {:?} takes {size} bytes, and the NATS servers take at most {most} (max_payload)",
                write.key
            )));
        }
        let (headers, payload) = compose(&self.bucket, &write.key, write.value.as_ref(), write.id, condition);
        self.send(format!("{}{}", self.bucket.prefix, write.encoded), headers, payload, deadline).await
    }

    /// Sends a message once.
    pub(super) async fn send(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        deadline: Instant,
    ) -> Sent {
        let answer = match self.connection.request(subject, Some(headers), payload, deadline).await {
            Ok(answer) => answer,
            Err(lost) => return Sent::Lost(lost),
        };
        let ack: Ack = match serde_json::from_slice(&answer.payload) {
            Ok(ack) => ack,
            Err(error) => {
                let why = format!("the answer makes no sense: {error}");
                return Sent::Lost(Lost { sent: true, why });
            }
        };
        match ack.error {
            None => Sent::Stored(ack.seq),
            Some(error) if [WRONG_LAST, WRONG_LAST_UNKNOWN].contains(&error.err_code) => {
                let number = error.description.rsplit(' ').next();
                Sent::Conflict(number.and_then(|number| number.parse().ok()))
            }
            Some(error) if error.err_code == TWICE => Sent::Lost(Lost { sent: true, why: error.to_string() }),
            Some(error) if NO_ROOM.contains(&error.err_code) => {
                Sent::Refused(StoreError::DiskFull(format!("the NATS servers refuse a write: {error}")))
            }
            // Nobody leads, or a proposal was dropped.
            Some(error) if error.is_passing() => Sent::Lost(Lost { sent: true, why: error.to_string() }),
            Some(error) => Sent::Refused(StoreError::Io(format!("the NATS servers refuse a write: {error}"))),
        }
    }
}
