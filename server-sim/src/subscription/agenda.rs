//! Which shards of a subscription have something to do, so that idle ones cost nothing.

use crate::store::ShardId;
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use tokio::time::Instant;

/// Shards with data to deliver, and when the others have to be looked at.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    /// Shards with something behind their position.
    backlog: BTreeSet<ShardId>,
    timers: BTreeSet<(Instant, ShardId)>,
    timer_of: HashMap<ShardId, Instant>,
    /// The shard that was served last; the next one comes first.
    cursor: ShardId,
}

impl Agenda {
    /// Notes how a shard stands: whether there is data, and its first deadline.
    pub(super) fn note(&mut self, shard: ShardId, has_data: bool, timer: Option<Instant>) {
        if has_data {
            self.backlog.insert(shard);
        } else {
            self.backlog.remove(&shard);
        }
        let old = match timer {
            Some(at) => self.timer_of.insert(shard, at),
            None => self.timer_of.remove(&shard),
        };
        if old != timer {
            if let Some(old) = old {
                self.timers.remove(&(old, shard));
            }
            if let Some(at) = timer {
                self.timers.insert((at, shard));
            }
        }
    }

    /// Forgets a shard.
    pub(super) fn remove(&mut self, shard: ShardId) {
        self.note(shard, false, None);
    }

    /// Starts a round over all shards that have something to do now.
    pub(super) fn round(&self, now: Instant) -> Round {
        let due = self.timers.range(..=(now, ShardId::MAX)).map(|(_, shard)| *shard).collect();
        Round { due, start: self.cursor, last: self.cursor, wrapped: false }
    }

    /// The next round begins behind this shard.
    pub(super) fn served(&mut self, shard: ShardId) {
        self.cursor = shard;
    }

    /// The first deadline still ahead.
    pub(super) fn next_timer(&self, now: Instant) -> Option<Instant> {
        let ahead = (Bound::Excluded((now, ShardId::MAX)), Bound::Unbounded);
        self.timers.range(ahead).next().map(|(at, _)| *at)
    }
}

/// A walk over the shards of an [`Agenda`], each at most once, which the agenda may change meanwhile.
#[derive(Debug)]
pub(super) struct Round {
    due: BTreeSet<ShardId>,
    start: ShardId,
    last: ShardId,
    wrapped: bool,
}

impl Round {
    /// The next shard, in the order of their ids and around.
    pub(super) fn next(&mut self, agenda: &Agenda) -> Option<ShardId> {
        let first = |from: Bound<ShardId>| {
            let in_backlog = agenda.backlog.range((from, Bound::Unbounded)).next();
            let in_due = self.due.range((from, Bound::Unbounded)).next();
            in_backlog.into_iter().chain(in_due).min().copied()
        };
        let found = match first(Bound::Excluded(self.last)) {
            Some(found) if !self.wrapped || found <= self.start => Some(found),
            Some(_) => None,
            None if self.wrapped => None,
            None => {
                self.wrapped = true;
                first(Bound::Unbounded).filter(|found| *found <= self.start)
            }
        };
        self.last = found?;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn walk(agenda: &Agenda, now: Instant) -> Vec<ShardId> {
        let mut round = agenda.round(now);
        std::iter::from_fn(|| round.next(agenda)).collect()
    }

    #[test]
    fn a_round_visits_every_shard_with_data_or_a_passed_deadline_once() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut agenda = Agenda::default();
        for shard in [2, 4, 6, 8] {
            agenda.note(shard, true, None);
        }
        agenda.note(5, false, Some(now));
        agenda.note(6, true, Some(now));
        agenda.note(7, false, Some(later));
        assert_eq!(walk(&agenda, now), [2, 4, 5, 6, 8]);
        agenda.served(5);
        assert_eq!(walk(&agenda, now), [6, 8, 2, 4, 5]);
        agenda.served(8);
        assert_eq!(walk(&agenda, later), [2, 4, 5, 6, 7, 8]);
        assert_eq!(agenda.next_timer(now), Some(later));
        agenda.note(7, false, None);
        assert_eq!(agenda.next_timer(now), None);
    }

    #[test]
    fn a_round_survives_shards_that_leave_on_the_way() {
        let now = Instant::now();
        let mut agenda = Agenda::default();
        for shard in 1..=4 {
            agenda.note(shard, true, None);
        }
        agenda.served(2);
        let mut round = agenda.round(now);
        assert_eq!(round.next(&agenda), Some(3));
        agenda.remove(3);
        agenda.remove(4);
        assert_eq!(round.next(&agenda), Some(1));
        agenda.remove(2);
        assert_eq!(round.next(&agenda), None);
    }
}
