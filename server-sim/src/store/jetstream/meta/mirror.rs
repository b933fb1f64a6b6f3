//! All metadata in memory, as far as this node has seen them.

use super::chain::{Chain, Fate};
use super::message::{Change, Content, REMOVAL_TTL};
use crate::store::{MetaChange, MetaFeeds, Result, StoreError, Versioned};
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// What every key holds, up to a position in the order of all changes.
#[derive(Debug)]
pub(super) struct Mirror {
    state: Mutex<State>,
    /// Everything up to this change is in here and was told; 0 until there was a first list.
    position: watch::Sender<u64>,
    /// Those who watch.
    pub(super) feeds: MetaFeeds,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    /// Removed keys in the order in which that was seen.
    removed: VecDeque<(Instant, String, u64)>,
    /// Keys that came since everything began to be listed again; `None` when it is not.
    listed: Option<HashSet<String>>,
}

/// The last change of a key.
#[derive(Debug, Clone)]
struct Entry {
    version: u64,
    change: Change,
}

/// What is known about a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Last {
    /// Its last change; 0 if there is none, or if that was forgotten.
    pub(super) version: u64,
    /// Whether it holds a value.
    pub(super) present: bool,
}

impl Mirror {
    pub(super) fn new() -> Self {
        Mirror { state: Mutex::default(), position: watch::Sender::new(0), feeds: MetaFeeds::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Versioned>> {
        self.state().entries.get(key).map_or(Ok(None), |entry| entry.value(key))
    }

    pub(super) fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        let state = self.state();
        let from = state.entries.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let mut found = Vec::new();
        for (key, entry) in from.take_while(|(key, _)| key.starts_with(prefix)) {
            found.extend(entry.value(key)?.map(|value| (key.clone(), value)));
        }
        Ok(found)
    }

    pub(super) fn last(&self, key: &str) -> Last {
        let state = self.state();
        state
            .entries
            .get(key)
            .map_or(Last::default(), |entry| Last { version: entry.version, present: entry.is_present() })
    }

    /// What a write carries that expects this version.
    pub(super) fn chain(&self, key: &str, version: u64) -> Chain {
        let state = self.state();
        let entry = state.entries.get(key).filter(|entry| entry.version == version);
        match entry.and_then(|entry| Some((entry, entry.change.chain.as_ref()?))) {
            Some((entry, chain)) => chain.then(version, entry.change.id),
            None => Chain::from(version),
        }
    }

    /// What became of a write that expected a version of this key.
    pub(super) fn fate(&self, key: &str, expected: u64, id: u128) -> Fate {
        let state = self.state();
        let Some(entry) = state.entries.get(key) else { return Fate::Unknown };
        if entry.change.id == Some(id) {
            return Fate::Stored(entry.version);
        }
        let chain = entry.change.chain.as_ref().map(|chain| chain.then(entry.version, entry.change.id));
        chain.map_or(Fate::Unknown, |chain| chain.fate(expected, id))
    }

    /// Takes a change and tells those who watch, unless something later is known of its key.
    pub(super) fn take(&self, key: &str, version: u64, change: Change) {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(listed) = &mut state.listed {
            listed.insert(key.to_owned());
        }
        let told = state.take(key, version, change, now);
        state.forget(now);
        drop(state);
        self.feeds.tell(told.as_slice());
    }

    /// Everything will come again; what does not is gone.
    pub(super) fn begin_list(&self) {
        self.state().listed = Some(HashSet::new());
    }

    /// Everything up to `position` has come.
    pub(super) fn end_list(&self, position: u64) {
        let now = Instant::now();
        let mut state = self.state();
        let listed = state.listed.take().unwrap_or_default();
        let gone =
            |(key, entry): &(&String, &Entry)| entry.version < position && !listed.contains(key.as_str());
        let gone: Vec<String> = state.entries.iter().filter(gone).map(|(key, _)| key.clone()).collect();
        let mut told = Vec::new();
        for key in gone {
            // Removed so long ago that nobody knows when. The position is later than anything the key was.
            let absent = Change { content: Content::Absent, id: None, chain: None };
            told.extend(state.take(&key, position, absent, now));
        }
        drop(state);
        self.feeds.tell(&told);
    }

    /// Everything up to this change is in.
    pub(super) fn reach(&self, position: u64) {
        self.position.send_if_modified(|reached| {
            let further = position > *reached;
            *reached = position.max(*reached);
            further
        });
    }

    pub(super) fn position(&self) -> u64 {
        *self.position.borrow()
    }

    /// Waits until everything up to a change is in; false if that takes too long.
    pub(super) async fn reached(&self, position: u64, deadline: Instant) -> bool {
        let mut reached = self.position.subscribe();
        let wait = reached.wait_for(|reached| *reached >= position);
        matches!(timeout_at(deadline, wait).await, Ok(Ok(_)))
    }
}

impl State {
    fn take(&mut self, key: &str, version: u64, change: Change, now: Instant) -> Option<MetaChange> {
        let before = self.entries.get(key);
        if before.is_some_and(|before| before.version >= version) {
            return None;
        }
        let was_there = before.is_some_and(Entry::is_present);
        let value = match &change.content {
            Content::Value(value) => Some(Some(value.clone())),
            Content::Absent => was_there.then_some(None),
            // Those who watch keep what they had; whoever asks is told.
            Content::Damaged => None,
        };
        if change.content == Content::Absent {
            self.removed.push_back((now, key.to_owned(), version));
        }
        self.entries.insert(key.to_owned(), Entry { version, change });
        value.map(|value: Option<Bytes>| MetaChange { key: key.to_owned(), value, version })
    }

    fn forget(&mut self, now: Instant) {
        while self.removed.front().is_some_and(|(since, ..)| now.duration_since(*since) > REMOVAL_TTL) {
            let Some((_, key, version)) = self.removed.pop_front() else { return };
            if self.entries.get(&key).is_some_and(|entry| entry.version == version) {
                self.entries.remove(&key);
            }
        }
    }
}

impl Entry {
    fn is_present(&self) -> bool {
        self.change.content != Content::Absent
    }

    fn value(&self, key: &str) -> Result<Option<Versioned>> {
        match &self.change.content {
            Content::Value(value) => Ok(Some(Versioned { value: value.clone(), version: self.version })),
            Content::Absent => Ok(None),
            Content::Damaged => Err(StoreError::Corrupt(format!(
                "the value of {key:?} in the metadata does not match its checksum"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Seen;
    use std::time::Duration;

    fn change(content: Content, id: u128) -> Change {
        Change { content, id: Some(id), chain: Some(Chain::from(0)) }
    }

    fn value(text: &str) -> Change {
        change(Content::Value(Bytes::copy_from_slice(text.as_bytes())), 1)
    }

    fn keys(mirror: &Mirror) -> Vec<String> {
        mirror.list("").unwrap().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn what_does_not_come_again_is_gone_and_those_who_watch_hear_of_it() {
        let mirror = Mirror::new();
        mirror.take("a", 1, value("1"));
        mirror.take("b", 2, value("2"));
        mirror.take("c", 3, value("3"));
        mirror.reach(3);
        let mut watch = mirror.feeds.watch("");
        mirror.begin_list();
        mirror.take("b", 2, value("2"));
        mirror.take("c", 7, value("4"));
        mirror.end_list(9);
        assert_eq!(keys(&mirror), ["b", "c"]);
        let mut seen = Vec::new();
        while let Some(Seen::Change(change)) = watch.try_next() {
            seen.push((change.key, change.value.is_some(), change.version));
        }
        assert_eq!(seen, [("c".to_owned(), true, 7), ("a".to_owned(), false, 9)]);
        // What comes late about it changes nothing, and a new value is one.
        mirror.take("a", 1, value("1"));
        assert_eq!(keys(&mirror), ["b", "c"]);
        mirror.take("a", 10, value("5"));
        assert_eq!(keys(&mirror), ["a", "b", "c"]);
    }

    #[test]
    fn a_change_that_was_made_while_everything_was_listed_stays() {
        let mirror = Mirror::new();
        mirror.begin_list();
        mirror.take("new", 12, value("1"));
        mirror.end_list(9);
        assert_eq!(keys(&mirror), ["new"]);
    }

    #[tokio::test(start_paused = true)]
    async fn removed_keys_are_remembered_for_a_while_only() {
        let mirror = Mirror::new();
        mirror.take("a", 1, value("1"));
        mirror.take("a", 2, change(Content::Absent, 5));
        assert_eq!(mirror.last("a"), Last { version: 2, present: false });
        assert_eq!(mirror.get("a").unwrap(), None);
        tokio::time::advance(REMOVAL_TTL + Duration::from_secs(1)).await;
        mirror.take("b", 3, value("1"));
        assert_eq!(mirror.last("a"), Last::default());
        assert_eq!(mirror.state().entries.len(), 1);
        assert!(mirror.state().removed.is_empty());
    }

    #[test]
    fn a_damaged_value_is_reported_and_not_shown() {
        let mirror = Mirror::new();
        mirror.take("a", 1, value("1"));
        let mut watch = mirror.feeds.watch("");
        mirror.take("a", 2, change(Content::Damaged, 2));
        assert!(matches!(mirror.get("a"), Err(StoreError::Corrupt(_))));
        assert!(matches!(mirror.list(""), Err(StoreError::Corrupt(_))));
        assert_eq!(watch.try_next(), None);
    }

    #[test]
    fn what_became_of_a_write_is_known_from_those_that_came_after_it() {
        let mirror = Mirror::new();
        assert_eq!(mirror.fate("a", 0, 1), Fate::Unknown);
        let mut version = 0;
        for id in 1..=3 {
            let chain = Some(mirror.chain("a", version));
            version += 10;
            mirror.take("a", version, Change { chain, ..change(Content::Absent, id) });
        }
        assert_eq!(mirror.fate("a", 20, 3), Fate::Stored(30));
        assert_eq!(mirror.fate("a", 10, 2), Fate::Stored(20));
        assert_eq!(mirror.fate("a", 10, 9), Fate::Refused);
        assert_eq!(mirror.fate("a", 30, 9), Fate::Unknown);
        // Written under a guard, by who did not know what was there.
        mirror.take("a", 40, Change { chain: None, ..change(Content::Absent, 4) });
        assert_eq!(mirror.fate("a", 10, 2), Fate::Unknown);
        let chain = Some(mirror.chain("a", 40));
        mirror.take("a", 50, Change { chain, ..change(Content::Absent, 5) });
        assert_eq!(mirror.fate("a", 40, 6), Fate::Refused);
        assert_eq!(mirror.fate("a", 30, 6), Fate::Unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_position_ends_when_it_is_reached_or_the_time_is_over() {
        let mirror = Mirror::new();
        let soon = Instant::now() + Duration::from_secs(1);
        assert!(!mirror.reached(5, soon).await);
        mirror.reach(7);
        mirror.reach(6);
        assert_eq!(mirror.position(), 7);
        assert!(mirror.reached(7, Instant::now()).await);
    }
}
