//! A copy in memory of what stands under some prefixes of the metadata, whoever writes it.
//!
//! # How to use it
//!
//! Write a [`Mirror`] (or take `BTreeMap<String, Versioned>`, which is one), open a [`Follower`] over it, and
//!
//! - read through [`Follower::read`], which takes in what others have changed first: on the embedded engine it shows
//!   everything that was answered before it was called, by whatever node. While nothing changed that costs one load per
//!   prefix on top of the lock.
//! - write through [`Follower::put`] and [`Follower::delete`], so that the own copy has the own writes even where the watch
//!   brings them later. What is written past the follower (`put_many`, say) comes through the watch.
//! - before a decision that depends on what others did *not* write, [`Follower::fresh`] first: it fails when that
//!   cannot be known, and so does nothing else here. What makes the decision safe is the compare-and-set that follows.
//! - where a stale copy would be a nuisance, but a lost one no harm, [`Follower::fetch`] asks the store for one key.
//! - to act on changes as they come, act in [`Mirror::apply`], or wait for [`Follower::changes`].
//!
//! # What it guarantees
//!
//! Per key the copy never goes back: everything carries its version, and what comes from elsewhere than the watch (a list,
//! an answer) is taken only if nothing newer was seen while it was on its way. A key that was removed is remembered for
//! as long as such an answer is out. When the watch missed something (it lagged, or the node was cut off), a task lists
//! again; until then the copy is old, and only [`Follower::fresh`] knows. On an engine whose watch lags behind its answers
//! (one whose [`MetaStore::settle`] says so) a key that an answer showed to be gone may show once more, until the watch
//! brings its removal.

use super::{Expect, MetaStore, MetaWatch, Result, Seen, StoreError, Versioned};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Pause before a list that failed is tried again.
const LIST_AGAIN: Duration = Duration::from_millis(500);

/// What a [`Follower`] keeps up to date.
pub trait Mirror: Send + Sync + 'static {
    /// Why an entry cannot be taken.
    type Error: fmt::Display + From<StoreError> + Send;

    /// A key holds this from now on, or nothing. Called in the order of versions per key and under the follower's lock,
    /// which must not be taken again.
    ///
    /// # Errors
    /// An entry that makes no sense; the copy keeps what it had of this key. Opening a follower fails with it, later
    /// it is logged.
    fn apply(&mut self, key: &str, value: Option<&Versioned>) -> Result<(), Self::Error>;
}

impl Mirror for BTreeMap<String, Versioned> {
    type Error = StoreError;

    fn apply(&mut self, key: &str, value: Option<&Versioned>) -> Result<()> {
        match value {
            Some(value) => self.insert(key.to_owned(), value.clone()),
            None => self.remove(key),
        };
        Ok(())
    }
}

/// A copy in memory that follows the store.
pub struct Follower<M> {
    meta: Arc<dyn MetaStore>,
    /// Their watches are taken in this order.
    prefixes: Vec<String>,
    state: RwLock<State<M>>,
    /// Held while the prefixes are listed.
    listing: tokio::sync::Mutex<()>,
    /// Changes taken so far.
    changes: watch::Sender<u64>,
    /// Ends the task that keeps the copy up to date.
    _end: DropGuard,
}

struct State<M> {
    mirror: M,
    watches: Vec<MetaWatch>,
    known: HashMap<String, Known>,
    /// Removed keys in the order of time, for as long as an older answer may be on its way.
    removed: VecDeque<(u64, String)>,
    /// Changes taken so far: the time of everything in here.
    time: u64,
    /// When the answers that are on their way were asked for, and how many of each time.
    asked: BTreeMap<u64, usize>,
    /// Times that something was missed, and how many of them a list has made good.
    missed: u64,
    made_good: u64,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    version: u64,
    /// False once removed.
    present: bool,
    /// When it was learned.
    time: u64,
}

/// The copy, for as long as this is held.
pub struct View<'a, M>(RwLockReadGuard<'a, State<M>>);

impl<M> Deref for View<'_, M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0.mirror
    }
}

impl<M> fmt::Debug for View<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
    }
}

impl<M> fmt::Debug for Follower<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("prefixes", &self.prefixes).finish_non_exhaustive()
    }
}

impl<M: Mirror> Follower<M> {
    /// Lists the prefixes and follows them until the follower is dropped. Where one prefix's entries take over from
    /// another's, name the one that is written later first: its changes are taken first, so that what it took over is
    /// never missing.
    ///
    /// # Errors
    /// What the store reports, and entries that the mirror does not take.
    pub async fn open(meta: Arc<dyn MetaStore>, prefixes: &[&str], mirror: M) -> Result<Arc<Self>, M::Error> {
        let watches = |meta: &dyn MetaStore| prefixes.iter().map(|prefix| meta.watch(prefix)).collect();
        // The task has watches of its own: it waits for them without holding the state.
        let (own, of_task): (Vec<_>, Vec<_>) = (watches(&*meta), watches(&*meta));
        let state = State {
            mirror,
            watches: own,
            known: HashMap::new(),
            removed: VecDeque::new(),
            time: 0,
            asked: BTreeMap::new(),
            missed: 1,
            made_good: 0,
        };
        let end = CancellationToken::new();
        let follower = Arc::new(Follower {
            meta,
            prefixes: prefixes.iter().map(|&prefix| prefix.to_owned()).collect(),
            state: RwLock::new(state),
            listing: tokio::sync::Mutex::new(()),
            changes: watch::Sender::new(0),
            _end: end.clone().drop_guard(),
        });
        follower.list(true).await?;
        tokio::spawn(keep(Arc::downgrade(&follower), of_task, end));
        Ok(follower)
    }

    /// The copy, with everything that has come.
    pub fn read(&self) -> View<'_, M> {
        let state = self.state();
        if !state.has_news() {
            return View(state);
        }
        drop(state);
        self.look();
        View(self.state())
    }

    /// Makes sure that the copy has everything that was written before this call, by whomever.
    ///
    /// # Errors
    /// What the store reports: then it is not known.
    pub async fn fresh(&self) -> Result<(), M::Error> {
        if self.meta.settle().await? && self.look() {
            return Ok(());
        }
        self.list(false).await
    }

    /// Asks the store for one key and takes what it says.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn fetch(&self, key: &str) -> Result<Option<Versioned>> {
        let asked = self.ask();
        let found = self.meta.get(key).await?;
        self.look();
        let mut state = self.state_mut();
        match &found {
            Some(found) => state.take(key, Some(&found.value), found.version),
            None => state.take_absent(key, asked.time),
        }
        self.tell(state);
        Ok(found)
    }

    /// Writes a value, as [`MetaStore::put`] does; the copy has it on return.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64> {
        let _asked = self.ask();
        let version = self.meta.put(key, value.clone(), expect).await?;
        self.look();
        let mut state = self.state_mut();
        state.take(key, Some(&value), version);
        self.tell(state);
        Ok(version)
    }

    /// Removes a value, as [`MetaStore::delete`] does. On return it is gone from the copy, under [`Expect::Any`] once the
    /// watch brings it.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn delete(&self, key: &str, expect: Expect) -> Result<()> {
        let _asked = self.ask();
        self.meta.delete(key, expect).await?;
        self.look();
        if let Expect::Version(version) = expect {
            let mut state = self.state_mut();
            state.take(key, None, version);
            self.tell(state);
        }
        Ok(())
    }

    /// Changes the mirror itself, besides what it follows.
    pub fn change(&self, change: impl FnOnce(&mut M)) {
        change(&mut self.state_mut().mirror);
    }

    /// The store it follows.
    pub fn meta(&self) -> &Arc<dyn MetaStore> {
        &self.meta
    }

    /// How many changes were taken so far; grows after they were.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn state(&self) -> RwLockReadGuard<'_, State<M>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State<M>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the watches have; true if they had everything.
    fn look(&self) -> bool {
        {
            let state = self.state();
            if !state.has_news() {
                return state.is_complete();
            }
        }
        let mut state = self.state_mut();
        state.drain();
        let complete = state.is_complete();
        self.tell(state);
        complete
    }

    /// Says that something changed, once that can be read.
    fn tell(&self, state: RwLockWriteGuard<'_, State<M>>) {
        let time = state.time;
        drop(state);
        self.changes.send_if_modified(|told| {
            let more = time > *told;
            *told = time.max(*told);
            more
        });
    }

    fn ask(&self) -> Asked<'_, M> {
        let mut state = self.state_mut();
        let time = state.time;
        *state.asked.entry(time).or_default() += 1;
        Asked { follower: self, time }
    }

    /// Lists everything, even if nothing was missed.
    async fn list(&self, strict: bool) -> Result<(), M::Error> {
        let _turn = self.listing.lock().await;
        let (asked, missed) = (self.ask(), self.state().missed);
        let mut listed = Vec::new();
        for prefix in &self.prefixes {
            listed.extend(self.meta.list(prefix).await?);
        }
        self.look();
        let mut state = self.state_mut();
        let keys: HashSet<&str> = listed.iter().map(|(key, _)| key.as_str()).collect();
        let unlisted =
            state.known.iter().filter(|(key, known)| known.present && !keys.contains(key.as_str()));
        let gone: Vec<String> = unlisted.map(|(key, _)| key.clone()).collect();
        for key in gone {
            state.take_absent(&key, asked.time);
        }
        for (key, found) in &listed {
            if let Err(error) = state.try_take(key, Some(&found.value), found.version) {
                if strict {
                    return Err(error);
                }
                refused(key, &error);
            }
        }
        // What was missed meanwhile may be missing in the list, too.
        state.made_good = missed;
        self.tell(state);
        Ok(())
    }
}

impl<M: Mirror> State<M> {
    fn has_news(&self) -> bool {
        self.watches.iter().any(MetaWatch::has_news)
    }

    /// Whether everything that was written up to the last look is in the copy.
    fn is_complete(&self) -> bool {
        self.missed == self.made_good && self.watches.iter().all(MetaWatch::is_open)
    }

    fn drain(&mut self) {
        for at in 0..self.watches.len() {
            while let Some(seen) = self.watches.get_mut(at).and_then(MetaWatch::try_next) {
                match seen {
                    Seen::Change(change) => self.take(&change.key, change.value.as_ref(), change.version),
                    Seen::Missed => self.missed += 1,
                }
            }
        }
    }

    fn take(&mut self, key: &str, value: Option<&Bytes>, version: u64) {
        if let Err(error) = self.try_take(key, value, version) {
            refused(key, &error);
        }
    }

    /// Takes what a key holds since this version, unless something newer is known. A removal may come under the version
    /// that it removed.
    fn try_take(&mut self, key: &str, value: Option<&Bytes>, version: u64) -> Result<(), M::Error> {
        let known = self.known.get(key).copied();
        let news = match (known, value) {
            (Some(known), Some(_)) => version > known.version,
            (Some(known), None) => version >= known.version,
            (None, Some(_)) => true,
            (None, None) => false,
        };
        if !news {
            return Ok(());
        }
        self.time += 1;
        let taken = Known { version, present: value.is_some(), time: self.time };
        self.known.insert(key.to_owned(), taken);
        if value.is_none() {
            self.removed.push_back((self.time, key.to_owned()));
            self.forget();
            if !known.is_some_and(|known| known.present) {
                return Ok(());
            }
        }
        let value = value.map(|value| Versioned { value: value.clone(), version });
        self.mirror.apply(key, value.as_ref())
    }

    /// Takes that a key was absent in an answer that was asked for at `time`.
    fn take_absent(&mut self, key: &str, time: u64) {
        if let Some(known) = self.known.get(key).copied().filter(|known| known.time <= time) {
            self.take(key, None, known.version);
        }
    }

    /// Forgets removed keys about which no older answer can come.
    fn forget(&mut self) {
        let oldest = self.asked.keys().next().copied().unwrap_or(u64::MAX);
        while self.removed.front().is_some_and(|(time, _)| *time <= oldest) {
            let Some((time, key)) = self.removed.pop_front() else { return };
            if self.known.get(&key).is_some_and(|known| !known.present && known.time == time) {
                self.known.remove(&key);
            }
        }
    }
}

fn refused(key: &str, error: &impl fmt::Display) {
    tracing::error!(key, %error, "an entry of the metadata cannot be used; what was known before stays");
}

/// An answer is on its way.
struct Asked<'a, M: Mirror> {
    follower: &'a Follower<M>,
    time: u64,
}

impl<M: Mirror> Drop for Asked<'_, M> {
    fn drop(&mut self) {
        let mut state = self.follower.state_mut();
        if let Some(count) = state.asked.get_mut(&self.time) {
            *count -= 1;
            if *count == 0 {
                state.asked.remove(&self.time);
            }
        }
        state.forget();
    }
}

/// Takes changes as they come, and lists again when some were missed.
async fn keep<M: Mirror>(follower: Weak<Follower<M>>, mut watches: Vec<MetaWatch>, end: CancellationToken) {
    loop {
        {
            let Some(follower) = follower.upgrade() else { return };
            follower.look();
            let missed = {
                let state = follower.state();
                state.missed != state.made_good
            };
            if missed && let Err(error) = follower.list(false).await {
                let prefixes = follower.prefixes.join(", ");
                tracing::warn!(prefixes, %error, "changes of the metadata were missed; they will be listed");
                drop(follower);
                tokio::select! {
                    () = end.cancelled() => return,
                    () = tokio::time::sleep(LIST_AGAIN) => continue,
                }
            }
        }
        let next = watches.iter_mut().map(|watch| Box::pin(watch.next()));
        tokio::select! {
            () = end.cancelled() => return,
            (seen, ..) = futures::future::select_all(next) => if seen.is_none() { return },
        }
        for watch in &mut watches {
            while watch.try_next().is_some() {}
        }
    }
}

#[cfg(test)]
mod tests;
