//! The live state of one subscription and every decision about it, without waiting or I/O.

use super::ConsumerId;
use super::ack_window::Delivery;
use super::agenda::Agenda;
use super::assignment::Assignment;
use super::delivery::{self, Outgoing};
use super::early_acks::EarlyAcks;
use super::outbox::Outbox;
use super::shard::Shard;
use super::share::{Fit, Shares};
use crate::error::{Class, ServerError};
use crate::limits::Budget;
use crate::stats::SubscriptionStats;
use crate::store::{GapKind, Lsn, ReadChunk, ReadLimits, ShardId, StoredBatch};
use hstreamdb_proto::api::{Consumer, RecordId};
use std::collections::BTreeMap;
use std::ops::Range;
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
/// How long others wait behind a batch that is too large for what is free, and how long it then waits for
/// them: it must not starve, nor may they when what is outstanding is never acknowledged.
const PATIENCE: Duration = Duration::from_secs(1);

/// Number of a message that never was one: its batch is due without having gone out.
const NEVER: u64 = u64::MAX;

/// Pause after the node's memory for deliveries was found taken.
const MEMORY_RETRY: Duration = Duration::from_millis(100);

/// What the dispatcher does next, outside the lock.
#[derive(Debug, PartialEq)]
pub(super) enum Job {
    /// Read new batches and hand them to [`State::arrived`].
    Read { shard: ShardId, from: Lsn, limits: ReadLimits },
    /// Read one batch again and hand what of it is open to [`State::again`].
    Redeliver { shard: ShardId, lsn: Lsn, open: Vec<Range<u32>> },
    /// Read one batch again and put what of it is open aside for good, then tell [`State::gone`].
    Bury { shard: ShardId, lsn: Lsn, open: Vec<Range<u32>>, deliveries: u32 },
    /// Nothing until a wake-up, or until this time.
    Wait(Option<Instant>),
}

/// What a subscription asks for.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// Its name, for the log.
    pub(super) subscription: String,
    /// How long a delivered record may wait for its acknowledgement.
    pub(super) ack_timeout: Duration,
    /// Most records in flight; 0 delivers nothing.
    pub(super) max_unacked: u64,
    /// Whether what a departed consumer has goes to others at once.
    pub(super) redeliver_on_disconnect: bool,
    /// Times a record goes out before it is buried; 0 is no limit.
    pub(super) max_deliveries: u32,
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

/// How far a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) shard: ShardId,
    /// Everything up to here is acknowledged.
    pub(super) committed: Lsn,
    /// Everything up to here was delivered.
    pub(super) delivered: Lsn,
    /// Records delivered and not acknowledged.
    pub(super) unacked: u64,
}

/// A consumer as it introduces itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Introduction {
    pub(super) name: String,
    pub(super) uri: String,
    pub(super) user_agent: String,
    /// It wants to know which checkpoints are durable.
    pub(super) confirm: bool,
    /// What tells it from others of its name.
    pub(super) instance: Option<String>,
    /// Memory for what is on its way to it; without one, only the limits of its outbox hold.
    pub(super) memory: Option<Arc<Budget>>,
}

#[derive(Debug)]
struct Attached {
    introduction: Introduction,
    outbox: Arc<Outbox>,
    /// The shard whose next batch waits for more room than this consumer can have now; its others wait behind.
    waiting: Option<ShardId>,
}

/// State of one subscription on this node.
#[derive(Debug)]
pub(super) struct State {
    rules: Rules,
    shards: BTreeMap<ShardId, Shard>,
    consumers: BTreeMap<ConsumerId, Attached>,
    assignment: Assignment,
    agenda: Agenda,
    shares: Shares,
    in_flight: usize,
    ahead_bytes: usize,
    next_consumer: u64,
    /// The shard whose next batch waits for a larger part of the window than is free, and since when. Others
    /// wait behind it, or their smaller batches would take whatever becomes free for ever.
    reserved: Option<(ShardId, Instant)>,
    /// What was acknowledged and has not come up for delivery.
    early: EarlyAcks,
    /// Something was passed over, so that a checkpoint may move without an acknowledgement.
    passed_over: bool,
    /// A batch went out since this was cleared, so shards looked at earlier may be able to send now.
    sent: bool,
    ended: Option<ServerError>,
    stats: Arc<SubscriptionStats>,
}

impl State {
    pub(super) fn new(rules: Rules, starts: impl IntoIterator<Item = Start>, now: Instant) -> Self {
        let shards: BTreeMap<ShardId, Shard> = starts
            .into_iter()
            .map(|start| (start.shard, Shard::new(start.done, start.checkpoint, now)))
            .collect();
        State {
            shares: Shares::new(rules.max_unacked),
            rules,
            assignment: Assignment::new(shards.keys().copied()),
            shards,
            consumers: BTreeMap::new(),
            agenda: Agenda::default(),
            in_flight: 0,
            ahead_bytes: 0,
            next_consumer: 0,
            reserved: None,
            early: EarlyAcks::default(),
            passed_over: false,
            sent: false,
            ended: None,
            stats: Arc::default(),
        }
    }

    /// Counts there what happens.
    pub(super) fn counted_by(self, stats: Arc<SubscriptionStats>) -> Self {
        State { stats, ..self }
    }

    /// Other rules from now on; ack timeouts that run already keep their deadlines.
    pub(super) fn set_policy(&mut self, redeliver_on_disconnect: bool, max_deliveries: u32) {
        self.rules.redeliver_on_disconnect = redeliver_on_disconnect;
        self.rules.max_deliveries = max_deliveries;
    }

    /// Adds a consumer; `None` when one of that name is attached. An earlier call of the same consumer, which this node has
    /// not seen end, is over by that: nobody listens there.
    pub(super) fn attach(
        &mut self,
        introduction: Introduction,
        now: Instant,
    ) -> Option<(ConsumerId, Arc<Outbox>)> {
        let mut others = self.consumers.iter();
        if let Some((&id, other)) = others.find(|(_, other)| other.introduction.name == introduction.name) {
            if introduction.instance.is_none() || other.introduction.instance != introduction.instance {
                return None;
            }
            let outbox = other.outbox.clone();
            self.detach(id, now);
            outbox.end(Err(ServerError::new(Class::ServerNotAvailable, "the consumer has called again")));
        }
        let id = ConsumerId(self.next_consumer);
        self.next_consumer += 1;
        let outbox = Arc::new(Outbox::new(introduction.memory.clone()));
        if introduction.confirm {
            for (shard, state) in &self.shards {
                if let Some(checkpoint) = state.persisted {
                    outbox.confirm(*shard, checkpoint);
                }
            }
        }
        self.consumers.insert(id, Attached { introduction, outbox: outbox.clone(), waiting: None });
        self.assignment.attach(id);
        self.shares.attach(id);
        self.shares.share_among(|consumer| self.assignment.owns(consumer));
        Some((id, outbox))
    }

    /// Removes a consumer. What never left its outbox is due at once, the rest when its time is up, or at once
    /// as well if the subscription asks for that.
    pub(super) fn detach(&mut self, id: ConsumerId, now: Instant) {
        let Some(consumer) = self.consumers.remove(&id) else { return };
        self.stats.not_sent(consumer.outbox.records());
        let first_unsent = consumer.outbox.close();
        let from = if self.rules.redeliver_on_disconnect { 0 } else { first_unsent };
        let mut touched = Vec::new();
        for (shard, state) in &mut self.shards {
            if state.window.held_by(id) > 0 {
                state.window.expire(id, from, now);
                touched.push(*shard);
            }
        }
        touched.into_iter().for_each(|shard| self.note(shard));
        self.assignment.detach(id);
        self.shares.detach(id);
        self.shares.share_among(|consumer| self.assignment.owns(consumer));
    }

    pub(super) fn consumers(&self) -> Vec<Consumer> {
        let list = self.consumers.values().map(|Attached { introduction, .. }| Consumer {
            name: introduction.name.clone(),
            uri: introduction.uri.clone(),
            user_agent: introduction.user_agent.clone(),
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
            shard.drop_ahead();
        }
        self.ahead_bytes = 0;
        self.ended.get_or_insert(reason);
        self.stats.in_flight(0);
    }

    pub(super) fn ended(&self) -> Option<&ServerError> {
        self.ended.as_ref()
    }

    /// Acknowledges records; ids that are unknown, of other shards or acknowledged already are ignored. What was not
    /// delivered by this process counts once it would be, if the consumer is `informed` which incarnation of the
    /// subscription it acknowledges. True if anything changed.
    pub(super) fn ack(&mut self, ids: &[RecordId], informed: bool) -> bool {
        let mut changed = false;
        for ids in ids.chunk_by(|one, next| one.shard_id == next.shard_id) {
            let Some(id) = ids.first().map(|id| id.shard_id) else { continue };
            let Some(shard) = self.shards.get_mut(&id) else { continue };
            let batches = shard.window.batches();
            let mut here = false;
            for id in ids {
                if let Some(holder) = shard.window.ack(id.batch_id, id.batch_index) {
                    here = true;
                    self.shares.give_back(holder, 1);
                } else if informed && id.batch_id > shard.window.position() {
                    self.early.note(id.shard_id, id.batch_id, id.batch_index);
                }
            }
            self.in_flight -= batches - shard.window.batches();
            if here {
                changed = true;
                self.note(id);
            }
        }
        changed
    }

    /// Notes how far a shard can be read.
    pub(super) fn tail(&mut self, shard: ShardId, tail: Lsn) {
        if let Some(state) = self.shards.get_mut(&shard) {
            state.tail = state.tail.max(tail);
            self.note(shard);
        }
    }

    /// Forgets a shard whose data is gone.
    pub(super) fn remove_shard(&mut self, id: ShardId) {
        if let Some(shard) = self.shards.remove(&id) {
            for holder in shard.window.holders() {
                self.shares.give_back(holder, shard.window.held_by(holder));
            }
            self.in_flight -= shard.window.batches();
            self.ahead_bytes -= shard.ahead_bytes();
            self.assignment.remove(id);
            self.agenda.remove(id);
            self.shares.share_among(|consumer| self.assignment.owns(consumer));
            self.unreserve(id);
            self.early.remove_shard(id);
        }
    }

    /// Keeps the agenda in step with a shard; called after every change of one.
    fn note(&mut self, id: ShardId) {
        if let Some(shard) = self.shards.get_mut(&id) {
            let timer = shard.timer();
            self.agenda.note(id, shard.has_data(), timer);
        }
    }

    fn unreserve(&mut self, id: ShardId) {
        self.reserved.take_if(|(reserved, _)| *reserved == id);
        for consumer in self.consumers.values_mut() {
            consumer.waiting.take_if(|waiting| *waiting == id);
        }
    }

    /// Decides what comes next; batches that were read already go out on the way.
    pub(super) fn next_job(&mut self, now: Instant) -> Job {
        let job = self.decide(now);
        self.stats.in_flight(self.in_flight);
        job
    }

    fn decide(&mut self, now: Instant) -> Job {
        if self.consumers.is_empty() {
            return Job::Wait(None);
        }
        loop {
            self.sent = false;
            let job = self.look_around(now);
            if !self.sent || !matches!(job, Job::Wait(_)) {
                return job;
            }
        }
    }

    fn look_around(&mut self, now: Instant) -> Job {
        let mut round = self.agenda.round(now);
        while let Some(id) = round.next(&self.agenda) {
            let job = self.job_of(id, now);
            self.note(id);
            if let Some(job) = job {
                self.agenda.served(id);
                return job;
            }
        }
        let patience = self.reserved.map(|(_, since)| turn_of(since, now).1);
        let short = self.consumers.values().any(|consumer| consumer.outbox.short_of_memory());
        let again = short.then(|| now + MEMORY_RETRY);
        Job::Wait(self.agenda.next_timer(now).into_iter().chain(patience).chain(again).min())
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
                .filter(|last| last.consumer == owner_id && last.message != NEVER)
                .is_some_and(|last| !owner.outbox.took(last.message));
            if waits {
                shard.window.postpone(lsn, now + self.rules.ack_timeout);
                continue;
            }
            let deliveries = shard.window.deliveries(lsn);
            if self.rules.max_deliveries > 0 && deliveries >= self.rules.max_deliveries {
                let open = shard.window.open(lsn)?;
                return Some(Job::Bury { shard: id, lsn, open, deliveries });
            }
            // New batches stay behind what is due, so a full outbox holds back both.
            owner.outbox.room()?;
            let open = shard.window.open(lsn)?;
            return Some(Job::Redeliver { shard: id, lsn, open });
        }
        self.send_ahead(id, now);
        let (messages, bytes) = self.may_send(id, now)?;
        let shard = self.shards.get(&id)?;
        if shard.first_ahead().is_some() || shard.next > shard.tail {
            return None;
        }
        let window = usize::try_from(self.shares.free()).unwrap_or(usize::MAX);
        // A window that opens by one record at a time should not mean one read per record.
        let least = if self.ahead_bytes < AHEAD_BYTES / 2 { READ_AHEAD } else { 1 };
        let limits = ReadLimits {
            max_batches: messages.min(READ_BATCHES).min(window.max(least)),
            max_bytes: bytes.min(READ_BYTES),
        };
        Some(Job::Read { shard: id, from: shard.next, limits })
    }

    /// Room for new batches of a shard, if any may be sent now.
    fn may_send(&self, id: ShardId, now: Instant) -> Option<(usize, usize)> {
        let behind = self.reserved.is_some_and(|(reserved, since)| {
            reserved != id && turn_of(since, now).0 && self.room_for(reserved).is_some()
        });
        if behind || self.in_flight >= MAX_IN_FLIGHT || self.shares.is_full() {
            return None;
        }
        let owner = self.consumers.get(&self.assignment.owner(id)?)?;
        if owner.waiting.is_some_and(|waiting| waiting != id && self.room_for(waiting).is_some()) {
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

    fn send_ahead(&mut self, id: ShardId, now: Instant) {
        while self.may_send(id, now).is_some() {
            let Some(owner) = self.assignment.owner(id) else { return };
            let Some(records) = self.shards.get(&id).and_then(Shard::first_ahead).map(|batch| batch.records)
            else {
                return;
            };
            match self.shares.fits(owner, records) {
                Fit::Fits => self.unreserve(id),
                Fit::TooLarge => {
                    self.reserved.get_or_insert((id, now));
                    return;
                }
                Fit::KeptForOthers => {
                    if let Some(owner) = self.consumers.get_mut(&owner) {
                        owner.waiting.get_or_insert(id);
                    }
                    return;
                }
            }
            let Some(shard) = self.shards.get_mut(&id) else { return };
            let before = shard.ahead_bytes();
            let Some(batch) = shard.take_ahead() else { return };
            self.ahead_bytes -= before - shard.ahead_bytes();
            self.send(id, owner, batch, now);
        }
    }

    fn send(&mut self, id: ShardId, owner: ConsumerId, batch: StoredBatch, now: Instant) {
        self.sent = true;
        let (Some(shard), Some(consumer)) = (self.shards.get_mut(&id), self.consumers.get(&owner)) else {
            return;
        };
        let early = self.early.take(id, batch.lsn, batch.records);
        let done: u32 = early.iter().map(|range| range.end - range.start).sum();
        if done > 0 && done == batch.records {
            shard.window.skip(batch.lsn);
            self.passed_over = true;
            return;
        }
        // Delivered again as if it had been before: without what is acknowledged. That counts as a delivery, so it
        // goes out whole where those are limited.
        let in_part = done > 0 && self.rules.max_deliveries == 0;
        let sent = match delivery::whole(id, &batch) {
            Ok(_) if in_part => None,
            Ok(Outgoing { message, bytes }) => consumer.outbox.push(message, bytes),
            Err(reason) => {
                tracing::error!(
                    subscription = self.rules.subscription,
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
        let (message, deadline) = match sent {
            Some(number) => (number, now + self.rules.ack_timeout),
            None => {
                self.stats.not_sent(if in_part { 0 } else { batch.records as usize });
                (NEVER, now)
            }
        };
        let (records, batches) = (shard.window.unacked(), shard.window.batches());
        shard.window.deliver(batch.lsn, batch.records, Delivery { consumer: owner, message }, deadline);
        for index in early.into_iter().flatten() {
            shard.window.ack(batch.lsn, index);
        }
        self.shares.take(owner, shard.window.unacked() - records);
        self.in_flight += shard.window.batches() - batches;
    }

    /// Whether something was passed over since this was asked last.
    pub(super) fn passed_over(&mut self) -> bool {
        std::mem::take(&mut self.passed_over)
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
                    subscription = self.rules.subscription,
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
        let before = shard.ahead_bytes();
        shard.read_ahead(chunk.batches);
        self.ahead_bytes += shard.ahead_bytes() - before;
        if stuck {
            // The tail says there is something, the read says there is not: never spin on that.
            shard.retry_at = Some(now + RETRY);
        }
        self.send_ahead(id, now);
        self.limit_ahead(id);
        self.note(id);
    }

    /// Gives back what was read too far ahead; it is read again later.
    fn limit_ahead(&mut self, id: ShardId) {
        if self.ahead_bytes <= AHEAD_BYTES {
            return;
        }
        if let Some(shard) = self.shards.get_mut(&id)
            && shard.first_ahead().is_some()
        {
            self.ahead_bytes -= shard.ahead_bytes();
            shard.drop_ahead();
            self.unreserve(id);
        }
    }

    /// Takes the result of a [`Job::Redeliver`].
    pub(super) fn again(&mut self, id: ShardId, lsn: Lsn, outgoing: Outgoing, now: Instant) {
        let owner = self.assignment.owner(id);
        let Some(shard) = self.shards.get_mut(&id) else { return };
        // Acknowledged meanwhile, or nobody there: the next round decides.
        let (Some(owner), Some(_)) = (owner, shard.window.open(lsn)) else { return };
        let Some(consumer) = self.consumers.get(&owner) else { return };
        let records = outgoing.records();
        if let Some(message) = consumer.outbox.push(outgoing.message, outgoing.bytes) {
            self.stats.resent(records);
            let delivery = Delivery { consumer: owner, message };
            let moved = shard.window.redeliver(lsn, delivery, now + self.rules.ack_timeout);
            if let Some((from, records)) = moved {
                self.shares.hand_over(from, owner, u64::from(records));
            }
        } else {
            self.stats.not_resent(records);
        }
        self.note(id);
    }

    /// A batch that was delivered cannot be read any more, or is buried: it counts as acknowledged.
    pub(super) fn gone(&mut self, id: ShardId, lsn: Lsn) {
        if let Some(shard) = self.shards.get_mut(&id)
            && let Some((holder, records)) = shard.window.drop_batch(lsn)
        {
            self.shares.give_back(holder, u64::from(records));
            self.in_flight -= 1;
            self.note(id);
        }
    }

    /// A batch could not be read again: try later, and let new ones pass meanwhile.
    pub(super) fn not_again(&mut self, id: ShardId, lsn: Lsn, now: Instant) {
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.window.postpone(lsn, now + RETRY);
            self.note(id);
        }
    }

    /// A read failed: leave the shard alone for a moment.
    pub(super) fn failed(&mut self, id: ShardId, now: Instant) {
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.retry_at = Some(now + RETRY);
            self.note(id);
        }
    }

    /// Checkpoints that are ahead of the durable ones.
    pub(super) fn unsaved(&self) -> Vec<(ShardId, Lsn)> {
        self.shards.iter().filter_map(|(id, shard)| Some((*id, shard.unsaved()?))).collect()
    }

    /// Notes that a checkpoint is durable, and tells the consumers that want to know.
    pub(super) fn saved(&mut self, id: ShardId, lsn: Lsn) {
        let Some(shard) = self.shards.get_mut(&id) else { return };
        shard.persisted = shard.persisted.max(Some(lsn));
        for consumer in self.consumers.values().filter(|consumer| consumer.introduction.confirm) {
            consumer.outbox.confirm(id, lsn);
        }
    }

    /// The durable checkpoint of every shard, 0 where there is none.
    pub(super) fn checkpoints(&self) -> Vec<(ShardId, Lsn)> {
        self.shards.iter().map(|(id, shard)| (*id, shard.persisted.unwrap_or(0))).collect()
    }

    /// How far every shard is.
    pub(super) fn progress(&self) -> Vec<Progress> {
        let progress = |(id, shard): (&ShardId, &Shard)| Progress {
            shard: *id,
            committed: shard.window.committed(),
            delivered: shard.window.position(),
            unacked: shard.window.unacked(),
        };
        self.shards.iter().map(progress).collect()
    }
}

/// Whether a reservation holds now, and when that changes.
fn turn_of(since: Instant, now: Instant) -> (bool, Instant) {
    let turns = now.saturating_duration_since(since).as_nanos() / PATIENCE.as_nanos();
    let turns = u32::try_from(turns).unwrap_or(u32::MAX - 1);
    (turns.is_multiple_of(2), since + PATIENCE * (turns + 1))
}

#[cfg(test)]
mod tests;
