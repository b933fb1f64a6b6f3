//! Appending without a producer of one's own: one producer per stream, of which the latest are kept.

use super::{AppendOutcome, Producer, ProducerBuilder};
use crate::{
    cluster::Cluster,
    error::{Error, ErrorKind, Result},
    record::{Record, RecordBatch, RecordId},
};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::OnceCell;

/// Streams whose producers are kept. One that is forgotten still sends what it accepted.
const CAPACITY: usize = 64;

/// The producers behind `Client::append`. Owned by the client and its clones: they hold the cluster, so the cluster
/// must not hold them.
#[derive(Default)]
pub(crate) struct DirectProducers(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    slots: HashMap<String, Slot>,
    /// Counts uses.
    uses: u64,
}

struct Slot {
    producer: Arc<OnceCell<Producer>>,
    last_use: u64,
}

impl Kept {
    fn slot(&mut self, stream: &str) -> Arc<OnceCell<Producer>> {
        self.uses += 1;
        let last_use = self.uses;
        if let Some(slot) = self.slots.get_mut(stream) {
            slot.last_use = last_use;
            return slot.producer.clone();
        }
        if self.slots.len() >= CAPACITY
            && let Some(oldest) = self.oldest()
        {
            self.slots.remove(&oldest);
        }
        let producer = Arc::<OnceCell<Producer>>::default();
        self.slots.insert(stream.to_owned(), Slot { producer: producer.clone(), last_use });
        producer
    }

    /// The stream used longest ago, one without records under way if there is such a one.
    fn oldest(&self) -> Option<String> {
        let is_busy =
            |slot: &Slot| slot.producer.get().is_some_and(|producer| producer.pending().records > 0);
        let oldest = self.slots.iter().min_by_key(|(_, slot)| (is_busy(slot), slot.last_use));
        oldest.map(|(stream, _)| stream.clone())
    }
}

impl DirectProducers {
    pub(crate) async fn append(&self, cluster: &Cluster, stream: &str, record: Record) -> Result<RecordId> {
        let producer = self.producer(cluster, stream).await?;
        match producer.append_one(&record).await?.await {
            // The producer has learned that the stream was created again since it was used last.
            Err(error) if is_stale(&error) => producer.append_one(&record).await?.await,
            result => result,
        }
    }

    pub(crate) async fn append_batch(
        &self,
        cluster: &Cluster,
        stream: &str,
        batch: RecordBatch,
    ) -> Result<AppendOutcome> {
        let producer = self.producer(cluster, stream).await?;
        let outcome = producer.append_all(&batch).await?.await;
        let stale: Vec<usize> = outcome
            .errors
            .iter()
            .filter(|(_, error)| is_stale(error))
            .flat_map(|(range, _)| range.clone())
            .collect();
        if stale.is_empty() {
            return Ok(outcome);
        }
        match producer.append_all(&batch.select(&stale)).await {
            Ok(again) => Ok(merge(outcome, &stale, again.await)),
            Err(_) => Ok(outcome),
        }
    }

    async fn producer(&self, cluster: &Cluster, stream: &str) -> Result<Producer> {
        let slot = self.kept().slot(stream);
        let build = || ProducerBuilder::new(cluster.clone(), stream).batch_max_age(Duration::ZERO).build();
        let built = slot.get_or_try_init(build).await.cloned();
        if built.is_err() {
            let mut kept = self.kept();
            // Names that no stream has must not push out producers.
            if kept.slots.get(stream).is_some_and(|known| Arc::ptr_eq(&known.producer, &slot)) {
                kept.slots.remove(stream);
            }
        }
        built
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for DirectProducers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectProducers").field("streams", &self.kept().slots.len()).finish_non_exhaustive()
    }
}

fn is_stale(error: &Error) -> bool {
    error.kind() == ErrorKind::Routing && !error.may_have_been_applied()
}

/// The outcome with that of the records at `positions`, which were appended once more.
fn merge(mut outcome: AppendOutcome, positions: &[usize], again: AppendOutcome) -> AppendOutcome {
    outcome.errors.retain(|(_, error)| !is_stale(error));
    for (position, id) in positions.iter().zip(&again.ids) {
        if let Some(slot) = outcome.ids.get_mut(*position) {
            *slot = *id;
        }
    }
    for (range, error) in again.errors {
        let failed = positions.get(range).unwrap_or_default();
        outcome.errors.extend(failed.iter().map(|position| (*position..*position + 1, error.clone())));
    }
    outcome.errors.sort_by_key(|(range, _)| range.start);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_again_takes_its_place_in_the_outcome() {
        let id = |batch_id| RecordId { shard_id: 1, batch_id, batch_index: 0 };
        let stale = Error::new(ErrorKind::Routing, "append");
        let refused = Error::new(ErrorKind::InvalidArgument, "append");
        let first = AppendOutcome {
            ids: vec![None, Some(id(1)), None, None, None],
            errors: vec![(0..1, stale.clone()), (2..3, refused.clone()), (3..5, stale)],
        };
        let again =
            AppendOutcome { ids: vec![Some(id(2)), None, Some(id(3))], errors: vec![(1..2, refused)] };
        let merged = merge(first, &[0, 3, 4], again);
        assert_eq!(merged.ids, [Some(id(2)), Some(id(1)), None, None, Some(id(3))]);
        let failed: Vec<_> =
            merged.errors.iter().map(|(range, error)| (range.clone(), error.kind())).collect();
        assert_eq!(failed, [(2..3, ErrorKind::InvalidArgument), (3..4, ErrorKind::InvalidArgument)]);
    }

    #[test]
    fn as_many_streams_are_kept_as_promised_and_the_latest_ones() {
        let mut kept = Kept::default();
        for stream in 0..CAPACITY + 10 {
            kept.slot("always");
            kept.slot(&stream.to_string());
        }
        assert_eq!(kept.slots.len(), CAPACITY);
        assert!(kept.slots.contains_key("always"));
        assert!(!kept.slots.contains_key("0"));
    }
}
