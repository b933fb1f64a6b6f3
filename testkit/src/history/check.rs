//! The rules.

use super::{Event, Id, Outcome, Promise, Violation, Violations};
use std::collections::{BTreeMap, HashMap, HashSet};

/// How much of what a history holds that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Appends.
    pub appended: usize,
    /// Appends that were acknowledged.
    pub stored: usize,
    /// Appends that certainly failed.
    pub failed: usize,
    /// Appends whose outcome was said to be unknown.
    pub unknown: usize,
    /// Records stored more often than once, where that is allowed.
    pub doubled: usize,
    /// Records shown to consumers.
    pub delivered: usize,
    /// Those of them that had been shown before.
    pub redelivered: usize,
    /// Records acknowledged by consumers.
    pub acked: usize,
    /// Records given by readers.
    pub read: usize,
}

pub(super) fn check(events: &[Event]) -> Result<Summary, Violations> {
    let mut run = Run::default();
    for (at, event) in events.iter().enumerate() {
        run.take(at, event);
    }
    run.finish();
    if run.violations.is_empty() { Ok(run.summary) } else { Err(Violations(run.violations)) }
}

#[derive(Debug, Default)]
struct Append {
    outcome: Option<Outcome>,
    resolved_at: usize,
    released: bool,
    promise: Option<Promise>,
}

#[derive(Debug, Default)]
struct Consumer {
    subscription: u32,
    attached_at: usize,
    in_order: bool,
    /// Restarts of the server there had been when it began to leave.
    left_after: Option<u32>,
    acked: HashSet<Id>,
    newest: HashMap<u64, Id>,
}

#[derive(Debug, Default)]
struct Subscription {
    /// Ids with the moment from which they are safe.
    confirmed: HashMap<Id, usize>,
    delivered: HashSet<Id>,
    acked: HashSet<Id>,
    drained: bool,
}

#[derive(Debug, Default)]
struct Reader {
    opened_at: usize,
    shard: Option<u64>,
    read: BTreeMap<u64, Vec<Id>>,
    finished: bool,
}

#[derive(Debug, Default)]
struct Run {
    violations: Vec<Violation>,
    summary: Summary,
    lanes: BTreeMap<u32, (Option<Promise>, Vec<u64>)>,
    appends: HashMap<u64, Append>,
    consumers: HashMap<u32, Consumer>,
    subscriptions: BTreeMap<u32, Subscription>,
    readers: BTreeMap<u32, Reader>,
    /// What each id was said to be, by whoever said it first.
    records: BTreeMap<Id, u64>,
    restarts: u32,
    /// Shown to a consumer or given by a reader.
    shown: BTreeMap<Id, u64>,
    kept: BTreeMap<Id, u64>,
}

impl Run {
    fn take(&mut self, at: usize, event: &Event) {
        match event {
            Event::Lane { lane, promise } => self.lanes.entry(*lane).or_default().0 = Some(*promise),
            Event::Invoked { record, lane } => {
                let (promise, records) = self.lanes.entry(*lane).or_default();
                records.push(*record);
                self.appends.entry(*record).or_default().promise = *promise;
                self.summary.appended += 1;
            }
            Event::Resolved { record, outcome } => self.resolved(at, *record, *outcome),
            Event::Released { record } => self.appends.entry(*record).or_default().released = true,
            Event::Idle { producer, records, bytes } => {
                if (*records, *bytes) != (0, 0) {
                    let violation =
                        Violation::RoomHeld { producer: *producer, records: *records, bytes: *bytes };
                    self.violations.push(violation);
                }
            }
            Event::Attached { consumer, subscription, in_order } => {
                let consumer = self.consumers.entry(*consumer).or_default();
                (consumer.subscription, consumer.attached_at) = (*subscription, at);
                consumer.in_order = *in_order;
                self.subscriptions.entry(*subscription).or_default();
            }
            Event::Delivered { consumer, records } => self.delivered(*consumer, records),
            Event::Acked { consumer, ids } => {
                let state = self.consumers.entry(*consumer).or_default();
                state.acked.extend(ids);
                self.summary.acked += ids.len();
                self.subscriptions.entry(state.subscription).or_default().acked.extend(ids);
            }
            Event::Leaving { consumer } => {
                self.consumers.entry(*consumer).or_default().left_after = Some(self.restarts)
            }
            Event::Restarted => {
                self.restarts += 1;
                self.subscriptions.values_mut().for_each(|subscription| subscription.confirmed.clear());
            }
            Event::Confirmed { consumer } => {
                let state = self.consumers.entry(*consumer).or_default();
                if state.left_after != Some(self.restarts) {
                    return;
                }
                let subscription = self.subscriptions.entry(state.subscription).or_default();
                for id in &state.acked {
                    subscription.confirmed.entry(*id).or_insert(at);
                }
            }
            Event::Drained { subscription } => {
                self.subscriptions.entry(*subscription).or_default().drained = true
            }
            Event::Opened { reader, shard } => {
                let reader = self.readers.entry(*reader).or_default();
                (reader.opened_at, reader.shard) = (at, *shard);
            }
            Event::Read { reader, records } => {
                self.summary.read += records.len();
                for (id, record) in records {
                    self.known(*id, *record);
                    self.shown.insert(*id, *record);
                    let read = self.readers.entry(*reader).or_default().read.entry(id.shard).or_default();
                    match read.last() {
                        Some(after) if after >= id => {
                            let violation =
                                Violation::ReadBackwards { reader: *reader, id: *id, after: *after };
                            self.violations.push(violation);
                        }
                        _ => read.push(*id),
                    }
                }
            }
            Event::Finished { reader } => self.readers.entry(*reader).or_default().finished = true,
            Event::Kept { records } => {
                let mut newest: HashMap<u64, Id> = HashMap::new();
                for (id, record) in records {
                    self.known(*id, *record);
                    let stepped_back = newest.insert(id.shard, *id).is_some_and(|newest| newest >= *id);
                    if self.kept.insert(*id, *record).is_some() || stepped_back {
                        self.violations.push(Violation::Unsorted { id: *id });
                    }
                }
            }
        }
    }

    fn resolved(&mut self, at: usize, record: u64, outcome: Outcome) {
        let append = self.appends.entry(record).or_default();
        append.resolved_at = at;
        if append.outcome.replace(outcome).is_some() {
            self.violations.push(Violation::ResolvedTwice { record });
        }
        match outcome {
            Outcome::Stored(id) => {
                self.summary.stored += 1;
                self.known(id, record);
            }
            Outcome::Failed => self.summary.failed += 1,
            Outcome::Unknown => self.summary.unknown += 1,
        }
    }

    /// An id stands for one record, whoever says so.
    fn known(&mut self, id: Id, record: u64) {
        let known = *self.records.entry(id).or_insert(record);
        if known != record {
            self.violations.push(Violation::Ambiguous { id, one: known, other: record });
        }
    }

    fn delivered(&mut self, number: u32, records: &[(Id, u64)]) {
        self.summary.delivered += records.len();
        for (id, record) in records {
            self.known(*id, *record);
            self.shown.insert(*id, *record);
        }
        let consumer = self.consumers.entry(number).or_default();
        let subscription = self.subscriptions.entry(consumer.subscription).or_default();
        if let Some((id, _)) = records.first()
            && records.iter().all(|(id, _)| consumer.acked.contains(id))
        {
            self.violations.push(Violation::ShownAfterAck { consumer: number, id: *id });
        }
        for (id, _) in records {
            if subscription.confirmed.get(id).is_some_and(|since| *since < consumer.attached_at) {
                self.violations.push(Violation::ShownAfterConfirmation { consumer: number, id: *id });
            }
            if !subscription.delivered.insert(*id) {
                self.summary.redelivered += 1;
            }
            let newest = consumer.newest.entry(id.shard).or_insert(*id);
            if consumer.in_order && *id < *newest {
                let violation = Violation::DeliveredBackwards { consumer: number, id: *id, after: *newest };
                self.violations.push(violation);
            }
            *newest = (*newest).max(*id);
        }
    }

    fn finish(&mut self) {
        self.check_stored();
        self.check_appends();
        self.check_order();
        for (id, record) in &self.shown {
            if self.kept.get(id) != Some(record) {
                self.violations.push(Violation::Phantom { record: *record, id: *id });
            }
        }
        for (number, subscription) in self.subscriptions.iter().filter(|(_, state)| state.drained) {
            for id in self.kept.keys() {
                if !subscription.delivered.contains(id) || !subscription.acked.contains(id) {
                    self.violations.push(Violation::Undelivered { subscription: *number, id: *id });
                }
            }
        }
        self.check_readers();
    }

    fn check_stored(&mut self) {
        let mut places: BTreeMap<u64, Id> = BTreeMap::new();
        for (id, record) in &self.kept {
            let (id, record) = (*id, *record);
            match self.appends.get(&record) {
                None => self.violations.push(Violation::Invented { record, id }),
                Some(Append { outcome: Some(Outcome::Failed), .. }) => {
                    self.violations.push(Violation::FailedAndStored { record, id })
                }
                Some(append) => {
                    if let Some(first) = places.insert(record, id) {
                        if append.promise == Some(Promise::Duplicates) {
                            self.summary.doubled += 1;
                        } else {
                            self.violations.push(Violation::Doubled { record, first, second: id });
                        }
                    }
                }
            }
        }
    }

    fn check_appends(&mut self) {
        let mut records: Vec<_> = self.appends.iter().collect();
        records.sort_unstable_by_key(|(record, _)| **record);
        for (record, append) in records {
            let record = *record;
            match append.outcome {
                Some(Outcome::Stored(id)) if self.kept.get(&id) != Some(&record) => {
                    self.violations.push(Violation::Lost { record, id });
                }
                None if !append.released => self.violations.push(Violation::Unresolved { record }),
                _ => {}
            }
        }
    }

    /// Per lane and shard, records are stored in the order of their appends.
    fn check_order(&mut self) {
        let mut places: HashMap<u64, Id> = HashMap::new();
        for (id, record) in &self.kept {
            places.entry(*record).or_insert(*id);
        }
        for (promise, records) in self.lanes.values() {
            let mut newest: HashMap<u64, (u64, Id)> = HashMap::new();
            for record in records {
                let id = match self.appends.get(record).and_then(|append| append.outcome) {
                    Some(Outcome::Stored(id)) => Some(id),
                    // Elsewhere nothing keeps a batch that was given up from coming late.
                    _ if *promise == Some(Promise::ExactlyOnce) => places.get(record).copied(),
                    _ => None,
                };
                let Some(id) = id else { continue };
                if let Some(later) = newest.get(&id.shard)
                    && later.1 > id
                {
                    // The one of higher id was appended before this one.
                    self.violations.push(Violation::Inverted { earlier: *later, later: (*record, id) });
                    continue;
                }
                newest.insert(id.shard, (*record, id));
            }
        }
    }

    fn check_readers(&mut self) {
        for (number, reader) in &self.readers {
            for (shard, read) in &reader.read {
                let Some(last) = read.last() else { continue };
                let first = Id { shard: *shard, batch: 0, index: 0 };
                let given: HashSet<&Id> = read.iter().collect();
                for (id, _) in self.kept.range(first..=*last).filter(|(id, _)| !given.contains(id)) {
                    self.violations.push(Violation::ReadHole { reader: *number, id: *id });
                }
            }
            if !reader.finished {
                continue;
            }
            let before = self.appends.values().filter(|append| append.resolved_at < reader.opened_at);
            let mut owed: Vec<Id> = before
                .filter_map(|append| match append.outcome {
                    Some(Outcome::Stored(id)) => Some(id),
                    _ => None,
                })
                .filter(|id| reader.shard.is_none_or(|shard| shard == id.shard))
                .filter(|id| {
                    reader.read.get(&id.shard).and_then(|read| read.last()).is_none_or(|last| last < id)
                })
                .collect();
            owed.sort_unstable();
            for id in owed {
                self.violations.push(Violation::ReadShort { reader: *number, id });
            }
        }
    }
}
