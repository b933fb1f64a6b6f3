//! Appending. Per shard one frame is under way at a time; what comes meanwhile is gathered into the next one.
//!
//! A frame is stored only if the shard's last message is the one that was expected. So whoever appends knows everything
//! before it, and a frame whose answer was lost does no harm: it has landed, and then it comes by like any other, or another
//! message takes its place, and then it never can.

use super::Engine;
use super::chunk::Part;
use super::front::{Frame, Front, Mark};
use super::lane::Lane;
use super::pending::Accepted;
use super::shard::Shard;
use super::wire::{FIRST_PAUSE, PublishError, rest, unreachable};
use crate::store::jetstream::FRAME_ROOM;
use crate::store::{Appended, Lsn, NewBatch, Result, StampError, StoreError};
use async_nats::HeaderMap;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long what others have stored may take to come by before it is asked for.
const COMES_BY: Duration = Duration::from_secs(1);

/// What a frame is given although its batches have waited long already.
const LEAST: Duration = Duration::from_secs(1);

/// What became of a frame.
#[derive(Debug)]
enum Flight {
    /// It is stored, at this sequence, and who waits for it was answered.
    Landed(u64),
    /// Somebody else's message came first.
    Overtaken,
    /// Nothing more is tried.
    Failed(StoreError),
}

impl Engine {
    pub async fn append(self: &Arc<Self>, shard: Arc<Shard>, batch: NewBatch) -> Result<Appended> {
        let most = self.settings.max_batch_bytes;
        if batch.bytes.len() > most {
            return Err(StoreError::Io(format!(
                "a batch of {} bytes cannot be stored; the limit is {most}",
                batch.bytes.len()
            )));
        }
        let crc = crc32c::crc32c(&batch.bytes);
        // True once everything that others did has been heard of.
        let mut sure = false;
        let (accepted, start) = loop {
            // Whoever polls first is first in line, also if the scheduler's budget is used up.
            let turn = match shard.turn.try_lock() {
                Ok(turn) => turn,
                Err(_) => {
                    let turn = tokio::task::unconstrained(shard.turn.lock());
                    timeout(self.settings.timeout, turn).await.map_err(|_| crowded())?
                }
            };
            if batch.producer.is_some() {
                self.load_stamps(&shard).await?;
            }
            let room = timeout(self.settings.timeout, self.room(batch.bytes.len())).await;
            let room = room.map_err(|_| crowded())??;
            let refused = {
                let mut state = shard.live()?;
                if self.is_closed() {
                    return Err(StoreError::Closed);
                }
                let time_ms = state.known.time_ms.max((self.settings.clock)());
                let writer = state.writer();
                if batch.producer.is_some() && !writer.is_loaded() {
                    // Others wrote meanwhile, and more than came by.
                    continue;
                }
                match writer.accept(batch.clone(), crc, room, &self.settings.producers, time_ms) {
                    Ok(accepted) => break (accepted, !std::mem::replace(&mut writer.running, true)),
                    Err(refused) => refused,
                }
            };
            drop(turn);
            // What another node has stored decides, and may not have come by yet.
            let final_word =
                matches!(refused, StoreError::Stamp(StampError::Fenced { .. } | StampError::TooOld { .. }));
            if sure || final_word {
                return Err(refused);
            }
            shard.lane.catch_up().await?;
            sure = true;
        };
        if start {
            tokio::spawn(run(Arc::clone(self), Arc::clone(&shard)));
        }
        match accepted {
            Accepted::Known(appended) => Ok(appended),
            Accepted::InLine(answer) => answer.await.unwrap_or(Err(StoreError::Closed)),
        }
    }

    /// Makes sure that the last message of a shard is known.
    pub async fn hear(&self, shard: &Shard) -> Result<()> {
        if shard.known()?.is_heard() {
            return Ok(());
        }
        shard.lane.catch_up().await?;
        if shard.known()?.is_heard() {
            return Ok(());
        }
        // Nothing was ever purged without something in its place, so all of it went by age while no node was there.
        if self.mark(shard, None, 0).await? || shard.known()?.is_heard() {
            return Ok(());
        }
        Err(unreachable(
            "asking for the last message of a shard",
            "what the servers say does not fit together",
        ))
    }

    /// Puts a mark in the place of everything up to the last message, if that is `after`; false if it is another one.
    pub async fn mark(&self, shard: &Shard, tail: Option<Lsn>, after: u64) -> Result<bool> {
        let (time_ms, stamped) = {
            let state = shard.live()?;
            (state.known.time_ms, state.known.stamped)
        };
        let mark = Front::Mark(Mark { id: rand::random(), tail, time_ms, stamped });
        let mut headers = Lane::headers(&mark, shard.spec.shard, after);
        headers.insert("Nats-Rollup", "sub");
        let deadline = Instant::now() + self.settings.timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let reason = match shard.lane.wire.publish(&shard.subject(), headers.clone(), Bytes::new()).await
            {
                Ok(seq) => {
                    shard.apply(seq, Some(&mark));
                    return Ok(true);
                }
                Err(PublishError::Wrong(last)) => {
                    // It may be this mark, whose answer was lost.
                    let _ = timeout(COMES_BY, shard.heard(last.unwrap_or(after + 1))).await;
                    let known = shard.known()?;
                    if known.last == after {
                        shard.lane.catch_up().await?;
                    }
                    let known = shard.known()?;
                    return Ok(known.marked && known.last > after);
                }
                Err(PublishError::Full(reason)) => return Err(StoreError::DiskFull(reason)),
                Err(PublishError::Refused(reason)) => return Err(StoreError::Io(reason)),
                Err(PublishError::Unclear(reason) | PublishError::NotSent(reason)) => reason,
            };
            rest(&mut pause, deadline).await.map_err(|()| unreachable("marking a shard", &reason))?;
        }
    }

    /// Sends one frame until its fate is known.
    async fn fly(
        &self,
        shard: &Shard,
        after: u64,
        headers: HeaderMap,
        payload: Bytes,
        frame: &Frame,
        deadline: Instant,
    ) -> Flight {
        let subject = shard.subject();
        let mut pause = FIRST_PAUSE;
        // Whether an earlier try may have stored it.
        let mut unclear = false;
        loop {
            let sent = shard.lane.wire.publish(&subject, headers.clone(), payload.clone());
            let outcome = tokio::select! {
                outcome = sent => outcome,
                // It came by before the answer did, or somebody else's did: then the answer says nothing new.
                () = shard.moved_on(after) => return self.landed(shard, frame.id),
                () = self.end.cancelled() => return Flight::Failed(StoreError::Closed),
            };
            let reason = match outcome {
                Ok(seq) => {
                    shard.apply(seq, Some(&Front::Frame(frame.clone())));
                    return self.landed(shard, frame.id);
                }
                Err(PublishError::Wrong(Some(0))) => {
                    // Deleted, or gone by age.
                    if let Err(error) = self.directory.fresh().await {
                        return Flight::Failed(error);
                    }
                    if self.directory.find(shard.spec.shard).is_none() {
                        return Flight::Failed(shard.not_found());
                    }
                    if let Err(error) = shard.lane.catch_up().await {
                        return Flight::Failed(error);
                    }
                    shard.found_empty(after);
                    return self.landed(shard, frame.id);
                }
                Err(PublishError::Wrong(last)) => {
                    let heard = shard.heard(last.unwrap_or(after + 1));
                    if timeout(COMES_BY, heard).await.is_ok() {
                        return self.landed(shard, frame.id);
                    }
                    if shard.lane.catch_up().await.is_ok()
                        && shard.known().is_ok_and(|known| known.last != after)
                    {
                        return self.landed(shard, frame.id);
                    }
                    "the server expects another message than has come by".to_owned()
                }
                Err(PublishError::Unclear(reason)) => {
                    unclear = true;
                    reason
                }
                Err(PublishError::NotSent(reason)) => reason,
                Err(PublishError::Full(reason)) if !unclear => {
                    return Flight::Failed(StoreError::DiskFull(reason));
                }
                Err(PublishError::Refused(reason)) if !unclear => {
                    return Flight::Failed(StoreError::Io(format!("JetStream refuses a batch: {reason}")));
                }
                Err(PublishError::Full(reason) | PublishError::Refused(reason)) => reason,
            };
            if rest(&mut pause, deadline).await.is_err() {
                let outcome = if unclear { "it may have been stored" } else { "nothing was stored" };
                return Flight::Failed(unreachable("appending", &format!("{reason}; {outcome}")));
            }
        }
    }

    fn landed(&self, shard: &Shard, id: u128) -> Flight {
        let state = shard.state();
        let Some(writer) = state.writer.as_ref().filter(|writer| !writer.flies()) else {
            return Flight::Overtaken;
        };
        // Who waited has been told already if it is not.
        writer.landed(id).map_or(Flight::Failed(StoreError::Closed), Flight::Landed)
    }
}

fn crowded() -> StoreError {
    unreachable("appending", "too much waits to be stored; nothing was stored")
}

/// Sends what stands in line until nothing does.
async fn run(engine: Arc<Engine>, shard: Arc<Shard>) {
    let stopped = Stopped(&shard);
    loop {
        let prepared = async {
            engine.hear(&shard).await?;
            let waits = shard.live()?.writer().waits_for_stamps();
            if waits { engine.load_stamps(&shard).await } else { Ok(()) }
        };
        if let Err(error) = prepared.await {
            shard.state().writer().fail(&error);
        }
        let id = rand::random();
        let most = engine.settings.frame_bytes.min(engine.wire.max_message().saturating_sub(FRAME_ROOM));
        let (after, mut frame, load) = {
            let mut state = shard.state();
            if !state.known.is_heard() && !state.writer().is_idle() {
                continue;
            }
            let frame = state.frame(id, (engine.settings.clock)());
            let after = state.known.last;
            let writer = state.writer();
            if writer.waits_for_stamps() {
                continue;
            }
            let limits = &engine.settings.producers;
            let Some(load) = writer.take_off(id, most, limits, frame.time_ms) else {
                writer.running = false;
                std::mem::forget(stopped);
                break;
            };
            (after, frame, load)
        };
        frame.batches = load.batches;
        let front = Front::Frame(frame.clone());
        let mut headers = Lane::headers(&front, shard.spec.shard, after);
        if frame.first {
            // The mark goes with this frame: nobody can take it for the last message any more.
            headers.insert("Nats-Rollup", "sub");
        }
        if let Some(secs) = engine.lifetime_secs(&shard) {
            headers.insert("Nats-TTL", format!("{secs}s"));
        }
        let payload = join(&load.bodies);
        let deadline = (load.since + engine.settings.timeout).max(Instant::now() + LEAST);
        match engine.fly(&shard, after, headers, payload, &frame, deadline).await {
            Flight::Landed(seq) => {
                let now_ms = frame.time_ms;
                engine.cache.put(shard.spec.shard, Part::of(seq, frame, load.bodies));
                shard.state().writer().shrink(&engine.settings.producers, now_ms);
                engine.snapshot_if_due(&shard);
            }
            Flight::Overtaken => {
                let mut state = shard.state();
                let time_ms = state.known.time_ms.max((engine.settings.clock)());
                state.writer().come_back(&engine.settings.producers, time_ms);
            }
            Flight::Failed(error) => {
                // Those behind would be judged by what has not happened.
                shard.state().writer().fail(&error);
            }
        }
    }
}

fn join(bodies: &[Bytes]) -> Bytes {
    match bodies {
        [body] => body.clone(),
        bodies => {
            let mut joined = BytesMut::with_capacity(bodies.iter().map(Bytes::len).sum());
            bodies.iter().for_each(|body| joined.extend_from_slice(body));
            joined.freeze()
        }
    }
}

/// Whoever waits is told if the task dies.
struct Stopped<'a>(&'a Shard);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let writer = state.writer();
        writer.running = false;
        writer.fail(&StoreError::Io(
            "the task that appends died; whether this batch is stored is not known".into(),
        ));
    }
}
