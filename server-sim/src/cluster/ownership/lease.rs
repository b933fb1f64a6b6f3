//! The leases of sessions: what is stored, and how long each may still be valid as seen from here.
//!
//! Clocks of two machines are never compared. What counts is how long this node has itself seen a lease unchanged: its
//! owner renewed it, at the latest, just before it was seen first.

use super::record::Holder;
use crate::cluster::NodeId;
use crate::store::{Expect, MetaStore, StoreError};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Prefix of all leases.
pub(super) const LEASES: &str = "lease/";
/// Form of what is written.
const FORM: u32 = 1;
/// Two clocks run apart by at most this part of a lease, and what is shorter than the second figure counts as that.
const DRIFT: u32 = 10;
const LEAST_DRIFT: Duration = Duration::from_millis(100);
/// A node whose lease was not renewed for as many times as long as others wait for it serves nothing and gets nothing.
const SILENT: u32 = 2;

/// Key of a node's lease.
pub(super) fn key(node: NodeId) -> String {
    format!("{LEASES}{node}")
}

/// How long a lease must be seen unchanged before it is over everywhere.
pub(super) fn wait_for(lease: Duration) -> Duration {
    lease + (lease / DRIFT).max(LEAST_DRIFT)
}

/// The newest session of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaseRecord {
    form: u32,
    /// Which session; later ones of the node are higher.
    pub(super) generation: u64,
    /// Where the node can be found, for error messages.
    pub(super) address: String,
    /// Grows with every renewal.
    pub(super) beat: u64,
    /// How long the session goes on without being renewed, in milliseconds.
    pub(super) lease_ms: u64,
    /// The session ended in order.
    #[serde(default)]
    pub(super) released: bool,
    /// The session before this one, if that is known to have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<u64>,
}

impl LeaseRecord {
    pub(super) fn new(generation: u64, address: String, lease: Duration, ended: Option<u64>) -> Self {
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        LeaseRecord { form: FORM, generation, address, beat: 0, lease_ms, released: false, ended }
    }

    pub(super) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    pub(super) fn encode(&self) -> Result<Bytes, StoreError> {
        serde_json::to_vec(self)
            .map(Bytes::from)
            .map_err(|error| StoreError::Io(format!("cannot write a lease: {error}")))
    }

    /// `None` for what cannot be read.
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

/// Nodes whose newest session has not ended in order: they run, or stopped without saying so.
///
/// # Errors
/// What the store reports.
pub async fn lease_holders(meta: &dyn MetaStore) -> Result<Vec<NodeId>, StoreError> {
    let found = meta.list(LEASES).await?;
    let held = found
        .iter()
        .filter(|(_, found)| LeaseRecord::decode(&found.value).is_none_or(|record| !record.released));
    Ok(held.filter_map(|(key, _)| key.strip_prefix(LEASES)?.parse().ok().map(NodeId)).collect())
}

/// A node other than `me` that is seen to renew its lease, and where it is. Looks for half as long as nodes go on without
/// a renewal, and for no time at all if nobody else holds a lease.
///
/// # Errors
/// What the store reports.
pub async fn renewed_by_others(
    meta: &dyn MetaStore,
    me: NodeId,
    lease: Duration,
) -> Result<Option<(NodeId, String)>, StoreError> {
    let found = async || {
        let found = meta.list(LEASES).await?;
        let held = found.into_iter().filter_map(|(key, found)| {
            let node = key.strip_prefix(LEASES)?.parse().ok().map(NodeId).filter(|node| *node != me)?;
            let record = LeaseRecord::decode(&found.value).filter(|record| !record.released)?;
            Some((node, (found.version, record)))
        });
        Ok::<BTreeMap<_, _>, StoreError>(held.collect())
    };
    let before = found().await?;
    let Some(longest) = before.values().map(|(_, record)| record.lease()).max() else { return Ok(None) };
    // Not so long that a record which makes no sense could stop a start.
    tokio::time::sleep(longest.min(lease * 4) / 2).await;
    let renewed = |(node, (version, record)): (NodeId, (u64, LeaseRecord))| {
        before.get(&node).is_none_or(|(earlier, _)| *earlier != version).then_some((node, record.address))
    };
    Ok(found().await?.into_iter().find_map(renewed))
}

/// Removes all leases. Only for who has just opened a store that nobody else can use: those who held them are gone.
///
/// # Errors
/// What the store reports.
pub async fn forget_leases(meta: &dyn MetaStore) -> Result<(), StoreError> {
    for (key, _) in meta.list(LEASES).await? {
        meta.delete(&key, Expect::Any).await?;
    }
    Ok(())
}

/// Whether a session may still serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Certainly not.
    Over,
    /// It may until then, unless it is renewed.
    Until(Instant),
}

/// The leases of all nodes as seen from here.
#[derive(Debug)]
pub(super) struct Leases {
    /// Assumed of a lease that cannot be read.
    lease: Duration,
    seen: Mutex<BTreeMap<NodeId, Seen>>,
    /// Counts what was seen, for those who wait.
    news: watch::Sender<u64>,
}

#[derive(Debug, Clone)]
struct Seen {
    version: u64,
    /// `None` if it cannot be read: then nothing is known but when it changed.
    record: Option<LeaseRecord>,
    /// When this version was seen first.
    at: Instant,
    /// When this session was seen first: the ones before it cannot be renewed since.
    session_at: Instant,
}

impl Leases {
    pub(super) fn new(lease: Duration) -> Self {
        Leases { lease, seen: Mutex::default(), news: watch::Sender::new(0) }
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<NodeId, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what `key` holds, seen now.
    pub(super) fn note(&self, key: &str, value: Option<&[u8]>, version: u64) {
        let Some(node) = key.strip_prefix(LEASES).and_then(|id| id.parse().ok()).map(NodeId) else { return };
        let now = Instant::now();
        let mut seen = self.seen();
        let before = seen.get(&node);
        if before.is_some_and(|before| before.version >= version) {
            return;
        }
        let Some(value) = value else {
            seen.remove(&node);
            drop(seen);
            return self.news.send_modify(|count| *count += 1);
        };
        let record = LeaseRecord::decode(value);
        if record.is_none() {
            tracing::warn!(%node, "the lease of a node cannot be read; it counts as just renewed");
        }
        let generation = |record: &Option<LeaseRecord>| record.as_ref().map(|record| record.generation);
        let session_at = match before {
            Some(before) if generation(&before.record) == generation(&record) => before.session_at,
            _ => now,
        };
        seen.insert(node, Seen { version, record, at: now, session_at });
        drop(seen);
        self.news.send_modify(|count| *count += 1);
    }

    /// Reads all leases.
    pub(super) async fn list(&self, meta: &dyn MetaStore) -> Result<(), StoreError> {
        let found = meta.list(LEASES).await?;
        let there: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
        self.seen().retain(|&node, _| there.contains(&key(node).as_str()));
        for (key, found) in &found {
            self.note(key, Some(&found.value), found.version);
        }
        Ok(())
    }

    /// Whether a session may still serve, by what has been seen. `None` if nothing was ever seen of its node.
    fn standing(&self, holder: &Holder, now: Instant) -> Option<Standing> {
        let seen = self.seen();
        let seen = seen.get(&holder.node)?;
        let until = |at: Instant, lease: Duration| {
            let end = at + wait_for(lease);
            if end <= now { Standing::Over } else { Standing::Until(end) }
        };
        let Some(record) = &seen.record else {
            return Some(until(seen.at, holder.lease().max(self.lease)));
        };
        Some(match record.generation.cmp(&holder.session) {
            std::cmp::Ordering::Equal if record.released => Standing::Over,
            std::cmp::Ordering::Equal => until(seen.at, record.lease().max(holder.lease())),
            _ if record.ended == Some(holder.session) => Standing::Over,
            // It was replaced, so it is not renewed any more.
            std::cmp::Ordering::Greater => until(seen.session_at, holder.lease()),
            // Seen before it began: look again.
            std::cmp::Ordering::Less => Standing::Until(now + wait_for(holder.lease())),
        })
    }

    /// Whether a session may still serve, after a fresh look at its lease.
    pub(super) async fn look(&self, meta: &dyn MetaStore, holder: &Holder) -> Result<Standing, StoreError> {
        let key = key(holder.node);
        match meta.get(&key).await? {
            // A session that owns something was written before; only who has the store to itself removes leases.
            None => return Ok(Standing::Over),
            Some(found) => self.note(&key, Some(&found.value), found.version),
        }
        let now = Instant::now();
        Ok(self.standing(holder, now).unwrap_or(Standing::Until(now + wait_for(holder.lease()))))
    }

    /// Waits until a session is certainly over.
    ///
    /// # Errors
    /// What the store reports.
    pub(super) async fn over(&self, meta: &dyn MetaStore, holder: &Holder) -> Result<(), StoreError> {
        let mut news = self.news.subscribe();
        loop {
            news.mark_unchanged();
            let end = match self.look(meta, holder).await? {
                Standing::Over => return Ok(()),
                Standing::Until(end) => end,
            };
            let mut end = end;
            // News about other nodes change nothing.
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(end) => break,
                    _ = news.changed() => match self.standing(holder, Instant::now()) {
                        Some(Standing::Until(later)) => end = later,
                        Some(Standing::Over) | None => break,
                    },
                }
            }
        }
    }

    /// True if a node was seen to have no session any more: it serves nothing, whatever gossip says about it.
    pub(super) fn silent(&self, node: NodeId, now: Instant) -> bool {
        let seen = self.seen();
        let Some(seen) = seen.get(&node) else { return false };
        let lease = seen.record.as_ref().map_or(self.lease, LeaseRecord::lease);
        seen.record.as_ref().is_some_and(|record| record.released)
            || seen.at + wait_for(lease) * SILENT <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(3);

    fn record(generation: u64) -> LeaseRecord {
        LeaseRecord::new(generation, "here".into(), LEASE, None)
    }

    fn note(leases: &Leases, record: &LeaseRecord, version: u64) {
        leases.note("lease/7", Some(&record.encode().unwrap()), version);
    }

    fn holder(session: u64) -> Holder {
        Holder { node: NodeId(7), session, lease_ms: 3000 }
    }

    async fn is_over(leases: &Leases, session: u64) -> bool {
        leases.standing(&holder(session), Instant::now()) == Some(Standing::Over)
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_over_after_it_was_seen_unchanged_for_its_length_and_the_drift() {
        let leases = Leases::new(LEASE);
        note(&leases, &record(5), 1);
        tokio::time::advance(Duration::from_millis(3299)).await;
        assert!(!is_over(&leases, 5).await);
        note(&leases, &record(5), 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(is_over(&leases, 5).await, "seeing the same again changes nothing");
        note(&leases, &LeaseRecord { beat: 1, ..record(5) }, 2);
        assert!(!is_over(&leases, 5).await, "a renewal that came late counts, to be safe");
        tokio::time::advance(Duration::from_millis(3300)).await;
        assert!(is_over(&leases, 5).await);
        assert!(!leases.silent(NodeId(7), Instant::now()));
        tokio::time::advance(Duration::from_millis(3300)).await;
        assert!(leases.silent(NodeId(7), Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_was_replaced_is_waited_out_unless_it_is_known_to_have_ended() {
        let leases = Leases::new(LEASE);
        note(&leases, &record(5), 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        note(&leases, &record(6), 2);
        tokio::time::advance(Duration::from_secs(2)).await;
        note(&leases, &LeaseRecord { beat: 1, ..record(6) }, 3);
        assert!(!is_over(&leases, 5).await);
        tokio::time::advance(Duration::from_millis(1300)).await;
        assert!(is_over(&leases, 5).await && !is_over(&leases, 6).await);
        note(&leases, &LeaseRecord { ended: Some(6), ..record(7) }, 4);
        assert!(is_over(&leases, 6).await && !is_over(&leases, 7).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_released_is_over_at_once_and_what_cannot_be_read_is_waited_out() {
        let leases = Leases::new(LEASE);
        note(&leases, &LeaseRecord { released: true, ..record(5) }, 1);
        assert!(is_over(&leases, 5).await && leases.silent(NodeId(7), Instant::now()));
        leases.note("lease/7", Some(b"?"), 2);
        assert!(!is_over(&leases, 5).await);
        tokio::time::advance(Duration::from_millis(3300)).await;
        assert!(is_over(&leases, 5).await);
        leases.note("lease/x", Some(b"?"), 3);
        leases.note("lease/7", None, 4);
        assert_eq!(leases.standing(&holder(5), Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_later_is_not_undone_by_an_earlier_look() {
        let leases = Leases::new(LEASE);
        note(&leases, &record(6), 9);
        note(&leases, &LeaseRecord { released: true, ..record(5) }, 8);
        assert!(!is_over(&leases, 6).await);
    }

    #[test]
    fn short_leases_have_a_drift_of_their_own() {
        assert_eq!(wait_for(Duration::from_millis(300)), Duration::from_millis(400));
        assert_eq!(wait_for(Duration::from_secs(30)), Duration::from_secs(33));
    }
}
