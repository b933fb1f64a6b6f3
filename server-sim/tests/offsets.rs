//! What offsets select, against the definition of each on a list of all batches.

use bytes::Bytes;
use hstream_server::error::Class;
use hstream_server::limits::Budget;
use hstream_server::reader::{Offset, ReadPlan, ShardRange, run};
use hstream_server::store::disk::FaultDisk;
use hstream_server::store::embedded::{EmbeddedOptions, EmbeddedStore};
use hstream_server::store::{Lsn, NewBatch, ShardId, ShardSpec};
use hstreamdb_proto::api::{BatchedRecord, RecordId};
use proptest::prelude::*;
use prost::Message as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const SHARD: ShardId = 7;

/// An offset, its batch counted from the first one.
#[derive(Debug, Clone, Copy)]
enum Place {
    Earliest,
    Latest,
    Batch(u8),
    Time(u64),
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        Just(Place::Earliest),
        Just(Place::Latest),
        (0u8..12).prop_map(Place::Batch),
        (0u64..40).prop_map(Place::Time),
    ]
}

/// Batches as (LSN, append time), of which the first `trimmed` are gone.
struct Model {
    batches: Vec<(Lsn, u64)>,
    trimmed: usize,
}

impl Model {
    fn readable(&self) -> &[(Lsn, u64)] {
        &self.batches[self.trimmed..]
    }

    fn offset(&self, place: Place) -> Offset {
        match place {
            Place::Earliest => Offset::Earliest,
            Place::Latest => Offset::Latest,
            Place::Time(ms) => Offset::Time(ms),
            Place::Batch(at) => {
                let first = self.batches.first().map_or(1, |(lsn, _)| *lsn);
                Offset::Record(RecordId { shard_id: SHARD, batch_id: first + u64::from(at), batch_index: 3 })
            }
        }
    }

    fn batch_id(&self, place: Place) -> Lsn {
        match self.offset(place) {
            Offset::Record(id) => id.batch_id,
            _ => unreachable!("only asked for records"),
        }
    }

    /// Whether a start and an end select a batch. Whether they may be combined is another question.
    fn selects(&self, from: Option<Place>, until: Option<Place>, (lsn, time): (Lsn, u64)) -> bool {
        let after_start = match from {
            None | Some(Place::Earliest) => true,
            Some(Place::Latest) => false,
            Some(place @ Place::Batch(_)) => lsn >= self.batch_id(place),
            Some(Place::Time(ms)) => time >= ms,
        };
        let before_end = match until {
            None | Some(Place::Latest) => true,
            // The first LSN a store could have, which is below all it has.
            Some(Place::Earliest) => false,
            Some(place @ Place::Batch(_)) => lsn <= self.batch_id(place),
            Some(Place::Time(ms)) => time <= ms,
        };
        after_start && before_end
    }
}

/// The LSNs a read delivers, or `None` if the two offsets conflict.
async fn read(store: &EmbeddedStore, model: &Model, from: Option<Place>, until: Place) -> Option<Vec<Lsn>> {
    let log = store.log();
    let (from, until) = (from.map(|place| model.offset(place)), model.offset(until));
    let range = match ShardRange::resolve(&*log, SHARD, from, Some(until)).await {
        Ok(range) => range,
        Err(error) => {
            assert_eq!(error.class(), Some(Class::ConflictShardReaderOffset), "{error}");
            return None;
        }
    };
    let plan = ReadPlan { shards: vec![(SHARD, range)], max_batches: 0, tell_gaps: false };
    let (sender, mut receiver) = mpsc::channel(1);
    let memory = Budget::new(64 << 20, Duration::from_secs(60));
    tokio::spawn(run(log, plan, memory, CancellationToken::new(), sender, |received| received));
    let mut lsns = Vec::new();
    loop {
        let message = receiver.recv().await.expect("a read says how it ends").expect("a read without errors");
        let Some((received, _)) = message else { return Some(lsns) };
        lsns.extend(received.iter().map(|received| received.record_ids[0].batch_id));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_read_delivers_exactly_what_its_offsets_mean(
        // How much later each batch is than the one before; equal times are common.
        steps in proptest::collection::vec(0u64..5, 0..10),
        trim in 0usize..10,
        offsets in proptest::collection::vec((proptest::option::of(place()), place()), 12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let clock = Arc::new(AtomicU64::new(1));
            let told = clock.clone();
            let options = EmbeddedOptions {
                clock: Arc::new(move || told.load(Ordering::SeqCst)),
                ..EmbeddedOptions::default()
            };
            let store = EmbeddedStore::open(Arc::new(FaultDisk::new()), options).await.unwrap();
            let spec = ShardSpec { shard: SHARD, retention_secs: 0, replicas: 1 };
            store.log().create_shards(&[spec]).await.unwrap();
            let mut model = Model { batches: Vec::new(), trimmed: 0 };
            for step in steps {
                clock.fetch_add(step, Ordering::SeqCst);
                let record = BatchedRecord { batch_size: 1, payload: Bytes::from_static(b"x"), ..Default::default() };
                let batch = NewBatch { bytes: record.encode_to_vec().into(), records: 1, producer: None };
                let appended = store.log().append(SHARD, batch).await.unwrap();
                model.batches.push((appended.lsn, appended.time_ms));
            }
            model.trimmed = trim.min(model.batches.len());
            if let Some(last) = model.trimmed.checked_sub(1) {
                store.log().trim(SHARD, model.batches[last].0).await.unwrap();
            }
            let tail = model.batches.last().map_or(0, |(lsn, _)| *lsn);
            for (from, until) in offsets {
                // A read up to a batch that is still to come waits for it.
                if matches!(until, Place::Batch(_)) && tail > 0 && model.batch_id(until) > tail {
                    continue;
                }
                let expected: Vec<Lsn> = model
                    .readable()
                    .iter()
                    .filter(|batch| model.selects(from, Some(until), **batch))
                    .map(|(lsn, _)| *lsn)
                    .collect();
                match read(&store, &model, from, until).await {
                    Some(lsns) => assert_eq!(lsns, expected, "{from:?} {until:?}"),
                    // A conflict hides nothing.
                    None => assert!(expected.is_empty(), "{from:?} {until:?}: {expected:?}"),
                }
            }
            store.close().await;
        });
    }
}
