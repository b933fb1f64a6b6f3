//! The live state of one subscription and every decision about it, without waiting or I/O.

use super::ConsumerId;
use super::ack_window::{AckWindow, Delivery};
use super::assignment::Assignment;
use super::delivery::{self, Outgoing};
use super::outbox::Outbox;
use crate::error::ServerError;
use crate::store::{GapKind, Lsn, ReadChunk, ReadLimits, ShardId, StoredBatch};
use hstreamdb_proto::api::{Consumer, RecordId};
use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Most batches in flight, so that the memory of a subscription is bounded whatever `maxUnackedRecords` says.
const MAX_IN_FLIGHT: usize = 1 << 20;
/// Most batches of one read.
const READ_BATCHES: usize = 100;
/// Batches that are read even if the window has room for fewer.
const READ_AHEAD: usize = 16;
/// Most bytes of one read, the first batch aside.
const READ_BYTES: usize = 512 << 10;
/// Most bytes that were read and wait because the window is full.
const AHEAD_BYTES: usize = 4 << 20;
/// Pause of a shard after a failed read.
const RETRY: Duration = Duration::from_secs(1);

/// What the dispatcher does next, outside the lock.
#[derive(Debug, PartialEq)]
pub(super) enum Job {
    /// Read new batches and hand them to [`State::arrived`].
    Read { shard: ShardId, from: Lsn, limits: ReadLimits },
    /// Read one batch again and hand what of it is open to [`State::again`].
    Redeliver { shard: ShardId, lsn: Lsn, open: Vec<Range<u32>> },
    /// Nothing until a wake-up, or until this time.
    Wait(Option<Instant>),
}

#[derive(Debug)]
struct Shard {
    window: AckWindow,
    /// Where the next read begins.
    next: Lsn,
    tail: Lsn,
    /// Read, but not delivered yet.
    ahead: VecDeque<StoredBatch>,
    retry_at: Option<Instant>,
    /// The last checkpoint known to be durable; `None` before the first.
    persisted: Option<Lsn>,
    /// Where delivery began; a checkpoint below says nothing new.
    started_after: Lsn,
}

#[derive(Debug)]
struct Attached {
    name: String,
    uri: String,
    user_agent: String,
    outbox: Arc<Outbox>,
}

/// State of one subscription on this node.
#[derive(Debug)]
pub(super) struct State {
    subscription: String,
    ack_timeout: Duration,
    max_unacked: u64,
    shards: BTreeMap<ShardId, Shard>,
    consumers: BTreeMap<ConsumerId, Attached>,
    assignment: Assignment,
    unacked: u64,
    in_flight: usize,
    next_consumer: u64,
    /// The shard whose next batch waits for a larger part of the window than is free. Others wait behind it,
    /// or their smaller batches would take whatever becomes free for ever.
    reserved: Option<ShardId>,
    /// A batch went out since this was cleared, so shards looked at earlier may be able to send now.
    sent: bool,
    /// The shard that was served last; the next one comes first.
    cursor: ShardId,
    ended: Option<ServerError>,
}

/// Where a shard continues.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) shard: ShardId,
    /// Everything up to here is done.
    pub(super) done: Lsn,
    /// The durable checkpoint, if there is one.
    pub(super) checkpoint: Option<Lsn>,
}

impl State {
    pub(super) fn new(
        subscription: String,
        ack_timeout: Duration,
        max_unacked: u64,
        starts: impl IntoIterator<Item = Start>,
    ) -> Self {
        let shards: BTreeMap<ShardId, Shard> = starts
            .into_iter()
            .map(|start| {
                let shard = Shard {
                    window: AckWindow::new(start.done),
                    next: start.done.saturating_add(1),
                    tail: 0,
                    ahead: VecDeque::new(),
                    retry_at: None,
                    persisted: start.checkpoint,
                    started_after: start.done,
                };
                (start.shard, shard)
            })
            .collect();
        State {
            subscription,
            ack_timeout,
            max_unacked,
            assignment: Assignment::new(shards.keys().copied()),
            shards,
            consumers: BTreeMap::new(),
            unacked: 0,
            in_flight: 0,
            next_consumer: 0,
            reserved: None,
            sent: false,
            cursor: 0,
            ended: None,
        }
    }

    /// Adds a consumer; `None` when one of that name is attached.
    pub(super) fn attach(
        &mut self,
        name: String,
        uri: String,
        user_agent: String,
    ) -> Option<(ConsumerId, Arc<Outbox>)> {
        if self.consumers.values().any(|consumer| consumer.name == name) {
            return None;
        }
        let id = ConsumerId(self.next_consumer);
        self.next_consumer += 1;
        let outbox = Arc::new(Outbox::default());
        self.consumers.insert(id, Attached { name, uri, user_agent, outbox: outbox.clone() });
        self.assignment.attach(id);
        Some((id, outbox))
    }

    /// Removes a consumer. What never left its outbox is due at once, the rest when its time is up.
    pub(super) fn detach(&mut self, id: ConsumerId, now: Instant) {
        let Some(consumer) = self.consumers.remove(&id) else { return };
        let first_unsent = consumer.outbox.close();
        for shard in self.shards.values_mut() {
            shard.window.expire(id, first_unsent, now);
        }
        self.assignment.detach(id);
    }

    pub(super) fn consumers(&self) -> Vec<Consumer> {
        let list = self.consumers.values().map(|consumer| Consumer {
            name: consumer.name.clone(),
            uri: consumer.uri.clone(),
            user_agent: consumer.user_agent.clone(),
        });
        list.collect()
    }

    pub(super) fn has_consumers(&self) -> bool {
        !self.consumers.is_empty()
    }

    /// Ends everything; every consumer's stream ends with `reason`. Only the first end counts.
    pub(super) fn end(&mut self, reason: ServerError) {
        for consumer in std::mem::take(&mut self.consumers).into_values() {
            consumer.outbox.end(Err(reason.clone()));
        }
        for shard in self.shards.values_mut() {
            shard.ahead.clear();
        }
        self.ended.get_or_insert(reason);
    }

    pub(super) fn ended(&self) -> Option<&ServerError> {
        self.ended.as_ref()
    }

    /// Acknowledges records; ids that are unknown, of other shards or acknowledged already are ignored.
    /// True if anything changed.
    pub(super) fn ack(&mut self, ids: &[RecordId]) -> bool {
        let mut changed = false;
        for id in ids {
            let Some(shard) = self.shards.get_mut(&id.shard_id) else { continue };
            let batches = shard.window.batches();
            if shard.window.ack(id.batch_id, id.batch_index) {
                changed = true;
                self.unacked -= 1;
                self.in_flight -= batches - shard.window.batches();
            }
        }
        changed
    }

    /// Notes how far a shard can be read.
    pub(super) fn tail(&mut self, shard: ShardId, tail: Lsn) {
        if let Some(shard) = self.shards.get_mut(&shard) {
            shard.tail = shard.tail.max(tail);
        }
    }

    /// Forgets a shard whose data is gone.
    pub(super) fn remove_shard(&mut self, id: ShardId) {
        if let Some(shard) = self.shards.remove(&id) {
            self.unacked -= shard.window.unacked();
            self.in_flight -= shard.window.batches();
            self.assignment.remove(id);
            self.reserved.take_if(|reserved| *reserved == id);
        }
    }

    /// Decides what comes next; batches that were read already go out on the way.
    pub(super) fn next_job(&mut self, now: Instant) -> Job {
        loop {
            self.sent = false;
            let job = self.look_around(now);
            if !self.sent || !matches!(job, Job::Wait(_)) {
                return job;
            }
        }
    }

    fn look_around(&mut self, now: Instant) -> Job {
        let after = (Bound::Excluded(self.cursor), Bound::Unbounded);
        let order: Vec<ShardId> =
            self.shards.range(after).chain(self.shards.range(..=self.cursor)).map(|(id, _)| *id).collect();
        let mut wake_at: Option<Instant> = None;
        for id in order {
            if let Some(job) = self.job_of(id, now) {
                self.cursor = id;
                return job;
            }
            if let Some(shard) = self.shards.get(&id) {
                let times = [shard.window.next_deadline(now), shard.retry_at];
                wake_at = times.into_iter().flatten().chain(wake_at).min();
            }
        }
        Job::Wait(wake_at)
    }

    fn job_of(&mut self, id: ShardId, now: Instant) -> Option<Job> {
        let owner = self.assignment.owner(id);
        let shard = self.shards.get_mut(&id)?;
        if shard.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        shard.retry_at = None;
        while let Some(lsn) = shard.window.first_due(now) {
            // Without a consumer it stays due, and the next one gets it at once.
            let owner_id = owner?;
            let owner = self.consumers.get(&owner_id)?;
            // What still waits to leave for the same consumer would only arrive twice.
            let waits = shard
                .window
                .last_delivery(lsn)
                .is_some_and(|last| last.consumer == owner_id && !owner.outbox.took(last.message));
            if waits {
                shard.window.postpone(lsn, now + self.ack_timeout);
                continue;
            }
            // New batches stay behind what is due, so a full outbox holds back both.
            owner.outbox.room()?;
            let open = shard.window.open(lsn)?;
            return Some(Job::Redeliver { shard: id, lsn, open });
        }
        self.send_ahead(id, now);
        let (messages, bytes) = self.may_send(id)?;
        let shard = self.shards.get(&id)?;
        if !shard.ahead.is_empty() || shard.next > shard.tail {
            return None;
        }
        let window = self.max_unacked.saturating_sub(self.unacked);
        let window = usize::try_from(window).unwrap_or(usize::MAX);
        // A window that opens by one record at a time should not mean one read per record.
        let least = if self.ahead_bytes() < AHEAD_BYTES / 2 { READ_AHEAD } else { 1 };
        let limits = ReadLimits {
            max_batches: messages.min(READ_BATCHES).min(window.max(least)),
            max_bytes: bytes.min(READ_BYTES),
        };
        Some(Job::Read { shard: id, from: shard.next, limits })
    }

    /// Room for new batches of a shard, if any may be sent now.
    fn may_send(&self, id: ShardId) -> Option<(usize, usize)> {
        let behind = self.reserved.filter(|reserved| *reserved != id && self.room_for(*reserved).is_some());
        if behind.is_some() || self.in_flight >= MAX_IN_FLIGHT || self.unacked >= self.max_unacked {
            return None;
        }
        self.room_for(id)
    }

    /// Room for new batches of a shard at its owner, whatever the window says.
    fn room_for(&self, id: ShardId) -> Option<(usize, usize)> {
        let owner = self.assignment.owner(id)?;
        let shard = self.shards.get(&id)?;
        // After a move the old owner's batches come first, as long as it is there to acknowledge them.
        let foreign = |holder: ConsumerId| holder != owner && self.consumers.contains_key(&holder);
        if shard.retry_at.is_some() || shard.window.holders().any(foreign) {
            return None;
        }
        self.consumers.get(&owner)?.outbox.room()
    }

    /// True if a batch of that many records fits into the window: always if nothing is outstanding, because a
    /// batch larger than the window would wait for ever.
    fn fits(&self, records: u32) -> bool {
        self.max_unacked > 0
            && (self.unacked == 0 || self.unacked.saturating_add(u64::from(records)) <= self.max_unacked)
    }

    fn send_ahead(&mut self, id: ShardId, now: Instant) {
        while self.may_send(id).is_some() {
            let Some(records) = self.shards.get(&id).and_then(|s| s.ahead.front()).map(|b| b.records) else {
                return;
            };
            if !self.fits(records) {
                self.reserved.get_or_insert(id);
                return;
            }
            self.reserved.take_if(|reserved| *reserved == id);
            let Some(batch) = self.shards.get_mut(&id).and_then(|shard| shard.ahead.pop_front()) else {
                return;
            };
            self.send(id, batch, now);
        }
    }

    fn send(&mut self, id: ShardId, batch: StoredBatch, now: Instant) {
        self.sent = true;
        let Some(owner) = self.assignment.owner(id) else { return };
        let (Some(shard), Some(consumer)) = (self.shards.get_mut(&id), self.consumers.get(&owner)) else {
            return;
        };
        let sent = match delivery::whole(id, &batch) {
            Ok(Outgoing { message, bytes }) => consumer.outbox.push(message, bytes),
            Err(reason) => {
                tracing::error!(
                    subscription = self.subscription,
                    shard = id,
                    lsn = batch.lsn,
                    reason,
                    "a stored batch cannot be delivered and counts as acknowledged"
                );
                shard.window.skip(batch.lsn);
                return;
            }
        };
        // A consumer that went away this moment gets it marked as sent, never, which is due at once.
        let (message, deadline) = sent.map_or((u64::MAX, now), |number| (number, now + self.ack_timeout));
        let before = (shard.window.unacked(), shard.window.batches());
        shard.window.deliver(batch.lsn, batch.records, Delivery { consumer: owner, message }, deadline);
        self.unacked += shard.window.unacked() - before.0;
        self.in_flight += shard.window.batches() - before.1;
    }

    /// Takes the result of a [`Job::Read`].
    pub(super) fn arrived(&mut self, id: ShardId, chunk: ReadChunk, now: Instant) {
        if self.ended.is_some() {
            return;
        }
        let Some(shard) = self.shards.get_mut(&id) else { return };
        if let Some(gap) = chunk.gap {
            if gap.kind == GapKind::DataLoss {
                tracing::error!(
                    subscription = self.subscription,
                    shard = id,
                    from = gap.from,
                    to = gap.to,
                    "acknowledged data is lost; the gap counts as acknowledged"
                );
            }
            shard.window.skip(gap.to);
        }
        let stuck = chunk.gap.is_none() && chunk.batches.is_empty() && chunk.next <= shard.next;
        shard.next = shard.next.max(chunk.next);
        shard.ahead.extend(chunk.batches);
        if stuck {
            // The tail says there is something, the read says there is not: never spin on that.
            shard.retry_at = Some(now + RETRY);
        }
        self.send_ahead(id, now);
        self.limit_ahead(id);
    }

    fn ahead_bytes(&self) -> usize {
        self.shards.values().flat_map(|shard| &shard.ahead).map(|batch| batch.bytes.len()).sum()
    }

    /// Gives back what was read too far ahead; it is read again later.
    fn limit_ahead(&mut self, id: ShardId) {
        let Some(shard) = self.shards.get(&id) else { return };
        if shard.ahead.is_empty() || self.ahead_bytes() <= AHEAD_BYTES {
            return;
        }
        if let Some(shard) = self.shards.get_mut(&id)
            && let Some(first) = shard.ahead.front()
        {
            shard.next = first.lsn;
            shard.ahead.clear();
            self.reserved.take_if(|reserved| *reserved == id);
        }
    }

    /// Takes the result of a [`Job::Redeliver`].
    pub(super) fn again(&mut self, id: ShardId, lsn: Lsn, outgoing: Outgoing, now: Instant) {
        let owner = self.assignment.owner(id);
        let Some(shard) = self.shards.get_mut(&id) else { return };
        // Acknowledged meanwhile, or nobody there: the next round decides.
        let (Some(owner), Some(_)) = (owner, shard.window.open(lsn)) else { return };
        let Some(consumer) = self.consumers.get(&owner) else { return };
        if let Some(message) = consumer.outbox.push(outgoing.message, outgoing.bytes) {
            shard.window.redeliver(lsn, Delivery { consumer: owner, message }, now + self.ack_timeout);
        }
    }

    /// A batch that was delivered cannot be read any more: it counts as acknowledged.
    pub(super) fn gone(&mut self, id: ShardId, lsn: Lsn) {
        if let Some(shard) = self.shards.get_mut(&id) {
            let batches = shard.window.batches();
            self.unacked -= shard.window.drop_batch(lsn);
            self.in_flight -= batches - shard.window.batches();
        }
    }

    /// A batch could not be read again: try later, and let new ones pass meanwhile.
    pub(super) fn not_again(&mut self, id: ShardId, lsn: Lsn, now: Instant) {
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.window.postpone(lsn, now + RETRY);
        }
    }

    /// A read failed: leave the shard alone for a moment.
    pub(super) fn failed(&mut self, id: ShardId, now: Instant) {
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.retry_at = Some(now + RETRY);
        }
    }

    /// Checkpoints that are ahead of the durable ones.
    pub(super) fn unsaved(&self) -> Vec<(ShardId, Lsn)> {
        let ahead = |(id, shard): (&ShardId, &Shard)| {
            let committed = shard.window.committed();
            let saved = shard.persisted.unwrap_or(shard.started_after);
            (committed > saved).then_some((*id, committed))
        };
        self.shards.iter().filter_map(ahead).collect()
    }

    /// Notes that a checkpoint is durable.
    pub(super) fn saved(&mut self, id: ShardId, lsn: Lsn) {
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.persisted = shard.persisted.max(Some(lsn));
        }
    }

    /// The durable checkpoint of every shard, 0 where there is none.
    pub(super) fn checkpoints(&self) -> Vec<(ShardId, Lsn)> {
        self.shards.iter().map(|(id, shard)| (*id, shard.persisted.unwrap_or(0))).collect()
    }
}

#[cfg(test)]
mod tests;
