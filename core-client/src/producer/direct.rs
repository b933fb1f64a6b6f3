//! Appending without a producer of one's own: one producer per stream, of which the latest are kept.

use super::{AppendOutcome, Compression, Producer, ProducerBuilder};
use crate::{
    cluster::Cluster,
    error::{Error, ErrorKind, Result},
    options::{OptionScope, OptionValue, Setting},
    record::{Record, RecordBatch, RecordId, codec::MAX_BATCH_BYTES},
};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::OnceCell;

/// Producers that are kept. One that is forgotten still sends what it accepted.
const CAPACITY: usize = 64;

/// How [`Client::append_batch_with`](crate::Client::append_batch_with) sends its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[must_use = "options do nothing by themselves"]
pub struct AppendOptions {
    compression: Compression,
    compression_level: Option<i32>,
    retry_max_attempts: Option<u32>,
}

impl AppendOptions {
    /// No compression.
    pub fn new() -> Self {
        AppendOptions::default()
    }

    /// Sets an option by its name in the table of options, scope producer: `compression`, `compression_level` or
    /// `retry_max_attempts`.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown name, for an option that only producers take, and for an unfit value.
    pub fn set(mut self, name: &str, value: impl Into<OptionValue>) -> Result<Self> {
        let setting = Setting::new(OptionScope::Producer, name, value)?;
        match setting.name() {
            "compression" => self.compression = Compression::from_name(&setting.text()?),
            "compression_level" => self.compression_level = Some(setting.integer()?),
            "retry_max_attempts" => self.retry_max_attempts = Some(setting.integer()?),
            _ => {
                return Err(setting.refuse(
                    "a single append does not take it; it takes compression, compression_level and retry_max_attempts",
                ));
            }
        }
        Ok(self)
    }

    /// Compression of the batch, default none.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Level of the compression, as for [`ProducerBuilder::compression_level`].
    pub fn compression_level(mut self, level: i32) -> Self {
        self.compression_level = Some(level);
        self
    }

    /// Tries of the batch altogether, as for [`ProducerBuilder::retry_max_attempts`].
    pub fn retry_max_attempts(mut self, attempts: u32) -> Self {
        self.retry_max_attempts = Some(attempts);
        self
    }

    /// A producer that sends at once. What is appended in one call is one batch, as long as it fits into one.
    fn builder(self, cluster: &Cluster, stream: &str) -> ProducerBuilder {
        let builder = ProducerBuilder::new(cluster.clone(), stream)
            .batch_max_age(Duration::ZERO)
            .batch_max_records(u32::MAX)
            .batch_max_bytes(MAX_BATCH_BYTES)
            .compression(self.compression);
        let builder = match self.compression_level {
            Some(level) => builder.compression_level(level),
            None => builder,
        };
        match self.retry_max_attempts {
            Some(attempts) => builder.retry_max_attempts(attempts),
            None => builder,
        }
    }
}

/// The producers behind `Client::append`. Owned by the client and its clones: they hold the cluster, so the cluster
/// must not hold them.
#[derive(Default)]
pub(crate) struct DirectProducers(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    slots: HashMap<Target, Slot>,
    /// Counts uses.
    uses: u64,
}

/// A stream, and how it is written to.
type Target = (String, AppendOptions);

struct Slot {
    producer: Arc<OnceCell<Producer>>,
    last_use: u64,
}

impl Kept {
    fn slot(&mut self, target: &Target) -> Arc<OnceCell<Producer>> {
        self.uses += 1;
        let last_use = self.uses;
        if let Some(slot) = self.slots.get_mut(target) {
            slot.last_use = last_use;
            return slot.producer.clone();
        }
        if self.slots.len() >= CAPACITY
            && let Some(oldest) = self.oldest()
        {
            self.slots.remove(&oldest);
        }
        let producer = Arc::<OnceCell<Producer>>::default();
        self.slots.insert(target.clone(), Slot { producer: producer.clone(), last_use });
        producer
    }

    /// What was used longest ago, one without records under way if there is such a one.
    fn oldest(&self) -> Option<Target> {
        let is_busy =
            |slot: &Slot| slot.producer.get().is_some_and(|producer| producer.pending().records > 0);
        let oldest = self.slots.iter().min_by_key(|(_, slot)| (is_busy(slot), slot.last_use));
        oldest.map(|(target, _)| target.clone())
    }
}

impl DirectProducers {
    pub(crate) async fn append(&self, cluster: &Cluster, stream: &str, record: Record) -> Result<RecordId> {
        let producer = self.producer(cluster, stream, AppendOptions::default()).await?;
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
        options: AppendOptions,
    ) -> Result<AppendOutcome> {
        let producer = self.producer(cluster, stream, options).await?;
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

    async fn producer(&self, cluster: &Cluster, stream: &str, options: AppendOptions) -> Result<Producer> {
        let target = (stream.to_owned(), options);
        let slot = self.kept().slot(&target);
        let built = slot.get_or_try_init(|| options.builder(cluster, stream).build()).await.cloned();
        if built.is_err() {
            let mut kept = self.kept();
            // Names that no stream has must not push out producers.
            if kept.slots.get(&target).is_some_and(|known| Arc::ptr_eq(&known.producer, &slot)) {
                kept.slots.remove(&target);
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
        f.debug_struct("DirectProducers").field("producers", &self.kept().slots.len()).finish_non_exhaustive()
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
        let plain = |stream: String| (stream, AppendOptions::new());
        let packed = ("always".to_owned(), AppendOptions::new().compression(Compression::Gzip));
        for stream in 0..CAPACITY + 10 {
            kept.slot(&packed);
            kept.slot(&plain(stream.to_string()));
        }
        assert_eq!(kept.slots.len(), CAPACITY);
        assert!(kept.slots.contains_key(&packed));
        assert!(!kept.slots.contains_key(&plain("always".into())), "another way to write to it");
        assert!(!kept.slots.contains_key(&plain("0".into())));
    }
}
