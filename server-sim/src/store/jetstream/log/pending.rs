//! Batches of one shard on their way from this node. Pure.
//!
//! They stand in line. Some of the first ones fly: they are in a frame that was sent and not answered yet. Whose frame the
//! next message of the shard is decides: if it is ours, they are answered; if it is somebody else's, ours cannot land any more
//! (it expected another message before it), so they stand in line again, after their stamps were judged anew.

use super::front::{self, Front};
use super::place::{self, PLACES};
use crate::store::producer_table::{ProducerLimits, ProducerTable, Verdict};
use crate::store::{Appended, Lsn, NewBatch, ProducerStamp, Result, StoreError};
use std::collections::VecDeque;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

/// Stands for the LSN of a batch that has none yet, plus its number in line.
const IN_LINE: Lsn = 1 << 63;
/// Bytes a batch takes in the header of a frame, at most.
const FRONT_BYTES: usize = 64;

/// Appends from this node to one shard.
#[derive(Debug, Default)]
pub struct Writer {
    /// Everybody's stamps up to the last message; `None` before they were read back.
    table: Option<ProducerTable>,
    /// The same with those that stand in line; `None` while it says no more.
    accepted: Option<ProducerTable>,
    line: VecDeque<InLine>,
    /// Number of the first one in line.
    first: u64,
    /// How many of the first ones fly, and in which frame.
    flying: usize,
    flight: u128,
    /// What flew may have landed and gone again unseen.
    doubt: bool,
    /// Somebody else's message came: the stamps in line have to be judged anew before they fly.
    stale: bool,
    /// The last frame of ours that landed, and its sequence.
    landed: (u128, u64),
    /// Stamps that come by while older ones are read back; `None` when nobody does, or some were missed.
    gathered: Option<Vec<Gathered>>,
    /// LSNs up to which there are snapshots of the stamps.
    pub snapshots: Vec<Lsn>,
    /// A task is at it.
    pub running: bool,
    /// Stamped frames that no snapshot covers, and the bytes of all frames since.
    pub uncovered: Uncovered,
}

/// A stamp that came by.
#[derive(Debug, Clone, Copy)]
struct Gathered {
    stamp: ProducerStamp,
    lsn: Lsn,
    records: u32,
    time_ms: u64,
}

/// What has been appended since stamps were last written down.
#[derive(Debug, Clone, Copy, Default)]
pub struct Uncovered {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: usize,
    /// When the last one came.
    pub since: Option<Instant>,
    /// Somebody is writing them down.
    pub writing: bool,
}

#[derive(Debug)]
struct InLine {
    batch: NewBatch,
    crc: u32,
    since: Instant,
    waiters: Vec<Waiter>,
    _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Waiter {
    repeat: bool,
    reply: oneshot::Sender<Result<Appended>>,
}

/// What becomes of a batch.
#[derive(Debug)]
pub enum Accepted {
    /// It is in line.
    InLine(oneshot::Receiver<Result<Appended>>),
    /// It was stored before.
    Known(Appended),
}

/// Batches to send together.
#[derive(Debug)]
pub struct Load {
    pub batches: Vec<front::Batch>,
    pub bodies: Vec<bytes::Bytes>,
    /// When the first of them came.
    pub since: Instant,
}

impl Writer {
    /// Whether stamps can be judged.
    pub fn is_loaded(&self) -> bool {
        self.table.is_some()
    }

    /// Keeps stamps that come by from now on, for [`Writer::load`].
    pub fn gather(&mut self) {
        self.gathered = Some(Vec::new());
    }

    /// Stamps were read back up to the call of [`Writer::gather`]; false if some have been missed since.
    pub fn load(&mut self, mut table: ProducerTable) -> bool {
        let Some(gathered) = self.gathered.take() else { return false };
        for Gathered { stamp, lsn, records, time_ms } in gathered {
            table.record(&stamp, lsn, records, time_ms);
        }
        self.table = Some(table);
        self.accepted = None;
        true
    }

    /// Sequence of a frame of this writer, if it is the last one that landed.
    pub fn landed(&self, id: u128) -> Option<u64> {
        (self.landed.0 == id).then_some(self.landed.1)
    }

    /// A copy of all stamps up to the last message.
    pub fn table(&self) -> Option<ProducerTable> {
        self.table.clone()
    }

    pub fn flies(&self) -> bool {
        self.flying > 0
    }

    pub fn is_idle(&self) -> bool {
        self.line.is_empty()
    }

    /// Whether anything in line has a stamp that cannot be judged yet.
    pub fn waits_for_stamps(&self) -> bool {
        self.table.is_none() && self.line.iter().any(|waiting| waiting.batch.producer.is_some())
    }

    /// Puts a batch in line, or says that it has its place.
    ///
    /// # Errors
    /// [`StoreError::Stamp`]; the writer is as it was.
    pub fn accept(
        &mut self,
        batch: NewBatch,
        crc: u32,
        room: OwnedSemaphorePermit,
        limits: &ProducerLimits,
        time_ms: u64,
    ) -> Result<Accepted> {
        if let Some(stamp) = &batch.producer {
            match self.judge(stamp, limits, time_ms)? {
                Judged::Store => self.note(stamp, batch.records, time_ms),
                Judged::Known(appended) => return Ok(Accepted::Known(appended)),
                Judged::InLine(at) => {
                    let Some(waiting) = self.line.get_mut(at) else {
                        return Err(StoreError::Io("a batch in line is missing".into()));
                    };
                    waiting.waiters.retain(|waiter| !waiter.reply.is_closed());
                    let (reply, answer) = oneshot::channel();
                    waiting.waiters.push(Waiter { repeat: true, reply });
                    return Ok(Accepted::InLine(answer));
                }
            }
        }
        let (reply, answer) = oneshot::channel();
        let waiters = vec![Waiter { repeat: false, reply }];
        self.line.push_back(InLine { batch, crc, since: Instant::now(), waiters, _room: room });
        Ok(Accepted::InLine(answer))
    }

    fn judge(&mut self, stamp: &ProducerStamp, limits: &ProducerLimits, time_ms: u64) -> Result<Judged> {
        let Some(table) = &mut self.table else {
            return Err(StoreError::Io("the stamps of this shard were not read back yet".into()));
        };
        let accepted = self.accepted.get_or_insert_with(|| {
            let mut accepted = table.clone();
            for (number, waiting) in (self.first..).zip(&self.line) {
                if let Some(stamp) = &waiting.batch.producer
                    && accepted.check(stamp, limits, time_ms) == Ok(Verdict::Store)
                {
                    accepted.record(stamp, IN_LINE + number, waiting.batch.records, time_ms);
                }
            }
            accepted
        });
        let mut verdict = accepted.check(stamp, limits, time_ms);
        if matches!(&verdict, Ok(Verdict::Repeat(known)) if known.lsn >= IN_LINE && known.lsn - IN_LINE < self.first)
        {
            // It has landed meanwhile.
            verdict = table.check(stamp, limits, time_ms);
        }
        Ok(match verdict? {
            Verdict::Store => Judged::Store,
            Verdict::Repeat(known) if known.lsn >= IN_LINE => {
                Judged::InLine(usize::try_from(known.lsn - IN_LINE - self.first).unwrap_or(usize::MAX))
            }
            Verdict::Repeat(known) => Judged::Known(Appended {
                lsn: known.lsn,
                records: known.records,
                time_ms: known.time_ms,
                repeat: true,
            }),
        })
    }

    /// Remembers the stamp of a batch that comes to the end of the line.
    fn note(&mut self, stamp: &ProducerStamp, records: u32, time_ms: u64) {
        let number = self.first + self.line.len() as u64;
        if let Some(accepted) = &mut self.accepted {
            accepted.record(stamp, IN_LINE + number, records, time_ms);
        }
    }

    /// The first ones in line, as many as a frame takes; they fly from now on. What others have stored meanwhile is
    /// taken into account.
    pub fn take_off(
        &mut self,
        id: u128,
        most_bytes: usize,
        limits: &ProducerLimits,
        time_ms: u64,
    ) -> Option<Load> {
        if self.stale {
            self.come_back(limits, time_ms);
        }
        let since = self.line.front()?.since;
        let mut load = Load { batches: Vec::new(), bodies: Vec::new(), since };
        let mut bytes = 0;
        for waiting in self.line.iter().take(PLACES) {
            bytes += waiting.batch.bytes.len() + FRONT_BYTES;
            if !load.batches.is_empty() && bytes > most_bytes {
                break;
            }
            load.batches.push(front::Batch {
                len: u32::try_from(waiting.batch.bytes.len()).unwrap_or(u32::MAX),
                crc: waiting.crc,
                records: waiting.batch.records,
                stamp: waiting.batch.producer,
            });
            load.bodies.push(waiting.batch.bytes.clone());
        }
        self.flying = load.batches.len();
        self.flight = id;
        Some(load)
    }

    /// A message has become the shard's last one. Between it and the one before some stamps may have been `skipped`, or at
    /// least something `missed`.
    pub fn came(&mut self, seq: u64, front: Option<&Front>, skipped: bool, missed: bool) {
        if skipped {
            self.table = None;
            self.gathered = None;
        }
        let ours = matches!(front, Some(Front::Frame(frame)) if self.flying > 0 && frame.id == self.flight);
        if !ours {
            self.accepted = None;
            self.stale = !self.line.is_empty();
            self.doubt |= missed && self.flying > 0;
        }
        let Some(Front::Frame(frame)) = front else { return };
        for (at, batch) in frame.batches.iter().enumerate() {
            let Some(stamp) = batch.stamp else { continue };
            let (lsn, records, time_ms) = (place::lsn(seq, at), batch.records, frame.time_ms);
            if let Some(table) = &mut self.table {
                table.record(&stamp, lsn, records, time_ms);
            } else if let Some(gathered) = &mut self.gathered {
                gathered.push(Gathered { stamp, lsn, records, time_ms });
            }
        }
        if frame.is_stamped() {
            self.uncovered.frames += 1;
            self.uncovered.since = Some(Instant::now());
        }
        self.uncovered.bytes += frame.body_len();
        if !ours {
            return;
        }
        self.flying = 0;
        self.landed = (self.flight, seq);
        for (at, batch) in frame.batches.iter().enumerate() {
            let Some(landed) = self.line.pop_front() else { break };
            self.first += 1;
            let appended = Appended {
                lsn: place::lsn(seq, at),
                records: batch.records,
                time_ms: frame.time_ms,
                repeat: false,
            };
            for waiter in landed.waiters {
                // Nobody may be waiting any more.
                let _ = waiter.reply.send(Ok(Appended { repeat: waiter.repeat, ..appended }));
            }
        }
        if self.line.is_empty() {
            self.accepted = None;
        }
    }

    /// Nothing of what flew has landed or can land any more: everybody stands in line again. With stamps known, those of
    /// all in line are judged anew.
    pub fn come_back(&mut self, limits: &ProducerLimits, time_ms: u64) {
        let flew = std::mem::take(&mut self.flying);
        self.accepted = None;
        self.stale = false;
        if std::mem::take(&mut self.doubt) {
            self.give_up_unstamped(flew);
        }
        if self.table.is_none() {
            return;
        }
        let line = std::mem::take(&mut self.line);
        for waiting in line {
            let Some(stamp) = waiting.batch.producer else {
                self.line.push_back(waiting);
                continue;
            };
            match self.judge(&stamp, limits, time_ms) {
                Ok(Judged::Store) => {
                    self.note(&stamp, waiting.batch.records, time_ms);
                    self.line.push_back(waiting);
                }
                Ok(Judged::Known(appended)) => waiting.answer(&Ok(appended)),
                Ok(Judged::InLine(at)) => {
                    if let Some(first) = self.line.get_mut(at) {
                        let waiters = waiting.waiters.into_iter();
                        first.waiters.extend(waiters.map(|waiter| Waiter { repeat: true, ..waiter }));
                    }
                }
                Err(error) => waiting.answer(&Err(error)),
            }
        }
        if self.line.is_empty() {
            self.accepted = None;
        }
    }

    /// Whether the first `count` in line were stored cannot be found out, unless their stamps tell.
    fn give_up_unstamped(&mut self, count: usize) {
        let behind = self.line.split_off(count.min(self.line.len()));
        for waiting in std::mem::replace(&mut self.line, behind).into_iter().rev() {
            if waiting.batch.producer.is_some() {
                self.line.push_front(waiting);
                continue;
            }
            let text = "appending: the answer was lost, and others have removed what was stored then; it may have been stored";
            waiting.answer(&Err(StoreError::Unreachable(text.into())));
        }
    }

    /// Answers everybody in line.
    pub fn fail(&mut self, error: &StoreError) {
        self.flying = 0;
        self.doubt = false;
        self.accepted = None;
        self.first += self.line.len() as u64;
        for waiting in std::mem::take(&mut self.line) {
            waiting.answer(&Err(error.clone()));
        }
    }

    /// Forgets producers that have been silent long enough.
    pub fn shrink(&mut self, limits: &ProducerLimits, now_ms: u64) {
        if let Some(table) = &mut self.table {
            table.shrink(limits, now_ms);
        }
    }
}

#[derive(Debug)]
enum Judged {
    Store,
    Known(Appended),
    /// The first copy stands in line, at this place.
    InLine(usize),
}

impl InLine {
    fn answer(self, outcome: &Result<Appended>) {
        for waiter in self.waiters {
            let _ = waiter.reply.send(outcome.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::front::Frame;
    use super::super::place::{NOTHING, lsn};
    use super::*;
    use bytes::Bytes;
    use futures::FutureExt as _;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    fn writer() -> Writer {
        let mut writer = Writer::default();
        writer.gather();
        assert!(writer.load(ProducerTable::default()));
        writer
    }

    fn offer(writer: &mut Writer, producer: u128, sequence: u64) -> Result<Accepted> {
        let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let stamp = (producer > 0).then_some(ProducerStamp { id: producer, epoch: 0, sequence });
        let batch = NewBatch { bytes: Bytes::from_static(b"x"), records: 1, producer: stamp };
        writer.accept(batch, 0, room, &ProducerLimits::default(), 5)
    }

    fn wait(writer: &mut Writer, producer: u128, sequence: u64) -> oneshot::Receiver<Result<Appended>> {
        match offer(writer, producer, sequence).unwrap() {
            Accepted::InLine(answer) => answer,
            Accepted::Known(known) => panic!("stored already: {known:?}"),
        }
    }

    fn take_off(writer: &mut Writer, id: u128) -> Option<Load> {
        writer.take_off(id, 1 << 20, &ProducerLimits::default(), 5)
    }

    fn frame(id: u128, load: Load) -> Front {
        let (prev, batches) = (NOTHING, load.batches);
        Front::Frame(Frame { id, first: false, prev, prev_ms: 0, time_ms: 5, stamped: 0, batches })
    }

    fn answer(waiting: oneshot::Receiver<Result<Appended>>) -> Option<Result<(Lsn, bool)>> {
        let outcome = waiting.now_or_never()?.expect("an answer");
        Some(outcome.map(|appended| (appended.lsn, appended.repeat)))
    }

    #[test]
    fn what_lands_is_answered_and_what_comes_later_flies_next() {
        let mut writer = writer();
        let (first, second) = (wait(&mut writer, 1, 0), wait(&mut writer, 0, 0));
        let load = take_off(&mut writer, 7).unwrap();
        assert_eq!(load.batches.len(), 2);
        let (repeat, third) = (wait(&mut writer, 1, 0), wait(&mut writer, 1, 1));
        writer.came(3, Some(&frame(7, load)), false, false);
        assert_eq!(answer(first), Some(Ok((lsn(3, 0), false))));
        assert_eq!(answer(repeat), Some(Ok((lsn(3, 0), true))));
        assert_eq!(answer(second), Some(Ok((lsn(3, 1), false))));
        assert!(!writer.flies() && !writer.is_idle());
        assert!(matches!(offer(&mut writer, 1, 0), Ok(Accepted::Known(known)) if known.lsn == lsn(3, 0)));
        let load = take_off(&mut writer, 8).unwrap();
        writer.came(9, Some(&frame(8, load)), false, false);
        assert_eq!(answer(third), Some(Ok((lsn(9, 0), false))));
        assert!(writer.is_idle() && take_off(&mut writer, 9).is_none());
    }

    #[test]
    fn a_batch_that_somebody_else_has_stored_meanwhile_does_not_fly() {
        for flying in [false, true] {
            let mut writer = writer();
            let (waiting, plain) = (wait(&mut writer, 1, 0), wait(&mut writer, 0, 0));
            let load = take_off(&mut writer, 7).unwrap();
            if !flying {
                writer.come_back(&ProducerLimits::default(), 5);
            }
            // The same batch, through another node.
            let theirs = Load { batches: load.batches[..1].to_vec(), ..load };
            writer.came(4, Some(&frame(99, theirs)), false, false);
            if flying {
                writer.come_back(&ProducerLimits::default(), 5);
            }
            let load = take_off(&mut writer, 8).unwrap();
            assert_eq!((load.batches.len(), load.batches[0].stamp), (1, None));
            assert_eq!(answer(waiting), Some(Ok((lsn(4, 0), true))));
            writer.came(5, Some(&frame(8, load)), false, false);
            assert_eq!(answer(plain), Some(Ok((lsn(5, 0), false))));
        }
    }

    #[test]
    fn what_others_have_stored_counts_at_once() {
        let mut writer = writer();
        let _waiting = wait(&mut writer, 0, 0);
        assert!(offer(&mut writer, 1, 1).is_err());
        let stamp = Some(ProducerStamp { id: 1, epoch: 0, sequence: 0 });
        let batch = front::Batch { len: 1, crc: 0, records: 1, stamp };
        let theirs = Load { batches: vec![batch], bodies: vec![], since: Instant::now() };
        writer.came(4, Some(&frame(99, theirs)), false, false);
        let _next = wait(&mut writer, 1, 1);
        assert!(matches!(offer(&mut writer, 1, 0), Ok(Accepted::Known(known)) if known.lsn == lsn(4, 0)));
    }

    #[test]
    fn a_failure_answers_everybody_and_leaves_no_stamp_behind() {
        let mut writer = writer();
        let (first, repeat) = (wait(&mut writer, 1, 0), wait(&mut writer, 1, 0));
        take_off(&mut writer, 7).unwrap();
        let behind = wait(&mut writer, 1, 1);
        writer.fail(&StoreError::Closed);
        for waiting in [first, repeat, behind] {
            assert_eq!(answer(waiting), Some(Err(StoreError::Closed)));
        }
        assert!(offer(&mut writer, 1, 1).is_err());
        let _again = wait(&mut writer, 1, 0);
    }

    #[test]
    fn what_may_have_landed_and_gone_unseen_is_not_sent_again_without_a_stamp() {
        let mut writer = writer();
        let (plain, exact) = (wait(&mut writer, 0, 0), wait(&mut writer, 1, 0));
        take_off(&mut writer, 7).unwrap();
        let behind = wait(&mut writer, 0, 0);
        let batch = front::Batch { len: 1, crc: 0, records: 1, stamp: None };
        let theirs = Load { batches: vec![batch], bodies: vec![], since: Instant::now() };
        writer.came(9, Some(&frame(99, theirs)), false, true);
        writer.come_back(&ProducerLimits::default(), 5);
        assert!(matches!(answer(plain), Some(Err(StoreError::Unreachable(_)))));
        assert_eq!((answer(exact), answer(behind)), (None, None));
        assert_eq!(take_off(&mut writer, 8).unwrap().batches.len(), 2);
    }

    #[test]
    fn stamps_that_were_missed_must_be_read_back() {
        let mut writer = writer();
        let _waiting = wait(&mut writer, 1, 0);
        writer.came(4, None, true, false);
        assert!(!writer.is_loaded() && writer.waits_for_stamps());
        writer.gather();
        writer.came(5, None, true, false);
        assert!(!writer.load(ProducerTable::default()), "missed while they were read back");
    }

    #[test]
    fn a_frame_takes_no_more_than_it_may() {
        let mut writer = writer();
        let waiting: Vec<_> = (0..PLACES + 10).map(|_| wait(&mut writer, 0, 0)).collect();
        assert_eq!(take_off(&mut writer, 7).unwrap().batches.len(), PLACES);
        assert_eq!(
            writer.take_off(7, 10 * (1 + FRONT_BYTES), &ProducerLimits::default(), 5).unwrap().batches.len(),
            10
        );
        assert_eq!(writer.take_off(7, 0, &ProducerLimits::default(), 5).unwrap().batches.len(), 1);
        drop(waiting);
    }
}
