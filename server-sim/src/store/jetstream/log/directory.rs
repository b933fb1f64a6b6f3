//! Which shards there are. The metadata say so, one value per call that created some: all of them or none.

use super::known::Known;
use super::lane::{Lane, LaneId};
use super::shard::Shard;
use super::wire::Wire;
use crate::store::{Expect, Follower, MetaStore, Mirror, Result, ShardId, ShardSpec, StoreError, Versioned};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// What the keys of shards begin with.
const PREFIX: &str = "log/shards/";
/// How many lanes there are for each number of copies; written once.
const LANES: &str = "log/lanes";
/// Times that a removal begins anew because others remove shards of the same call.
const TRIES: usize = 32;

/// Shards that follow each other and are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    first: ShardId,
    count: u64,
    retention_secs: u32,
    replicas: u32,
}

impl Run {
    fn specs(self) -> impl Iterator<Item = ShardSpec> {
        let Run { first, count, retention_secs, replicas } = self;
        (0..count).map(move |at| ShardSpec { shard: first.wrapping_add(at), retention_secs, replicas })
    }
}

fn runs(specs: impl IntoIterator<Item = ShardSpec>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for ShardSpec { shard, retention_secs, replicas } in specs {
        match runs.last_mut() {
            Some(run)
                if run.first.checked_add(run.count) == Some(shard)
                    && (run.retention_secs, run.replicas) == (retention_secs, replicas) =>
            {
                run.count += 1;
            }
            _ => runs.push(Run { first: shard, count: 1, retention_secs, replicas }),
        }
    }
    runs
}

fn encode(runs: &[Run]) -> Result<Bytes> {
    let failed = |error: serde_json::Error| StoreError::Io(format!("shards cannot be written down: {error}"));
    serde_json::to_vec(runs).map(Bytes::from).map_err(failed)
}

fn decode(key: &str, value: &[u8]) -> Result<Vec<Run>> {
    serde_json::from_slice(value)
        .map_err(|error| StoreError::Corrupt(format!("{key:?} does not say which shards there are: {error}")))
}

/// All lanes that are used.
#[derive(Debug)]
pub struct Lanes {
    namespace: String,
    /// For each number of copies.
    count: u32,
    wire: Wire,
    runtime: Handle,
    end: CancellationToken,
    lanes: Mutex<BTreeMap<LaneId, Arc<Lane>>>,
}

impl Lanes {
    pub fn new(namespace: String, count: u32, wire: Wire, end: CancellationToken) -> Arc<Lanes> {
        let runtime = Handle::current();
        Arc::new(Lanes { namespace, count, wire, runtime, end, lanes: Mutex::default() })
    }

    /// How many there are in this store for each number of copies: what whoever came first has written.
    pub async fn count(meta: &dyn MetaStore, wanted: u32) -> Result<u32> {
        loop {
            if let Some(found) = meta.get(LANES).await? {
                let text = std::str::from_utf8(&found.value).unwrap_or_default();
                let count = text.parse().ok().filter(|count| *count > 0);
                return count.ok_or_else(|| {
                    StoreError::Corrupt(format!("{LANES:?} is no number of lanes: {text:?}"))
                });
            }
            match meta.put(LANES, Bytes::from(wanted.max(1).to_string()), Expect::Absent).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The lane of a shard, followed from now on.
    pub fn of(&self, spec: &ShardSpec) -> Arc<Lane> {
        let lane = self.lane(spec);
        if lane.followed.set(()).is_ok() {
            self.runtime.spawn(super::follower::follow(Arc::clone(&lane), self.end.clone()));
        }
        lane
    }

    /// The lane of a shard.
    pub fn lane(&self, spec: &ShardSpec) -> Arc<Lane> {
        let number = u32::try_from(spec.shard % u64::from(self.count.max(1))).unwrap_or_default();
        let id = LaneId { replicas: spec.replicas, number };
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Lane::new(&self.namespace, id, self.wire.clone());
        Arc::clone(lanes.entry(id).or_insert_with(new))
    }

    /// All that are used.
    pub fn all(&self) -> Vec<Arc<Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// The shards there are, as the metadata say.
#[derive(Debug)]
pub struct Present {
    lanes: Arc<Lanes>,
    shards: HashMap<ShardId, Arc<Shard>>,
    calls: BTreeMap<String, Vec<Run>>,
}

impl Mirror for Present {
    type Error = StoreError;

    fn apply(&mut self, key: &str, value: Option<&Versioned>) -> Result<()> {
        let new = match value {
            Some(value) => decode(key, &value.value)?,
            None => Vec::new(),
        };
        let old = self.calls.remove(key).unwrap_or_default();
        let stay: HashMap<ShardId, ShardSpec> =
            new.iter().flat_map(|run| run.specs()).map(|spec| (spec.shard, spec)).collect();
        for spec in old.into_iter().flat_map(Run::specs).filter(|spec| !stay.contains_key(&spec.shard)) {
            if let Some(shard) = self.shards.remove(&spec.shard) {
                shard.lane.leave(spec.shard);
                shard.delete();
            }
        }
        for (id, spec) in stay {
            if !self.shards.contains_key(&id) {
                let lane = self.lanes.of(&spec);
                let of = Arc::clone(&lane);
                let shard = lane.enter(id, |known: Known| Shard::new(spec, of, known));
                self.shards.insert(id, shard);
            }
        }
        if !new.is_empty() {
            self.calls.insert(key.to_owned(), new);
        }
        Ok(())
    }
}

/// The shards there are.
#[derive(Debug)]
pub struct Directory {
    present: Arc<Follower<Present>>,
    pub lanes: Arc<Lanes>,
}

impl Directory {
    /// Reads and follows what the metadata say.
    ///
    /// # Errors
    /// What the metadata report.
    pub async fn open(meta: Arc<dyn MetaStore>, lanes: Arc<Lanes>) -> Result<Directory> {
        let present = Present { lanes: Arc::clone(&lanes), shards: HashMap::new(), calls: BTreeMap::new() };
        Ok(Directory { present: Follower::open(meta, &[PREFIX], present).await?, lanes })
    }

    /// One that is there as far as is known here.
    pub fn find(&self, id: ShardId) -> Option<Arc<Shard>> {
        self.present.read().shards.get(&id).cloned()
    }

    /// All of them, in the order of their ids.
    pub fn all(&self) -> Vec<Arc<Shard>> {
        let mut shards: Vec<_> = self.present.read().shards.values().cloned().collect();
        shards.sort_by_key(|shard| shard.spec.shard);
        shards
    }

    /// Makes sure that everything written before this call is known.
    ///
    /// # Errors
    /// What the metadata report.
    pub async fn fresh(&self) -> Result<()> {
        self.present.fresh().await
    }

    /// Writes that these shards are there. They are different and none of them is.
    ///
    /// # Errors
    /// [`StoreError::ShardExists`]; what the metadata report.
    pub async fn add(&self, specs: &[ShardSpec]) -> Result<()> {
        let Some(first) = specs.first() else { return Ok(()) };
        let key = format!("{PREFIX}{:020}", first.shard);
        match self.present.put(&key, encode(&runs(specs.iter().cloned()))?, Expect::Absent).await {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { .. }) => Err(StoreError::ShardExists(first.shard)),
            Err(error) => Err(error),
        }
    }

    /// Writes that these shards are gone, and returns those of them that were there.
    ///
    /// # Errors
    /// What the metadata report; some of them may be gone then.
    pub async fn remove(&self, ids: &[ShardId]) -> Result<Vec<Arc<Shard>>> {
        let gone: Vec<Arc<Shard>> = ids.iter().filter_map(|id| self.find(*id)).collect();
        let keys: Vec<String> = {
            let present = self.present.read();
            let has = |runs: &[Run]| {
                runs.iter().any(|run| {
                    ids.iter().any(|id| id.checked_sub(run.first).is_some_and(|at| at < run.count))
                })
            };
            present.calls.iter().filter(|(_, runs)| has(runs)).map(|(key, _)| key.clone()).collect()
        };
        let ids: HashSet<ShardId> = ids.iter().copied().collect();
        for key in keys {
            self.remove_from(&key, &ids).await?;
        }
        Ok(gone)
    }

    async fn remove_from(&self, key: &str, ids: &HashSet<ShardId>) -> Result<()> {
        for _ in 0..TRIES {
            let Some(found) = self.present.fetch(key).await? else { return Ok(()) };
            let old = decode(key, &found.value)?;
            let left = runs(old.iter().flat_map(|run| run.specs()).filter(|spec| !ids.contains(&spec.shard)));
            let expect = Expect::Version(found.version);
            let outcome = if left.is_empty() {
                self.present.delete(key, expect).await
            } else if left == old {
                return Ok(());
            } else {
                self.present.put(key, encode(&left)?, expect).await.map(|_| ())
            };
            match outcome {
                Err(StoreError::Conflict { .. }) => {}
                outcome => return outcome,
            }
        }
        Err(StoreError::Conflict { key: key.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shard: ShardId, retention_secs: u32) -> ShardSpec {
        ShardSpec { shard, retention_secs, replicas: 1 }
    }

    #[test]
    fn shards_that_follow_each_other_are_written_as_one() {
        let specs: Vec<ShardSpec> = (5..10_005).map(|id| spec(id, 60)).collect();
        let runs = runs(specs.clone());
        assert_eq!(runs.len(), 1);
        let value = encode(&runs).unwrap();
        assert!(value.len() < 100);
        let back: Vec<ShardSpec> = decode("k", &value).unwrap().into_iter().flat_map(Run::specs).collect();
        assert_eq!(back, specs);
    }

    #[test]
    fn shards_that_differ_or_leave_a_hole_are_kept_apart() {
        let specs = vec![spec(1, 0), spec(2, 0), spec(3, 9), spec(5, 9), spec(u64::MAX, 9)];
        let runs = runs(specs.clone());
        assert_eq!(runs.len(), 4);
        assert_eq!(runs.into_iter().flat_map(Run::specs).collect::<Vec<_>>(), specs);
        assert!(decode("k", b"{").is_err());
    }
}
